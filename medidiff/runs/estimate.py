"""How long a run will take, told before it begins: the arithmetic of its scans at the pace that a short probe measures.

Only headers are read. The probe runs every stage once on a small volume made for it, on the device and with the
threads of the run, so that a slow or busy machine is told of too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from medidiff import pipelines, scans
from medidiff.config import RunConfig
from medidiff.diffusion import tiles
from medidiff.footprint import fine_shape
from medidiff.physics import tasks
from medidiff.runs import pace
from medidiff.runs.pace import Clock, Pace
from medidiff.runs.plan import Plan
from medidiff.scans.volume import ScanRef, Volume

PROBE = {3: (104, 104, 104), 2: (256, 256, 8)}  # voxels; smaller windows take other ways through a convolution
FIRST = 1.0  # seconds of a run for what is loaded and prepared on first use
START = 0.3  # seconds of a scan beside its voxels: hashes, sidecar, what a small image takes as well as a large one


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        seconds: of all scans whose size is known.
        scans: how many these are.
        unknown: scans whose header does not tell their size.
        holes: whether it hangs on the holes, whose size no header tells.
    """

    seconds: float
    scans: int
    unknown: int
    holes: bool

    def __str__(self) -> str:
        if not self.scans:
            return "how long it takes is not known: no header tells the size of a scan"
        more = f", without {self.unknown} whose size is not known" if self.unknown else ""
        number = f"{self.scans} scan{'s' if self.scans > 1 else ''}"
        which = ", less or more as the holes are small or large" if self.holes else ""
        return f"about {duration(self.seconds)} for {number}{more}{which}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days with two figures."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 99.5 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 99.5 else f"{seconds:.0f} s"


def of_plan(plan: Plan, config: RunConfig, clock: Clock = time.perf_counter) -> Estimate | None:
    """The time of a plan's scans; ``None`` when there is nothing to do.

    Args:
        plan: what is to be done.
        config: the run's settings.
        clock: that the probe is measured with.

    Raises:
        PipelineError: a pipeline is damaged.
        UsageError: the device does not exist.
    """
    todo = [case.ref for case in plan.cases if case.state == "todo"]
    if not todo:
        return None
    probed: dict[str, tuple[pipelines.Pipeline, Pace]] = {}
    seconds, unknown = FIRST, 0
    for ref in todo:
        try:
            volume, count = hollow(ref)
        except Exception:  # nibabel and pydicom raise many kinds on damaged headers
            unknown += 1
            continue
        info = pipelines.choose(volume, plan.pipelines, config.task)
        if info.name not in probed:
            probed[info.name] = probe(info, config, clock)
        seconds += START + count * of_volume(volume, config, *probed[info.name])
    return Estimate(seconds, len(todo) - unknown, unknown, config.task == "inpaint")


def probe(info: pipelines.PipelineInfo, config: RunConfig, clock: Clock) -> tuple[pipelines.Pipeline, Pace]:
    """A loaded pipeline and its pace."""
    pipeline = pipelines.load(info.path, config.task, compute=config.compute)
    assert isinstance(pipeline, pipelines.Pipeline)
    volume = pace.phantom(PROBE[info.spatial_dims], info.modalities[0] if info.modalities else "MR")
    return pipeline, pace.measure(pipeline, volume, clock, whole=False)


def of_volume(volume: Volume, config: RunConfig, pipeline: pipelines.Pipeline, found: Pace) -> float:
    """Seconds of one volume."""
    options, shape, rounds = config.restore, volume.array.shape, 1
    if config.task == "superres":
        shape, rounds = fine_shape(shape, volume.spacing, options), len(tasks.ROUNDS)
    evaluations = options.evaluations(pipeline.engine.network.spatial_dims)
    return found.seconds(math.prod(shape), evaluations * evaluated(pipeline, shape), rounds)


def evaluated(pipeline: pipelines.Pipeline, shape: Sequence[int]) -> float:
    """Voxels that the network goes over in one evaluation of a volume, halos counted."""
    engine = pipeline.engine
    images, spatial = 1, tuple(shape)
    if engine.network.spatial_dims == 2:  # each slice is an image
        images, spatial = shape[2], tuple(shape[:2])
    tiling = tiles.plan(spatial, engine.tile or tiles.automatic(spatial), engine.halo, engine.network.stride)
    return images * float(sum(math.prod(part.stop - part.start for part in tile.window) for tile in tiling))


def hollow(ref: ScanRef) -> tuple[Volume, int]:
    """The largest volume of a scan without its voxels, and how many volumes the scan holds.

    Raises:
        ScanError: the file is damaged.
    """
    volumes = scans.outline(ref).volumes
    volume = max(volumes, key=lambda each: each.array.size)
    # the values of a NIfTI file, which tell of CT, are not read
    unknown = ref.kind == "nifti" and volume.modality == "OT"
    return replace(volume, modality="MR") if unknown else volume, len(volumes)
