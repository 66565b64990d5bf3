"""How large windows are; no torch is needed to tell."""

from __future__ import annotations

import math

# voxels that the classical base looks around itself (30 and 93, the farthest of them faintly), and what windows begin
# at multiples of: the blocks of its coarsest image and the chessboard of its groups lie alike in all of them
REACH, ALIKE = {3: 24, 2: 96}, {3: 8, 2: 32}


def classical(tile: int, dims: int) -> int:
    """The largest window of the classical base where the network's are of ``tile`` voxels: halos take half of it."""
    return max(tile, 4 * REACH[dims])


def widest(size: int, tile: int, halo: int, stride: int) -> int:
    """The widest of the windows that make up an axis: as few as windows of ``tile`` voxels can be, and equal in size.

    The first and the last have a halo on one side only, so they keep more of what they read than those between.

    Args:
        size: of the axis, in voxels, a multiple of ``stride``.
        tile: the most a window may read, halo included, a multiple of ``stride``.
        halo: voxels of context, a multiple of ``stride``.
        stride: windows are multiples of it.
    """
    if size <= tile:
        return size
    between = max(0, size - 2 * (tile - halo))
    count = 2 + (math.ceil(between / (tile - 2 * halo)) if between else 0)
    return math.ceil((size + 2 * halo * (count - 1)) / count / stride) * stride
