"""The pilot of the classical base: block shrinkage, and the same on coarser images where nothing happens.

Shrinkage cannot tell slow noise from the mean of a block. In an image averaged over pairs of voxels the same blocks
are twice as wide, and the noise of their means is less. So where coarse blocks hold little beside their means, the
coarse estimate replaces the slow part of the fine one, by degrees; elsewhere the fine one knows better. It is
multi-scale DCT denoising (Pierazzo, Morel and Facciolo, IPOL 2017) with a say for each place, not for each frequency.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from medidiff.physics.extend import extend
from medidiff.physics.shrinkage import is_volume, shrink

_LEVELS = {True: 1, False: 2}  # coarser images, of volumes and of planes
_LEAST = 8  # voxels along an axis that is averaged
_KEPT = (2.0, 8.0)  # coefficients of a coarse block up to which it is believed, and from which it is not
_LINEAR = {2: "bilinear", 3: "trilinear"}


def pilot(noisy: Tensor, spatial_dims: int = 3, variances: Tensor | None = None) -> Tensor:
    """Denoise an image whose noise has unit variance.

    Args:
        noisy: shape (..., *spatial), in units of the noise standard deviation.
        spatial_dims: how many trailing axes are spatial, 2 or 3.
        variances: of each coefficient of a block (``texture.block_variances``), where the noise is not white; there is
            less of it in coarser images then, which are not asked.

    Returns:
        The estimate, of ``noisy``'s shape.
    """
    if variances is not None and bool((variances != 1).any()):
        return shrink(noisy, spatial_dims, variances)[0]
    spatial = noisy.shape[-spatial_dims:]
    levels = _LEVELS[is_volume(spatial)]
    return _at_scales(noisy.reshape(-1, *spatial), levels)[0].reshape(noisy.shape)


def _at_scales(noisy: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The estimate of images (N, *spatial) with so many coarser ones, and what blocks hold at the finest scale."""
    spatial = noisy.shape[1:]
    estimate, kept = shrink(noisy, len(spatial))
    factors = [2 if n >= _LEAST else 1 for n in spatial]
    if not levels or max(factors) == 1:
        return estimate, kept
    less = math.prod(factors) ** 0.5  # noise there is in the mean
    slow = _averaged(estimate, factors)
    coarse, held = _at_scales(_averaged(noisy, factors).mul_(less), levels - 1)
    change = coarse.div_(less).sub_(slow).mul_(held.sub_(_KEPT[1]).div_(_KEPT[0] - _KEPT[1]).clamp_(0, 1))
    size = tuple(n * factor for n, factor in zip(slow.shape[1:], factors, strict=True))
    fine = functional.interpolate(change[:, None], size=size, mode=_LINEAR[len(size)], align_corners=False)[:, 0]
    return estimate.add_(fine[(slice(None), *(slice(0, n) for n in spatial))]), kept


def _averaged(images: Tensor, factors: list[int]) -> Tensor:
    """Means of so many voxels along each axis; an odd one is averaged with itself."""
    after = [-n % factor for n, factor in zip(images.shape[1:], factors, strict=True)]
    pool = functional.avg_pool2d if len(factors) == 2 else functional.avg_pool3d
    return pool(extend(images, [0] * len(after), after)[:, None], factors)[:, 0]
