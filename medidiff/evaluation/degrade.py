"""Clean scans made worse on purpose, the same on every machine: noise, thick slices, holes; the truth is kept."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medidiff import scans
from medidiff.config import Task
from medidiff.errors import ScanError
from medidiff.evaluation.results import Image
from medidiff.physics import degradations, intensity
from medidiff.physics.fidelity import foreground
from medidiff.physics.intensity import Intensity
from medidiff.physics.operators import Acquisition, Axis, Profile
from medidiff.physics.rician import Law
from medidiff.scans.volume import ScanRef

Mask = NDArray[np.bool_]
Affine = NDArray[np.float64]

BODY = 0.05  # normalised intensity above which a voxel counts for the position of the crop
SMALLEST = 16  # voxels along each axis but the last of a 2-D image
FEWEST = 8  # coarse voxels along a refined axis
HOLE_RADIUS = (5.0, 11.0)  # voxels
TRIES = 200
LARGEST = 6000  # voxels of a hole: biharmonic filling solves a sparse system in them
MILLILITRES = 60.0  # of a hole: tumours are not larger
FULL = 0.85  # of a box: fuller ones are cuboids
OBJECT, TAIL = 0.9, 0.1  # share of a healthy-looking hole in the object, and in each tail of the object's intensities


@dataclass(frozen=True)
class Clean:
    """A reference.

    Attributes:
        name: of the case.
        unit: the reference in normalised intensity, (I, J, K).
        affine: 4 x 4, voxel index to millimetres in RAS+.
        modality: DICOM code.
        units: of the scan's intensities.
        scaling: leads from the scan's intensities to the normalised ones.
    """

    name: str
    unit: Image
    affine: Affine
    modality: str
    units: str
    scaling: Intensity

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in millimetres."""
        return spacing_of(self.affine)


