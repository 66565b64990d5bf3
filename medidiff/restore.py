"""The straight line: one volume from its file's units to a restored volume in the same units."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medidiff.config import RestoreOptions, Task
from medidiff.diffusion import consistency, guard, sampler, uncertainty
from medidiff.engine import Engine, Progress
from medidiff.physics import intensity, noise, posing, resolution, slabs
from medidiff.physics.operators import Acquisition
from medidiff.physics.slabs import Slabs
from medidiff.scans import geometry
from medidiff.scans.volume import Volume
from medidiff.survey import Survey, survey, voxels_of

Image = NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class Restoration:
    """What came out, and how.

    Attributes:
        mean: the restored volume (the posterior mean; with strength < 1 mixed with the scan if it was denoised, else
            with the classical estimate), in the scan's units; the scan's shape, or a finer one after super-resolution,
            with three axes: that of a 2-D scan is (I, J, 1).
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
    volume: Volume

    def __repr__(self) -> str:
        shape, who = " x ".join(map(str, self.mean.shape)), self.record.get("pipeline")
        more = f", {len(self.verdicts)} verdicts" if self.verdicts else ""
        return f"<{type(self).__name__}: {shape} in {self.volume.units}, {len(self.samples)} samples, by {who}{more}>"

    @property
    def sample(self) -> Image | None:
        """A generated sample, ``mean + gamma (samples[0] - mean)``; ``None`` unless gamma > 0.

        It costs ``10 log10(1 + gamma^2)`` dB of PSNR and looks sharper: for looking at, not for measuring (Blau and
        Michaeli, CVPR 2018).
        """
        if self.gamma == 0 or not self.samples:
            return None
        return np.asarray(self.mean + np.float32(self.gamma) * (self.samples[0] - self.mean), dtype=np.float32)

    def without(self, gone: NDArray[np.bool_]) -> Restoration:
        """The same with NaN in some voxels of its images, which the scan holds no finite value of."""
        mean, *samples = (np.where(gone, np.float32(np.nan), image) for image in (self.mean, *self.samples))
        return replace(self, mean=mean, samples=tuple(samples))

    def save(self, path: str | Path) -> Path:
        """Write the restored volume as NIfTI (float32) with its geometry; return the path.

        Raises:
            CannotWrite: if the file cannot be written, or its name does not end with ``.nii`` or ``.nii.gz``.
        """
        from medidiff.scans import nifti

        return nifti.save_array(self.mean, self.affine, Path(path), str(self.record["label"]))


