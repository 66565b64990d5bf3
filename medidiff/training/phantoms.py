"""Synthetic anatomy in Hounsfield units, normalised like CT, for where real scans are few.

Bodies of smooth, random outline hold organs, bones with a dense rim, airways and vessels that branch, lesions and faint
tissue texture. Nothing in them is any person's. What they teach is what edges, tubes and flat regions look like under
the noise of CT; the idea is that of synthetic training images for networks that must not know one scanner only
(Billot et al., SynthSeg, Medical Image Analysis 2023).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medidiff.physics.intensity import CT_OFFSET, CT_SCALE

Generator = np.random.Generator
Image = NDArray[np.float32]
_AIR, _FAT, _MUSCLE, _LUNG = -1000.0, -100.0, 50.0, -820.0
_ORGANS, _LESIONS, _BONES, _VESSELS, _AIRWAYS = 30, 12, 10, 12, 4
_ORGAN_HU, _LESION_HU, _BONE_HU, _CONTRAST_HU = (-20.0, 110.0), (-60.0, 60.0), (200.0, 500.0), (60.0, 400.0)
_AIRWAY_HU = (-990.0, -900.0)
_RIM_HU = (400.0, 900.0)  # of bone, above its inside
_TEXTURE_HU = 12.0
_MILLIMETRES = (0.4, 5.0)


EDGE = 96  # voxels of the bodies that networks learn from


def make(count: int, edge: int, seed: int) -> list[tuple[Image, float]]:
    """Draw bodies.

    Args:
        count: how many.
        edge: of the cube, in voxels.
        seed: start of the random sequence.

    Returns:
        Each body (edge, edge, edge), normalised as ``intensity.normalise`` does it for CT, and its voxel size in mm.
    """
    return [_body(edge, np.random.default_rng([seed, number])) for number in range(count)]


def _body(edge: int, rng: Generator) -> tuple[Image, float]:
    grids = np.stack(np.meshgrid(*(np.linspace(-1, 1, edge, dtype=np.float32),) * 3, indexing="ij"))
    grids = grids + np.stack([0.12 * _field(edge, 5, rng) for _ in range(3)])  # nothing is quite an ellipsoid
    image = np.full((edge,) * 3, _AIR, dtype=np.float32)
    outline = _ellipsoid(grids, np.zeros(3), rng.uniform(0.75, 1.1, 3))
    inner = _ellipsoid(grids, np.zeros(3), rng.uniform(0.6, 0.75, 3)) & outline
    image[outline], image[inner] = _FAT, _MUSCLE
    for _ in range(_ORGANS):
        part = _part(grids, (0.08, 0.35), rng) & inner
        image[part] = _LUNG if rng.random() < 0.15 else rng.uniform(*_ORGAN_HU)
    _branch(image, inner, _AIRWAYS, _AIRWAY_HU, rng)
    _branch(image, inner, _VESSELS, _CONTRAST_HU, rng)
    for _ in range(_LESIONS):
        image[_part(grids, (0.02, 0.07), rng) & inner] += np.float32(rng.uniform(*_LESION_HU))
    for _ in range(_BONES):
        bone = _part(grids, (0.04, 0.16), rng) & outline
        image[bone] = rng.uniform(*_BONE_HU)
        image[bone & ~ndimage.binary_erosion(bone, iterations=int(rng.integers(1, 3)))] += np.float32(
            rng.uniform(*_RIM_HU)
        )
    tissue = image > _AIR + 100
    image += np.float32(_TEXTURE_HU) * tissue * (_field(edge, 24, rng) + _field(edge, 48, rng))
    image = ndimage.gaussian_filter(image, rng.uniform(0.35, 0.7))  # the sharpness of a good kernel
    return ((image - CT_OFFSET) / CT_SCALE).clip(0).astype(np.float32), float(
        np.exp(rng.uniform(*np.log(_MILLIMETRES)))
    )


def _field(edge: int, cells: int, rng: Generator) -> Image:
    """A smooth random field of unit deviation or so, with about ``cells`` hills along an axis."""
    coarse = torch.from_numpy(rng.standard_normal((1, 1, *(min(cells, edge),) * 3), dtype=np.float32))
    fine: Tensor = torch.nn.functional.interpolate(coarse, size=(edge,) * 3, mode="trilinear", align_corners=True)
    return np.asarray(fine[0, 0].numpy())


def _ellipsoid(grids: Image, centre: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
    scaled = (grids - centre.reshape(3, 1, 1, 1)) / radii.reshape(3, 1, 1, 1)
    return np.asarray(np.square(scaled).sum(axis=0) < 1)


def _part(grids: Image, radius: tuple[float, float], rng: Generator) -> NDArray[np.bool_]:
    """An ellipsoid, at times a hollow or a long one, anywhere in the body, turned at random."""
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    size = math.exp(rng.uniform(math.log(radius[0]), math.log(radius[1])))
    radii = size * np.exp(rng.uniform(-0.6, 0.6, 3))
    centre = rng.uniform(-0.6, 0.6, 3)
    moved = np.einsum("ij,jxyz->ixyz", turn.astype(np.float32), grids - centre.reshape(3, 1, 1, 1).astype(np.float32))
    return _ellipsoid(moved, np.zeros(3), radii)


def _branch(image: Image, inside: NDArray[np.bool_], count: int, level: tuple[float, float], rng: Generator) -> None:
    """Draw trees of tubes into an image: each walks through it, becomes thinner, and now and then gives off another."""
    edge = image.shape[0]
    for _ in range(count):
        value = np.float32(rng.uniform(*level))
        ends = [(rng.uniform(0.2, 0.8, 3) * edge, rng.standard_normal(3), edge * rng.uniform(0.015, 0.045))]
        while ends:
            position, heading, radius = ends.pop()
            for _ in range(int(rng.integers(edge // 4, edge))):
                heading = heading + 0.15 * rng.standard_normal(3)
                heading = heading / np.linalg.norm(heading)
                position, radius = position + heading, radius * 0.995
                if radius < 0.6 or (position < 2).any() or (position > edge - 3).any():
                    break
                _ball(image, inside, position, radius, value)
                if rng.random() < 0.02:
                    ends.append((position, heading + rng.standard_normal(3), 0.7 * radius))


def _ball(
    image: Image, inside: NDArray[np.bool_], centre: NDArray[np.float64], radius: float, value: np.float32
) -> None:
    low = np.maximum(np.floor(centre - radius).astype(int), 0)
    high = np.minimum(np.ceil(centre + radius).astype(int) + 1, image.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    grid = np.ogrid[box]
    near = sum(np.square(g - c) for g, c in zip(grid, centre, strict=True)) <= radius**2
    image[box] = np.where(near & inside[box], value, image[box])
