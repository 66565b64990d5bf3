"""Diffusion of a standardised residual with zero terminal signal-to-noise ratio.

    u in [0, 1]      tau(u) = kappa u / (1 - u)      alpha = cos(theta), sig = sin(theta), theta = atan(tau)
    z_u = alpha r0 + sig eps                         v = alpha eps - sig r0

At u = 1 theta is pi / 2: z is pure noise, so the network's answer there is the posterior mean E[r0 | y]. It is then
fed a zero state (the null token), because noise would only be something to ignore. See
docs/explanation/how-it-works.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TERMINAL = math.pi / 2


def angle(u: Tensor, kappa: float = 1.0) -> Tensor:
    """Diffusion angle theta of time ``u`` in [0, 1]; float64 in, float64 out; exactly pi / 2 at u = 1."""
    return torch.atan2(kappa * u, 1 - u)


def diffuse(r0: Tensor, eps: Tensor, theta: Tensor) -> Tensor:
    """``z = cos(theta) r0 + sin(theta) eps``."""
    return torch.cos(theta) * r0 + torch.sin(theta) * eps


def velocity(r0: Tensor, eps: Tensor, theta: Tensor) -> Tensor:
    """``v = cos(theta) eps - sin(theta) r0``, what the network predicts (Salimans and Ho, ICLR 2022)."""
    return torch.cos(theta) * eps - torch.sin(theta) * r0


def residual_of(z: Tensor, v: Tensor, theta: Tensor) -> Tensor:
    """``r0 = cos(theta) z - sin(theta) v``."""
    return torch.cos(theta) * z - torch.sin(theta) * v


def time_grid(steps: int) -> Tensor:
    """``u_k = 1 - k / K`` for k = 0 .. K, float64."""
    return 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
