"""A restoration task as an inverse problem ``y = A x + n``, posed in the coordinates in which the network works.

The network never sees intensities to reproduce: it predicts the standardised residual ``r0 = (x - b) / s`` around a
base image ``b`` that is a fixed, parameter-free function of the measurement, in units of ``s``, the residual's
expected size at each voxel. Its zero output is therefore the classical method, and what it adds is bounded by what
the noise hides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.physics.extend import extend
from medidiff.physics.rician import Law, remove_rician_bias
from medidiff.physics.shrinkage import shrink

SMALLEST_SCALE = 0.003  # of the bright foreground level
SMALLEST_SIGMA = 1e-4
VIEWS = ("removed", "detail", "base", "log scale", "log sigma", "measured")
PARAMETERS = ("theta", "log10 sigma", "rician", "log2 spacing 1", "log2 spacing 2", "log2 spacing 3")
STATE_CHANNELS = 1


@dataclass(frozen=True)
class Problem:
    """One posed problem; every image has shape (B, *spatial) and normalised intensity.

    Attributes:
        measured: y, the scan.
        base: b, the classical estimate.
        scale: s, expected standard deviation of x - b.
        sigma: standard deviation of the noise in y.
        known: 1 where y was measured, 0 where it was not.
        parameters: (B, len(PARAMETERS) - 1): all parameters but the diffusion angle.
    """

    measured: Tensor
    base: Tensor
    scale: Tensor
    sigma: Tensor
    known: Tensor
    parameters: Tensor

    def views(self) -> Tensor:
        """What the network is told, shape (B, len(VIEWS), *spatial); every channel is of order one."""
        removed = ((self.measured - self.base) / self.sigma).clamp(-8, 8)
        detail = torch.asinh((self.base - _local_mean(self.base)) / self.scale)
        return torch.stack(
            [
                removed,
                detail,
                self.base,
                self.scale.log10() + 2,
                self.sigma.log10() + 2,
                self.known.expand_as(self.base),
            ],
            dim=1,
        )

    def image(self, residual: Tensor) -> Tensor:
        """``x = P(b + s r)`` for a standardised residual ``r``; P is the identity for denoising."""
        return torch.addcmul(self.base, self.scale, residual)

    def residual(self, image: Tensor) -> Tensor:
        """``r = (x - b) / s``; the inverse of ``image``."""
        return (image - self.base) / self.scale


def _local_mean(image: Tensor) -> Tensor:
    """Mean over 3 voxels along each axis of (B, *spatial), mirrored at the border."""
    dims = image.ndim - 1
    pool = {2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}[dims]
    return pool(extend(image, [1] * dims, [1] * dims)[:, None], 3, stride=1)[:, 0]


class Denoise:
    """``A = I``: the whole scan was measured, with noise of known law and strength."""

    name = "denoise"

    @staticmethod
    def pose(measured: Tensor, sigma: Tensor, law: Law, spacing: Tensor) -> Problem:
        """Pose denoising.

        The base is the sliding-DCT estimate with the Rician bias of the mean removed. The expected size of its error is
        ``s = sigma sqrt(v (2 - v))`` with v the shrinkage's own variance: measured on T1w and T2w brains between 1
        and 15 % noise this is the root mean square error of voxels with that v to about 20 %.

        Args:
            measured: y, shape (B, *spatial).
            sigma: noise standard deviation, broadcastable to ``measured``.
            law: ``rician`` or ``gaussian``.
            spacing: voxel size in millimetres, shape (B, dims).
        """
        dims = measured.ndim - 1
        sigma = sigma.expand_as(measured).clamp(min=SMALLEST_SIGMA)
        estimate, variance = shrink(measured / sigma, dims)
        if law == "rician":
            estimate = remove_rician_bias(estimate)
        base = estimate * sigma
        variance = variance.clamp(0, 1)
        scale = (sigma * (variance * (2 - variance)).sqrt()).clamp(min=SMALLEST_SCALE)
        return Problem(measured, base, scale, sigma, torch.ones_like(measured[:1]), _parameters(sigma, law, spacing))


def _parameters(sigma: Tensor, law: Law, spacing: Tensor) -> Tensor:
    count = sigma.shape[0]
    level = sigma.reshape(count, -1).median(dim=1).values.log10() + 2
    rician = torch.full_like(level, float(law == "rician"))
    relative = (spacing / spacing.min(dim=1, keepdim=True).values).clamp(max=16).log2().to(sigma)
    return torch.cat([level[:, None], rician[:, None], relative], dim=1)


__all__ = ["PARAMETERS", "STATE_CHANNELS", "VIEWS", "Denoise", "Problem"]
