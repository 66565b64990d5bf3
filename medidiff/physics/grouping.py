"""The best linear estimate of a block from blocks like it: the last stage of the classical base.

Around each reference block lie blocks that look alike in a pilot image. Their mean and covariance make the linear
estimate of least mean square error for each of them: ``mean + C (C + I)^-1 (noisy - mean)``; overlapping estimates are
averaged with the inverse of their variance. It is LPG-PCA (Zhang, Dong, Zhang and Shi, "Two-stage image denoising by
principal component analysis with local pixel grouping", Pattern Recognition 2010) on volumes, with a pilot as in
PRI-NL-PCA (Manjon, Coupe and Buades, "MRI noise estimation and denoising using non-local PCA", Medical Image Analysis
2015). Similar blocks count by degrees, the least similar of the chosen not at all, so that the result is a continuous
function of the pilot and does not jump where two blocks are almost equally far.

Two things save time. Rounds that only make a better pilot take every other reference, as on a chessboard. And where
blocks hardly differ, in air above all, there is little to learn from them and the pilot stays, by degrees too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.physics.extend import extend
from medidiff.physics.shrinkage import block_basis, running_sum, volumes
from medidiff.physics.threads import in_threads

COUNT = 40  # blocks in a group
SCALES = (1.25, 0.8)  # of the pilot's covariance in each round: the first pilot lacks what its thresholds took away
_REACH = 2  # voxels that a block of a group lies away from its reference, at most
_TOGETHER = 512  # groups worked on at a time
_NEARER = 1e-4  # of the noise variance for each squared voxel away: of equal blocks those nearest count, itself first
_MEANS = 0.5  # what averaging over groups leaves of the variance of their means, measured on brains
_FLAT = (0.15, 2.15)  # how far blocks of a group differ from its reference: the pilot will do below, is little above
_PILOT, _PILOT_FLAT = 0.3, 100.0  # how much the pilot counts everywhere, and besides in a flat group's reference
_PILOT_VARIANCE = 0.02  # about what groups promise on a constant
_LEAST = 1e-6  # of a group's weight that is worth computing
_STRONG = 1e5  # trace of a covariance beyond which the noise's variance of 1 beside it needs double precision
_RIDGE = 2e-15  # of that trace, where noise is so weak that even then 1 is lost in rounding


def refine(
    noisy: Tensor, pilot: Tensor, spatial_dims: int = 3, variances: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Denoise an image whose noise has unit variance, given an estimate of it.

    Args:
        noisy: shape (..., *spatial), in units of the noise standard deviation.
        pilot: the estimate that groups are found by, same shape; each round takes means and covariances of the last.
        spatial_dims: how many trailing axes are spatial, 2 or 3.
        variances: of each DCT coefficient of a block (``texture.block_variances``); ``None`` for white noise.

    Returns:
        The estimate, and its expected variance in units of the noise variance; both of ``noisy``'s shape.
    """
    images, block = volumes(noisy, spatial_dims)
    if variances is not None and bool((variances == 1).all()):
        variances = None
    ways = None if variances is None else _whitening(block, variances.to(noisy.device))
    grid = _Grid.over(tuple(images.shape[1:]), block)
    estimate, variance = torch.empty_like(images), torch.empty_like(images)
    for image, first, mean, error in zip(images, pilot.reshape(images.shape), estimate, variance, strict=True):
        _refine_volume(image, first, grid, ways, mean, error)
    return estimate.reshape(noisy.shape), variance.reshape(noisy.shape)


def _whitening(block: tuple[int, ...], variances: Tensor) -> tuple[Tensor, Tensor]:
    """``voxels @ first`` has white noise of variance 1, ``coefficients @ second`` leads back."""
    basis, root = block_basis(block).to(variances.device), variances.double().sqrt()
    return (basis / root).float(), (basis * root).T.float()


def _refine_volume(
    noisy: Tensor, pilot: Tensor, grid: _Grid, ways: tuple[Tensor, Tensor] | None, estimate: Tensor, variance: Tensor
) -> None:
    """All rounds, with groups by the first pilot; writes into ``estimate`` and ``variance``."""
    images = torch.stack([grid.extend(pilot), grid.extend(noisy)])
    layers, threads = grid.layers(), torch.get_num_threads() if noisy.device.type == "cpu" else 1
    found: dict[int, list[_Groups]] = {}
    flat = torch.zeros_like(images[0])  # at the first voxel of a reference, how much the pilot counts in its block
    for number, scale in enumerate(SCALES, start=1):
        last = number == len(SCALES)
        sums = images.new_zeros((3, images[0].numel()))

        def work(number: int, scale: float = scale, last: bool = last, sums: Tensor = sums) -> None:
            if number not in found:
                found[number] = list(grid.groups(images[0], layers[number], flat, everywhere=ways is not None))
            for groups in found[number]:
                if groups.even or last:
                    _estimate(images.flatten(1), groups, ways, scale, sums)

        for parity in (0, 1):  # neighbours share voxels, those after next do not
            in_threads(work, range(parity, len(layers), 2), threads)
        weighted, counts, variances = sums.view(3, *grid.extended)
        alone = grid.over_blocks(flat)
        total = grid.over_blocks(counts).add_(alone)
        if last:
            torch.add(grid.over_blocks(variances), alone, alpha=_PILOT_VARIANCE, out=variance).div_(total)
        pilot = grid.inside(images[0])
        torch.addcmul(grid.inside(weighted), alone.add_(_PILOT), pilot, out=estimate).div_(total.add_(_PILOT))
        images[0] = grid.extend(estimate)


