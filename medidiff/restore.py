"""The straight line: one volume from its file's units to a restored volume in the same units."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.config import RestoreOptions
from medidiff.diffusion import consistency, sampler, schedule, tiles, uncertainty
from medidiff.diffusion import device as devices
from medidiff.diffusion.network import Backbone
from medidiff.physics import intensity, noise
from medidiff.physics.rician import Law
from medidiff.physics.tasks import Denoise, Problem
from medidiff.scans import geometry
from medidiff.scans.volume import Volume

Progress = Callable[[int, int], None]
Image = NDArray[np.float32]
_CREDIBLE = 1.5  # times the strongest noise of training: an estimate beyond is more likely texture


@dataclass(frozen=True)
class Restoration:
    """What came out, and how.

    Attributes:
        mean: the restored volume (the posterior mean, mixed with the scan if strength < 1), in the scan's units,
            shape (I, J, K).
        std: its standard deviation at each voxel, same units.
        samples: posterior samples, same units; empty unless asked for.
        checks: figures of what was removed, see ``medidiff.diffusion.consistency``.
        record: everything that determined the result.
        volume: the scan.
    """

    mean: Image
    std: Image
    samples: tuple[Image, ...]
    checks: dict[str, Any]
    record: dict[str, Any]
    volume: Volume = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the restored volume as NIfTI (float32) with the scan's geometry; return the path.

        Raises:
            CannotWrite: if the file cannot be written.
        """
        from medidiff.scans import nifti

        return nifti.save_array(self.mean, self.volume.affine, Path(path), str(self.record["label"]))


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
    """

    network: Backbone
    device: devices.Device
    halo: int
    tile: int | None
    batch: int
    noise_range: tuple[float, float] | None = None

    def denoiser(self, problem: Problem, progress: Progress | None) -> sampler.Denoiser:
        """The network as the samplers want it: whole volume in, whole volume out."""
        spatial = problem.base.shape[1:]
        tiling = tiles.plan(spatial, self.tile or tiles.automatic(spatial), self.halo, self.network.stride)
        views = tiles.pad(problem.views()[0], tiling)
        inside = tuple(slice(0, n) for n in spatial)
        window = partial(devices.run, self.network, self.device)

        def denoise(z: Tensor | None, theta: float) -> tuple[Tensor, Tensor]:
            state = torch.zeros_like(views[:1]) if z is None else tiles.pad(z[None], tiling)
            parameters = torch.cat([torch.tensor([theta], dtype=torch.float32), problem.parameters[0]])
            channels = torch.cat([state, views])
            velocity, log_variance = tiles.evaluate(
                window, channels, parameters, tiling, batch=self.batch, progress=progress
            )
            velocity, log_variance = velocity[inside], log_variance[inside]
            r_hat = -velocity if z is None else schedule.residual_of(z, velocity, torch.tensor(theta))
            return r_hat, log_variance.clamp(-12, 12)

        return denoise


def restore(volume: Volume, engine: Engine, options: RestoreOptions, progress: Progress | None = None) -> Restoration:
    """Denoise one volume.

    Args:
        volume: the scan.
        engine: the network and where it runs.
        options: noise level, strength, samples, steps, seed.
        progress: called with (network evaluations done, all of them), counted in tiles.
    """
    begin = time.perf_counter()
    grid, on_grid = geometry.to_model_grid(volume)
    valid = None if volume.valid is None else grid.apply(volume.valid)
    scaling, unit = intensity.normalise(on_grid, volume.modality, valid)
    level, warnings = _noise(unit, volume.modality, scaling, options, engine)
    record = _record(volume, engine, options, scaling, level) | {"warnings": warnings}
    if level.sigma <= 0:  # a constant image: there is nothing to take away
        untouched = (volume.array,) * options.samples
        return Restoration(volume.array, np.zeros_like(volume.array), untouched, {}, record | _timed(begin), volume)

    sigma = np.asarray(level.sigma if level.map is None else level.map, np.float32)
    problem = Denoise.pose(_batch(unit), _batch(sigma), level.law, torch.tensor([grid.spacing]))
    denoise = engine.denoiser(problem, _Counter(progress, options))
    residual, log_variance = sampler.posterior_mean(denoise)
    drawn = [_draw(denoise, residual, options, index) for index in range(options.samples)]

    # where nothing fluctuates there is no noise, and where nothing was measured there is nothing to restore
    noisy = noise.fluctuating(unit) if valid is None else noise.fluctuating(unit) & valid

    def image(r: Tensor) -> Image:
        restored = _physical(problem.image(r[None])[0].numpy(), scaling, level.law)
        mixed = np.float32(options.strength) * restored + np.float32(1 - options.strength) * on_grid
        return np.where(noisy, mixed, on_grid)

    mean, *samples = (image(r) for r in (residual, *drawn))
    predicted = problem.scale[0] * (0.5 * log_variance).exp() * (options.strength * scaling.scale)
    spread = np.where(noisy, uncertainty.combine(predicted.numpy(), samples), np.float32(0))
    checks = consistency.check(unit, np.where(noisy, scaling.apply(mean), unit), sigma, level.law)
    return Restoration(
        grid.undo(mean),
        grid.undo(spread),
        tuple(grid.undo(sample) for sample in samples),
        checks,
        record | _timed(begin),
        volume,
    )


def _noise(
    unit: Image, modality: str, scaling: intensity.Intensity, options: RestoreOptions, engine: Engine
) -> tuple[noise.NoiseEstimate, list[str]]:
    """The noise level, and a warning where it lies beyond what the network was trained for."""
    law = noise.law_of(unit, modality)
    if options.noise != "auto":
        level = noise.given(options.noise / 100 * scaling.bright, law)
    else:
        level = noise.estimate(unit, law)
    percent = 100 * level.sigma / scaling.bright
    if engine.noise_range is None or percent <= engine.noise_range[1]:
        return level, []
    warning = f"Noise of {percent:.3g} percent is more than this pipeline was trained for ({engine.noise_range[1]:g})"
    most = _CREDIBLE * engine.noise_range[1]
    if options.noise != "auto" or percent <= most:
        return level, [f"{warning}."]
    return noise.limited(level, most / 100 * scaling.bright), [f"{warning}; only {most:g} percent is removed."]


def _draw(denoise: sampler.Denoiser, mean: Tensor, options: RestoreOptions, index: int) -> Tensor:
    start = sampler.position_noise(tuple(mean.shape), options.seed, index)
    return sampler.posterior_sample(denoise, start, options.steps, first=mean)


def _physical(unit: Image, scaling: intensity.Intensity, law: Law) -> Image:
    """In the scan's units; magnitudes are not negative."""
    return scaling.undo(np.maximum(unit, 0) if law == "rician" else unit)


