"""The network with what it needs to be evaluated on an image of any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medidiff.diffusion import device as devices
from medidiff.diffusion import sampler, schedule, tiles, uncertainty
from medidiff.diffusion.network import Backbone
from medidiff.physics.tasks import Problem

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Engine:
    """The network with what it needs to be evaluated on a volume of any size.

    Attributes:
        network: ``(windows, parameters) -> (velocity, log-variance)``, already on ``device``.
        device: where it runs.
        halo: voxels of context around each tile's core.
        tile: largest window edge; ``None`` to choose by the volume's size.
        batch: windows evaluated together.
        noise_range: percent of noise that the network was trained for; ``None`` when not known.
        modalities: DICOM codes that it was trained on; empty when not known.
        trained_on: ranges of the training scans, see ``guard.range_check``.
        calibration: what its corrections and predicted deviations are worth.
    """

    network: Backbone
    device: devices.Device
    halo: int
    tile: int | None
    batch: int
    noise_range: tuple[float, float] | None = None
    modalities: tuple[str, ...] = ()
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    calibration: uncertainty.Calibration = field(default_factory=uncertainty.Calibration)

    def denoiser(
        self, problem: Problem, progress: Progress | None, *, flips: bool = False, gain: float = 1.0
    ) -> sampler.Denoiser:
        """The network as the samplers want it: whole images in and out, which explain the measurement.

        Args:
            problem: what the network is asked.
            progress: called with (tiles done, all tiles) of each evaluation.
            flips: the posterior mean is taken over all mirror images; diffused states are not.
            gain: the posterior mean is multiplied by it, before it is made to explain the measurement; answers to
                diffused states are not.
        """
        count, spatial = problem.base.shape[0], problem.base.shape[1:]
        tiling = tiles.plan(spatial, self.tile or tiles.automatic(spatial), self.halo, self.network.stride)
        views = tiles.pad(problem.views(), tiling)
        inside = (slice(None), *(slice(0, n) for n in spatial))
        plain = partial(devices.run, self.network, self.device)
        first = partial(tiles.over_flips, plain) if flips else plain

        def one(index: int, z: Tensor | None, theta: float) -> Tensor:
            state = torch.zeros_like(views[:1, 0]) if z is None else tiles.pad(z[index : index + 1], tiling)
            parameters = torch.cat([torch.tensor([theta], dtype=torch.float32), problem.parameters[index]])
            channels = torch.cat([state, views[index]])
            told = progress and (lambda done, total: progress(index * total + done, count * total))
            window = first if z is None else plain
            answer = tiles.evaluate(window, channels, parameters, tiling, batch=self.batch, progress=told)
            return answer[inside]

        def denoise(z: Tensor | None, theta: float) -> tuple[Tensor, Tensor]:
            z = None if z is None else problem.confine(z)
            velocity, log_variance = torch.stack([one(index, z, theta) for index in range(count)]).unbind(1)
            r_hat = -gain * velocity if z is None else schedule.residual_of(z, velocity, torch.tensor(theta))
            return problem.consistent(r_hat), log_variance.clamp(-12, 12)

        return denoise
