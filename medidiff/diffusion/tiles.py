"""Evaluate the network window by window as if it had seen the whole volume at once.

A window is read with a halo and only its core is kept. Windows start at multiples of the network's stride, so every
voxel meets the same grid phase whatever the tiling; at the scan's own border there is no halo, as in training. The
answer therefore does not depend on tile size, order or batch, up to what the network draws from beyond the halo.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.diffusion.windows import widest
from medidiff.physics.extend import extend

WHOLE, LARGE = 224**3, 192  # voxels that need no tiles (3 GB at most), and the edge of a tile beyond
Evaluate = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Tile:
    """One window: what is read, and where its core lies in the volume and in the window."""

    window: tuple[slice, ...]
    core: tuple[slice, ...]
    inside: tuple[slice, ...]


@dataclass(frozen=True)
class Tiling:
    """How a volume is cut.

    Attributes:
        spatial: the volume's shape.
        padded: ``spatial`` rounded up to multiples of ``stride`` (filled by symmetric extension).
        cuts: where cores begin along each axis.
        halo: voxels read around the core, a multiple of ``stride``.
        stride: the network's stride.
    """

    spatial: tuple[int, ...]
    padded: tuple[int, ...]
    cuts: tuple[tuple[int, ...], ...]
    halo: int
    stride: int

    def __iter__(self) -> Iterator[Tile]:
        """All tiles, in storage order."""
        axes = [
            list(zip(starts, (*starts[1:], size), itertools.repeat(size), strict=False))
            for starts, size in zip(self.cuts, self.padded, strict=True)
        ]
        for along in itertools.product(*axes):
            first = [max(a - self.halo, 0) for a, _, _ in along]
            yield Tile(
                tuple(slice(f, min(b + self.halo, size)) for f, (_, b, size) in zip(first, along, strict=True)),
                tuple(slice(a, b) for a, b, _ in along),
                tuple(slice(a - f, b - f) for f, (a, b, _) in zip(first, along, strict=True)),
            )

    def __len__(self) -> int:
        return math.prod(map(len, self.cuts))


def automatic(spatial: Sequence[int]) -> int | None:
    """The tile that costs least: none for scans up to ``WHOLE`` voxels, else ``LARGE``."""
    return None if math.prod(spatial) <= WHOLE else LARGE


def plan(spatial: Sequence[int], tile: int | None, halo: int, stride: int) -> Tiling:
    """Cut a volume into windows of at most ``tile`` voxels along each axis, halo included.

    Args:
        spatial: the volume's shape.
        tile: window edge in voxels, a multiple of ``stride``; ``None`` for the whole volume at once.
        halo: voxels of context, rounded up to a multiple of ``stride``.
        stride: the network's stride.

    Raises:
        ValueError: if the halo leaves no core.
    """
    padded = tuple(math.ceil(n / stride) * stride for n in spatial)
    halo = math.ceil(halo / stride) * stride
    tile = max(padded) if tile is None else tile // stride * stride
    if tile - 2 * halo < stride and any(n > tile for n in padded):
        raise ValueError(f"a tile of {tile} voxels leaves nothing between halos of {halo}")
    cuts = []
    for n in padded:
        size = widest(n, tile, halo, stride)
        cuts.append((0, *range(size - halo, n - halo, size - 2 * halo)) if size < n else (0,))
    return Tiling(tuple(spatial), padded, tuple(cuts), halo, stride)


def pad(channels: Tensor, tiling: Tiling) -> Tensor:
    """Extend (B, C, *spatial) to the tiling's padded shape."""
    after = [p - n for p, n in zip(tiling.padded, tiling.spatial, strict=True)]
    return extend(channels, [0] * len(after), after)


def evaluate(
    network: Evaluate,
    channels: Tensor,
    parameters: Tensor,
    tiling: Tiling,
    *,
    batch: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """The network's answer for a whole volume.

    Args:
        network: ``(windows (B, C, *window), parameters (B, P)) -> (B, K, *window)``; it moves data to its own device.
        channels: (C, *padded), see ``pad``.
        parameters: (P,).
        tiling: how to cut.
        batch: windows of equal shape evaluated together.
        progress: called with (tiles done, all tiles).

    Returns:
        (K, *padded), float32, on the device of ``channels``.
    """
    output: Tensor | None = None
    done = 0
    for group in _groups(tiling, batch):
        windows = torch.stack([channels[(slice(None), *tile.window)] for tile in group])
        answers = network(windows, parameters.expand(len(group), -1))
        if output is None:
            output = channels.new_empty((answers.shape[1], *tiling.padded), dtype=torch.float32)
        for tile, answer in zip(group, answers, strict=True):
            output[(slice(None), *tile.core)] = answer[(slice(None), *tile.inside)].to(output)
        done += len(group)
        if progress:
            progress(done, len(tiling))
    assert output is not None
    return output


def over_flips(network: Evaluate, windows: Tensor, parameters: Tensor) -> Tensor:
    """The mean of the network's answers to windows and to all their mirror images, each turned back.

    Windows lie on the network's grid with both ends, so a mirror image has the same phase of it: the answer depends on
    tiles no more than that of the network alone.

    Args:
        network: see ``evaluate``.
        windows: (B, C, *window).
        parameters: (B, P); they tell nothing that a mirror changes.
    """
    axes = range(2, windows.ndim)
    total = network(windows, parameters)
    for count in range(1, len(axes) + 1):
        for chosen in itertools.combinations(axes, count):
            total = total + network(windows.flip(chosen), parameters).flip(chosen)
    return total * (1.0 / 2.0 ** len(axes))


def _groups(tiling: Tiling, batch: int) -> Iterator[list[Tile]]:
    """Tiles of equal window shape in groups of at most ``batch``."""
    waiting: dict[tuple[int, ...], list[Tile]] = {}
    for tile in tiling:
        shape = tuple(s.stop - s.start for s in tile.window)
        group = waiting.setdefault(shape, [])
        group.append(tile)
        if len(group) == batch:
            yield waiting.pop(shape)
    yield from waiting.values()
