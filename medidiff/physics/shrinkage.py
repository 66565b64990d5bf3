"""Sliding-window DCT shrinkage: the first two stages of the classical base, at one scale (``scales`` takes more).

Two stages over overlapping blocks: hard thresholding gives a pilot, empirical Wiener shrinkage with that pilot gives
a better one; overlapping block estimates are averaged with the inverse of their variance. It is ODCT3D (Manjon et
al., "New methods for MRI denoising based on sparseness and self-similarity", Medical Image Analysis 2012) with the
Wiener stage of BM4D (Maggioni et al., IEEE TIP 2013) and without block matching. Blocks start on a quincunx-like
quarter of the voxels, which costs a quarter of the full overlap and, measured, 0.05 dB.

The last axis is stored by phase (every fourth voxel together), so that the blocks of a grid are read and written in
runs, and a few thousand blocks are worked on at a time, so that their coefficients stay in the processor's cache.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from medidiff.physics.extend import extend
from medidiff.physics.threads import in_threads

THRESHOLD = 2.6  # of the noise standard deviation; flat optimum between 2.4 and 2.8 on T1w at 3 to 15 % noise
# In volumes with white noise, of coefficients whose frequencies, of 1 along each axis, add up to no more than the
# first: small lesions are made of them. After the groups 2.0 costs nothing at 3 and 9 % noise and gains 0.06 dB at 15 %
# (``benchmarks.base``). It gains nothing in planes, and costs up to 0.3 dB in the textured noise of CT.
LOW, LOW_THRESHOLD = 0.5, 2.0
_TOGETHER, _TOGETHER_ELSEWHERE = 4096, 1 << 20  # blocks worked on at a time on the CPU, and on other devices


def dct_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II matrix, shape (size, size): ``coefficients = matrix @ signal``."""
    k = torch.arange(size, dtype=torch.float64)[:, None]
    i = torch.arange(size, dtype=torch.float64)[None, :]
    matrix = torch.cos(math.pi * (i + 0.5) * k / size) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


def block_basis(block: tuple[int, ...]) -> Tensor:
    """The DCT of a block whose voxels are strung together: ``coefficients = voxels @ basis``."""
    return reduce(torch.kron, [dct_matrix(n) for n in block]).T


def is_volume(spatial: tuple[int, ...]) -> bool:
    """Whether more than two axes have more than one voxel."""
    return sum(n > 1 for n in spatial) > 2


def block_shape(spatial: tuple[int, ...]) -> tuple[int, ...]:
    """Block edge along each axis: 4 in 3-D, 8 in the plane when only two axes have more than one voxel."""
    edge = 4 if is_volume(spatial) else 8
    return tuple(min(edge, n) for n in spatial)


def thresholds(block: tuple[int, ...], spread: Tensor) -> Tensor:
    """Of each coefficient of a block, in units of its noise; ``spread`` is that noise's variance, the same shape."""
    frequency = reduce(torch.add, torch.meshgrid(*(torch.arange(n) / n for n in block), indexing="ij")).reshape(-1)
    low = (frequency.to(spread) <= LOW) & (spread == 1).all() & (min(block) > 2)
    return torch.where(low, LOW_THRESHOLD, THRESHOLD).to(spread)


