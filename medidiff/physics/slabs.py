"""A volume read slab by slab, for figures that all of it decides although memory holds only a part at a time.

A volume in memory is one slab, so what is measured on slabs is measured on it as if there were none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)
Chunks = Callable[[], Iterable[Image]]
EDGE = 8  # planes: slabs start at its multiples, so that blocks of 4 or 8 voxels lie in one
SLAB = 8_000_000  # voxels of a slab, if its planes are not larger
BEFORE, AFTER = 2, 10  # planes around a slab that filters and windows reach into
_HALF = 16  # bits
_FEW = 1 << 20  # values whose bits are looked at at once


@dataclass(frozen=True)
class Slab:
    """Some planes of a volume along its first axis, and a few around them.

    Attributes:
        start: the first plane.
        stop: the plane behind the last.
        values: the planes from ``first`` on, up to ``AFTER`` planes behind ``stop``.
        first: the plane that ``values`` starts with.
    """

    start: int
    stop: int
    values: Image
    first: int = 0

    @property
    def inside(self) -> slice:
        """The slab's own planes in ``values``."""
        return slice(self.start - self.first, self.stop - self.first)

    @property
    def own(self) -> Image:
        """The slab's own planes."""
        return self.values[self.inside]


@dataclass(frozen=True)
class Slabs:
    """A volume that is read anew each time it is gone through.

    Attributes:
        shape: of the volume.
        read: gives some planes along the first axis.
        edge: planes of a slab; ``None`` for all of them at once.
    """

    shape: tuple[int, ...]
    read: Callable[[slice], Image]
    edge: int | None = None

    def __iter__(self) -> Iterator[Slab]:
        """The slabs, in storage order."""
        count = self.shape[0]
        for start in range(0, count, self.edge or max(count, 1)):
            stop = min(start + (self.edge or count), count)
            first = max(start - BEFORE, 0)
            yield Slab(start, stop, self.read(slice(first, min(stop + AFTER, count))), first)

    @property
    def whole(self) -> bool:
        """Whether the volume comes as one slab."""
        return self.edge is None or self.edge >= self.shape[0]

    @property
    def size(self) -> int:
        """Voxels."""
        return int(np.prod(self.shape))

    def own(self) -> Iterator[Image]:
        """The slabs' own planes, one after another."""
        for slab in self:
            yield slab.own

    def part(self, box: tuple[slice, ...]) -> Image:
        """A part that memory holds."""
        first, *rest = box
        starts = range(first.start, first.stop, self.edge or max(self.shape[0], 1))
        read = (self.read(slice(start, min(start + starts.step, first.stop))) for start in starts)
        return np.concatenate([planes[(slice(None), *rest)].copy() for planes in read])

    def mapped(self, function: Callable[[Image], Image]) -> Slabs:
        """The volume with a function of single voxels applied."""
        return Slabs(self.shape, lambda planes: function(self.read(planes)), self.edge)


def of(values: Image | Slabs) -> Slabs:
    """A volume in memory as one slab."""
    return values if isinstance(values, Slabs) else Slabs(values.shape, lambda planes: values[planes])


def edge(shape: Sequence[int]) -> int:
    """Planes of a slab that memory should hold."""
    plane = int(np.prod(shape[1:]))
    return max(SLAB // max(plane, 1) // EDGE, 1) * EDGE


def extent(chunks: Iterable[Image]) -> tuple[float, float]:
    """The smallest and the largest value."""
    pairs = [(float(chunk.min()), float(chunk.max())) for chunk in chunks if chunk.size]
    return min(low for low, _ in pairs), max(high for _, high in pairs)


def every(chunks: Iterable[NDArray[Scalar]], step: int) -> list[NDArray[Scalar]]:
    """Every ``step``-th value of the chunks as if they were strung together, chunk by chunk."""
    found, offset = [], 0
    for chunk in chunks:
        found.append(chunk[-offset % step :: step].copy())
        offset += len(chunk)
    return found


def percentile(chunks: Chunks, percent: float) -> float:
    """A percentile of all values of the chunks, interpolated linearly; NaN without values.

    The chunks are gone through twice: for the upper and the lower half of the bits of the two values around it.
    """
    tops = sum((_counts(keys >> _HALF) for keys in _keys(chunks())), np.zeros(1 << _HALF, dtype=np.int64))
    count = int(tops.sum())
    if count == 0:
        return float("nan")
    place = (count - 1) * percent / 100
    ranks = [int(np.floor(place)), int(np.ceil(place))]
    ends = np.cumsum(tops)
    bins = [int(np.searchsorted(ends, rank, side="right")) for rank in ranks]
    lows = {each: np.zeros(1 << _HALF, dtype=np.int64) for each in bins}
    for keys in _keys(chunks()):
        for each, seen in lows.items():
            seen += _counts(keys[keys >> _HALF == each] & (1 << _HALF) - 1)
    low, high = (
        _value((each << _HALF) + int(np.searchsorted(np.cumsum(lows[each]), rank - ends[each] + tops[each], "right")))
        for each, rank in zip(bins, ranks, strict=True)
    )
    return low + (high - low) * (place - ranks[0])


def _keys(chunks: Iterable[Image]) -> Iterator[NDArray[np.uint32]]:
    """Unsigned integers in the order of the values, some at a time."""
    for chunk in chunks:
        values = np.ascontiguousarray(chunk, dtype=np.float32).reshape(-1)
        for start in range(0, values.size, _FEW):
            bits = values[start : start + _FEW].view(np.uint32)
            yield np.where(bits >> 31 == 1, ~bits, bits | np.uint32(1 << 31))


def _value(key: int) -> float:
    """The value of a key."""
    bits = np.array([key & ~(1 << 31) if key >> 31 else ~key & (1 << 32) - 1], dtype=np.uint32)
    return float(bits.view(np.float32)[0])


def _counts(keys: NDArray[Any]) -> NDArray[np.int64]:
    return np.bincount(keys, minlength=1 << _HALF)
