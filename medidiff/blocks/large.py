"""The straight line of a volume that memory cannot hold: survey, passes over blocks, figures."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.blocks.cutting import slices
from medidiff.blocks.passes import Work, passes
from medidiff.blocks.run import Run, serial
from medidiff.blocks.store import Store, source_of
from medidiff.config import RestoreOptions
from medidiff.engine import Engine, Progress
from medidiff.physics import intensity, noise, slabs
from medidiff.physics.slabs import Slabs
from medidiff.restore import Restoration, calibrated, judged_removal, record_of, timed, untouched
from medidiff.scans import geometry
from medidiff.scans.volume import Volume
from medidiff.survey import survey, voxels_of


def restore(
    volume: Volume,
    engine: Engine,
    options: RestoreOptions,
    folder: Path,
    *,
    tile: int = 192,
    edge: int | None = None,
    run: Run = serial,
    progress: Progress | None = None,
) -> Restoration:
    """Denoise one volume block by block; the images that come out are mapped from files in ``folder``.

    Args:
        volume: the scan; its arrays may be mapped from files.
        engine: the network and where it runs.
        options: noise level, strength, samples, steps, seed.
        folder: takes up to 40 bytes a voxel, and 4 more a sample; it must stay as long as the result is used.
        tile: edge of a block with its context, in voxels.
        edge: planes that the survey reads at once, a multiple of 16; as many as make a block by default.
        run: how the blocks are gone through.
        progress: called with (blocks done, all of them).

    Raises:
        ScanError: the scan is too far from what the network was trained for.
    """
    begin = time.perf_counter()
    grid = geometry.grid_of(volume)
    shape = grid.view(volume.array).shape
    source = source_of(volume, grid, None if run is serial else folder)
    edge = edge or slabs.edge(shape)
    scan = source.slabs(shape, edge)
    scaling = intensity.scaling_of(scan, volume.modality)
    unit = scan.mapped(scaling.apply)
    found = survey(unit, scaling, volume, grid, engine, options, "denoise")
    record = record_of(volume, engine, options, "denoise", found) | {"blocks": tile}
    if found.level.sigma <= 0:
        return untouched(volume, options, found, record | timed(begin))

    store = Store(folder, shape)
    work = Work(source, store, found, engine, options, voxels_of(volume, grid))
    work = replace(work, levels=_levels(work, edge))
    for _ in passes(work, tile, edge, run, progress):
        pass
    store.remove("base", "scale", "deviation", "first", "z0", "z1", "x0", "x1")
    checks, verdicts = _judged(work, unit)
    planar = {} if work.planes is None else {"slices_one_by_one": True}
    resolved = {
        **calibrated(engine.calibration, work.interval, found.level),
        "data_consistency": "statistical",
        **planar,
    }
    return Restoration(
        mean=grid.undone(store.array("mean")),
        affine=volume.affine,
        std=grid.undone(store.array("std")),
        samples=tuple(grid.undone(store.array(f"sample{index}")) for index in range(options.samples)),
        supplied=grid.undone(store.array("supplied")),
        checks=checks | found.figures,
        verdicts=verdicts,
        record=record | resolved | timed(begin),
        gamma=options.gamma,
        volume=volume,
    )


def _levels(work: Work, edge: int) -> NDArray[np.float64] | None:
    """The median noise of the scan, or of each of its planes, where it varies."""
    field = work.found.level.field
    if field is None:
        return None
    shape, planes = work.store.shape, work.planes
    if planes is None:
        cores = [block.core for block in slices(shape, edge)]
        return np.array([slabs.percentile(lambda: (field.within(core).whole for core in cores), 50)])
    whole = [slice(0, n) for n in shape]
    each = ([*whole[:planes], slice(index, index + 1), *whole[planes + 1 :]] for index in range(shape[planes]))
    return np.array([float(np.median(field.within(tuple(box)).whole)) for box in each])


def _judged(work: Work, unit: Slabs) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Figures and sentences on what was removed in the scan's middle."""
    box = noise.middle(work.store.shape)
    before, after = unit.part(box), work.found.scaling.apply(work.store.read("mean", box))
    measured = work.source.measured(box)
    restored = after if measured is None else np.where(measured, after, before)
    return judged_removal(before, restored, work.found.level.within(box), work.found, unit, work.options)