def _batch(array: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))[None] if array.ndim else torch.full((1, 1, 1, 1), float(array))


def _record(
    volume: Volume, engine: Engine, options: RestoreOptions, scaling: intensity.Intensity, level: noise.NoiseEstimate
) -> dict[str, Any]:
    return {
        "task": "denoise",
        "label": "medidiff denoise",
        "modality": volume.modality,
        "scale": scaling.scale,
        "offset": scaling.offset,
        "noise_sigma": level.sigma * scaling.scale,
        "noise_percent": round(100 * level.sigma / scaling.bright, 4),
        "noise_source": level.source,
        "noise_law": level.law,
        "noise_varies": level.map is not None,
        "noise_band_correlation": round(level.correlation, 4),
        "strength": options.strength,
        "samples": options.samples,
        "steps": options.steps,
        "seed": options.seed,
        "device": str(engine.device),
        "precision": engine.device.precision,
        "tile": engine.tile or "auto",
        "halo": engine.halo,
    }


def _timed(begin: float) -> dict[str, Any]:
    return {"seconds": round(time.perf_counter() - begin, 3)}


class _Counter:
    """Counts tiles over all evaluations of the network for a progress display."""

    def __init__(self, progress: Progress | None, options: RestoreOptions) -> None:
        self._progress, self._before = progress, 0
        self._evaluations = 1 + options.samples * (options.steps - 1)

    def __call__(self, done: int, total: int) -> None:
        if self._progress:
            self._progress(self._before + done, total * self._evaluations)
        if done == total:
            self._before += total
