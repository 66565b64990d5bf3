"""What ``python -m benchmarks.backbones`` learns from and judges on: posed patches of the volumes of a pack."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics import degradations, tasks
from medidiff.physics.operators import Acquisition, Axis
from medidiff.physics.tasks import Problem
from medidiff.training import pack
from medidiff.training.simulator import Example
from medidiff.training.validation import ISOTROPIC

EDGE = {3: 32, 2: 64}  # of a patch, voxels
BATCH = {3: 4, 2: 8}
SIGMA, FACTOR = 0.09, 4  # the noise; the thickness of slices
TASKS = ("denoise", "superres")
OBJECT, LEAST = 0.05, 0.2  # what counts as object, and how much of a patch must be
WINDOW = 64  # central part of a volume that is judged
SLICES = (4, 8)  # of a volume, and how far apart, where images are 2-D

Image = NDArray[np.float32]


class Patches:
    """Posed batches of random patches, in random orientations, of the training volumes with nearly cubic voxels."""

    def __init__(self, data: pack.Pack, dims: int, seed: int) -> None:
        self._dims, self._random = dims, np.random.default_rng(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._volumes = [data.normalised(i) for i in data.of("train") if fit(data, i, EDGE[dims])]
        if not self._volumes:
            raise SystemExit("The pack has no training volume that is large enough and has nearly cubic voxels.")
        sizes = np.sqrt([volume.size for volume in self._volumes])
        self._chances = sizes / sizes.sum()

    def draw(self) -> Example:
        """A batch of one of the two tasks."""
        clean = torch.from_numpy(np.stack([self._crop() for _ in range(BATCH[self._dims])]))
        return pose(clean, TASKS[int(self._random.integers(len(TASKS)))], self._generator)

    def _crop(self) -> Image:
        edge = EDGE[self._dims]
        while True:
            volume = self._volumes[self._random.choice(len(self._volumes), p=self._chances)]
            volume = volume.transpose(self._random.permutation(3))
            shape = (edge,) * self._dims + (1,) * (3 - self._dims)
            corner = [self._random.integers(n - size + 1) for n, size in zip(volume.shape, shape, strict=True)]
            crop = volume[tuple(slice(at, at + size) for at, size in zip(corner, shape, strict=True))]
            if np.mean(crop > OBJECT) > LEAST:
                flips = tuple(slice(None, None, self._random.choice((-1, 1))) for _ in range(3))
                return np.ascontiguousarray(crop[flips].reshape(shape[: self._dims]))


def fit(data: pack.Pack, index: int, edge: int) -> bool:
    """Whether a volume's voxels are nearly cubes and patches fit into it along every axis."""
    spacing = data.entries[index].spacing
    return max(spacing) < ISOTROPIC * min(spacing) and min(data.arrays[index].shape) >= edge


def pose(clean: Tensor, task: str, generator: torch.Generator) -> Example:
    """Degrade patches (B, *spatial) and pose their restoration; slices are thick along the last axis."""
    dims = clean.ndim - 1
    spacing = torch.ones(1, dims)
    if task == "denoise":
        sigma = torch.full((1,) * clean.ndim, SIGMA)
        problem = tasks.denoise(degradations.add_rician(clean, sigma, generator), sigma, "rician", spacing)
    else:
        sizes = clean.shape[1:]
        acquisition = Acquisition(
            (*(Axis(n, n, "gaussian") for n in sizes[:-1]), Axis(sizes[-1] // FACTOR, sizes[-1], "gaussian"))
        )
        problem = tasks.superresolve(acquisition.forward(clean), acquisition, spacing)
    return Example(problem, problem.residual(clean))


@dataclass(frozen=True)
class Judged:
    """The patches of one held-out volume, (B, *spatial), and the problems posed of them by task."""

    name: str
    subject: str
    clean: Image
    problems: dict[str, Problem]


def held_out(data: pack.Pack, dims: int, seed: int) -> Iterator[Judged]:
    """All whole patches in the middle of every validation volume; for 2-D some of its slices."""
    for index in data.of("validation"):
        if not fit(data, index, EDGE[3]):
            continue
        parts = [part for part in blocks(data.normalised(index), dims) if np.mean(part > OBJECT) > LEAST]
        if parts:
            clean = np.stack(parts)
            generator = torch.Generator().manual_seed(seed + index)
            problems = {task: pose(torch.from_numpy(clean), task, generator).problem for task in TASKS}
            yield Judged(data.entries[index].name, data.entries[index].subject, clean, problems)


def blocks(volume: Image, dims: int) -> Iterator[Image]:
    """Blocks side by side in the middle of a volume, or parts of slices some way apart, (edge,) * dims."""
    edge = EDGE[dims]
    sizes, steps = [edge] * 3, [edge] * 3
    counts = [min(n, WINDOW) // edge for n in volume.shape]
    if dims == 2:
        sizes[2], (counts[2], steps[2]) = 1, SLICES
    spans = [(count - 1) * step + size for count, step, size in zip(counts, steps, sizes, strict=True)]
    starts = [(n - span) // 2 for n, span in zip(volume.shape, spans, strict=True)]
    for place in np.ndindex(*counts):
        corner = [start + k * step for start, k, step in zip(starts, place, steps, strict=True)]
        block = volume[tuple(slice(at, at + size) for at, size in zip(corner, sizes, strict=True))]
        yield np.ascontiguousarray(block.reshape(sizes[:dims]))