@dataclass(frozen=True)
class _Groups:
    """Similar blocks: where their first voxels lie in the flattened image, how much each counts, and its voxels.

    Attributes:
        corners: (groups, COUNT).
        weights: (groups, COUNT), from 0 to 1.
        voxels: (block voxels,), relative to the first.
        even: whether their references are on the even fields of a chessboard.
    """

    corners: Tensor
    weights: Tensor
    voxels: Tensor
    even: bool


@dataclass(frozen=True)
class _Grid:
    """Reference blocks, side by side, in an image that is extended so far that all blocks around lie in it.

    Attributes:
        shape: of the image.
        block: edges.
        step: from one reference to the next.
        counts: references along each axis.
        reach: voxels between a reference and a block of its group, at most.
    """

    shape: tuple[int, ...]
    block: tuple[int, ...]
    step: tuple[int, ...]
    counts: tuple[int, ...]
    reach: tuple[int, ...]

    @classmethod
    def over(cls, shape: tuple[int, ...], block: tuple[int, ...]) -> _Grid:
        step = tuple(min(edge, 4) for edge in block)
        counts = tuple(math.ceil(max(n - edge, 0) / s) + 1 for n, edge, s in zip(shape, block, step, strict=True))
        flat = min(block) == 1  # planes: more room in two dimensions, to find as many
        reach = tuple(0 if edge == 1 else 2 * _REACH if flat else _REACH for edge in block)
        return cls(shape, block, step, counts, reach)

    @property
    def extended(self) -> tuple[int, ...]:
        """Shape of the extended image."""
        return tuple(span + 2 * r for span, r in zip(self._span(self.counts), self.reach, strict=True))

    def _span(self, counts: Sequence[int]) -> tuple[int, ...]:
        return tuple((c - 1) * s + edge for c, s, edge in zip(counts, self.step, self.block, strict=True))

    def extend(self, image: Tensor) -> Tensor:
        after = [n - r - size for n, r, size in zip(self.extended, self.reach, self.shape, strict=True)]
        return extend(image, self.reach, after).contiguous()

    def inside(self, extended: Tensor) -> Tensor:
        """The part of an extended image that is the image."""
        return extended[tuple(slice(r, r + size) for r, size in zip(self.reach, self.shape, strict=True))]

    def over_blocks(self, corners: Tensor) -> Tensor:
        """The sum over all blocks that a voxel lies in of a figure that stands at each block's first voxel."""
        total = corners
        for axis, edge in enumerate(self.block):
            total = running_sum(total, axis, edge)
        return self.inside(total)

    def layers(self) -> list[slice]:
        """References along the first axis, so many at a time that layers after next share no voxel."""
        least = max(1, math.ceil((2 * self.reach[0] + self.block[0]) / self.step[0]) - 1)
        many = max(least, min(self.counts[0], _TOGETHER // math.prod(self.counts[1:])))
        return [slice(a, min(a + many, self.counts[0])) for a in range(0, self.counts[0], many)]

    def groups(self, pilot: Tensor, layer: slice, flat: Tensor, *, everywhere: bool) -> Iterator[_Groups]:
        """Groups of the references of a layer; writes into ``flat`` how much the pilot counts beside them.

        Textured noise leaves a pilot so rough that groups are wanted ``everywhere``.
        """
        strides = pilot.stride()
        shifts = list(itertools.product(*(range(-r, r + 1) for r in self.reach)))
        away = pilot.new_tensor([sum(a * b for a, b in zip(shift, strides, strict=True)) for shift in shifts]).long()
        voxels = _offsets([range(edge) for edge in self.block], strides, pilot.device)
        rows = max(1, 2 * _TOGETHER // ((layer.stop - layer.start) * self.counts[2]))
        for first in range(0, self.counts[1], rows):
            counts = (layer.stop - layer.start, min(rows, self.counts[1] - first), self.counts[2])
            starts = (layer.start * self.step[0], first * self.step[1], 0)
            corner = [a + r for a, r in zip(starts, self.reach, strict=True)]
            references = _offsets(
                [range(a, a + c * s, s) for a, c, s in zip(corner, counts, self.step, strict=True)],
                strides,
                pilot.device,
            )
            distance = self._distances(pilot, corner, counts, shifts)
            count = min(COUNT, len(shifts) - 1)
            nearest, index = distance.topk(count + 1, dim=1, largest=False)
            nearest, left_out = nearest.split((count, 1), dim=1)
            weights = 1 - (nearest / left_out.clamp(min=torch.finfo(nearest.dtype).tiny)).square()
            counted = weights.sum(dim=1)
            share = (counted > 0).to(counted)  # a single voxel has nothing beside itself
            if not everywhere:
                differ = len(voxels) * (weights * nearest).sum(dim=1) / counted.clamp(min=_LEAST)
                share = ((differ - _FLAT[0]) / (_FLAT[1] - _FLAT[0])).clamp(0, 1)
            flat.view(-1)[references] = (1 - share) * _PILOT_FLAT
            even = self._even(layer.start, first, counts, pilot.device)
            for parity in (True, False):
                chosen = ((share > _LEAST) & (even == parity)).nonzero()[:, 0]
                if len(chosen):
                    corners = references[chosen, None] + away[index[chosen, :count]]
                    yield _Groups(corners, weights[chosen] * share[chosen, None], voxels, parity)

    def _even(self, plane: int, row: int, counts: Sequence[int], device: torch.device) -> Tensor:
        """Every other reference, as on a chessboard; planes that are images of their own do not count as an axis."""
        number = torch.zeros(1, dtype=torch.long, device=device)
        for start, count, edge in zip((plane, row, 0), counts, self.block, strict=True):
            axis = torch.arange(start, start + count, device=device)
            number = (number[:, None] + (axis if edge > 1 else torch.zeros_like(axis))).flatten()
        return number % 2 == 0

    def _distances(
        self, pilot: Tensor, corner: Sequence[int], counts: Sequence[int], shifts: Sequence[tuple[int, ...]]
    ) -> Tensor:
        """How far blocks are from the references around which they lie, (references, shifts).

        The mean square difference, and a little for each voxel away: where all blocks are equal, as in air without
        noise, a choice by rounding errors would jump and could leave out the reference itself.
        """
        span = self._span(counts)
        here = pilot[tuple(slice(a, a + n) for a, n in zip(corner, span, strict=True))]
        found, difference = pilot.new_empty((len(shifts), *counts)), torch.empty_like(here)
        for row, shift in zip(found, shifts, strict=True):
            there = pilot[tuple(slice(a + s, a + s + n) for a, s, n in zip(corner, shift, span, strict=True))]
            torch.sub(there, here, out=difference).square_()
            row.copy_(torch.nn.functional.avg_pool3d(difference[None], self.block, self.step)[0])
            row.add_(_NEARER * sum(s * s for s in shift))
        return found.flatten(1).T.contiguous()


def _offsets(axes: Sequence[range], strides: Sequence[int], device: torch.device) -> Tensor:
    """Places in a flattened image of all combinations of indices."""
    total = torch.zeros(1, dtype=torch.long, device=device)
    for axis, stride in zip(axes, strides, strict=True):
        total = (total[:, None] + torch.arange(axis.start, axis.stop, axis.step, device=device) * stride).flatten()
    return total


def _estimate(images: Tensor, groups: _Groups, ways: tuple[Tensor, Tensor] | None, scale: float, sums: Tensor) -> None:
    """Add what a few groups say: weighted estimates, and at the first voxels of blocks their counts and variances."""
    index = (groups.corners[..., None] + groups.voxels).flatten()
    pilot, noisy = (image.index_select(0, index).view(*groups.corners.shape, -1) for image in images)
    if ways is not None:
        pilot, noisy = pilot @ ways[0], noisy @ ways[0]
    weights = groups.weights[..., None]
    total = weights.sum(dim=1, keepdim=True)
    mean = (weights * pilot).sum(dim=1, keepdim=True) / total
    away = pilot.sub_(mean).mul_((scale * weights / total).sqrt())  # C = away^T away
    if float(away.square().sum(dim=(1, 2)).max()) > _STRONG:
        away, noisy, mean = away.double(), noisy.double(), mean.double()
    gram = away @ away.mT
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal.add_(1 + _RIDGE * diagonal.sum(dim=1, keepdim=True))
    root, _ = torch.linalg.cholesky_ex(gram)
    part = torch.linalg.solve_triangular(root, away, upper=False)  # C (C + I)^-1 = part^T part
    estimate, part = (mean + noisy.sub_(mean) @ part.mT @ part).float(), part.float()
    if ways is not None:
        estimate, part = estimate @ ways[1], part @ ways[1]
    kept = part.square().sum(dim=(1, 2), keepdim=True) / part.shape[2]
    count = weights / (kept + 1 / total)
    corners = groups.corners.flatten()
    sums[0].scatter_add_(0, index, estimate.mul_(count).flatten())
    sums[1].scatter_add_(0, corners, count.flatten())
    sums[2].scatter_add_(0, corners, (count * (kept + _MEANS / total)).flatten())
