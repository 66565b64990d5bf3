"""The sidecar: one JSON file beside each result that tells from which bytes, by what and how it was made.

It holds no patient data, and no absolute path: files are named relative to the sidecar, or to the scan's own folder.
It holds all that is needed to make the result again, byte for byte, and a seal over each of its sections.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from medidiff._version import __version__
from medidiff.config import ComputeOptions, Kind, RestoreOptions, RunConfig, kinds
from medidiff.runs import environment, seal, settings
from medidiff.runs.outcome import Restored
from medidiff.runs.paths import discreet, location, relative
from medidiff.runs.record import now
from medidiff.scans import limits, records
from medidiff.scans.volume import Scan, ScanRef, Volume

CHUNK = 1 << 20
FEWEST = 9  # volumes of calibration, below which an interval of 90 percent is a rough figure


def build(
    *,
    config: RunConfig,
    scan: Scan,
    content_sha256: str,
    mask: dict[str, Any] | None,
    pipeline: dict[str, str],
    volumes: Sequence[dict[str, Any]],
    written: Iterable[Path],
    file: Path,
    restored: Path,
    notes: Sequence[str],
    labels: dict[str, str],
    more: dict[str, Any],
    timings: dict[str, float],
) -> dict[str, Any]:
    """Everything that is known about a result.

    Args:
        config: the run's settings.
        scan: the case as it was read.
        content_sha256: the hash of the case's bytes.
        mask: what was filled, or ``None``.
        pipeline: ``name``, ``version``, ``weights_sha256`` and ``settings_sha256`` of the one that was used.
        volumes: what ``describe_volume`` says of each volume.
        written: the files of the result.
        file: where the sidecar will lie.
        restored: the restored file, or the folder of a series.
        notes: one sentence each on what the user should know.
        labels: what the UIDs and dates of a DICOM result were made from.
        more: further sections.
        timings: seconds spent on each step.

    Returns:
        A tree of plain JSON values.
    """
    folder = file.parent
    tree = {
        "medidiff": __version__,
        "task": config.task,
        "created": now(),
        "input": describe_input(scan.ref, content_sha256, folder),
        "mask": mask,
        "pipeline": pipeline,
        "config": effective(config, scan.ref, restored, folder),
        "seed": config.restore.seed,
        "volumes": list(volumes),
        "outputs": [describe_file(path, relative(path, folder)) for path in sorted(written)],
        "notes": list(notes),
        "code_sha256": environment.code_sha256(),
        "packages": environment.packages(),
        "platform": environment.machine(),
        "compute": environment.compute(),
        "timings": {step: round(seconds, 3) for step, seconds in timings.items()},
    }
    if scan.ref.kind == "dicom":
        tree["dicom"] = {**labels, "series_number": scan.ref.output_series_number}
    tree |= more
    return seal.sealed(dict(plain(tree)))


def describe_input(ref: ScanRef, content_sha256: str, folder: Path) -> dict[str, Any]:
    """The input by name, size and hash; a file is named relative to the case's own folder."""
    base = ref.path if ref.path.is_dir() else ref.path.parent
    return {
        "path": discreet(ref.path, folder),
        "location_sha256": location(ref.path),
        "kind": ref.kind,
        "content_sha256": content_sha256,
        "files": [describe_file(path, relative(path, base)) for path in sorted(ref.files)],
    }


def describe_file(path: Path, name: str) -> dict[str, Any]:
    """A file's name, size and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return {"path": name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def describe_volume(volume: Volume, restored: Restored) -> dict[str, Any]:
    """What went in, what came out and what was found for one volume."""
    tree = {
        "label": volume.label,
        "shape": list(volume.array.shape),
        "spacing_mm": list(volume.spacing),
        "modality": volume.modality,
        "units": volume.units,
        "restored": {
            "shape": list(restored.mean.shape),
            "spacing_mm": np.linalg.norm(restored.affine[:3, :3], axis=0).tolist(),
        },
        "record": restored.record,
        "guard": {"verdicts": list(restored.verdicts), "figures": restored.checks},
    }
    return tree if restored.std is None else tree | {"uncertainty": interval(restored.record)}


def interval(record: dict[str, Any]) -> dict[str, Any]:
    """What the uncertainty map means: level, quantile, calibrated and volumes, as far as known, and a sentence."""
    found = record.get("interval") or {}
    quantile = found.get("quantile")
    if record.get("task") == "denoise" and record.get("noise_sigma") == 0:
        meaning = "zero: no noise was taken away, and what the scan holds of it is not counted"
    elif not found.get("calibrated") or quantile is None:
        meaning = (
            "the standard deviation that the network expects; it was not compared with true errors for this task"
            " on scans like this"
        )
    else:
        meaning = (
            f"restored +- {quantile:.3g} times the map contains the true value in {100 * found['level']:.3g} percent "
            "of voxels, on scans like those of calibration"
        )
        if (count := int(found.get("volumes", FEWEST))) < FEWEST:
            meaning += f", which were only {count}: a rough figure"
    return {**found, "meaning": meaning}


def effective(config: RunConfig, ref: ScanRef, restored: Path, folder: Path) -> dict[str, Any]:
    """The settings that repeat this case alone, with paths relative to the sidecar.

    The output is the restored file, or the folder that holds the folder of a series.
    """
    output = restored.parent if "dicom" in config.kinds(ref.kind) else restored
    alone = config.model_copy(update={"inputs": (ref.path,), "output": output})
    return settings.portable(alone, folder, discreet) | {"uncertainty": config.maps}


def load(file: Path) -> dict[str, Any] | None:
    """A sidecar that lies on disk, or ``None`` when there is none that can be read."""
    try:
        tree = limits.read_json(file)
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def stamp(file: Path) -> str:
    """What tells whether a sidecar was written since; empty when there is none."""
    try:
        status = file.stat()
    except OSError:
        return ""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def is_ours(tree: dict[str, Any]) -> bool:
    """Whether parsed JSON is a sidecar of medidiff, sound enough to be read."""
    return not records.why_no_sidecar(tree)


def listed(tree: dict[str, Any] | None) -> list[str]:
    """The outputs that a sidecar names; none when it is not medidiff's."""
    return [str(entry.get("path")) for entry in tree["outputs"]] if tree is not None and is_ours(tree) else []