@dataclass(frozen=True)
class Degraded:
    """What every method is given, in normalised intensity.

    Attributes:
        task: what is to be done.
        measured: the degraded image; 0 in a hole.
        affine: of ``measured``.
        modality: DICOM code.
        scaling: leads from the scan's intensities to the normalised ones.
        law: of the noise.
        sigma: standard deviation of the noise; 0 when none was added.
        acquisition: how ``measured`` came from the truth; ``None`` where the grid is the truth's.
        slices: axis of the thick slices; ``None`` where there are none.
        hole: what is to be filled; ``None`` where nothing is.
    """

    task: Task
    measured: Image
    affine: Affine
    modality: str
    scaling: Intensity
    law: Law
    sigma: float
    acquisition: Acquisition | None = None
    slices: int | None = None
    hole: Mask | None = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in millimetres."""
        return spacing_of(self.affine)


def spacing_of(affine: Affine) -> tuple[float, float, float]:
    """Voxel size in millimetres."""
    i, j, k = np.linalg.norm(affine[:3, :3], axis=0)
    return float(i), float(j), float(k)


def load(ref: ScanRef, name: str, crop: int | None) -> Clean:
    """Read a reference; of a repeated acquisition the mean over the repeats.

    Args:
        ref: the scan.
        name: of the case.
        crop: largest edge in voxels of the central part to keep; ``None`` keeps everything.

    Raises:
        ScanError: it cannot be read, its volumes differ in shape, or it is too small.
    """
    volumes = scans.read(ref).volumes
    first = volumes[0]
    if len({volume.array.shape for volume in volumes}) > 1:
        raise ScanError(f"{ref.path} holds volumes of several shapes; give them one by one.")
    mean = np.asarray(np.mean([volume.array for volume in volumes], axis=0), dtype=np.float32)
    scaling, unit = intensity.normalise(mean, first.modality, first.valid)
    if first.modality != "CT" and float(unit.min()) >= -BODY:
        unit = np.maximum(unit, 0)  # ringing of a magnitude image
    part = middle(unit, crop)
    shift = np.eye(4)
    shift[:3, 3] = [span.start for span in part]
    unit = np.ascontiguousarray(unit[part])
    if sum(size >= SMALLEST for size in unit.shape) < min(2, sum(size > 1 for size in unit.shape)):
        raise ScanError(f"{ref.path} is too small to judge on: {' x '.join(map(str, unit.shape))} voxels.")
    return Clean(name, unit, first.affine @ shift, first.modality, first.units, scaling)


def middle(unit: Image, edge: int | None) -> tuple[slice, ...]:
    """The middle of the body, at most ``edge`` voxels along each axis."""
    if edge is None:
        return tuple(slice(0, size) for size in unit.shape)
    body = np.argwhere(unit > BODY)
    corners = (body.min(axis=0), body.max(axis=0)) if len(body) else (np.zeros(unit.ndim), np.array(unit.shape) - 1)
    centre = ((corners[0] + corners[1] + 1) // 2).astype(int)
    starts = [int(np.clip(c - edge // 2, 0, max(n - edge, 0))) for c, n in zip(centre, unit.shape, strict=True)]
    return tuple(slice(start, min(start + edge, size)) for start, size in zip(starts, unit.shape, strict=True))


def noisy(clean: Clean, law: Law, percent: float, seed: int) -> Degraded:
    """Noise of ``percent`` of the bright level.

    Raises:
        ScanError: Rician noise is asked for on an image that is no magnitude.
    """
    measured, sigma = _with_noise(clean.unit, clean, law, percent, seed)
    return Degraded("denoise", measured, clean.affine, clean.modality, clean.scaling, law, sigma)


def _with_noise(unit: Image, clean: Clean, law: Law, percent: float, seed: int) -> tuple[Image, float]:
    sigma = percent / 100 * clean.scaling.bright
    if sigma == 0:
        return unit, 0.0
    if law == "rician" and (clean.modality == "CT" or float(unit.min()) < -BODY):
        raise ScanError(f"{clean.name} is no magnitude image, so it has no Rician noise; use gaussian:PERCENT.")
    generator = torch.Generator().manual_seed(zlib.crc32(f"noise {seed}".encode() + clean.unit.tobytes()))
    image, level = torch.from_numpy(unit)[None], torch.tensor(sigma, dtype=torch.float32)
    add = degradations.add_rician if law == "rician" else degradations.add_gaussian
    return add(image, level, generator)[0].numpy(), sigma


def coarse(
    clean: Clean, factors: Sequence[int], profile: Profile, law: Law, percent: float, seed: int
) -> tuple[Clean, Degraded]:
    """Voxels ``factors`` times as large along each axis of the array, then noise.

    Returns:
        The reference, cut to whole coarse voxels, and what was measured of it.

    Raises:
        ScanError: it is too small for that.
    """
    if any(f > 1 and n < FEWEST * f for n, f in zip(clean.unit.shape, factors, strict=True)):
        raise ScanError(f"{clean.name} has too few voxels to be {' x '.join(map(str, factors))} times coarser.")
    truth, acquisition, measured = measure(clean.unit, factors, profile)
    step = np.diag([*(float(f) for f in factors), 1.0])
    step[:3, 3] = [(f - 1) / 2 for f in factors]
    refined = [axis for axis, factor in enumerate(factors) if factor > 1]
    cut = replace(clean, unit=truth)
    image, sigma = _with_noise(measured, cut, law, percent, seed)
    posed = Degraded(
        task="superres",
        measured=image,
        affine=clean.affine @ step,
        modality=clean.modality,
        scaling=clean.scaling,
        law=law,
        sigma=sigma,
        acquisition=acquisition,
        slices=refined[0] if len(refined) == 1 else None,
    )
    return cut, posed


def measure(unit: Image, factors: Sequence[int], profile: Profile) -> tuple[Image, Acquisition, Image]:
    """The image cut to whole coarse voxels, the acquisition, and what it measures, without noise."""
    whole = tuple(slice(0, n - n % f) for n, f in zip(unit.shape, factors, strict=True))
    truth = np.ascontiguousarray(unit[whole])
    pairs = zip(truth.shape, factors, strict=True)
    acquisition = Acquisition(tuple(Axis(n // f, n, profile if f > 1 else "gaussian") for n, f in pairs))
    measured = acquisition.forward(torch.from_numpy(truth)[None].double())[0].float().numpy()
    return truth, acquisition, measured


def slice_axis(shape: Sequence[int], factor: int) -> int:
    """The last axis that has enough voxels for thick slices, else the longest one."""
    enough = [axis for axis, size in enumerate(shape) if size >= FEWEST * factor]
    return enough[-1] if enough else int(np.argmax(shape))


def with_hole(clean: Clean, law: Law, percent: float, seed: int) -> Degraded:
    """Noise, then a hole in healthy-looking tissue.

    Raises:
        ScanError: none fits.
    """
    hole = healthy_hole(clean.unit, clean.spacing, f"{clean.name} {seed}")
    if hole is None:
        raise ScanError(f"No hole fits into healthy-looking tissue of {clean.name}.")
    image, sigma = _with_noise(clean.unit, clean, law, percent, seed)
    filled = np.where(hole, np.float32(0), image)
    return Degraded("inpaint", filled, clean.affine, clean.modality, clean.scaling, law, sigma, hole=hole)


def healthy_hole(clean: Image, spacing: Sequence[float], key: str) -> Mask | None:
    """A tumour-shaped hole in healthy-looking tissue, the same on every machine; ``None`` where none fits.

    Healthy-looking: nearly all of it in the object, and no more of it among the object's brightest and darkest 5 % than
    twice their share, which keeps most of a visible lesion, of fluid and of air out.

    Args:
        clean: the reference in normalised intensity.
        spacing: voxel size in millimetres.
        key: what the random draws depend on.
    """
    inside = foreground(clean)
    low, high = np.percentile(clean[inside], [5, 95])
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    shape = [n for n in clean.shape if n > 1]
    radius = (HOLE_RADIUS[0], min(HOLE_RADIUS[1], min(shape) / 3))
    for _ in range(TRIES):
        flat = degradations.hole(torch.Size((1, *shape)), generator, torch.device("cpu"), radius)[0].numpy()
        hole = flat.reshape(clean.shape)
        if not tumour_like(flat) or millilitres(hole, spacing) > MILLILITRES:
            continue
        values = clean[hole]
        if inside[hole].mean() >= OBJECT and max((values < low).mean(), (values > high).mean()) <= TAIL:
            return np.asarray(hole, dtype=np.bool_)
    return None


def tumour_like(hole: Mask) -> bool:
    """One piece of limited size that is neither a cuboid nor a slab through the image."""
    spans = [(int(hit.min()), int(hit.max()) + 1) for hit in np.nonzero(hole)]
    edges = [high - low for low, high in spans]
    through = any(edge == size for edge, size in zip(edges, hole.shape, strict=True))
    count = int(hole.sum())
    return not through and count <= LARGEST and count < FULL * float(np.prod(edges)) and ndimage.label(hole)[1] == 1


def millilitres(hole: Mask, spacing: Sequence[float]) -> float:
    """Volume of a hole."""
    return float(hole.sum() * np.prod(spacing) / 1000)
