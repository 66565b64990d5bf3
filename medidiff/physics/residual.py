"""What a denoiser took for noise although it is too strong for noise: put back.

A lesion of two or three voxels is like nothing around it, so block shrinkage and groups of similar blocks take a part
of it away. Smoothed over the neighbours, what was taken away shows it. Where that is beyond what noise does, the part
that is beyond returns: twicing (Tukey, Exploratory Data Analysis, 1977) of what passes a test, by the non-negative
garrote (Gao, Journal of Computational and Graphical Statistics 1998), which is continuous and leaves strong responses
as they are.
"""

from __future__ import annotations

import math

from torch import Tensor

from medidiff.physics.shrinkage import is_volume
from medidiff.physics.texture import SPECTRUM_GRID, Texture

# In standard deviations of smoothed noise. On brains 1.5 costs nothing; 1 keeps more lesions and loses 0.04 dB at 9 %
# noise and 0.06 at 15 % (``benchmarks.base``). In the textured noise of CT 2.5 costs nothing, and 1.5 up to 0.2 dB.
THRESHOLD, THRESHOLD_TEXTURED = 1.5, 2.5
# Promised variances below which nothing returns and above which all that passes does: noise on a constant is mostly
# promised 0.02 to 0.04, so that little of it returns; planted lesions 0.03 to 0.4. In planes, where more
# is searched for groups, the wider ramp gains up to 0.35 dB in micrographs and costs 0.05 in CT slices at little noise.
FLAT, FLAT_IN_PLANES = (0.025, 0.05), (0.03, 0.08)
_KERNEL = (0.25, 0.5, 0.25)  # along each axis: a sphere of two to three voxels, nearly


def put_back(
    noisy: Tensor, estimate: Tensor, variance: Tensor, spatial_dims: int, texture: Texture | None = None
) -> Tensor:
    """An estimate with what is significant in the noise that was taken away.

    Args:
        noisy: shape (..., *spatial), in units of the noise standard deviation.
        estimate: of it, same shape.
        variance: that is expected of the estimate, in units of the noise variance, same shape.
        spatial_dims: how many trailing axes are spatial, 2 or 3.
        texture: of the noise; ``None`` for white.
    """
    spatial = tuple(noisy.shape[-spatial_dims:])
    smooth = noisy - estimate
    for axis, size in enumerate(spatial, start=-spatial_dims):
        if size > 1:
            smooth = _smoothed(smooth, axis)
    power = smooth.square()
    threshold = THRESHOLD if texture is None else THRESHOLD_TEXTURED
    limit = threshold**2 * _smoothed_variance(spatial, texture)
    passed = (1 - limit / power.clamp(min=limit)).mul_(smooth)
    low, high = FLAT if is_volume(spatial) else FLAT_IN_PLANES
    return estimate + passed * ((variance - low) / (high - low)).clamp_(0, 1)


def _smoothed(image: Tensor, axis: int) -> Tensor:
    """The kernel's mean over neighbours along an axis; beyond the border nothing was taken away."""
    side, middle, _ = _KERNEL
    found, size = image * middle, image.shape[axis]
    found.narrow(axis, 1, size - 1).add_(image.narrow(axis, 0, size - 1), alpha=side)
    found.narrow(axis, 0, size - 1).add_(image.narrow(axis, 1, size - 1), alpha=side)
    return found


def _smoothed_variance(spatial: tuple[int, ...], texture: Texture | None) -> float:
    """Variance of smoothed noise whose own is 1."""
    wide = [n > 1 for n in spatial]
    if texture is None:
        return math.fsum(k * k for k in _KERNEL) ** sum(wide)
    return texture.passed(tuple(SPECTRUM_GRID if many else 1 for many in wide), wide, _KERNEL)
