"""From a normalised scan to a posed problem, and from its residuals back to images, for all three tasks.

A network for volumes sees the scan as one image; a network for planes sees a stack of slices as a batch of images.
Inpainting sees no more of a scan than the hole and its surroundings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medidiff.config import RestoreOptions, Task
from medidiff.errors import ScanError, UsageError
from medidiff.physics import holes, resolution, tasks
from medidiff.physics.noise import NoiseEstimate
from medidiff.physics.operators import Acquisition
from medidiff.physics.tasks import Problem
from medidiff.physics.texture import Texture

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Value = TypeVar("Value")
CONTEXT = 32  # voxels around a hole that inpainting looks at
KAPPA = {"denoise": 1.0, "superres": 1.0, "inpaint": 2.0}  # time scale of the diffusion: wider where more is unknown


@dataclass(frozen=True)
class Voxels:
    """What the header says of a scan's voxels, along the axes of the array that is posed.

    Attributes:
        spacing: millimetres along each axis.
        stack: axis along which slices were stored; of CT from head to foot, as its slices are acquired.
        slice_axis: axis along which slices were acquired; ``None`` when not known.
        thickness: of the slices in millimetres; ``None`` when not known.
    """

    spacing: tuple[float, float, float]
    stack: int = 2
    slice_axis: int | None = None
    thickness: float | None = None


@dataclass(frozen=True)
class Posed:
    """A problem together with the way back to the scan's grid.

    Attributes:
        problem: what the network is asked.
        planes: array axis of the slices when each is an image of its own; ``None`` when the volume is one image.
        unit: the normalised scan.
        box: the part of the scan that the problem is about.
        acquisition: A over the axes of the array; ``None`` where the grid stays.
        kappa: time scale of the diffusion.
        symmetry: correlation of the scan with the reflection that holes were filled by, the lowest of planes that have
            one; ``None`` where there was none.
    """

    problem: Problem
    planes: int | None
    unit: Image
    box: tuple[slice, ...]
    acquisition: Acquisition | None
    kappa: float
    symmetry: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the restored array."""
        return self.unit.shape if self.acquisition is None else self.acquisition.fine

    def array(self, images: Tensor) -> Image:
        """Images of the problem (B, *spatial) as an array over ``box``."""
        values = images.numpy()
        return np.ascontiguousarray(values[0] if self.planes is None else np.moveaxis(values, 0, self.planes))

    def images(self, values: Tensor) -> Tensor:
        """An array over ``box`` as images of the problem."""
        return _batch(values.numpy(), self.planes)

    def whole(self, part: Image, rest: Image) -> Image:
        """An array over ``box`` put into the whole, which is ``rest`` elsewhere."""
        if part.shape == self.shape:
            return part
        result = rest.copy()
        result[self.box] = part
        return result

    def image(self, residual: Tensor, strength: float) -> Image:
        """The restored array of a residual that explains the measurement, normalised.

        With ``strength`` below 1 it is mixed with the base, if there is no whole scan on its grid to mix it with; both
        explain the measurement, so the mixture does.
        """
        restored = self.problem.settled(residual)
        if strength < 1 and not self._is_scan:
            restored = torch.lerp(self.problem.image(torch.zeros_like(residual)), restored, strength)
        return self.whole(self.array(restored), self.unit)

    def deviation(self, log_variance: Tensor) -> Image:
        """Predicted standard deviation of the restored array; 0 where nothing was restored."""
        size = self.problem.confine(self.problem.scale * (0.5 * log_variance).exp())
        return self.whole(self.array(size), np.zeros_like(self.unit))

    def data(self) -> Image:
        """What the restored array has to explain: the scan, without the bias of its noise and with its holes filled."""
        return self.unit if self.problem.data is None else self.array(self.problem.data)

    def measured_again(self, unit: Image) -> Image:
        """``A x`` of a restored array: what the scanner would have measured of it."""
        if self.problem.acquisition is None:
            return unit
        return self.array(self.problem.acquisition.forward(_batch(unit, self.planes)))

    def supplied(self, strength: float) -> Image:
        """Share of each voxel, 0 to 1, that the prior supplied and not its own measurement.

        With ``strength`` below 1 a denoised image is mixed with the scan; the others with a base that is a guess too.
        """
        problem = self.problem
        if self._is_scan:
            return self.whole(self.array(strength * (1 - self._noise_kept)), np.zeros_like(self.unit))
        share = (1 - problem.known).expand_as(problem.base).clamp(0, 1)
        return self.whole(self.array(share), np.zeros_like(self.unit))

    def mixed_in(self, strength: float) -> Image:
        """Variance that mixing with the scan adds to a denoised image's own, which counts ``strength`` squared.

        ``(1 - strength)^2 sigma^2`` of the scan's noise, and twice the covariance with what the restored image kept of
        it: ``strength (1 - strength) v sigma^2``.
        """
        rest = 1 - strength
        return self.array(self.problem.sigma.square() * rest * (rest + 2 * strength * self._noise_kept))

    @property
    def _noise_kept(self) -> Tensor:
        """The share v of a voxel's noise that the classical estimate keeps: s^2 = sigma^2 v (2 - v)."""
        problem = self.problem
        return 1 - (1 - (problem.scale / problem.sigma).square()).clamp(min=0).sqrt()

    @property
    def _is_scan(self) -> bool:
        """Whether all of the wanted image was measured."""
        return self.problem.acquisition is None and self.problem.support is None


