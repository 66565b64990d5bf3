"""Arrays that are mapped from files: what was looked at leaves the memory again."""

from __future__ import annotations

import ctypes
import mmap
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import CannotWrite

Scalar = TypeVar("Scalar", bound=np.generic)
Box = tuple[slice, ...]
SPAN = 1 << 28  # bytes of a file that are mapped at once


def refuse_small_disk(folder: Path, needed: float) -> None:
    """Stop before a disk would become full.

    Raises:
        CannotWrite: it has less room than is needed.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CannotWrite(
            f"A scan larger than the memory needs {needed / 1e9:.3g} GB of room in {folder} for a while, and"
            f" {free / 1e9:.3g} GB are free; choose another output, or a machine with more memory."
        )


def make(path: Path, shape: tuple[int, ...], kind: type[Scalar]) -> NDArray[Scalar]:
    """A new array in a .npy file; on most file systems it takes room only as it is written."""
    made: Any = np.lib.format.open_memmap(path, "w+", np.dtype(kind), shape)  # type: ignore[no-untyped-call]
    return np.asarray(made)


def opened(path: Path, write: bool = False) -> NDArray[Any]:
    """The array in a .npy file."""
    return np.asarray(np.load(path, mmap_mode="r+" if write else "r"))


def file_of(array: NDArray[Any]) -> Path | None:
    """The file that an array, or a view of one, is mapped from; ``None`` when it lies in memory."""
    owner: Any = array
    while owner is not None:
        if isinstance(owner, np.memmap) and owner.filename is not None:
            return Path(owner.filename)
        owner = getattr(owner, "base", None)
    return None


def release(array: NDArray[Any]) -> None:
    """Give back the memory of an array that is mapped from a file; its pages are read again where they are needed."""
    owner: Any = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = getattr(owner, "base", None)
    if owner is not None and hasattr(owner, "madvise"):
        owner.madvise(mmap.MADV_DONTNEED)


def trim() -> None:
    """Give back what freed arrays leave behind: the C library of Linux keeps those below 32 MB for later."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def boxes(array: NDArray[Any], within: Box | None = None) -> Iterator[Box]:
    """A box, or all of an array, cut along its slowest axis so that little of its file is mapped at a time."""
    within = within or tuple(slice(0, n) for n in array.shape)
    slowest = int(np.argmax(np.abs(array.strides))) if array.ndim else 0
    step = max(1, SPAN // max(abs(array.strides[slowest]), 1))
    start, stop, _ = within[slowest].indices(array.shape[slowest])
    for first in range(start, stop, step):
        yield (*within[:slowest], slice(first, min(first + step, stop)), *within[slowest + 1 :])


def take(array: NDArray[Scalar], within: Box) -> NDArray[Scalar]:
    """A copy of a part."""
    starts = [part.indices(n)[0] for part, n in zip(within, array.shape, strict=True)]
    sizes = [len(range(*part.indices(n))) for part, n in zip(within, array.shape, strict=True)]
    copy = np.empty(sizes, dtype=array.dtype)
    for box in boxes(array, within):
        place = [part.indices(n)[:2] for part, n in zip(box, array.shape, strict=True)]
        copy[tuple(slice(a - s, b - s) for (a, b), s in zip(place, starts, strict=True))] = array[box]
        release(array)
    return copy


def put(array: NDArray[Scalar], within: Box, values: NDArray[Scalar]) -> None:
    """Write a part."""
    starts = [part.indices(n)[0] for part, n in zip(within, array.shape, strict=True)]
    for box in boxes(array, within):
        place = [part.indices(n)[:2] for part, n in zip(box, array.shape, strict=True)]
        array[box] = values[tuple(slice(a - s, b - s) for (a, b), s in zip(place, starts, strict=True))]
        release(array)


def all_finite(array: NDArray[np.float32]) -> bool:
    """Whether all values are finite."""
    if file_of(array) is None:
        return bool(np.isfinite(array).all())
    return all(bool(np.isfinite(take(array, box)).all()) for box in boxes(array))