@dataclass(frozen=True)
class Asked:
    """What a result must have been made from to stand for the present request.

    Attributes:
        task: the task.
        content_sha256: the hash of the input's bytes.
        mask_sha256: the hash of the mask's bytes; empty when there is none.
        options: the options of the restoration.
        maps: whether maps are written beside the result.
        weights: the hashes of the weights of every pipeline that may restore it.
        kinds: the formats in which it is written.
        compute: where and how it is computed.
    """

    task: str
    content_sha256: str
    mask_sha256: str
    options: RestoreOptions
    maps: bool
    weights: frozenset[str]
    kinds: tuple[Kind, ...]
    compute: ComputeOptions


def stale(tree: dict[str, Any], folder: Path, asked: Asked) -> str:
    """Why a result must be made again, or an empty string when it still stands.

    Args:
        tree: the result's sidecar.
        folder: the folder of the sidecar.
        asked: what is asked for now.
    """
    if tree.get("task") != asked.task:
        return "the task changed"
    if tree["input"].get("content_sha256") != asked.content_sha256:
        return "the input changed"
    if ((tree.get("mask") or {}).get("sha256") or "") != asked.mask_sha256:
        return "the mask changed"
    if tree.get("pipeline", {}).get("weights_sha256") not in asked.weights:
        return "the pipeline changed"
    before = tree.get("config", {})
    if not _asks(before.get("restore"), asked.options) or before.get("uncertainty") != asked.maps:
        return "the options changed"
    if not _computes(tree, asked.compute):
        return "the number format changed"
    if kinds(str(before.get("format", "same")), tree["input"].get("kind", "nifti")) != asked.kinds:
        return "the format changed"
    return damaged(tree, folder)


def _computes(tree: dict[str, Any], compute: ComputeOptions) -> bool:
    """Whether a result was computed in the number format that is asked for; torch knows what ``auto`` is.

    All else that says where and how to compute changes a result by rounding at most.
    """
    used, before = precisions(tree), tree.get("config", {}).get("compute")
    as_before = isinstance(before, dict) and before.get("precision") == compute.precision == "auto"
    if not used or as_before:
        return True
    if compute.precision != "auto":
        return used == {compute.precision}
    from medidiff.diffusion import device

    return used == {device.precision(compute)}


def precisions(tree: dict[str, Any]) -> set[str]:
    """The number formats that the volumes of a result were computed in, as far as they were computed."""
    records = [volume.get("record") or {} for volume in tree.get("volumes") or ()]
    return {str(record["precision"]) for record in records if record.get("precision")}


def _asks(settings: Any, options: RestoreOptions) -> bool:
    """Whether settings out of a sidecar, perhaps of an older version that knew fewer, are these options."""
    if not isinstance(settings, dict):
        return False
    try:
        return RestoreOptions.model_validate(settings) == options
    except ValidationError:
        return False


def damaged(tree: dict[str, Any], folder: Path) -> str:
    """Why the files that a sidecar in ``folder`` lists are not what it says, or an empty string when they are."""
    if not tree["outputs"]:
        return "the output is missing"
    return next((reason for entry in tree["outputs"] if (reason := _differs(entry, folder))), "")


def _differs(entry: dict[str, Any], folder: Path) -> str:
    path = folder / str(entry.get("path"))
    try:
        size = path.stat().st_size
        if size != entry.get("bytes") or describe_file(path, "")["sha256"] != entry.get("sha256"):
            return "the output was changed"
    except OSError:
        return "the output is missing"
    return ""


def plain(value: Any) -> Any:
    """JSON values only: numpy numbers become numbers, what is not finite becomes ``null``."""
    match value:
        case None | str() | bool() | int():
            return value
        case np.bool_() | np.integer() | np.floating():
            return plain(value.item())
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): plain(part) for key, part in value.items()}
        case np.ndarray():
            return plain(value.tolist())
        case list() | tuple() | set() | frozenset():
            return [plain(part) for part in value]
        case Path():
            return value.name
        case _:
            return str(value)
