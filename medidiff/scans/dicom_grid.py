"""Which images an output series has, and where each of them lies in the patient.

Most output images take the place of a source image. Others lie where there was none: between the slices or on finer
pixels (super-resolution), or where the series lacks a slice. Those copy the attributes of the nearest source image and
get a geometry of their own (PS3.3 C.7.6.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.scans.dicom_headers import Header
from medidiff.scans.dicom_stacks import LPS_TO_RAS, Stack
from medidiff.scans.regrid import Regrid

DECIMALS = 8  # of a millimetre: what is beyond is rounding error, and a decimal string holds 16 characters


@dataclass(frozen=True)
class Place:
    """Where an image lies that has no source image of its own.

    Attributes:
        name: tells the images of one nearest source apart.
        rows: the nearest row of the source for each row.
        columns: likewise.
        attributes: by keyword, millimetres in LPS+. Rows, Columns, ImagePositionPatient and PixelSpacing are set, the
            others where the source has a value.
        sources: the images that it was made from, the nearest one first.
        rescale: whether the source's slope is one slice's own, so that another one may take its place.
    """

    name: str
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    attributes: dict[str, Any]
    sources: tuple[Header, ...]
    rescale: bool


@dataclass(frozen=True)
class Image:
    """One image to write.

    Attributes:
        header: the source image that it copies.
        number: its InstanceNumber; of the frames of a multi-frame object, what they are sorted by.
        values: shape (rows, columns), physical units.
        stack: the volume of the source that it belongs to.
        index: its index along the last axis of the result.
        depth: length of that axis.
        place: None when it lies where its source does.
    """

    header: Header
    number: int
    values: NDArray[np.float32]
    stack: Stack
    index: int
    depth: int
    place: Place | None = None


def own_grid(stacks: Sequence[Stack], arrays: Sequence[NDArray[np.float32]]) -> list[Image]:
    """The images of results on the grids of the source, missing slices included.

    Args:
        stacks: the source.
        arrays: one array a stack, shape (columns, rows, slices).
    """
    framed = any(header.frame is not None for stack in stacks for header in stack.images)
    numbers = _frame_numbers(stacks) if framed else _instance_numbers(stacks)
    images = []
    for which, (stack, array) in enumerate(zip(stacks, arrays, strict=True)):
        at = dict(zip(stack.indices, stack.images, strict=True))
        rows, columns, depth = array.shape[1], array.shape[0], stack.depth
        same = Regrid((columns, rows, depth), (columns, rows, depth), np.ones(3), np.zeros(3))
        for k in range(depth):
            values = np.asarray(array[:, :, k], dtype=np.float32).T
            if k in at:
                images.append(Image(at[k], next(numbers), values, stack, k, depth))
                continue
            number = next(numbers)
            place = _place(stack, same, stack.affine, k, number, f"volume {which} slice {k}", _beside(stack, k))
            images.append(Image(stack.images[stack.nearest(k)], number, values, stack, k, depth, place))
    return images


def new_grid(
    stacks: Sequence[Stack],
    arrays: Sequence[NDArray[np.float32]],
    affines: Sequence[NDArray[np.float64]],
    grids: Sequence[Regrid],
) -> list[Image]:
    """The images of results on grids of their own, volume after volume, each naming all sources of its volume.

    Args:
        stacks: the source.
        arrays: one array a stack, shape (columns, rows, slices).
        affines: of each array, in RAS+.
        grids: of each array, on the source's.
    """
    images: list[Image] = []
    for which, (stack, array, affine, grid) in enumerate(zip(stacks, arrays, affines, grids, strict=True)):
        depth = array.shape[2]
        before = len(images)
        downwards = runs_down(stack)
        for k, x in enumerate(grid.places(2)):
            nearest = stack.nearest(x)
            others = (*stack.images[:nearest], *stack.images[nearest + 1 :])
            sources = (stack.images[nearest], *others)
            number = before + (depth - k if downwards else k + 1)
            place = _place(stack, grid, affine, k, number, f"volume {which} slice {k}", sources)
            values = np.asarray(array[:, :, k], dtype=np.float32).T
            images.append(Image(stack.images[nearest], number, values, stack, k, depth, place))
    return images


def _place(
    stack: Stack, grid: Regrid, affine: NDArray[np.float64], k: int, number: int, name: str, sources: tuple[Header, ...]
) -> Place:
    header, x = sources[0], float(grid.places(2)[k])
    attributes: dict[str, Any] = {"Rows": grid.shape[1], "Columns": grid.shape[0], "ImageIndex": number}
    if header.position is not None and header.orientation is not None:
        attributes["ImagePositionPatient"] = _round(LPS_TO_RAS @ affine @ np.array([0, 0, k, 1]))[:3]
    if header.spacing is not None:
        attributes["PixelSpacing"] = _round(np.array(header.spacing) * grid.scale[[1, 0]])
    if grid.shape[2] != grid.source[2] or abs(grid.scale[2] - 1) > 1e-6:
        step = float(np.linalg.norm(affine[:3, 2]))
        attributes |= {"NumberOfSlices": grid.shape[2], "SpacingBetweenSlices": _round(np.array([step]))[0]}
        if header.slice_thickness is not None:
            attributes["SliceThickness"] = _round(np.array([min(header.slice_thickness, step)]))[0]
    if header.location is not None:
        away = x - stack.indices[stack.images.index(header)]
        attributes["SliceLocation"] = _round(np.array([header.location + away * _location_step(stack)]))[0]
    rescale = len({image.slope for image in stack.images}) > 1
    return Place(name, grid.nearest(1), grid.nearest(0), attributes, sources, rescale)


def _round(values: NDArray[np.float64]) -> list[float]:
    return [float(value) for value in np.round(values, DECIMALS) + 0.0]


def _location_step(stack: Stack) -> float:
    """SliceLocation from one slice to the next; scanners count it in either direction."""
    first, last = stack.images[0].location, stack.images[-1].location
    return (last - first) / (stack.depth - 1) if first is not None and last is not None and stack.depth > 1 else 0.0


def _beside(stack: Stack, k: int) -> tuple[Header, ...]:
    """The images on both sides of a missing slice, the nearest first."""
    upper = next(n for n, index in enumerate(stack.indices) if index > k)
    pair = (stack.images[upper - 1], stack.images[upper])
    return pair if stack.nearest(k) == upper - 1 else pair[::-1]


def runs_down(stack: Stack) -> bool:
    """Whether InstanceNumber falls along the stack."""
    first, last = stack.images[0].instance, stack.images[-1].instance
    return first is not None and last is not None and first > last


def _frame_numbers(stacks: Sequence[Stack]) -> Iterator[int]:
    """1, 2, 3, ... in the order of files and frames; a missing slice comes between its neighbours."""
    files: dict[Path, int] = {}
    keys = []
    for stack in stacks:
        frames = [header.frame or 0 for header in stack.images]
        for k, at in enumerate(np.interp(np.arange(stack.depth), stack.indices, frames)):
            path = stack.images[stack.nearest(k)].path
            keys.append((files.setdefault(path, len(files)), float(at)))
    ranks = {n: rank for rank, n in enumerate(sorted(range(len(keys)), key=keys.__getitem__), start=1)}
    return (ranks[n] for n in range(len(keys)))


def _instance_numbers(stacks: Sequence[Stack]) -> Iterator[int]:
    """The source's InstanceNumbers where they are complete and unique, else 1, 2, 3, ...

    A missing slice gets the number between those of its neighbours where that is free, else one above all others.
    """
    headers = [header for stack in stacks for header in stack.images]
    given = [header.instance for header in headers if header.instance is not None]
    if len(set(given)) != len(headers):
        yield from range(1, sum(stack.depth for stack in stacks) + 1)
        return
    taken = set(given)
    for stack in stacks:
        known = [header.instance or 0 for header in stack.images]
        guesses = np.rint(np.interp(np.arange(stack.depth), stack.indices, known)).astype(int)
        for k, guess in enumerate(guesses):
            number = int(guess)
            if k not in stack.indices and number in taken:
                number = max(taken) + 1
            taken.add(number)
            yield number
