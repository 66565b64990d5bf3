"""Checks a result against its sidecar, makes it again, and says what changed.

What a result was made from is compared by SHA-256 (`medidiff.runs.checks`). If all of it is as it was, the result is
made again into a temporary folder. On the same platform and with the same software the bytes must be the same: UIDs and
dates of DICOM files are made from what the sidecar holds. Elsewhere, and on GPUs, sums are rounded in another order, so
there the images are compared voxel by voxel: they must lie at the same place, and no voxel may differ by more than
`TOLERANCE` of the image's range (`COARSE` when one of them was computed in bf16 or fp16), or by one step of numbers
that are stored whole.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medidiff.errors import CannotWrite, NoScanFound, OutOfMemory, ScanError, UsageError
from medidiff.runs import checks, failures, locate, sidecar
from medidiff.runs.checks import Finding, Sources, Subject, counted
from medidiff.runs.locate import Hints, Result
from medidiff.runs.record import is_run_record
from medidiff.runs.rerun import rerun
from medidiff.runs.sidecar import precisions
from medidiff.scans import records
from medidiff.scans.compare import Difference, difference

# Measured on phantoms, over means, samples and maps: fp32 with other CPU instructions lies up to 0.00015 of the range
# apart, or one step; bf16 up to 0.005 from fp32.
TOLERANCE = 1e-3
COARSE = 1e-2
HARMLESS = ("code", "platform")  # they may change as long as the images stay
APART = Difference(float("inf"), 0.0, 0.0, same_place=False)  # what cannot be compared


@dataclass(frozen=True)
class Verification:
    """What was found on one result.

    Attributes:
        sidecar: the file.
        findings: in the order of the checks.
        largest: how far the image lies apart that differs most from the one made again; ``None`` when none does.
        units: of the image.
    """

    sidecar: Path
    findings: tuple[Finding, ...]
    largest: Difference | None = None
    units: str = ""

    @property
    def culprits(self) -> tuple[Subject, ...]:
        """What makes the verification fail."""
        bad = tuple(dict.fromkeys(finding.subject for finding in self.findings if finding.bad))
        return bad if "re-run" in bad else tuple(subject for subject in bad if subject not in HARMLESS)

    @property
    def verified(self) -> bool:
        """Whether the result is what its sidecar says."""
        return not self.culprits

    def as_json(self) -> dict[str, Any]:
        """The verification as plain values."""
        largest = self.largest
        return {
            "sidecar": str(self.sidecar),
            "verified": self.verified,
            "culprits": list(self.culprits),
            "findings": [{"subject": each.subject, "state": each.state, "text": each.text} for each in self.findings],
            "largest_difference": None
            if largest is None or largest.largest == float("inf")
            else {"value": largest.largest, "units": self.units, "share_of_range": largest.relative},
        }


def sidecars(path: Path) -> tuple[Path, ...]:
    """The sidecar at a path, or those in the folder of a run: those of its record, then what earlier runs left there.

    Raises:
        UsageError: there is nothing at the path, or it is no run's folder.
        NoScanFound: there is no result.
    """
    if not path.is_dir():
        if not path.exists():
            raise UsageError(f"{path} does not exist; name the JSON file beside a result, or a run's folder.")
        return (path,)
    record = sidecar.load(path / "run.json")
    if record is None or not is_run_record(record):
        raise UsageError(f"{path} holds no run.json; name the JSON file beside a result, or a run's folder.")
    if why := records.why_no_run(record):
        raise UsageError(f"{path / 'run.json'} is damaged ({why}); name the JSON file beside a result.")
    named = [(case.get("outputs") or {}).get("sidecar") for case in record["cases"]]
    of_run = [path / name for name in named if name]
    # one that is damaged ends the verification, so that the others go first
    earlier = sorted((bool(records.why_no_sidecar(tree)), file) for file, tree in records.sidecars_below(path))
    found = tuple(dict.fromkeys([*of_run, *(file for _, file in earlier)]))
    if not found:
        raise NoScanFound(f"The run in {path} made no result that could be verified.")
    return found


def verify(
    file: Path,
    hints: Hints | None = None,
    *,
    again: bool = True,
    tolerance: float | None = None,
    device: str | None = None,
) -> Verification:
    """Check one result.

    Args:
        file: its sidecar.
        hints: where the input, the mask and the pipeline lie, if they were moved.
        again: also make the result again, if all that it was made from is as it was.
        tolerance: of an image's range, for results of another platform; by default as the number format allows.
        device: where to compute, if not as before.

    Raises:
        UsageError: the file is no sidecar, or the device does not exist.
        PipelineError: the pipeline of the hints does not exist.
        OutOfMemory: making it again does not fit the memory.
        CannotWrite: there is no room to make it again.
    """
    if not file.exists():
        return Verification(file, (Finding("record", "missing", "the sidecar is gone"),))
    result = locate.result(file, hints or Hints())
    sources = checks.find(result)
    findings = tuple(checks.check(result, sources))
    spoilt = dict.fromkeys(each.subject for each in findings if each.bad and each.subject not in (*HARMLESS, "output"))
    if again and not spoilt:
        return made_again(result, sources, findings, tolerance, device)
    why = f"not made again, for the {' and the '.join(spoilt)} changed" if again else "not asked for"
    return Verification(file, (*findings, Finding("re-run", "skipped", why)))


def made_again(
    result: Result, sources: Sources, findings: tuple[Finding, ...], tolerance: float | None, device: str | None
) -> Verification:
    """Make a result again and compare."""
    assert sources.ref is not None
    assert sources.bundle is not None
    with tempfile.TemporaryDirectory(prefix="medidiff-verify-") as temporary:
        folder = Path(temporary)
        try:
            args = (result.tree, result.file.stem, sources.ref, sources.mask, sources.bundle, folder, device)
            fresh = rerun(*args)
        except (UsageError, CannotWrite):
            raise
        except Exception as error:
            known = failures.classified(error)
            if isinstance(known, OutOfMemory | CannotWrite):
                raise known from error
            text = failures.sentence(error, sources.ref).rstrip(".")
            return Verification(result.file, (*findings, Finding("re-run", "failed", text)))
        findings = tuple(with_compute(each, result.tree, fresh) for each in findings)
        exact = not any(each.bad and each.subject in HARMLESS for each in findings) and on_cpu(fresh)
        if tolerance is None:
            tolerance = TOLERANCE if precisions(result.tree) | precisions(fresh) <= {"fp32"} else COARSE
        found, largest = compared(result, fresh, folder, 0.0 if exact else tolerance)
        findings = tuple(with_distance(each, result, folder) for each in findings)
    return Verification(result.file, (*findings, found), largest, units_of(result))


def with_compute(finding: Finding, before: dict[str, Any], now: dict[str, Any]) -> Finding:
    """The finding on the platform, with what is known only now: threads, instructions, device, number format."""
    if finding.subject != "platform":
        return finding
    changes = checks.differing(computed(before), computed(now))
    if not changes:
        return finding
    text = "; ".join([*([finding.text] if finding.bad else []), *changes])
    return Finding("platform", "changed", text)


def computed(tree: dict[str, Any]) -> dict[str, Any]:
    """What a result was computed with."""
    records = [volume.get("record") or {} for volume in tree.get("volumes") or ()]
    record = next((each for each in records if each.get("device")), {})  # an untouched volume has none
    return {**(tree.get("compute") or {}), "device": record.get("device"), "precision": record.get("precision")}


def on_cpu(tree: dict[str, Any]) -> bool:
    """Whether a result was computed on the CPU, where the same sums come in the same order."""
    return computed(tree)["device"] in (None, "cpu")


def compared(
    result: Result, fresh: dict[str, Any], folder: Path, tolerance: float
) -> tuple[Finding, Difference | None]:
    """Compare the files that were made again with those that were recorded: by bytes, then by voxels.

    Args:
        result: the result.
        fresh: the sidecar of the one made again.
        folder: where it lies.
        tolerance: of an image's range; 0 asks for the same bytes.
    """
    before = {str(entry["path"]): entry["sha256"] for entry in result.tree["outputs"]}
    now = {str(entry["path"]): entry["sha256"] for entry in fresh["outputs"]}
    if before.keys() != now.keys():
        names = sorted(before.keys() ^ now.keys())
        return Finding("re-run", "changed", f"only one of the two results holds {checks.joined(names)}"), None
    other = [name for name in before if before[name] != now[name]]
    if not other:
        return Finding("re-run", "same", f"the same bytes came again, {counted(len(before), 'file')}"), None
    apart = {name: distance(result.folder / name, folder / name) for name in other}
    worst = max(apart, key=lambda name: (not apart[name].same_place, apart[name].relative))
    text = f"{len(other)} of {counted(len(before), 'file')} came with other bytes; {said(worst, apart[worst], result)}"
    if tolerance == 0:
        return Finding("re-run", "changed", f"{text}, although software and platform are the same"), apart[worst]
    limit = f"{tolerance:g} of the range, or one step of whole numbers"
    if all(each.within(tolerance) for each in apart.values()):
        return Finding("re-run", "same", f"{text}, within the tolerance of {limit}"), apart[worst]
    return Finding("re-run", "changed", f"{text}, beyond the tolerance of {limit}"), apart[worst]


def with_distance(finding: Finding, result: Result, folder: Path) -> Finding:
    """The finding on the output, with how far an altered file lies from the one made again."""
    altered: Sequence[str] = checks.altered_outputs(result) if finding.subject == "output" and finding.bad else ()
    there = [name for name in altered if (folder / name).is_file()]
    if not there:
        return finding
    apart = {name: distance(folder / name, result.folder / name) for name in there}
    worst = max(apart, key=lambda name: apart[name].relative)
    return replace(finding, text=f"{finding.text}: {said(worst, apart[worst], result)}")


def distance(first: Path, second: Path) -> Difference:
    """How far two files lie apart; without end when they cannot be compared."""
    try:
        return difference(first, second)
    except ScanError:
        return APART


def said(name: str, apart: Difference, result: Result) -> str:
    """How far a file lies apart, in words."""
    if not apart.same_place:
        return f"{name} cannot be compared or lies at another place"
    if apart.largest == 0:
        return "all voxels and their places are the same"
    units = "" if "_supplied" in name else f" {units_of(result)}"
    share = f"{apart.relative:.2g} of the range"
    return f"the largest difference of a voxel is {apart.largest:.3g}{units} ({share}) in {name}"


def units_of(result: Result) -> str:
    """The units of the image."""
    return str(result.tree["volumes"][0].get("units") or "") if result.tree.get("volumes") else ""
