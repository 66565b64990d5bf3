"""What all of a scan decides, measured before any of it is restored: its noise, and how far it is from training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medidiff.config import RestoreOptions, Task
from medidiff.diffusion import guard
from medidiff.engine import Engine
from medidiff.errors import ScanError
from medidiff.physics import intensity, noise, posing
from medidiff.physics.slabs import Image, Slabs
from medidiff.physics.tasks import SMALLEST_SIGMA
from medidiff.scans import geometry
from medidiff.scans.volume import Volume

HEAD_TO_FOOT = 2  # of the model's axes
_CREDIBLE = 1.5  # times the strongest noise of training: an estimate beyond is more likely texture

_UNNOTICED = 3.0  # percent of noise: calibration saw less, in the scans that it made coarse
_CORRELATED = (
    "Neighbouring voxels are more alike than anatomy makes them, as in an interpolated or smoothed scan: of its noise"
    " only what is in the finest detail is seen and removed, and the uncertainty does not count the rest."
)
_KEPT = (
    "The scan's noise, about {:.2g} percent, is kept as if it were detail, and the uncertainty does not count it;"
    " --noise auto takes it away."
)


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        scaling: from the scan's units to the network's and back.
        level: the noise to be removed.
        warnings: one sentence each.
        figures: how the scan compares with those of training.
    """

    scaling: intensity.Intensity
    level: noise.NoiseEstimate
    warnings: tuple[str, ...]
    figures: dict[str, float]

    @property
    def percent(self) -> float:
        """The noise in percent of the bright level."""
        return 100 * self.level.sigma / self.scaling.bright


def survey(
    unit: Slabs,
    scaling: intensity.Intensity,
    volume: Volume,
    grid: geometry.Grid,
    engine: Engine,
    options: RestoreOptions,
    task: Task,
) -> Survey:
    """Survey a scan.

    Args:
        unit: the normalised scan on the model's grid.
        scaling: how it was normalised.
        volume: the scan.
        grid: the model's grid.
        engine: what the network was trained for.
        options: the noise, if it is known.
        task: what is to be done.

    Raises:
        ScanError: the scan is too far from what the network was trained for.
    """
    level, warnings = _noise(unit, volume.modality, voxels_of(volume, grid), scaling, options, task, engine)
    percent = 0.0 if warnings else 100 * level.sigma / scaling.bright
    found = _range(unit, volume, grid, percent, task, engine, options)
    if level.correlated and level.sigma > 0:
        warnings.append(_CORRELATED)
    return Survey(scaling, level, (*warnings, *found.warnings), found.figures)


def voxels_of(volume: Volume, grid: geometry.Grid) -> posing.Voxels:
    """What the header says of the voxels, along the model's axes."""
    acquired = None if volume.slice_axis is None else grid.axis(volume.slice_axis)
    stored = HEAD_TO_FOOT if volume.modality == "CT" else grid.axis(2)
    return posing.Voxels(grid.spacing, stored, acquired, volume.thickness)


def seen(volume: Volume) -> tuple[geometry.Grid, intensity.Intensity, Image, int]:
    """A volume without holes as its survey sees it: model's grid, scaling, normalised array, the axis of its slices."""
    grid, array = geometry.to_model_grid(volume)
    valid = None if volume.valid is None else grid.apply(volume.valid)
    scaling, unit = intensity.normalise(array, volume.modality, valid)
    return grid, scaling, unit, posing.stack_axis(unit.shape, voxels_of(volume, grid))


def _noise(
    unit: Slabs,
    modality: str,
    voxels: posing.Voxels,
    scaling: intensity.Intensity,
    options: RestoreOptions,
    task: Task,
    engine: Engine,
) -> tuple[noise.NoiseEstimate, list[str]]:
    """The noise to be removed, less than 0.01 percent being none, and a warning where it stays.

    Be it that refining keeps it, or that an estimate lies so far beyond training that it is cut.
    """
    asked = options.noise
    if asked is None:  # refining and filling keep what was measured exactly unless they are asked to remove noise
        asked = "auto" if task == "denoise" else 0.0
    sigma = None if asked == "auto" else asked / 100 * scaling.bright
    stack = posing.stack_axis(unit.shape, voxels)
    level = noise.of_scan(unit, modality, stack, sigma=sigma)
    if 0 < level.sigma < SMALLEST_SIGMA:
        level = replace(level, sigma=0.0, field=None)
    percent = 100 * level.sigma / scaling.bright
    most = math.inf if engine.noise_range is None else _CREDIBLE * engine.noise_range[1]
    if options.noise is None and task == "superres":
        kept = 100 * noise.of_scan(unit, modality, stack).sigma / scaling.bright
        return level, [_KEPT.format(kept)] if kept > _UNNOTICED else []
    if asked != "auto" or percent <= most:
        return level, []
    warning = (
        f"Noise of {percent:.3g} percent is more than this pipeline was trained for; only {most:g} percent is removed."
    )
    return noise.limited(level, most / 100 * scaling.bright), [warning]


def _range(
    unit: Slabs,
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
        across = posing.stack_axis(unit.shape, voxels_of(volume, grid))
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
