"""Where the things lie today that a sidecar names: the input, the mask and the pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medidiff import bundles
from medidiff.bundles import Bundle
from medidiff.errors import MedidiffError, ScanError, UsageError
from medidiff.runs import settings, sidecar
from medidiff.runs.paths import exists, relative
from medidiff.runs.record import is_run_record
from medidiff.scans import discover, masks, records
from medidiff.scans.volume import ScanRef

NEEDED = ("task", "config", "pipeline")  # the sections without which a result cannot be made again


@dataclass(frozen=True)
class Hints:
    """Where the user says that things lie, for those that were moved.

    Attributes:
        input: the scan, or a folder that holds it.
        mask: the mask, or a folder that holds it.
        pipeline: the name of a pipeline, or a bundle's folder.
    """

    input: Path | None = None
    mask: Path | None = None
    pipeline: str | None = None


@dataclass(frozen=True)
class Result:
    """A result to verify.

    Attributes:
        file: the sidecar.
        tree: what it says.
        hints: where the user says that things lie.
        run: the folder of the run that it belongs to, and the run's record; ``None`` when there is no record.
    """

    file: Path
    tree: dict[str, Any]
    hints: Hints
    run: tuple[Path, dict[str, Any]] | None

    @property
    def folder(self) -> Path:
        """The folder that the sidecar's paths are relative to."""
        return self.file.parent


def result(file: Path, hints: Hints) -> Result:
    """Read a sidecar and the record of the run that it belongs to.

    Raises:
        UsageError: the file is no sidecar.
    """
    tree = sidecar.load(file)
    if tree is None or not records.claims_sidecar(tree):
        raise UsageError(f"{file} is not a sidecar of medidiff; name the JSON file beside a result, or a run's folder.")
    missing = [name for name in NEEDED if not tree.get(name)]
    why = records.why_no_sidecar(tree) or "".join(f"{name} is missing" for name in missing[:1])
    if not why and "files" not in tree["input"]:
        why = "input.files is missing"
    if why:
        raise UsageError(f"{file} is damaged ({why}); make the result again.")
    return Result(file, tree, hints, run_of(file))


def run_of(file: Path) -> tuple[Path, dict[str, Any]] | None:
    """The folder and the record of the run that a sidecar belongs to."""
    for folder in file.resolve().parents:
        record = sidecar.load(folder / "run.json")
        if record is not None and is_run_record(record) and not records.why_no_run(record):
            return folder, record
    return None


def scan(result: Result) -> ScanRef | None:
    """The input: where the user says, else where the sidecar or the run's record say; ``None`` when it is gone.

    A scan of the same bytes comes first, then one of the same name.
    """
    wanted = result.tree["input"]
    if result.hints.input is not None:
        near = cases(result.hints.input)
    else:
        near = tuple(ref for place in input_places(result) for ref in cases_at(place, wanted))
    found = [ref for ref in near if ref.kind == wanted.get("kind")]
    same = next((ref for ref in found if is_same(ref, wanted)), None)
    likely = max(found, key=lambda ref: shared_names(ref, wanted), default=None)
    if same is None and likely is not None and shared_names(likely, wanted) == 0:
        return None
    ref = same or likely
    number = result.tree.get("dicom", {}).get("series_number")
    return ref if ref is None or number is None else replace(ref, output_series_number=int(number))


def input_places(result: Result) -> Iterator[Path]:
    """Where the input may lie, as the sidecar and the run's record say."""
    named = [(result.folder, str(result.tree["input"].get("path") or ""))]
    if result.run is not None:
        folder, record = result.run
        named += [(folder, str(case.get("input"))) for case in record["cases"] if belongs(case, result.file, folder)]
    yield from (folder / name for folder, name in named if name and records.is_plain(name))


def belongs(case: dict[str, Any], file: Path, folder: Path) -> bool:
    """Whether a case of a run's record is the one of a sidecar."""
    return bool((case.get("outputs") or {}).get("sidecar") == relative(file, folder))


def cases(place: Path) -> tuple[ScanRef, ...]:
    """The scans at a place; none when there is nothing."""
    with suppress(UsageError):
        return discover.find_scans((place,)).cases
    return ()


def cases_at(place: Path, wanted: dict[str, Any]) -> tuple[ScanRef, ...]:
    """The scans at a place that a sidecar names; of a folder only those folders are opened that held the files.

    A sidecar may come from somebody else, so no tree of folders is searched because it says so.

    Args:
        place: where the input lay, as the sidecar tells.
        wanted: what it tells of the input.
    """
    if not place.is_dir():
        named = {Path(str(entry["path"])).name for entry in wanted["files"]}
        return cases(place) if place.name in named else ()
    folders = dict.fromkeys(place / Path(str(entry["path"])).parent for entry in wanted["files"])
    with suppress(UsageError):
        return discover.find_scans([each for each in folders if each.is_dir()], recursive=False).cases
    return ()


def is_same(ref: ScanRef, wanted: dict[str, Any]) -> bool:
    """Whether a scan holds the bytes that the sidecar tells of; bytes are read only where the sizes agree."""
    with suppress(OSError, ScanError):
        sizes = sorted(path.stat().st_size for path in ref.files)
        if sizes == sorted(int(entry["bytes"]) for entry in wanted["files"]):
            return discover.content_hash(ref) == wanted.get("content_sha256")
    return False


def shared_names(ref: ScanRef, wanted: dict[str, Any]) -> int:
    """How many files of a scan are called as those that the sidecar tells of."""
    return len({path.name for path in ref.files} & {Path(str(entry["path"])).name for entry in wanted["files"]})


def mask(result: Result, ref: ScanRef | None) -> Path | None:
    """The mask: where the user says, else where the sidecar or the run's record say; ``None`` when it is gone."""
    named = result.tree["mask"]["path"]
    named = named[0] if isinstance(named, list) else named
    places = [result.folder / str(named)]
    if result.run is not None and isinstance(result.run[1].get(settings.CONFIG), dict):
        mask = result.run[1][settings.CONFIG].get("mask")
        places += [result.run[0] / mask] if isinstance(mask, str) and records.is_plain(mask) else []
    for place in [result.hints.mask] if result.hints.mask is not None else places:
        with suppress(MedidiffError):
            file = place if ref is None else masks.find_mask(place, ref)
            if exists(file) and file.is_file():
                return file
    return None


def bundle(result: Result) -> Bundle | None:
    """The pipeline: the one with the same weights, else the one that is named; ``None`` when there is none."""
    who = result.tree["pipeline"]
    named = result.hints.pipeline
    found = list(named_bundles(result)) if named is None else [bundles.locate(named)]
    found += [each for each in bundles.every() if named is None]
    same = (each for each in found if each.weights_sha256 == who.get("weights_sha256"))
    called = (each for each in found if named is not None or each.name == who.get("name"))
    return next(same, next(called, None))


def named_bundles(result: Result) -> Iterator[Bundle]:
    """The bundles whose folders the sidecar or the run's record name."""
    trees = [(result.folder, result.tree.get(settings.CONFIG))]
    trees += [(result.run[0], result.run[1].get(settings.CONFIG))] if result.run is not None else []
    for folder, tree in trees:
        if isinstance(tree, dict) and isinstance(tree.get("pipeline"), str) and records.is_plain(tree["pipeline"]):
            path = folder / tree["pipeline"]
            if exists(path / bundles.METADATA):
                yield bundles.read(path)
