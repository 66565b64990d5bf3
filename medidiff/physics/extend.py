"""Symmetric extension of a volume beyond its border (half-sample symmetry: ``... 1 0 | 0 1 2 ... n-1 | n-1 ...``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
    if not any(before) and not any(after):
        return volume
    fixed = volume.ndim - len(before)
    sizes = zip(volume.shape[fixed:], before, after, strict=True)
    result = volume.new_empty((*volume.shape[:fixed], *(first + size + last for size, first, last in sizes)))
    inside: list[Any] = [slice(first, first + size) for size, first in zip(volume.shape[fixed:], before, strict=True)]
    result[(..., *inside)] = volume
    for axis, (size, first, last) in enumerate(zip(volume.shape[fixed:], before, after, strict=True)):
        part = result[(..., *(slice(None),) * (axis + 1), *inside[axis + 1 :])]
        source = symmetric_index(size, first, last).to(volume.device) + first
        for rim in (slice(0, first), slice(first + size, first + size + last)):
            if rim.stop > rim.start:
                part.narrow(fixed + axis, rim.start, rim.stop - rim.start).copy_(
                    part.index_select(fixed + axis, source[rim])
                )
    return result
