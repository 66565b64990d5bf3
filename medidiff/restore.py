"""The straight line: one volume from its file's units to a restored volume in the same units."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.config import RestoreOptions, Task
from medidiff.diffusion import consistency, guard, sampler, schedule, tiles, uncertainty
from medidiff.diffusion import device as devices
from medidiff.diffusion.network import Backbone
from medidiff.errors import ScanError
from medidiff.physics import intensity, noise, posing, resolution
from medidiff.physics.operators import Acquisition
from medidiff.physics.rician import Law
from medidiff.physics.tasks import Problem
from medidiff.scans import geometry
from medidiff.scans.volume import Volume

Progress = Callable[[int, int], None]
Image = NDArray[np.float32]
_CREDIBLE = 1.5  # times the strongest noise of training: an estimate beyond is more likely texture


@dataclass(frozen=True)
class Restoration:
    """What came out, and how.

    Attributes:
        mean: the restored volume (the posterior mean, mixed with the scan if strength < 1), in the scan's units; the
            scan's shape, or a finer one after super-resolution.
        affine: 4 x 4, voxel index of ``mean`` to millimetres in RAS+.
        std: its standard deviation at each voxel, same units; ``record["interval"]`` says what interval it makes.
        samples: posterior samples, same units; empty unless asked for.
        supplied: share of each voxel, 0 to 1, that the prior supplied and not its own measurement.
        checks: figures of what was done to the scan, see ``medidiff.diffusion.consistency``.
        verdicts: one sentence each where those figures are not as they should be.
        record: everything that determined the result.
        gamma: the perception dial.
        volume: the scan.
    """

    mean: Image
    affine: NDArray[np.float64]
    std: Image
    samples: tuple[Image, ...]
    supplied: Image
    checks: dict[str, Any]
    verdicts: tuple[str, ...]
    record: dict[str, Any]
    gamma: float
    volume: Volume = field(repr=False)

    @property
    def sample(self) -> Image | None:
        """A generated sample, ``mean + gamma (samples[0] - mean)``; ``None`` unless gamma > 0.

        It costs ``10 log10(1 + gamma^2)`` dB of PSNR and looks sharper: for looking at, not for measuring (Blau and
        Michaeli, CVPR 2018).
        """
        if self.gamma == 0 or not self.samples:
            return None
        return np.asarray(self.mean + np.float32(self.gamma) * (self.samples[0] - self.mean), dtype=np.float32)

    def save(self, path: str | Path) -> Path:
        """Write the restored volume as NIfTI (float32) with its geometry; return the path.

        Raises:
            CannotWrite: if the file cannot be written.
        """
        from medidiff.scans import nifti

        return nifti.save_array(self.mean, self.affine, Path(path), str(self.record["label"]))


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
        calibration: what its predicted deviations are worth.
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

    def denoiser(self, problem: Problem, progress: Progress | None) -> sampler.Denoiser:
        """The network as the samplers want it: whole images in and out, which explain the measurement."""
        count, spatial = problem.base.shape[0], problem.base.shape[1:]
        tiling = tiles.plan(spatial, self.tile or tiles.automatic(spatial), self.halo, self.network.stride)
        views = tiles.pad(problem.views(), tiling)
        inside = (slice(None), *(slice(0, n) for n in spatial))
        window = partial(devices.run, self.network, self.device)

        def one(index: int, z: Tensor | None, theta: float) -> Tensor:
            state = torch.zeros_like(views[:1, 0]) if z is None else tiles.pad(z[index : index + 1], tiling)
            parameters = torch.cat([torch.tensor([theta], dtype=torch.float32), problem.parameters[index]])
            channels = torch.cat([state, views[index]])
            told = progress and (lambda done, total: progress(index * total + done, count * total))
            answer = tiles.evaluate(window, channels, parameters, tiling, batch=self.batch, progress=told)
            return answer[inside]

        def denoise(z: Tensor | None, theta: float) -> tuple[Tensor, Tensor]:
            z = None if z is None else problem.confine(z)
            velocity, log_variance = torch.stack([one(index, z, theta) for index in range(count)]).unbind(1)
            r_hat = -velocity if z is None else schedule.residual_of(z, velocity, torch.tensor(theta))
            return problem.consistent(r_hat), log_variance.clamp(-12, 12)

        return denoise


def restore(
    volume: Volume,
    engine: Engine,
    options: RestoreOptions,
    task: Task = "denoise",
    *,
    hole: NDArray[np.bool_] | None = None,
    progress: Progress | None = None,
) -> Restoration:
    """Restore one volume.

    Args:
        volume: the scan.
        engine: the network and where it runs.
        options: noise level, strength, samples, steps, seed; how fine super-resolution is to become.
        task: ``denoise``, ``superres`` or ``inpaint``.
        hole: voxels to fill, shape of ``volume.array``; needed for inpainting, allowed for super-resolution.
        progress: called with (network evaluations done, all of them), counted in tiles.

    Raises:
        UsageError: the task needs a mask, or takes none, or cannot become as fine as asked.
        ScanError: there is nothing to restore, or the scan is too far from what the network was trained for.
    """
    begin = time.perf_counter()
    grid, on_grid = geometry.to_model_grid(volume)
    gap = None if hole is None else grid.apply(hole)
    measured = _measured(volume, grid, gap)
    scaling, unit = intensity.normalise(on_grid, volume.modality, measured)
    voxels = _voxels(volume, grid)
    level, warnings = _noise(unit, volume.modality, voxels, scaling, options, task, engine)
    percent = 100 * level.sigma / scaling.bright
    found = _range(unit, volume, grid, 0.0 if warnings else percent, task, engine, options)
    record = _record(volume, engine, options, task, scaling, level) | {"warnings": [*warnings, *found.warnings]}
    if task == "denoise" and level.sigma <= 0 and gap is None:  # a constant image: there is nothing to take away
        return _untouched(volume, options, found.figures, record | _timed(begin))

    turned = _turned(options, grid)
    posed = posing.pose(task, unit, voxels, level, gap, turned, engine.network.spatial_dims)
    record["warnings"] += _beyond(posed, engine)
    denoise = engine.denoiser(posed.problem, _Counter(progress, options))
    residual, log_variance = sampler.posterior_mean(denoise)
    drawn = [_draw(denoise, residual, posed, options, index) for index in range(options.samples)]
    keep = _kept(task, unit, volume, grid, gap)

    def image(r: Tensor) -> Image:
        exact = task == "superres" and level.sigma == 0
        restored = scaling.undo(_magnitude(posed.image(r, options.strength), level.law, exact))
        if task == "denoise":  # mixed in the scan's own units: with no strength it is the scan to the last bit
            restored = np.float32(options.strength) * restored + np.float32(1 - options.strength) * on_grid
        return restored if keep is None else np.where(keep, on_grid, restored)

    mean, *samples = (image(r) for r in (residual, *drawn))
    interval = engine.calibration.interval(task, _difficulty(task, posed, percent))
    # a denoised image mixed with the scan follows the network less; a base in its place is no surer than the network
    followed = options.strength if task == "denoise" else 1.0
    predicted = posed.deviation(log_variance) * np.float32(followed * scaling.scale)
    spread = uncertainty.combine(predicted, samples, interval, scaling.scale)
    share = posed.supplied(options.strength)
    checks, verdicts = _judged(
        posed, task, (on_grid, unit), (mean, scaling.apply(mean)), measured, gap, level, scaling, options
    )
    return Restoration(
        mean=grid.undo(mean),
        affine=volume.affine if posed.acquisition is None else _fine_affine(volume, grid, posed.acquisition),
        std=grid.undo(spread if keep is None else np.where(keep, np.float32(0), spread)),
        samples=tuple(grid.undo(sample) for sample in samples),
        supplied=grid.undo(share if keep is None else np.where(keep, np.float32(0), share)),
        checks=checks | found.figures,
        verdicts=verdicts,
        record=record | _resolved(posed, grid, level, interval) | _timed(begin),
        gamma=options.gamma,
        volume=volume,
    )


def _voxels(volume: Volume, grid: geometry.Grid) -> posing.Voxels:
    """What the header says of the voxels, along the model's axes."""
    acquired = None if volume.slice_axis is None else grid.axis(volume.slice_axis)
    return posing.Voxels(grid.spacing, grid.axis(2), acquired, volume.thickness)


