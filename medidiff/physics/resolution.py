"""How fine super-resolution becomes, and what the measured voxels were: from options and header to an acquisition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import ScanError, UsageError
from medidiff.physics.operators import Acquisition, Axis, Profile

MOST = 16.0  # largest factor
_SAME = 1.05  # spacings that differ by less count as equal
_WIDTHS = (0.5, 1.5)  # of a slice in slice distances: less is trusted to no header, more cannot be inverted


def plan(
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    factor: Sequence[float] | None = None,
    target: Sequence[float] | None = None,
    profile: Profile | None = None,
    slice_axis: int | None = None,
    thickness: float | None = None,
) -> Acquisition:
    """The acquisition that turns the wanted grid into the measured one over the same field of view.

    Args:
        shape: voxels measured along each axis.
        spacing: their size in millimetres.
        factor: voxels wanted per voxel measured, along each axis.
        target: voxel size wanted in millimetres, along each axis; with neither, that of the finest axis.
        profile: sensitivity of a measured voxel along refined axes; by default a Gaussian along the slice axis and a
            limited band of k-space along the others.
        slice_axis: axis along which slices were stacked; by default the coarsest when it stands out.
        thickness: of the slices in millimetres, where the header tells it; by default slices touch.

    Raises:
        UsageError: a factor is not between 1 and 16, or both ``factor`` and ``target`` are given.
        ScanError: there is nothing to refine.
    """
    if factor is not None and target is not None:
        raise UsageError("Give --factor or --spacing, not both.")
    wanted = _factors(shape, spacing, factor, target)
    stacked = _slice_axis(spacing) if slice_axis is None else slice_axis
    axes = []
    for index, (count, ratio, size) in enumerate(zip(shape, wanted, spacing, strict=True)):
        fine = count if count == 1 else max(count, round(count * ratio))
        seen, width = profile or ("gaussian" if index == stacked else "kspace"), 1.0
        if index == stacked and thickness and seen != "kspace":  # a band of k-space has no width of its own
            width = float(np.clip(thickness / size, *_WIDTHS))
        axes.append(Axis(count, fine, seen, width))
    if all(axis.trivial for axis in axes):
        if factor is None and target is None:
            raise ScanError("Its voxels are isotropic already; say how fine with --factor or --spacing.")
        if target is not None:
            sizes = " x ".join(f"{size:.3g}" for size in spacing)
            raise ScanError(f"Nothing becomes finer: give a --spacing below the voxels' {sizes} mm along some axis.")
        shown = " x ".join(map(str, shape))
        raise ScanError(f"Nothing becomes finer: give more than 1 along an axis with several voxels, of {shown}.")
    return Acquisition(tuple(axes))


def _factors(
    shape: Sequence[int], spacing: Sequence[float], factor: Sequence[float] | None, target: Sequence[float] | None
) -> list[float]:
    if factor is None:
        finest = min((size for count, size in zip(shape, spacing, strict=True) if count > 1), default=min(spacing))
        goal = [finest] * len(shape) if target is None else list(target)
        sizes = zip(shape, spacing, goal, strict=True)
        factor = [size / each if count > 1 and size > _SAME * each else 1.0 for count, size, each in sizes]
        if target is not None and any(
            each > _SAME * size for count, size, each in zip(shape, spacing, goal, strict=True) if count > 1
        ):
            raise UsageError("--spacing is coarser than the scan; super-resolution only makes voxels smaller.")
    if not all(1 <= each <= MOST for each in factor):
        worst = max(factor, key=lambda each: abs(np.log(max(each, 1e-9))))
        raise UsageError(
            f"A factor of {worst:.3g} is not between 1 and {MOST:g}; choose another --factor or --spacing."
        )
    return [float(each) for each in factor]


def _slice_axis(spacing: Sequence[float]) -> int | None:
    """The coarsest axis, if it is coarser than the others."""
    order = sorted(range(len(spacing)), key=lambda index: spacing[index])
    return order[-1] if len(order) > 1 and spacing[order[-1]] > _SAME * spacing[order[-2]] else None


def fine_affine(affine: NDArray[np.float64], acquisition: Acquisition) -> NDArray[np.float64]:
    """Affine of the fine grid: same directions, same outer faces of the field of view."""
    ratio = np.array([axis.coarse / axis.fine for axis in acquisition.axes])
    step = np.eye(4)
    step[:3, :3] = np.diag(ratio)
    step[:3, 3] = (ratio - 1) / 2
    return np.asarray(affine @ step)