@dataclass(frozen=True)
class Part:
    """A scan, or a box of one, that was posed: from residuals to images in the scan's units, voxel by voxel.

    Attributes:
        task: which.
        posed: the problem.
        on_grid: the scan on the model's grid, in its own units.
        keep: voxels that stay as they are in the scan; ``None`` when none does.
        found: the survey of the scan.
        options: strength of the restoration.
    """

    task: Task
    posed: posing.Posed
    on_grid: Image
    keep: NDArray[np.bool_] | None
    found: Survey
    options: RestoreOptions

    def image(self, residual: Tensor) -> Image:
        """The restored image of a residual that explains the measurement."""
        strength = self.options.strength
        unit = self.posed.image(residual, strength)
        if self.found.level.law == "rician" and self.task != "superres":
            # magnitudes are not negative; but made finer they ring, and without the ringing explain the data no more
            unit = np.maximum(unit, 0)
        restored = self.found.scaling.undo(unit)
        if self.task == "denoise":  # mixed in the scan's own units: with no strength it is the scan to the last bit
            restored = np.float32(strength) * restored + np.float32(1 - strength) * self.on_grid
        return restored if self.keep is None else np.where(self.keep, self.on_grid, restored)

    def deviation(self, log_variance: Tensor) -> Image:
        """The standard deviation that the network expects, where something was restored."""
        # a denoised image mixed with the scan follows the network less; with a base in its place it is no surer
        followed = self.options.strength if self.task == "denoise" else 1.0
        return self.posed.deviation(log_variance) * np.float32(followed * self.found.scaling.scale)

    def mixed(self, spread: Image) -> Image:
        """The standard deviation of the restored image, by that of what is not the scan in it."""
        if self.task != "denoise" or self.options.strength == 1:
            return spread
        added = self.posed.mixed_in(self.options.strength) * np.float32(self.found.scaling.scale**2)
        return np.asarray(np.sqrt(np.square(spread) + added), dtype=np.float32)

    def supplied(self) -> Image:
        """The share of each voxel that the prior supplied."""
        return self.where_restored(self.posed.supplied(self.options.strength))

    def where_restored(self, values: Image) -> Image:
        """A map, 0 where nothing was restored."""
        return values if self.keep is None else np.where(self.keep, np.float32(0), values)


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
    found = survey(slabs.of(unit), scaling, volume, grid, engine, options, task)
    level = found.level
    record = record_of(volume, engine, options, task, found)
    if task == "denoise" and level.sigma <= 0 and gap is None:  # a constant image: there is nothing to take away
        return untouched(volume, options, found, record | timed(begin))

    turned = _turned(options, grid)
    dims = engine.network.spatial_dims
    posed = posing.pose(task, unit, voxels_of(volume, grid), level, gap, turned, dims, measured=measured)
    record["warnings"] += _beyond(posed, engine)
    counter = _Counter(progress, options, dims)
    interval = engine.calibration.interval(task, _difficulty(task, posed, found.percent))
    denoise = engine.denoiser(posed.problem, counter, flips=options.flips, gain=engine.calibration.gain(interval))
    residual, log_variance = sampler.posterior_mean(denoise)
    drawn = [_draw(denoise, residual, posed, options, index) for index in range(options.samples)]
    part = Part(task, posed, on_grid, _kept(task, unit, volume, grid, gap), found, options)
    mean, *samples = (part.image(r) for r in (residual, *drawn))
    spread = uncertainty.combine(part.deviation(log_variance), samples, interval, scaling.scale)
    checks, verdicts = _judged(posed, task, (on_grid, unit), (mean, scaling.apply(mean)), measured, gap, found, options)
    return Restoration(
        mean=grid.undo(mean),
        affine=volume.affine if posed.acquisition is None else _fine_affine(volume, grid, posed.acquisition),
        std=grid.undo(part.where_restored(part.mixed(spread))),
        samples=tuple(grid.undo(sample) for sample in samples),
        supplied=grid.undo(part.supplied()),
        checks=checks | found.figures,
        verdicts=verdicts,
        record=record | calibrated(engine.calibration, interval, level) | _resolved(posed, grid, level) | timed(begin),
        gamma=options.gamma,
        volume=volume,
    )


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


def _beyond(posed: posing.Posed, engine: Engine) -> list[str]:
    """A warning where voxels become finer than the network was trained to make them."""
    if posed.acquisition is None or "factor" not in engine.trained_on:
        return []
    asked, trained = max(axis.factor for axis in posed.acquisition.axes), float(engine.trained_on["factor"][1])
    if asked <= trained:
        return []
    return [f"A factor of {asked:.3g} is more than this pipeline was trained for ({trained:g})."]