def _origins(block: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The block grids used: those whose origin's coordinates add up to a multiple of four."""
    for origin in itertools.product(*(range(n) for n in block)):
        if sum(origin) % 4 == 0:
            yield origin


def shrink(noisy: Tensor, spatial_dims: int = 3, variances: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Denoise an image whose noise has unit variance.

    Args:
        noisy: shape (..., *spatial), in units of the noise standard deviation.
        spatial_dims: how many trailing axes are spatial, 2 or 3.
        variances: of each coefficient of a block (``texture.block_variances``); ``None`` for white noise.

    Returns:
        The estimate, and of how many coefficients the blocks around a voxel keep the noise (1: the mean alone); both of
        ``noisy``'s shape.
    """
    images, edges = volumes(noisy, spatial_dims)
    spread = torch.ones(math.prod(edges)) if variances is None else variances
    transform = _Transform(edges, spread.to(noisy.device, torch.float32))
    found = [_shrink_volume(image, transform) for image in images]
    estimate, kept = (torch.stack(each).reshape(noisy.shape) for each in zip(*found, strict=True))
    return estimate, kept


def volumes(images: Tensor, spatial_dims: int) -> tuple[Tensor, tuple[int, ...]]:
    """Images as (volumes, I, J, K), and the edges of their blocks; a batch of planes is one volume of thin blocks."""
    spatial = tuple(images.shape[-spatial_dims:])
    block = block_shape(spatial)
    if spatial_dims == 2:
        return images.reshape(1, -1, *spatial), (1, *block)
    return images.reshape(-1, *spatial), block


def _shrink_volume(image: Tensor, transform: _Transform) -> tuple[Tensor, Tensor]:
    """Both stages."""
    block = transform.block
    before = [n - 1 for n in block]
    after = [n - 1 + (-(size + 2 * (n - 1))) % n for size, n in zip(image.shape, block, strict=True)]
    noisy = extend(image, before, after).unflatten(-1, (-1, block[-1])).transpose(-1, -2).contiguous()
    pilot, _ = _stage(noisy, None, transform)
    inside = tuple(slice(p, p + size) for p, size in zip(before, image.shape, strict=True))
    estimate, weights = (part.transpose(-1, -2).flatten(-2)[inside] for part in _stage(noisy, pilot, transform))
    return estimate, weights.reciprocal().mul_(sum(1 for _ in _origins(block)))  # the harmonic mean over blocks


def _stage(noisy: Tensor, pilot: Tensor | None, transform: _Transform) -> tuple[Tensor, Tensor]:
    """One pass over all block grids: hard thresholding without a pilot, Wiener shrinkage with one.

    Args:
        noisy: (I, J, phases of K, K / phases).
        pilot: the estimate of the first stage, same shape.
        transform: of the blocks.

    Returns:
        The estimate, and the sum of the weights of the blocks around a voxel, both of the same shape.
    """
    weighted, weights = torch.zeros_like(noisy), torch.zeros_like(noisy)
    size, on_cpu = transform.size, noisy.device.type == "cpu"
    together = _TOGETHER if on_cpu else _TOGETHER_ELSEWHERE

    def work(layer: Iterable[_Blocks]) -> None:
        room = noisy.new_empty(3, size * max(together, noisy.shape[-1]))
        for blocks in layer:
            coefficients, gain, spare = (part[: size * blocks.number].view(size, -1) for part in room)
            transform.forward(blocks.fold(noisy, spare), coefficients)
            if pilot is None:
                torch.gt(torch.abs(coefficients, out=spare), transform.threshold, out=gain)
            else:
                transform.forward(blocks.fold(pilot, spare), gain)
                gain.mul_(gain)
                gain.div_(torch.add(gain, 1, out=spare))
            gain[0] = 1
            weight = (transform.spread @ torch.mul(gain, gain, out=spare)).reciprocal_()
            blocks.corners(weights).copy_(weight.view(blocks.counts))
            transform.inverse(coefficients.mul_(gain).mul_(weight), spare)
            blocks.add_unfolded(spare, coefficients, weighted)

    layers = list(_layers(tuple(noisy.shape), transform.block, together))
    for every_other in (layers[::2], layers[1::2]):  # neighbours share voxels, those after next do not
        in_threads(work, every_other, torch.get_num_threads() if on_cpu else 1)
    # the outermost voxels of the extension lie in no block of some grids; they are cropped away, so any finite value
    # does
    total = _over_blocks(weights, transform.block).clamp_(min=1e-12)
    return weighted.div_(total), total


class _Transform:
    """The DCT of blocks that are folded along the last axis: half of it sees their even part, half their odd part.

    Coefficients are in units of the standard deviation of their noise; the mean is the first of them.

    Attributes:
        block: edges, three of them.
        size: voxels of a block.
        spread: noise variance of each coefficient, shape (size,).
        threshold: of each coefficient in the first stage, shape (size, 1).
    """

    def __init__(self, block: tuple[int, ...], spread: Tensor) -> None:
        self.block, self.size = block, math.prod(block)
        last = block[-1]
        number = torch.arange(self.size, device=spread.device).reshape(-1, last)
        chosen = [number[:, parity::2].T.reshape(-1) for parity in (0, 1)]
        self.spread = spread[torch.cat(chosen)]
        self.threshold = thresholds(block, spread)[torch.cat(chosen)][:, None]
        matrix = block_basis(block).to(spread.device).T
        self._halves = []
        for rows, half in zip(chosen, (last - last // 2, last // 2), strict=True):
            part, root = matrix[rows][:, number[:, :half].T.reshape(-1)], spread[rows].double().sqrt()[:, None]
            self._halves.append([each.to(spread).contiguous() for each in (part / root, (part * root).T)])

    def forward(self, folded: Tensor, out: Tensor) -> None:
        """Coefficients of folded blocks, both (size, blocks)."""
        self._multiply(0, folded, out)

    def inverse(self, coefficients: Tensor, out: Tensor) -> None:
        """Even and odd parts of blocks, each (size / 2, blocks), of their coefficients."""
        self._multiply(1, coefficients, out)

    def _multiply(self, way: int, values: Tensor, out: Tensor) -> None:
        even = len(self._halves[0][way])
        for rows, half in zip((slice(0, even), slice(even, None)), self._halves, strict=True):
            torch.mm(half[way], values[rows], out=out[rows])


@dataclass(frozen=True)
class _Blocks:
    """Neighbouring blocks of one grid; arrays are (I, J, phases of K, K / phases).

    Attributes:
        block: edges.
        counts: blocks along each axis.
        planes: the part of the first axis.
        rows: the part of the second axis.
        start: where the first block begins along the last axis.
    """

    block: tuple[int, ...]
    counts: tuple[int, ...]
    planes: slice
    rows: slice
    start: int

    @property
    def number(self) -> int:
        """How many they are."""
        return math.prod(self.counts)

    def fold(self, array: Tensor, out: Tensor) -> Tensor:
        """Sums and differences of the voxels that mirror each other along the last axis, into (size, blocks)."""
        last = self.block[-1]
        even = last - last // 2
        folded = self._by_voxel(out)
        for k in range(last // 2):
            low, high = self._voxels(array, k), self._voxels(array, last - 1 - k)
            torch.add(low, high, out=folded[k])
            torch.sub(low, high, out=folded[even + k])
        if last % 2:
            folded[even - 1] = self._voxels(array, even - 1)
        return out

    def add_unfolded(self, parts: Tensor, spare: Tensor, array: Tensor) -> None:
        """Add blocks, given by their even and odd parts, to an array; ``spare`` is overwritten."""
        last = self.block[-1]
        even = last - last // 2
        folded, voxels = self._by_voxel(parts), self._by_voxel(spare)
        for k in range(last // 2):
            self._voxels(array, k).add_(torch.add(folded[k], folded[even + k], out=voxels[0]))
            self._voxels(array, last - 1 - k).add_(torch.sub(folded[k], folded[even + k], out=voxels[0]))
        if last % 2:
            self._voxels(array, even - 1).add_(folded[even - 1])

    def corners(self, array: Tensor) -> Tensor:
        """The first voxel of each block, shape ``counts``."""
        return self._voxels(array, 0)[0, 0]

    def _by_voxel(self, folded: Tensor) -> Tensor:
        return folded.view(self.block[-1], *self.block[:-1], *self.counts)

    def _voxels(self, array: Tensor, k: int) -> Tensor:
        """The k-th voxels along the last axis of all blocks, (I and J in the block, *counts)."""
        first, phase = divmod(self.start + k, self.block[-1])
        part = array[self.planes, self.rows, phase, first : first + self.counts[-1]]
        split = part.unflatten(1, (self.counts[1], self.block[1])).unflatten(0, (self.counts[0], self.block[0]))
        voxels: Tensor = split.permute(1, 3, 0, 2, 4)
        return voxels


def _layers(shape: tuple[int, ...], block: tuple[int, ...], together: int) -> Iterator[list[_Blocks]]:
    """The blocks of all grids, layer by layer along the first axis, at most about ``together`` at a time."""
    most = [shape[0] // block[0], shape[1] // block[1], shape[-1]]
    rows = max(1, min(most[1], together // most[2]))
    planes = max(1, min(most[0], together // (most[2] * rows)))
    for first in range(0, most[0], planes):
        layer = []
        for second, origin in itertools.product(range(0, most[1], rows), _origins(block)):
            counts = (
                min(planes, (shape[0] - origin[0]) // block[0] - first),
                min(rows, (shape[1] - origin[1]) // block[1] - second),
                most[2] - (origin[2] > 0),
            )
            if min(counts) > 0:
                starts = [origin[0] + first * block[0], origin[1] + second * block[1]]
                parts = [slice(a, a + n * edge) for a, n, edge in zip(starts, counts, block, strict=False)]
                layer.append(_Blocks(block, counts, parts[0], parts[1], origin[2]))
        yield layer


def running_sum(values: Tensor, axis: int, length: int) -> Tensor:
    """The sum of each value and the ``length - 1`` before it along an axis."""
    total = values.clone()
    for step in range(1, length):
        count = values.shape[axis] - step
        total.narrow(axis, step, count).add_(values.narrow(axis, 0, count))
    return total


def _over_blocks(corners: Tensor, block: tuple[int, ...]) -> Tensor:
    """The sum over all blocks that a voxel lies in of a figure that stands at each block's first voxel."""
    values = running_sum(running_sum(corners, 0, block[0]), 1, block[1])
    total = torch.zeros_like(values)
    for phase, other in itertools.product(range(block[-1]), repeat=2):
        if other <= phase:
            total[:, :, phase] += values[:, :, other]
        else:
            total[:, :, phase, 1:] += values[:, :, other, :-1]
    return total
