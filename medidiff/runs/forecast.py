"""How much memory each scan of a run will take, told before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from medidiff import bundles, footprint, pipelines
from medidiff.config import RunConfig
from medidiff.errors import OutOfMemory
from medidiff.footprint import Footprint, Network, Request
from medidiff.pipelines import PipelineInfo
from medidiff.runs import estimate
from medidiff.scans.volume import ScanRef


def of_case(ref: ScanRef, config: RunConfig, able: Sequence[PipelineInfo]) -> Footprint | str:
    """What a case takes, or a clause on why that is not known.

    Args:
        ref: the case.
        config: the run's settings.
        able: the pipelines that it may go to.

    Raises:
        OutOfMemory: it fits in no way.
    """
    try:
        volume, count = estimate.hollow(ref)
    except Exception:  # nibabel and pydicom raise many kinds on damaged headers
        return "its header does not tell its size"
    settings = bundles.read(pipelines.choose(volume, able, config.task).path).settings
    on_host = config.compute.device in ("auto", "cpu")
    shape, options = (*volume.array.shape, count), config.restore
    network, tile = Network.of(settings, on_host), config.compute.tile
    try:
        fine = footprint.fine_shape(shape[:3], volume.spacing, options) if config.task == "superres" else None
        asked = Request(shape, network, config.task, options.samples, fine, tile, options.flips)
        return footprint.choose(asked, footprint.room(config.compute.memory, begun=False))
    except OutOfMemory:
        if config.task != "inpaint":
            raise
        return "it needs more memory than there is, unless its hole is small"


def told(found: Footprint | str) -> str:
    """A clause for a person."""
    if isinstance(found, str):
        return found
    text = f"about {found.peak / 1e9:.2g} GB of memory"
    if found.way == "tiles":
        return f"{text}, in tiles of {found.tile} voxels"
    if found.way == "blocks":
        return f"{text}, in blocks of {found.tile} voxels, with {found.disk / 1e9:.2g} GB of disk for a while"
    return text


def as_json(found: Footprint | str) -> dict[str, object]:
    """The same for programs."""
    if isinstance(found, str):
        return {"problem": found}
    return {"way": found.way, "tile": found.tile, "memory_bytes": round(found.peak), "disk_bytes": round(found.disk)}