def untouched(volume: Volume, options: RestoreOptions, found: Survey, record: dict[str, Any]) -> Restoration:
    """The scan itself, in which nothing was found to remove."""
    nothing = np.broadcast_to(np.float32(0), volume.array.shape)
    samples = (volume.array,) * options.samples
    record = (
        record
        | calibrated(uncertainty.Calibration(), None, found.level)
        | {"network_gain": 0.0, "data_consistency": "exact"}
    )
    return Restoration(
        volume.array, volume.affine, nothing, samples, nothing, found.figures, (), record, options.gamma, volume
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
    return untouchable(noise.still(unit), None if volume.valid is None else grid.apply(volume.valid))


def untouchable(still: NDArray[np.bool_], measured: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """What denoising leaves as it is: where nothing fluctuates, and where nothing was measured."""
    return still if measured is None else still | ~measured


def _difficulty(task: Task, posed: posing.Posed, percent: float) -> float:
    """What the calibration goes by: percent of noise, voxels out per voxel in, or 1."""
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
    found: Survey,
    options: RestoreOptions,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Figures of what was done to the scan, and sentences where they are not as they should be.

    ``scan`` and ``mean`` are each given in the scan's units and normalised.
    """
    level = found.level
    if task == "superres":
        again = posed.measured_again(mean[1])
        figures = consistency.reproduced(posed.data(), again, level.local, measured)
        return figures, guard.superres(figures, exact=level.sigma == 0)
    if gap is not None:
        # what a reader put in the place of unmeasured voxels is no surroundings of the hole
        seen = gap | (~gap if measured is None else measured)
        before, after = (np.where(seen, image, found.scaling.undo(scan[1])) for image in (scan[0], mean[0]))
        figures = consistency.filled(before, after, gap)
        return figures, guard.inpaint(figures)
    restored = mean[1] if measured is None else np.where(measured, mean[1], scan[1])
    return judged_removal(scan[1], restored, level, found, slabs.of(scan[1]), options)


def judged_removal(
    unit: Image, restored: Image, level: noise.NoiseEstimate, found: Survey, scan: Slabs, options: RestoreOptions
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Figures of what was removed from a scan's middle, and sentences.

    Args:
        unit: the normalised scan, or its middle.
        restored: the restored image, the same part.
        level: its noise, the same part.
        found: the survey of all of the scan.
        scan: all of the normalised scan.
        options: strength of the restoration.
    """
    figures = consistency.check(unit, restored, level.local, level.law, level.texture)
    shown = 100 * noise.seen(scan, level) / found.scaling.bright if level.source == "given" else None
    return figures, guard.denoise(figures, found.percent, strength=options.strength, measured_percent=shown)


def record_of(volume: Volume, engine: Engine, options: RestoreOptions, task: Task, found: Survey) -> dict[str, Any]:
    """Everything that determines a result, as far as it is known before."""
    scaling, level = found.scaling, found.level
    return {
        "task": task,
        "label": f"medidiff {task}",
        "modality": volume.modality,
        "scale": scaling.scale,
        "offset": scaling.offset,
        "noise_sigma": level.sigma * scaling.scale,
        "noise_percent": round(found.percent, 4),
        "noise_source": level.source,
        "noise_law": level.law,
        "noise_varies": level.field is not None,
        "noise_band_correlation": round(level.correlation, 4),
        "noise_texture": None if level.texture is None else asdict(level.texture),
        "strength": options.strength,
        "preset": options.preset,
        "flips": options.flips,
        "samples": options.samples,
        "steps": options.steps,
        "gamma": options.gamma,
        "seed": options.seed,
        "device": str(engine.device),
        "precision": engine.device.precision,
        "tile": engine.tile or "auto",
        "halo": engine.halo,
        "warnings": list(found.warnings),
    }


def calibrated(
    known: uncertainty.Calibration, interval: uncertainty.Interval | None, level: noise.NoiseEstimate
) -> dict[str, Any]:
    """What the uncertainty is worth, and how far the network was followed, for the record.

    Scans with correlated noise are not like those of the calibration, which have white noise.
    """
    return {
        "interval": {
            "level": 0.9,
            "quantile": None if interval is None else interval.quantile90,
            "calibrated": interval is not None and not level.correlated,
            "volumes": 0 if interval is None else interval.volumes,
        },
        "network_gain": round(known.gain(interval), 4),
    }


def _resolved(posed: posing.Posed, grid: geometry.Grid, level: noise.NoiseEstimate) -> dict[str, Any]:
    """What became of the options: the factors of super-resolution, the hole."""
    found: dict[str, Any] = {
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
    if posed.problem.support is not None or posed.problem.trusted is not None:
        found["symmetry"] = None if posed.symmetry is None else round(posed.symmetry, 4)
    return found


def _fine_affine(volume: Volume, grid: geometry.Grid, acquisition: Acquisition) -> NDArray[np.float64]:
    axes = tuple(acquisition.axes[grid.axis(index)] for index in range(3))
    return resolution.fine_affine(volume.affine, Acquisition(axes))


def timed(begin: float) -> dict[str, Any]:
    """Seconds since then, for the record."""
    return {"seconds": round(time.perf_counter() - begin, 3)}


class _Counter:
    """Counts tiles over all evaluations of the network for a progress display; the first may go over mirror images."""

    def __init__(self, progress: Progress | None, options: RestoreOptions, spatial_dims: int) -> None:
        self._progress, self._before = progress, 0
        self._each, self._evaluations = options.mirrored(spatial_dims), options.evaluations(spatial_dims)

    def __call__(self, done: int, total: int) -> None:
        if self._progress:
            self._progress(self._before + done * self._each, total * self._evaluations)
        if done == total:
            self._before += total * self._each
            self._each = 1
