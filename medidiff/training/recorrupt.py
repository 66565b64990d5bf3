"""Two noisier copies of a noisy scan with independent noise: what a denoiser learns from without a clean scan.

Recorrupted-to-Recorrupted (Pang et al., CVPR 2021): with Gaussian noise of standard deviation sigma in y and z drawn
from the same law, ``y1 = y + a z`` and ``y2 = y - z / a`` have independent noise of ``sigma sqrt(1 + a^2)`` and
``sigma sqrt(1 + 1 / a^2)``. So ``E[y2 | y1] = E[x | y1]``: the best guess of y2 is the best guess of the truth. For
small a its mean squared error, less that of y2, is Stein's unbiased estimate of the risk.

A magnitude image is the length of a complex number whose phase is unknown. Adding complex noise turns with that phase,
so ``y1 = |y + a z|`` and ``y2 = |y - z / a|`` with complex z are independent Rician images of the same truth, exactly.
The mean of y2 is then no longer the truth but the Rician mean of it, which is expanded to first order about the base:
``E[y2 | y1] = m(b) + m'(b) (E[x | y1] - b)``. In the dark m' vanishes, and with it what such a voxel can teach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.physics import degradations, tasks
from medidiff.physics.rician import Law, rician_bias
from medidiff.physics.tasks import Problem
from medidiff.physics.texture import Texture

_STEP = 0.05  # sigma, for the slope of the Rician mean


@dataclass(frozen=True)
class Noisy:
    """A noisy scan as a network sees it.

    Attributes:
        images: normalised, (B, *spatial): one volume, or slices.
        sigma: standard deviation of the noise at each voxel, same shape.
        law: of the noise.
        spacing: voxel size in millimetres along the spatial axes.
        texture: of the noise; ``None`` for white.
    """

    images: Tensor
    sigma: Tensor
    law: Law
    spacing: tuple[float, ...]
    texture: Texture | None = None

    def pose(self) -> Problem:
        """Denoising the scan itself."""
        return tasks.denoise(self.images, self.sigma, self.law, self._spacing(), self.texture)

    def _spacing(self) -> Tensor:
        return torch.tensor([self.spacing], device=self.images.device)


@dataclass(frozen=True)
class Pair:
    """Denoising one copy, and what the other says of the answer.

    Attributes:
        problem: posed on y1.
        unit: the noise of y1, in which errors are told.
        second: y2.
        mean: what y2 would be in the mean if the base were the truth.
        slope: how that mean grows with the truth.
    """

    problem: Problem
    unit: Tensor
    second: Tensor
    mean: Tensor
    slope: Tensor

    def error(self, residual: Tensor) -> Tensor:
        """Answer minus y2 at each voxel, in units of noise; its square is that of the true error plus a constant."""
        return (self.mean + self.slope * self.problem.scale * residual - self.second) / self.unit


def recorrupt(scan: Noisy, strength: float, generator: torch.Generator) -> Pair:
    """Draw a pair.

    Args:
        scan: what was measured.
        strength: a; the smaller, the more like the scan is y1 and the noisier is y2.
        generator: on the device of the scan.
    """
    first, second = _copies(scan, strength, generator)
    unit, other = (scan.sigma * math.sqrt(1 + power) for power in (strength**2, strength**-2))
    problem = Noisy(first, unit, scan.law, scan.spacing, scan.texture).pose()
    if scan.law == "gaussian":
        return Pair(problem, unit, second, problem.base, torch.ones_like(unit))
    nu = (problem.base / other).clamp(min=0)
    low = (nu - _STEP).clamp(min=0)
    slope = 1 + (rician_bias(nu + _STEP) - rician_bias(low)) / (nu + _STEP - low)
    return Pair(problem, unit, second, problem.base + other * rician_bias(nu), slope)


def _copies(scan: Noisy, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Y1 and y2."""
    y = scan.images

    def draw() -> Tensor:
        white = torch.randn(y.shape, generator=generator, device=y.device)
        return scan.sigma * (white if scan.texture is None else degradations.textured(white, scan.texture))

    real = draw()
    if scan.law == "gaussian":
        return y + strength * real, y - real / strength
    imaginary = draw()
    first = torch.hypot(y + strength * real, strength * imaginary)
    return first, torch.hypot(y - real / strength, imaginary / strength)
