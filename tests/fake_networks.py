"""Networks so simple that the answer is known, and objects to restore with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from medidiff.config import RestoreOptions, Task
from medidiff.diffusion.device import Device
from medidiff.diffusion.network import Backbone
from medidiff.diffusion.uncertainty import Calibration, Interval
from medidiff.engine import Engine
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.restore import Restoration, restore
from medidiff.scans.volume import Volume


class Constant(Backbone):
    """The same velocity and log-variance everywhere; zero by default, which is the classical base."""

    def __init__(self, velocity: float = 0.0, log_variance: float = 0.0, spatial_dims: int = 3) -> None:
        super().__init__()
        self.spatial_dims, self.stride = spatial_dims, 4
        self.answer = (velocity, log_variance)
        self.windows: list[tuple[int, ...]] = []

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        assert x.shape[1] == STATE_CHANNELS + len(VIEWS)
        assert x.ndim == 2 + self.spatial_dims
        assert parameters.shape == (len(x), len(parameter_names(self.spatial_dims)))
        assert all(n % self.stride == 0 for n in x.shape[2:])
        self.windows.append(tuple(x.shape))
        return torch.stack([torch.full_like(x[:, 0], value) for value in self.answer], dim=1)


class Local(Constant):
    """Random weights over 5 voxels an axis, different along each, steered by every parameter: it reaches two voxels."""

    def __init__(self, spatial_dims: int = 3) -> None:
        super().__init__(spatial_dims=spatial_dims)
        torch.manual_seed(0)
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[spatial_dims]
        self.first = conv(STATE_CHANNELS + len(VIEWS), 4, 3, padding=1)
        self.steer = nn.Linear(len(parameter_names(spatial_dims)), 4)
        self.last = conv(4, 2, 3, padding=1)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        super().forward(x, parameters)
        hidden = self.first(x) * self.steer(parameters).reshape(len(x), -1, *(1,) * self.spatial_dims)
        return 0.5 * self.last(torch.tanh(hidden))


class Wild(Constant):
    """Another random answer of ten times the expected size at each call."""

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        return super().forward(x, parameters) + 10 * torch.randn(len(x), 2, *x.shape[2:])


def engine(network: Backbone | None = None, *, tile: int | None = None, batch: int = 1, halo: int = 4) -> Engine:
    return Engine(network or Constant(), Device(torch.device("cpu"), "fp32"), halo, tile, batch)


def run(
    volume: Volume,
    network: Backbone | None = None,
    progress: Any = None,
    *,
    task: Task = "denoise",
    hole: NDArray[np.bool_] | None = None,
    **options: Any,
) -> Restoration:
    compute = {key: options.pop(key) for key in ("tile", "batch", "halo") if key in options}
    return restore(volume, engine(network, **compute), RestoreOptions(**options), task, hole=hole, progress=progress)


def gained(network: Backbone, gain: float) -> Engine:
    """An engine that follows its network by this share, whatever it restores."""
    rows = (Interval(1, quantile90=1.6, scale=1.0, volumes=9, gain=gain),)
    return replace(engine(network), calibration=Calibration(dict.fromkeys(("denoise", "superres", "inpaint"), rows)))


def ball(shape: tuple[int, ...] = (33, 30, 26)) -> NDArray[np.float64]:
    """A bright ball with a dark core, smooth borders, in air."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    return ndimage.gaussian_filter(1.0 * (radius < 0.8) - 0.5 * (radius < 0.3), [0.8 if n > 1 else 0 for n in shape])


def magnitude(clean: NDArray[np.float64], sigma: float, seed: int = 0) -> NDArray[np.float32]:
    real, imaginary = np.random.default_rng(seed).standard_normal((2, *clean.shape))
    return np.hypot(clean + sigma * real, sigma * imaginary).astype(np.float32)
