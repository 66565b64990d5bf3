"""Posterior mean and posterior samples of the standardised residual.

A *denoiser* here is ``denoise(z, theta) -> (r_hat, log_variance)``: the expected standardised residual given the
diffused state ``z`` at diffusion angle ``theta`` (a float), and the log-variance of its error. ``z`` is ``None`` at
theta = pi/2, where there is nothing in it to see. Samplers know nothing of networks, tiles or tasks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.diffusion.schedule import TERMINAL, angle, time_grid

Denoiser = Callable[[Tensor | None, float], tuple[Tensor, Tensor]]


def posterior_mean(denoise: Denoiser) -> tuple[Tensor, Tensor]:
    """``E[r0 | y]`` and the log-variance of its error, in one evaluation; deterministic."""
    return denoise(None, TERMINAL)


def position_noise(shape: tuple[int, ...], seed: int, sample: int, box: tuple[slice, ...] | None = None) -> Tensor:
    """Unit Gaussian noise as a function of (seed, sample, voxel): the same whatever the boxes, tiles or devices.

    Drawn on the CPU, each plane along the first axis with a seed of its own, mixed from the three (splitmix64).

    Args:
        shape: of the whole image.
        seed: the user's.
        sample: number of the sample.
        box: the part that is wanted; all of it by default.
    """
    first, *rest = box or (slice(0, n) for n in shape)
    planes = range(*first.indices(shape[0]))
    result = torch.empty(
        (len(planes), *(len(range(*part.indices(n))) for part, n in zip(rest, shape[1:], strict=True)))
    )
    for index, plane in enumerate(planes):
        generator = torch.Generator().manual_seed(_mix(_mix(seed, sample), plane))
        result[index] = torch.randn(shape[1:], generator=generator)[tuple(rest)]
    return result


def _mix(seed: int, sample: int) -> int:
    """splitmix64 of the pair (Steele et al., OOPSLA 2014), kept positive."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + sample + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1


@dataclass(frozen=True)
class Step:
    """One evaluation of the network on the way, and the update of the state behind it.

    Attributes:
        theta: the angle at which the network is asked.
        following: the next angle; 0 behind the last.
        weight: how far the data are extrapolated beyond this answer from the one before.
    """

    theta: float
    following: float
    weight: float

    def start(self, mean: Tensor, noise: Tensor) -> Tensor:
        """The state before the first step: the posterior mean, diffused."""
        return math.cos(self.theta) * mean + math.sin(self.theta) * noise

    def advance(self, z: Tensor, current: Tensor, previous: Tensor) -> Tensor:
        """The next state from this one, this answer and the one before; each voxel by itself."""
        if self.following == 0:
            return current
        size = _distance(self.theta, self.following)
        data = torch.lerp(previous, current, 1 + self.weight)
        ratio = math.sin(self.following) / math.sin(self.theta)
        return ratio * z - math.cos(self.following) * math.expm1(-size) * data


def solver(steps: int, kappa: float = 1.0) -> list[Step]:
    """The steps behind the posterior mean of a solver with K evaluations in all; see ``posterior_sample``."""
    theta = [float(t) for t in angle(time_grid(steps), kappa)]
    path, last = [], math.inf  # the step from pure noise is infinite, so that the first has nothing to extrapolate
    for here, following in itertools.pairwise(theta[1:]):
        size = _distance(here, following) if following > 0 else math.inf
        path.append(Step(here, following, size / (2 * last) if following > 0 else 0.0))  # 1 / (2 rho), rho = h_prev / h
        last = size
    return path


def _distance(theta: float, following: float) -> float:
    """The step in ``lambda = -log tan(theta)``, h of the solver."""
    return math.log(math.tan(theta)) - math.log(math.tan(following))


def posterior_sample(
    denoise: Denoiser, noise: Tensor, steps: int, *, kappa: float = 1.0, first: Tensor | None = None
) -> Tensor:
    """One draw from the posterior of the standardised residual by DPM-Solver++(2M).

    Data-prediction form of Lu et al. 2022 (arXiv 2211.01095, algorithm 2) on the grid ``u_k = 1 - k / K`` with
    ``lambda = -log tan(theta)``. The start is pure noise at theta = pi/2 and never truncated: a shortened path cannot
    have the posterior's spread, however many steps follow.

    Args:
        denoise: the denoiser.
        noise: unit Gaussian start, any shape.
        steps: K, evaluations of the network. 1 returns the posterior mean.
        kappa: time scale of the schedule (1 for denoising and super-resolution, 2 for inpainting).
        first: the posterior mean, when it is known already; saves the first evaluation.
    """
    current = first if first is not None else denoise(None, TERMINAL)[0]
    path = solver(steps, kappa)
    if not path:
        return current
    z = path[0].start(current, noise)
    previous = current
    for step in path:
        current = denoise(z, step.theta)[0]
        z, previous = step.advance(z, current, previous), current
    return current