def _turned(options: RestoreOptions, grid: geometry.Grid) -> RestoreOptions:
    """The options with what goes by axis in the order of the model's axes."""
    by_axis = {"factor": options.factor, "spacing": options.spacing}
    return options.model_copy(update={name: each and grid.along(each) for name, each in by_axis.items()})


def _measured(volume: Volume, grid: geometry.Grid, gap: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Where the scan holds measured values, on the model's grid; ``None`` when everywhere."""
    valid = None if volume.valid is None else grid.apply(volume.valid)
    if gap is None:
        return valid
    return ~gap if valid is None else valid & ~gap


def _noise(
    unit: Image,
    modality: str,
    voxels: posing.Voxels,
    scaling: intensity.Intensity,
    options: RestoreOptions,
    task: Task,
    engine: Engine,
) -> tuple[noise.NoiseEstimate, list[str]]:
    """The noise to be removed, and a warning where an estimate lies so far beyond training that it is cut."""
    asked = options.noise
    if asked is None:  # refining and filling keep what was measured exactly unless they are asked to remove noise
        asked = "auto" if task == "denoise" else 0.0
    sigma = None if asked == "auto" else asked / 100 * scaling.bright
    level = noise.of_scan(unit, modality, posing.stack_axis(unit.shape, voxels), sigma=sigma)
    percent = 100 * level.sigma / scaling.bright
    most = math.inf if engine.noise_range is None else _CREDIBLE * engine.noise_range[1]
    if asked != "auto" or percent <= most:
        return level, []
    warning = (
        f"Noise of {percent:.3g} percent is more than this pipeline was trained for; only {most:g} percent is removed."
    )
    return noise.limited(level, most / 100 * scaling.bright), [warning]


def _range(
    unit: Image,
    volume: Volume,
    grid: geometry.Grid,
    percent: float,
    task: Task,
    engine: Engine,
    options: RestoreOptions,
) -> guard.RangeFindings:
    """How the scan compares with what the network was trained on.

    Raises:
        ScanError: it is too far away, and the user did not insist.
    """
    spacing: Sequence[float] = grid.spacing
    trained = dict(engine.trained_on)
    if engine.network.spatial_dims == 2:  # images of any magnification: the shape of a pixel counts, not its size
        trained.pop("spacing_mm", None)
        across = posing.stack_axis(unit.shape, _voxels(volume, grid))
        spacing = [size for axis, size in enumerate(spacing) if axis != across]
    if task == "superres":  # thick slices are what it is for
        spacing = (min(spacing),) * len(spacing)
    known = percent if percent > 0 else None
    found = guard.range_check(unit, spacing, volume.modality, known, trained, engine.modalities)
    if found.refusal is None:
        return found
    if not options.force:
        raise ScanError(f"{found.refusal} Use another pipeline, or --force to restore it all the same.")
    return replace(found, warnings=(*found.warnings, found.refusal))


def _beyond(posed: posing.Posed, engine: Engine) -> list[str]:
    """A warning where voxels become finer than the network was trained to make them."""
    if posed.acquisition is None or "factor" not in engine.trained_on:
        return []
    asked, trained = max(axis.factor for axis in posed.acquisition.axes), float(engine.trained_on["factor"][1])
    if asked <= trained:
        return []
    return [f"A factor of {asked:.3g} is more than this pipeline was trained for ({trained:g})."]


def _untouched(
    volume: Volume, options: RestoreOptions, checks: dict[str, float], record: dict[str, Any]
) -> Restoration:
    """The scan itself, in which nothing was found to remove."""
    nothing = np.zeros_like(volume.array)
    samples = (volume.array,) * options.samples
    return Restoration(
        volume.array, volume.affine, nothing, samples, nothing, checks, (), record, options.gamma, volume
    )


def _draw(denoise: sampler.Denoiser, mean: Tensor, posed: posing.Posed, options: RestoreOptions, index: int) -> Tensor:
    start = posed.images(sampler.position_noise(posed.shape, options.seed, index, posed.box))
    return sampler.posterior_sample(denoise, start, options.steps, kappa=posed.kappa, first=mean)


def _kept(
    task: Task, unit: Image, volume: Volume, grid: geometry.Grid, gap: NDArray[np.bool_] | None
) -> NDArray[np.bool_] | None:
    """Voxels that stay as they are in the scan: outside of a hole, and for denoising where nothing fluctuates."""
    if task == "superres":
        return None
    if gap is not None:
        return ~gap
    noisy = noise.fluctuating(unit)
    return ~noisy if volume.valid is None else ~(noisy & grid.apply(volume.valid))


def _difficulty(task: Task, posed: posing.Posed, percent: float) -> float:
    """What an uncertainty is calibrated by: percent of noise, voxels out per voxel in, or 1."""
    if task == "denoise":
        return percent
    return 1.0 if posed.acquisition is None else math.prod(axis.factor for axis in posed.acquisition.axes)


def _judged(
    posed: posing.Posed,
    task: Task,
    scan: tuple[Image, Image],
    mean: tuple[Image, Image],
    measured: NDArray[np.bool_] | None,
    gap: NDArray[np.bool_] | None,
    level: noise.NoiseEstimate,
    scaling: intensity.Intensity,
    options: RestoreOptions,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Figures of what was done to the scan, and sentences where they are not as they should be.

    ``scan`` and ``mean`` are each given in the scan's units and normalised.
    """
    sigma = level.local
    if task == "superres":
        again = posed.measured_again(mean[1])
        figures = consistency.reproduced(posed.data(), again, sigma, measured)
        return figures, guard.superres(figures, exact=level.sigma == 0)
    if gap is not None:
        # what a reader put in the place of unmeasured voxels is no surroundings of the hole
        seen = gap | (~gap if measured is None else measured)
        before, after = (np.where(seen, image, scaling.undo(scan[1])) for image in (scan[0], mean[0]))
        figures = consistency.filled(before, after, gap)
        return figures, guard.inpaint(figures)
    restored = mean[1] if measured is None else np.where(measured, mean[1], scan[1])
    figures = consistency.check(scan[1], restored, sigma, level.law, level.texture)
    shown = None
    if level.source == "given":
        shown = 100 * noise.seen(scan[1], level) / scaling.bright
    percent = 100 * level.sigma / scaling.bright
    return figures, guard.denoise(figures, percent, strength=options.strength, measured_percent=shown)


def _magnitude(unit: Image, law: Law, exact: bool) -> Image:
    """Magnitudes are not negative; but where the data is kept exactly, the ringing that they hold is kept too."""
    return np.maximum(unit, 0) if law == "rician" and not exact else unit


def _record(
    volume: Volume,
    engine: Engine,
    options: RestoreOptions,
    task: Task,
    scaling: intensity.Intensity,
    level: noise.NoiseEstimate,
) -> dict[str, Any]:
    return {
        "task": task,
        "label": f"medidiff {task}",
        "modality": volume.modality,
        "scale": scaling.scale,
        "offset": scaling.offset,
        "noise_sigma": level.sigma * scaling.scale,
        "noise_percent": round(100 * level.sigma / scaling.bright, 4),
        "noise_source": level.source,
        "noise_law": level.law,
        "noise_varies": level.map is not None,
        "noise_band_correlation": round(level.correlation, 4),
        "noise_texture": None if level.texture is None else asdict(level.texture),
        "strength": options.strength,
        "samples": options.samples,
        "steps": options.steps,
        "gamma": options.gamma,
        "seed": options.seed,
        "device": str(engine.device),
        "precision": engine.device.precision,
        "tile": engine.tile or "auto",
        "halo": engine.halo,
    }


def _resolved(
    posed: posing.Posed, grid: geometry.Grid, level: noise.NoiseEstimate, interval: uncertainty.Interval | None
) -> dict[str, Any]:
    """What became of the options: the factors of super-resolution, the hole, the interval of the uncertainty."""
    found: dict[str, Any] = {
        "interval": {
            "level": 0.9,
            "quantile": None if interval is None else interval.quantile90,
            "calibrated": interval is not None,
            "volumes": 0 if interval is None else interval.volumes,
        },
        "data_consistency": "exact" if level.sigma == 0 or posed.problem.support is not None else "statistical",
    }
    if posed.planes is not None:
        found["slices_one_by_one"] = True
    if posed.acquisition is not None:
        axes = [posed.acquisition.axes[grid.axis(index)] for index in range(3)]
        found |= {
            "factor": [round(axis.factor, 6) for axis in axes],
            "profile": [None if axis.trivial else axis.profile for axis in axes],
            "profile_width": [None if axis.trivial else round(axis.width, 6) for axis in axes],
        }
    if posed.problem.support is not None:
        found["filled_voxels"] = int(posed.problem.support.sum())
    return found


def _fine_affine(volume: Volume, grid: geometry.Grid, acquisition: Acquisition) -> NDArray[np.float64]:
    axes = tuple(acquisition.axes[grid.axis(index)] for index in range(3))
    return resolution.fine_affine(volume.affine, Acquisition(axes))


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