def pose(
    task: Task,
    unit: Image,
    voxels: Voxels,
    level: NoiseEstimate,
    hole: Mask | None,
    options: RestoreOptions,
    spatial_dims: int,
    classical: tuple[Image, Image] | None = None,
    measured: Mask | None = None,
) -> Posed:
    """Pose a task.

    Args:
        task: which.
        unit: the normalised scan on the model's grid, (I, J, K).
        voxels: what its header says.
        level: its noise; sigma 0 where none is to be removed.
        hole: voxels to fill, as ``unit``.
        options: how fine super-resolution is to become, along the axes of ``unit``.
        spatial_dims: 3 or 2, the images that the network takes.
        classical: base and scale of denoising, where they are known already.
        measured: voxels that the scanner measured, as ``unit``; ``None`` for all but those of the hole.

    Raises:
        UsageError: inpainting without a hole, denoising with one, or an impossible factor.
        ScanError: there is nothing to refine or to fill.
    """
    if task == "denoise" and hole is not None:
        raise UsageError("Denoising takes no mask.")
    if hole is not None and (not hole.any() or hole.all()):
        raise ScanError(f"The mask selects {'the whole scan' if hole.any() else 'no voxel'}; nothing can be restored.")
    planes = None if spatial_dims == 3 else stack_axis(unit.shape, voxels)
    if planes is not None and hole is not None and hole.all(axis=tuple(_in_plane(range(3), planes))).any():
        raise ScanError("The mask covers whole slices, which a pipeline for 2-D images cannot fill; choose a 3-D one.")
    if task == "superres":
        return _superresolve(unit, voxels, level, _gaps(hole, measured, planes), options, planes, hole, measured)
    spacing = torch.tensor([_in_plane(voxels.spacing, planes)])
    sigma, texture = _sigma(level, unit.shape), _texture(level, planes)
    if task == "denoise":
        known = None if classical is None else (_batch(classical[0], planes), _batch(classical[1], planes))
        problem = tasks.denoise(_batch(unit, planes), _batch(sigma, planes), level.law, spacing, texture, known)
        return Posed(problem, planes, unit, tuple(slice(0, n) for n in unit.shape), None, KAPPA[task])
    if hole is None:
        raise UsageError("Inpainting needs a mask that says which voxels to fill.")
    box = _around(hole)
    quiet = None if level.sigma == 0 else _batch(sigma[box], planes)
    seen = ~hole if measured is None else measured
    across, symmetry = _across(unit, hole, seen, voxels.spacing, box, planes)
    images = _batch(unit[box], planes), _batch(hole[box], planes)
    problem = tasks.inpaint(
        *images,
        spacing,
        sigma=quiet,
        law=level.law,
        texture=texture,
        across=across,
        unknown=None if measured is None else _batch(~seen[box], planes),
    )
    return Posed(problem, planes, unit, box, None, KAPPA[task], symmetry)


def _superresolve(
    unit: Image,
    voxels: Voxels,
    level: NoiseEstimate,
    hole: Mask | None,
    options: RestoreOptions,
    planes: int | None,
    asked: Mask | None,
    measured: Mask | None,
) -> Posed:
    acquisition = resolution.plan(
        unit.shape,
        voxels.spacing,
        factor=options.factor,
        target=options.spacing,
        profile=None if options.profile == "auto" else options.profile,
        slice_axis=voxels.slice_axis,
        thickness=voxels.thickness,
    )
    if planes is not None and not acquisition.axes[planes].trivial:
        raise ScanError("A pipeline for 2-D images refines slices in their plane; give a --factor of 1 across them.")
    fine = [size / axis.factor for size, axis in zip(voxels.spacing, acquisition.axes, strict=True)]
    seen = acquisition if planes is None else Acquisition(tuple(_in_plane(acquisition.axes, planes)))
    everywhere, across, symmetry = tuple(slice(0, n) for n in unit.shape), None, None
    if hole is not None and asked is not None:  # for voxels that a reader found without a value it is not worth it
        known = ~hole if measured is None else measured
        across, symmetry = _across(unit, hole, known, voxels.spacing, everywhere, planes)
    problem = tasks.superresolve(
        _batch(unit, planes),
        seen,
        torch.tensor([_in_plane(fine, planes)]),
        sigma=None if level.sigma == 0 else _batch(_sigma(level, unit.shape), planes),
        law=level.law,
        texture=_texture(level, planes),
        hole=None if hole is None else _batch(hole, planes),
        across=across,
    )
    box = tuple(slice(0, n) for n in acquisition.fine)
    return Posed(problem, planes, unit, box, acquisition, KAPPA["superres"], symmetry)


