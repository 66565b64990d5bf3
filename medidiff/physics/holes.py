"""Holes in a scan: filling them smoothly, and how far the truth may lie from that filling.

The harmonic filling is the image that is as smooth as the known voxels around the hole allow: it solves Laplace's
equation inside with the known voxels as boundary values (membrane interpolation), so constants and ramps come back
exactly. Solved by conjugate gradients from a pyramid of averages, which already has the coarse shape right.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medidiff.physics.extend import extend

_TOLERANCE = 1e-4  # of the flow that the known voxels drive into the hole
_TINY = 1e-30
_MOST_ITERATIONS = 500
_REACH = 8  # voxels beyond which depth no longer counts
_MAX_POOL = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
_MEAN_POOL = {2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}


def harmonic_fill(image: Tensor, hole: Tensor, spacing: Tensor) -> Tensor:
    """Fill holes with the solution of Laplace's equation; voxels outside of them are returned as they are.

    Args:
        image: (B, *spatial); what it holds inside holes does not matter.
        hole: (B, *spatial) boolean, not all of an image.
        spacing: voxel size in millimetres, (B, dims): neighbours weigh 1 / distance^2.
    """
    if not bool(hole.any()):
        return image
    free = hole.to(image.dtype)
    weights = (1 / spacing.square()).to(image)
    weights = weights / weights.max(dim=1, keepdim=True).values
    known = image * (1 - free)
    start = torch.where(hole, _pyramid(known, 1 - free), image)
    # the correction d inside the hole solves A d = r with A = -free Laplacian free, which is positive definite
    residual = free * _laplacian(start, weights)
    enough = _TOLERANCE**2 * _dot(free * _laplacian(known, weights))
    correction, direction, power = torch.zeros_like(image), residual, _dot(residual)
    for _ in range(_MOST_ITERATIONS):
        if bool((power <= enough).all()):
            break
        pushed = -free * _laplacian(direction, weights)
        step = power / _dot(direction, pushed).clamp(min=_TINY)
        correction = correction + step * direction
        residual = residual - step * pushed
        before, power = power, _dot(residual)
        direction = residual + power / before.clamp(min=_TINY) * direction
    return torch.where(hole, start + correction, image)


def depth(hole: Tensor) -> Tensor:
    """How many voxels (at most 8) each voxel lies inside a hole, chessboard distance; 0 outside; (B, *spatial)."""
    dims = hole.ndim - 1
    outside = 1 - hole[:, None].float()
    total = torch.zeros_like(outside)
    for _ in range(_REACH):
        total += 1 - outside
        outside = _MAX_POOL[dims](outside, 3, stride=1, padding=1)
    return total[:, 0]


def _laplacian(image: Tensor, weights: Tensor) -> Tensor:
    """Sum over neighbours of weight (neighbour - voxel); nothing flows over the image's border."""
    total = torch.zeros_like(image)
    for axis in range(1, image.ndim):
        weight = weights[:, axis - 1].reshape(-1, *(1,) * (image.ndim - 1))
        flow = weight * image.diff(dim=axis)
        size = image.shape[axis]
        total.narrow(axis, 0, size - 1).add_(flow)
        total.narrow(axis, 1, size - 1).sub_(flow)
    return total


def _dot(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Inner product of each image, kept in the images' number of axes."""
    return (a * (a if b is None else b)).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def _pyramid(known: Tensor, weight: Tensor) -> Tensor:
    """Means of known voxels over ever larger cubes, taken from the smallest that holds any (push and pull)."""
    if max(known.shape[1:]) == 1:
        return known / weight.clamp(min=_TINY)
    dims = known.ndim - 1
    sizes = known.shape[1:]
    odd = [n % 2 if n > 1 else 0 for n in sizes]
    kernel = [2 if n > 1 else 1 for n in sizes]
    halved = [_MEAN_POOL[dims](extend(part, [0] * dims, odd)[:, None], kernel)[:, 0] for part in (known, weight)]
    coarse = _pyramid(halved[0], halved[1])
    mode = {2: "bilinear", 3: "trilinear"}[dims]
    fine = [c * k for c, k in zip(coarse.shape[1:], kernel, strict=True)]
    filled = torch.nn.functional.interpolate(coarse[:, None], size=fine, mode=mode)[:, 0]
    filled = filled[(slice(None), *(slice(0, n) for n in sizes))]
    return torch.where(weight > 0, known / weight.clamp(min=_TINY), filled)
