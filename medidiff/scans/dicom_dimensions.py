"""Where frames lie in the dimensions of their multi-frame object, and where new ones would (PS3.3 C.7.6.17)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medidiff.errors import ScanError
from medidiff.scans.dicom_headers import Header
from medidiff.scans.dicom_stacks import Stack

Frames = Sequence[tuple[Header, tuple[int, ...]]]


def check_finer(stacks: Sequence[Stack]) -> None:
    """See whether new slices would have a place in the objects that the stacks are frames of.

    Raises:
        ScanError: they would not, with the reason.
    """
    files: dict[Path, list[tuple[Header, tuple[int, ...]]]] = defaultdict(list)
    for stack in stacks:
        times = 2 if stack.depth > 1 else 1  # a single slice stays one
        depth = times * stack.depth
        for k in range(depth):
            header = stack.images[stack.nearest(k // times)]
            if header.frame is not None and header.frames > 1:
                files[header.path].append((header, indices(header, stack, k, depth)))
    for frames in files.values():
        check(frames)


def check(frames: Frames) -> None:
    """See whether frames can be one object.

    Args:
        frames: the nearest source frame of each, all of one file, and its new DimensionIndexValues.

    Raises:
        ScanError: they cannot, with the reason.
    """
    header = frames[0][0]
    if header.bundle not in ("", header.sop_uid):
        raise ScanError(f"{header.path} is part of a concatenation, whose slices cannot be changed in number.")
    before = {source.frame: source.indices for source, _ in frames}
    distinct = len(set(before.values())) == len(before)
    if header.indices and distinct and len({new for _, new in frames}) < len(frames):
        raise ScanError(
            f"{header.path} counts its frames along dimensions in which new slices have no place; "
            "convert it to NIfTI first."
        )


def indices(header: Header, stack: Stack, at: int, depth: int) -> tuple[int, ...]:
    """DimensionIndexValues of a frame: those that ran with the slices run with the new ones.

    Args:
        header: the nearest source frame.
        stack: its volume.
        at: index along the last axis of the result.
        depth: length of that axis.
    """
    new = []
    for n, value in enumerate(header.indices):
        column = [image.indices[n] for image in stack.images if len(image.indices) > n]
        steps = np.diff(column)
        runs = len(column) > 1 and bool((steps > 0).all() or (steps < 0).all())
        if not runs or not header.positional[n]:
            new.append(value)
            continue
        rank = depth - 1 - at if steps[0] < 0 else at
        before = (min(column) - 1) * depth / len(column)  # those of stacks before this one
        new.append(round(before) + 1 + rank)
    return tuple(new)


def in_stack(stack: Stack, at: int, depth: int) -> int:
    """InStackPositionNumber of a frame; see `indices`."""
    first, last = stack.images[0].in_stack or 0, stack.images[-1].in_stack or 0
    return depth - at if first > last else at + 1
