"""Holes in a scan: filling them smoothly, and how far the truth may lie from that filling.

The filling is the best linear estimate of what is missing, given that scans are correlated like a Gaussian process with
a Matern covariance about a linear trend (universal kriging; Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, chapter 2), within the range of the surroundings: constants and ramps come back exactly. Smoothness 1/2
would be biharmonic filling with a finite reach, -1/2 harmonic filling; brains lie near 1/2 to 3/4. Solved by
preconditioned conjugate gradients in a basis of cosines, in which the inverse covariance is diagonal, from a pyramid of
averages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from medidiff.physics import symmetry
from medidiff.physics.extend import extend
from medidiff.physics.shrinkage import dct_matrix

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]

_SMOOTHNESS = 0.75  # of the Matern covariance; 1/4 less or more changes 0.1 dB on T1w and T2w brains
_LENGTH = 10.0  # voxels: its reach
_MARGIN = 12  # voxels around a hole that its filling looks at
_TOLERANCE = 1e-2  # of the pull that the known voxels exert on the hole
_MOST_ITERATIONS = 40
_TINY = 1e-30
_LOOKS = 2  # across the plane of symmetry: the second aligns with what the first filled
_SEEN = 0.5  # of a hole that has to have been measured at the other side
_REACH = 8  # voxels beyond which depth no longer counts
_MAX_POOL = {2: nn.functional.max_pool2d, 3: nn.functional.max_pool3d}
_MEAN_POOL = {2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}


def fill(
    image: Tensor, hole: Tensor, spacing: Tensor, across: Tensor | None = None, unknown: Tensor | None = None
) -> Tensor:
    """Fill holes; known voxels outside of them are returned as they are.

    Args:
        image: (B, *spatial); what it holds inside holes does not matter.
        hole: (B, *spatial) boolean, not all of an image.
        spacing: voxel size in millimetres, (B, dims): neighbours weigh 1 / distance^2.
        across: the image's reflection (``symmetry``), an external drift: what it makes expect is taken away before the
            filling, which is smooth, and added after it; ``None`` for a smooth filling.
        unknown: (B, *spatial) boolean: what tells nothing of a hole, holes included; near them it is filled too.
    """
    if not bool(hole.any()):
        return image
    result = image.clone()
    for box in _boxes(hole):
        part = (slice(None), *box)
        gap = hole[part] if unknown is None else unknown[part]
        alone = gap.flatten(1).all(dim=1).reshape(-1, *(1,) * (gap.ndim - 1))  # of that image nothing else is known
        gap = torch.where(alone, hole[part], gap)
        result[part] = _fill(image[part], gap, spacing)
        if across is not None:
            for _ in range(_LOOKS):
                seen = torch.where(hole[part], result[part], image[part])
                drift = symmetry.drift(seen, across[part], hole[part])
                result[part] = _fill(image[part], gap, spacing, drift)
    return result


def _fill(image: Tensor, hole: Tensor, spacing: Tensor, drift: Tensor | float = 0.0) -> Tensor:
    """All holes of a small image at once, smooth but for a drift."""
    free = hole.to(image.dtype)
    fixed = 1 - free
    trend = drift + _trend(image - drift, fixed)
    known = (image - trend) * fixed
    precision = _precision(hole.shape[1:], spacing.to(image))
    bases = [dct_matrix(n).to(image) for n in hole.shape[1:]]
    # with the inverse covariance Q the correction d inside the hole solves (free Q free) d = r
    found = torch.where(hole, _pyramid(known, fixed), known)
    residual = -free * _filtered(found, precision, bases)
    enough = _TOLERANCE**2 * _dot(free * _filtered(known, precision, bases))
    ahead = free * _filtered(residual, 1 / precision, bases)
    direction, power = ahead, _dot(residual, ahead)
    for _ in range(_MOST_ITERATIONS):
        if bool((_dot(residual) <= enough).all()):
            break
        pushed = free * _filtered(direction, precision, bases)
        step = power / _dot(direction, pushed).clamp(min=_TINY)
        found = found + step * direction
        residual = residual - step * pushed
        ahead = free * _filtered(residual, 1 / precision, bases)
        before, power = power, _dot(residual, ahead)
        direction = ahead + power / before.clamp(min=_TINY) * direction
    # no more than the surroundings hold: smooth fillings overshoot beside edges
    axes = tuple(range(1, image.ndim))
    low = torch.where(hole, torch.inf, image).amin(dim=axes, keepdim=True)
    high = torch.where(hole, -torch.inf, image).amax(dim=axes, keepdim=True)
    return torch.where(hole, (found + trend).clamp(low, high), image)


def mirrored(
    image: Image, hole: Mask, measured: Mask, spacing: Sequence[float], box: Sequence[slice]
) -> tuple[Image, float] | None:
    """The reflection of a whole scan about its plane of symmetry in a box, and how like the scan it is.

    Args:
        image: normalised, of two or three axes; what it holds inside holes does not matter.
        hole: same shape.
        measured: same shape, nowhere in the hole.
        spacing: voxel size in millimetres.
        box: the part of the grid to reflect into, which holds the hole.

    Returns:
        Reflection and correlation; ``None`` where the scan is not symmetric, or what lies across was not measured
        either, as when slices are missing.
    """
    part, gap = torch.from_numpy(np.ascontiguousarray(image))[None], torch.from_numpy(np.ascontiguousarray(hole))[None]
    filled = np.asarray(fill(part, gap, torch.tensor([list(spacing)]))[0].numpy())
    found = symmetry.find(filled, measured, spacing)
    if found is None:
        return None
    seen = found.reflected(measured.astype(np.float32), spacing, box)[hole[tuple(box)]]
    return (found.reflected(filled, spacing, box), found.correlation) if seen.mean() >= _SEEN else None


def depth(hole: Tensor) -> Tensor:
    """How many voxels (at most 8) each voxel lies inside a hole, chessboard distance; 0 outside; (B, *spatial)."""
    dims = hole.ndim - 1
    outside = 1 - hole[:, None].float()
    total = torch.zeros_like(outside)
    for _ in range(_REACH):
        total += 1 - outside
        outside = _MAX_POOL[dims](outside, 3, stride=1, padding=1)
    return total[:, 0]


def _boxes(hole: Tensor) -> list[tuple[slice, ...]]:
    """Boxes of the holes of a batch with their surroundings; holes that are near each other share one."""
    anywhere = hole.any(dim=0).cpu().numpy()
    (outer,) = ndimage.find_objects(anywhere.view(np.uint8))
    room = tuple(slice(max(part.start - _MARGIN, 0), part.stop + _MARGIN) for part in outer)
    near = ndimage.binary_dilation(anywhere[room], np.ones((3,) * anywhere.ndim), iterations=_MARGIN)
    return [
        tuple(slice(r.start + part.start, r.start + part.stop) for r, part in zip(room, box, strict=True))
        for box in ndimage.find_objects(ndimage.label(near)[0])
    ]


def _trend(image: Tensor, fixed: Tensor) -> Tensor:
    """The linear function of position that fits the known voxels best, (B, *spatial)."""
    axes = [torch.linspace(-1, 1, n, dtype=image.dtype, device=image.device) for n in image.shape[1:]]
    terms = torch.stack([torch.ones_like(image[0]), *torch.meshgrid(*axes, indexing="ij")]).flatten(1)
    weighted = fixed.flatten(1)[:, None] * terms
    gram, moments = weighted @ terms.T, weighted @ image.flatten(1)[:, :, None]
    inverse = np.linalg.pinv(gram.cpu().numpy().astype(np.float64), rcond=1e-6, hermitian=True)
    weights = torch.as_tensor(inverse @ moments.cpu().numpy(), dtype=image.dtype, device=image.device)
    return (weights * terms).sum(dim=1).reshape(image.shape)


def _precision(spatial: tuple[int, ...], spacing: Tensor) -> Tensor:
    """The inverse of the Matern covariance's spectrum at each product of cosines, (B, *spatial)."""
    weights = 1 / spacing.square()
    weights = weights / weights.max(dim=1, keepdim=True).values
    total = spacing.new_full((len(spacing), *spatial), 1 / _LENGTH**2)
    for axis, size in enumerate(spatial):
        shape = [1] * len(spatial)
        shape[axis] = size
        turns = torch.pi * torch.arange(size, dtype=spacing.dtype, device=spacing.device) / size
        total = total + (2 - 2 * torch.cos(turns)).reshape(shape) * weights[:, axis].reshape(-1, *(1,) * len(spatial))
    return total ** (_SMOOTHNESS + len(spatial) / 2)


def _filtered(image: Tensor, gains: Tensor, bases: list[Tensor]) -> Tensor:
    """An image with each product of cosines amplified by its gain."""
    for axis, basis in enumerate(bases, start=1):
        image = torch.movedim(torch.movedim(image, axis, -1) @ basis.T, -1, axis)
    image = image * gains
    for axis, basis in enumerate(bases, start=1):
        image = torch.movedim(torch.movedim(image, axis, -1) @ basis, -1, axis)
    return image


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
