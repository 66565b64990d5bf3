"""Posterior mean and posterior samples of the standardised residual.

A *denoiser* here is ``denoise(z, theta) -> (r_hat, log_variance)``: the expected standardised residual given the
diffused state ``z`` at diffusion angle ``theta`` (a float), and the log-variance of its error. ``z`` is ``None`` at
theta = pi/2, where there is nothing in it to see. Samplers know nothing of networks, tiles or tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medidiff.diffusion.schedule import TERMINAL, angle, time_grid

Denoiser = Callable[[Tensor | None, float], tuple[Tensor, Tensor]]


def posterior_mean(denoise: Denoiser) -> tuple[Tensor, Tensor]:
    """``E[r0 | y]`` and the log-variance of its error, in one evaluation; deterministic."""
    return denoise(None, TERMINAL)


def position_noise(shape: tuple[int, ...], seed: int, sample: int) -> Tensor:
    """Unit Gaussian noise as a function of (seed, sample, voxel): the same whatever the tiles, batches or devices.

    Drawn on the CPU for the whole volume in one go; Philox-like independence between samples comes from mixing the
    pair into one 63-bit seed (splitmix64).
    """
    generator = torch.Generator().manual_seed(_mix(seed, sample))
    return torch.randn(shape, generator=generator)


def _mix(seed: int, sample: int) -> int:
    """splitmix64 of the pair (Steele et al., OOPSLA 2014), kept positive."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + sample + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1


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
    theta = [float(t) for t in angle(time_grid(steps), kappa)]
    current = first if first is not None else denoise(None, TERMINAL)[0]
    if steps == 1:
        return current
    z = math.cos(theta[1]) * current + math.sin(theta[1]) * noise
    previous, last_step = current, math.inf
    for k in range(1, steps):
        current = denoise(z, theta[k])[0]
        if k == steps - 1:
            break
        step = math.log(math.tan(theta[k])) - math.log(math.tan(theta[k + 1]))  # h = lambda_{k+1} - lambda_k
        weight = step / (2 * last_step)  # 1 / (2 rho), rho = h_prev / h; zero at k = 1: the step before was infinite
        data = torch.lerp(previous, current, 1 + weight)
        ratio = math.sin(theta[k + 1]) / math.sin(theta[k])
        z = ratio * z - math.cos(theta[k + 1]) * math.expm1(-step) * data
        previous, last_step = current, step
    return current
