"""The plan of a run: which cases there are, what their outputs are called, and which are done already.

Nothing is decoded, nothing is written, torch is not imported; ``--dry-run`` prints this plan.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from medidiff import pipelines, scans
from medidiff.config import RunConfig
from medidiff.errors import NoScanFound, ScanError, UsageError
from medidiff.pipelines import PipelineInfo
from medidiff.runs import bids, formats, holes, paths, sidecar
from medidiff.runs.record import is_run_record
from medidiff.scans import discover, outputs
from medidiff.scans.outputs import OutputNames
from medidiff.scans.volume import ScanRef, Skipped

State = Literal["todo", "done", "refused"]
Watch = Callable[[str], None]
LONGEST_NAME = 255  # bytes of the name of a file, on nearly all file systems
NAMED = 3  # filters named in a sentence before the rest is counted
NOT_OURS = "exists and was not written by medidiff; choose another output or use --overwrite."


def ignore(text: str) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class PlannedCase:
    """One case of the plan.

    Attributes:
        ref: the case.
        names: what its outputs are called.
        before: a stamp of the sidecar as the plan found it, see `sidecar.stamp`.
        state: ``todo``, ``done`` (its result still stands) or ``refused`` (a file of somebody else is in the way, its
            result cannot be called or written so, or, for ``--dry-run``, headers tell that it will fail).
        reason: why it is skipped or refused, or why a result that exists is made again; empty for a new case.
        modality: what a NIfTI scan is taken for, a DICOM code, where a result is made again as it was.
    """

    ref: ScanRef
    names: OutputNames
    before: str = ""
    state: State = "todo"
    reason: str = ""
    modality: str = ""

    @property
    def title(self) -> str:
        """The case for a person; a folder may hold several series."""
        return f"{self.ref.path} ({self.ref.stem})" if self.ref.kind == "dicom" else str(self.ref.path)


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        cases: every case, in the order of work.
        skipped: files that are no scan or are left out, with the reason.
        folder: the folder of the outputs; paths in records are relative to it.
        pipelines: those that a scan may go to; several when the run chooses for each scan.
        run_file: where ``run.json`` goes; ``None`` when the output is one named file.
    """

    cases: tuple[PlannedCase, ...]
    skipped: tuple[Skipped, ...]
    folder: Path
    pipelines: tuple[PipelineInfo, ...]
    run_file: Path | None

    def count(self, state: State) -> int:
        """How many cases are in a state."""
        return sum(case.state == state for case in self.cases)


def make_plan(config: RunConfig, watch: Watch = ignore) -> Plan:
    """Find the cases and decide what is to be done with each.

    Args:
        config: the run's settings.
        watch: hears in a few words what is going on; a slow disk may take long.

    Raises:
        UsageError: an input or the mask is missing, or the output would touch the input or the mask.
        NoScanFound: nothing in the input can be processed.
        PipelineError: there is no such pipeline.
    """
    single = outputs.is_file_name(config.output)
    folder = config.output.parent if single else config.output
    if not single:
        paths.refuse_input_as_output(config.inputs, folder)
    holes.refuse_absent_mask(config)
    found, skipped = find(config, None if single else folder, watch)
    if config.bids:
        found, left = bids.select(found, config)
        skipped = (*skipped, *left)
    if not found:
        text = filtered_out(config, None if single else folder) or nothing_found(config.inputs, skipped)
        raise NoScanFound(text, [(each.path, each.reason) for each in skipped])
    if single and len(found) > 1:
        raise UsageError(f"{config.output} is a file name but there are {len(found)} scans; give a folder as output.")
    holes.refuse_missing_mask(config, found)
    formats.refuse(config, found)
    names = [formats.names(ref, config) for ref in found]
    targets = [path for each in names for path in each.all]
    originals = [file for ref in found for file in ref.files]
    paths.refuse_overwriting([*originals, config.mask] if config.mask is not None else originals, targets)
    able = pipelines.candidates(config.pipeline, task=config.task)
    stamps = [sidecar.stamp(each.sidecar) for each in names]  # before the judgement, so that no change is missed
    stamped = [PlannedCase(*each) for each in zip(found, names, stamps, strict=True)]
    cases: list[PlannedCase] = []
    for case in stamped:
        if case.before:
            watch(f"comparing with what is done, scan {len(cases) + 1} of {len(stamped)}")
        cases.append(judge(case, config, able, single))
    return Plan(tuple(cases), skipped, folder, able, None if single else folder / "run.json")


def find(
    config: RunConfig, output: Path | None, watch: Watch = ignore
) -> tuple[tuple[ScanRef, ...], tuple[Skipped, ...]]:
    """The cases below the inputs, without what this run or an earlier one wrote there."""
    found = discover.find_scans(
        config.inputs,
        include=config.include,
        exclude=config.exclude,
        recursive=config.recursive,
        watch=lambda count: watch(f"looking for scans, {count} files so far"),
    )
    tops = {given.resolve() for given in config.inputs if given.is_dir()}

    @cache
    def home(folder: Path) -> Path | None:
        between = folders_between(folder.resolve(), tops)
        return next((each for each in between if is_result_folder(each, output)), None)

    homes = [home(ref.files[0].parent) for ref in found.cases]
    cases = tuple(ref for ref, results in zip(found.cases, homes, strict=True) if results is None)
    skipped = [each for each in found.skipped if home(each.path.parent) is None]
    cases, masks = holes.without_masks(cases, config)
    skipped += masks
    earlier = {results for results in homes if results is not None and (output is None or results != output.resolve())}
    skipped += [
        Skipped(folder, "holds results of medidiff; name it as the input to restore them") for folder in sorted(earlier)
    ]
    return cases, tuple(skipped)