def _gaps(hole: Mask | None, measured: Mask | None, planes: int | None) -> Mask | None:
    """The hole, and what else was not measured amid what was; what lies around that is background.

    Amid it lie regions that touch no face of their image, and whole planes of a volume between others.
    """
    unknown = None if measured is None else ~measured
    missing = unknown if unknown is None or hole is None else unknown & ~hole
    if unknown is None or missing is None or not missing.any():
        return hole
    axes = [axis for axis in _in_plane(range(3), planes) if missing.shape[axis] > 1]
    joined = np.zeros((3, 3, 3), dtype=np.bool_)
    joined[1, 1, 1] = True
    for axis in axes:
        np.moveaxis(joined, axis, 0)[:, 1, 1] = True
    labels, count = ndimage.label(missing, joined)
    inside = np.ones(count + 1, dtype=np.bool_)
    inside[0] = False
    for axis in axes:
        for face in (0, -1):
            inside[labels.take(face, axis=axis)] = False
    found = np.asarray(inside[labels], dtype=np.bool_)
    for axis in axes if planes is None else ():
        empty = np.asarray(np.moveaxis(unknown, axis, 0).all(axis=(1, 2)))
        known = np.flatnonzero(~empty)
        if known.size:
            empty[: known[0]] = empty[known[-1] :] = False
            np.moveaxis(found, axis, 0)[empty] = True
    gaps = found & missing if hole is None else (found & missing) | hole
    images = tuple(_in_plane(range(3), planes))  # nothing is known of one that is all gap
    gaps = np.where(gaps.all(axis=images, keepdims=True), False if hole is None else hole, gaps)
    return gaps if gaps.any() else None


def _across(
    unit: Image,
    hole: Mask,
    measured: Mask,
    spacing: Sequence[float],
    box: tuple[slice, ...],
    planes: int | None,
) -> tuple[Tensor | None, float | None]:
    """The reflection of a scan in a box, and how like the scan it is; of planes each by itself, the lowest of those."""
    if planes is None:
        found = holes.mirrored(unit, hole, measured, spacing, box)
        return (None, None) if found is None else (_batch(found[0], None), found[1])
    stack = zip(*(np.moveaxis(array, planes, 0)[box[planes]] for array in (unit, hole, measured)), strict=True)
    result, alike = np.zeros_like(np.moveaxis(unit[box], planes, 0)), []
    around = _in_plane(spacing, planes), _in_plane(box, planes)
    for one, (image, gap, known) in zip(result, stack, strict=True):
        found = holes.mirrored(image, gap, known, *around) if gap.any() else None
        if found is not None:
            one[...] = found[0]
            alike.append(found[1])
    return (torch.from_numpy(result), min(alike)) if alike else (None, None)


def _sigma(level: NoiseEstimate, shape: tuple[int, ...]) -> Image:
    """The noise of every voxel."""
    return np.broadcast_to(level.local, shape)


def _texture(level: NoiseEstimate, planes: int | None) -> Texture | None:
    """The noise's spectrum on the axes of one image."""
    if level.texture is None or planes is None:
        return level.texture
    return level.texture.in_plane()


def _batch(array: NDArray[Any], planes: int | None) -> Tensor:
    """An array as images (B, *spatial)."""
    images = array[None] if planes is None else np.moveaxis(array, planes, 0)
    return torch.from_numpy(np.require(images, requirements=["C", "W"]))


def _in_plane(values: Sequence[Value], planes: int | None) -> list[Value]:
    """What belongs to the axes of one image."""
    return [value for axis, value in enumerate(values) if axis != planes]


def stack_axis(shape: Sequence[int], voxels: Voxels) -> int:
    """The axis along which a scan is a stack of planes: of one voxel, else as acquired, else as stored."""
    single = [axis for axis, size in enumerate(shape) if size == 1]
    return single[0] if single else voxels.stack if voxels.slice_axis is None else voxels.slice_axis


def _around(hole: Mask) -> tuple[slice, ...]:
    """The box of a hole and its context."""
    spans = []
    for axis in range(hole.ndim):
        hit = np.flatnonzero(hole.any(axis=tuple(a for a in range(hole.ndim) if a != axis)))
        spans.append(slice(max(0, int(hit[0]) - CONTEXT), min(hole.shape[axis], int(hit[-1]) + 1 + CONTEXT)))
    return tuple(spans)
