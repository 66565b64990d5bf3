"""Symmetric extension of a volume beyond its border (half-sample symmetry: ``... 1 0 | 0 1 2 ... n-1 | n-1 ...``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def symmetric_index(size: int, before: int, after: int) -> Tensor:
    """Indices that extend an axis of ``size`` voxels by ``before`` and ``after``, any number of times over."""
    position = torch.arange(-before, size + after) % (2 * size)
    return torch.minimum(position, 2 * size - 1 - position)


def extend(volume: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    """Extend the last ``len(before)`` axes of ``volume`` symmetrically.

    Unlike ``torch.nn.functional.pad(mode="reflect")`` this works for axes of any length, one voxel included, and
    does not repeat-weight the border voxel wrongly for noise: every voxel of the scan is mirrored, none is skipped.
    """
    axes = range(volume.ndim - len(before), volume.ndim)
    for axis, first, last in zip(axes, before, after, strict=True):
        if first or last:
            index = symmetric_index(volume.shape[axis], first, last).to(volume.device)
            volume = volume.index_select(axis, index)
    return volume