def folders_between(folder: Path, tops: Set[Path]) -> Iterator[Path]:
    """The folders from ``folder`` up, strictly below the named inputs; what was named itself is not judged."""
    for each in (folder, *folder.parents):
        if each in tops or not any(each.is_relative_to(top) for top in tops):
            return
        yield each


def is_result_folder(folder: Path, output: Path | None) -> bool:
    """Whether a folder is this run's output or that of an earlier run."""
    return (output is not None and folder == output.resolve()) or is_run_record(sidecar.load(folder / "run.json"))


def filtered_out(config: RunConfig, output: Path | None) -> str:
    """One sentence on filters that leave out every scan of the input; empty when without them there is none either."""
    flags = [f"--include {pattern!r}" for pattern in config.include]
    flags += [f"--exclude {pattern!r}" for pattern in config.exclude]
    flags += [] if config.recursive else ["--no-recursive"]
    if not flags:
        return ""
    found, _ = find(config.model_copy(update={"include": (), "exclude": (), "recursive": True}), output)
    if not found:
        return ""
    named = ", ".join(flags[:NAMED]) + (f" and {len(flags) - NAMED} more" if len(flags) > NAMED else "")
    where, count = ", ".join(map(str, config.inputs)), "its only scan" if len(found) == 1 else f"all {len(found)} scans"
    return f"No scan was found in {where}: {named} left out {count}; change what you leave out."


def nothing_found(inputs: Sequence[Path], skipped: Sequence[Skipped]) -> str:
    """One sentence on an input without a scan, with the reason if there is just one."""
    where = ", ".join(map(str, inputs))
    if len(skipped) == 1:
        return f"No scan was found in {where}: {skipped[0].path.name}: {skipped[0].reason}"
    more = f" ({len(skipped)} files were left out)" if skipped else ""
    return f"No scan was found in {where}{more}; give NIfTI files (.nii, .nii.gz), DICOM folders, or folders of them."


def judge(case: PlannedCase, config: RunConfig, able: Sequence[PipelineInfo], single: bool) -> PlannedCase:
    """Set the state of a case by what lies in the output folder."""
    if why := formats.refusal(case.ref, config) or too_long(case, config):
        return replace(case, state="refused", reason=why)
    if config.existing == "overwrite":
        return case
    names = case.names
    there = sidecar.load(names.sidecar)
    if there is None or not sidecar.is_ours(there):
        foreign = foreign_file(names, single, there is not None)
        return case if foreign is None else replace(case, state="refused", reason=f"{foreign} {NOT_OURS}")
    try:
        content = discover.content_hash(case.ref)
        mask = scans.mask_hash(config.mask, case.ref) if config.mask is not None else ""
    except (OSError, ScanError, UsageError):  # the case will fail by itself, with a reason
        return case
    weights = frozenset(info.weights_sha256 for info in able)
    kinds = config.kinds(case.ref.kind)
    asked = sidecar.Asked(config.task, content, mask, config.restore, config.maps, weights, kinds, config.compute)
    reason = sidecar.stale(there, names.sidecar.parent, asked)
    if not reason:
        return replace(case, state="done", reason=f"{names.restored} is done already; --overwrite makes it again.")
    if there["input"].get("content_sha256") != content and is_elsewhere(there["input"], case):
        before = there["input"].get("path")
        reason = f"{names.sidecar} belongs to another scan, {before}; choose another output or use --overwrite."
        return replace(case, state="refused", reason=reason)
    return replace(case, reason=reason)


def length_of(name: str) -> int:
    """What file systems count: bytes, on Windows units of UTF-16."""
    return len(name.encode("utf-16-le")) // 2 if os.name == "nt" else len(os.fsencode(name))


def too_long(case: PlannedCase, config: RunConfig) -> str:
    """Why no file system would take the names of a case's files, in a sentence; empty when they fit."""
    names = case.names
    wanted: list[Path | None] = [names.restored, names.sidecar, names.as_nifti]
    wanted += [names.uncertainty, names.supplied] if config.maps else []
    wanted += [names.sample, names.sample_as_nifti] if config.restore.gamma > 0 else []
    longest = max(length_of(path.name) for path in wanted if path is not None)
    if longest <= LONGEST_NAME:
        return ""
    what = "scan" if names.restored != config.output else "output"
    return (
        f"{case.ref.path} cannot be processed: the name of a result would have {longest} bytes, and file systems take"
        f" {LONGEST_NAME}; rename the {what}."
    )


def is_elsewhere(before: dict[str, Any], case: PlannedCase) -> bool:
    """Whether a result was made from a scan that lies at another place than the case does."""
    now = paths.discreet(case.ref.path, case.names.sidecar.parent)
    if before.get("path") != now:
        return True
    return "/" not in now and before.get("location_sha256") != paths.location(case.ref.path)


def foreign_file(names: OutputNames, single: bool, has_sidecar: bool) -> Path | None:
    """The file of somebody else that a case would replace.

    A restored image without a sidecar is what a killed run leaves in a folder, so there it is made again; under a
    file name that the user chose it may be the user's own.
    """
    if has_sidecar:
        return names.sidecar
    return names.restored if single and paths.exists(names.restored) else None
