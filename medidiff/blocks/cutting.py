"""How a volume is cut into blocks that overlap in what they read and not in what they write."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from medidiff.diffusion import tiles

Box = tuple[slice, ...]
LARGEST = 192**3  # voxels of a block of planes


@dataclass(frozen=True)
class Block:
    """A part of the scan that is worked on at once.

    Attributes:
        window: what is read.
        core: what is written.
    """

    window: Box
    core: Box

    @property
    def inside(self) -> Box:
        """Where the core lies in the window."""
        return tuple(
            slice(core.start - window.start, core.stop - window.start)
            for core, window in zip(self.core, self.window, strict=True)
        )


def cut(shape: Sequence[int], tile: int, halo: int, stride: int, planes: int | None = None) -> list[Block]:
    """Blocks that make up a volume, with windows of at most ``tile`` voxels along each axis.

    Args:
        shape: of the volume.
        tile: edge of a window.
        halo: voxels of context.
        stride: windows start at its multiples.
        planes: axis along which planes are images of their own, which need no context there.
    """
    axes = [axis for axis in range(len(shape)) if axis != planes]
    seen = [shape[axis] for axis in axes]
    across = [slice(0, 1)]
    if planes is not None:
        count = max(1, LARGEST // math.prod(min(n, tile) for n in seen))
        across = [slice(first, min(first + count, shape[planes])) for first in range(0, shape[planes], count)]
    found = []
    for planar, each in itertools.product(across, tiles.plan(seen, tile, halo, stride)):
        window, core = (
            [slice(part.start, min(part.stop, n)) for part, n in zip(box, seen, strict=True)]
            for box in (each.window, each.core)
        )
        if planes is not None:
            window.insert(planes, planar)
            core.insert(planes, planar)
        found.append(Block(tuple(window), tuple(core)))
    return found


def slices(shape: Sequence[int], edge: int) -> list[Block]:
    """Blocks of whole planes along the first axis, without context."""
    rest = tuple(slice(0, n) for n in shape[1:])
    boxes = [(slice(first, min(first + edge, shape[0])), *rest) for first in range(0, shape[0], edge)]
    return [Block(box, box) for box in boxes]
