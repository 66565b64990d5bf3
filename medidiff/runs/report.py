"""The report of a run: what ``run.json`` and the sidecars say and what the files show, as an `Evaluation`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from medidiff.errors import MedidiffError, NoScanFound, UsageError
from medidiff.evaluation import catalogue, unreferenced
from medidiff.evaluation.results import EvaluatedCase, Evaluation, Figure, Metric, Role, Shown
from medidiff.runs.record import is_run_record
from medidiff.runs.results import ResultFiles, Shelf
from medidiff.scans import limits, records
from medidiff.scans.outputs import nifti_stem

METHOD = "medidiff"
NAME = "report.html"
MOST_VOLUMES = 3  # of one scan
HOLE = ("changed_outside", "hole_share", "hole_border_jump", "hole_beside_constant")
# What the guard found where the tidy table's own metrics say nothing: super-resolution and inpainting.
METRICS: Mapping[str, Metric] = {
    "noise_percent": Metric("Noise level", "%", "", "The noise that was assumed, in percent of the bright foreground."),
    "data_residual": Metric(
        "Data residual",
        "",
        "zero",
        "Largest difference between the scan and the restored image measured again, over the range of the scan.",
    ),
    "data_residual_variance_ratio": Metric(
        "Data residual, variance", "", "", "Variance of the data residual over that of the noise that was allowed for."
    ),
    "data_residual_mean": Metric("Data residual, mean", "sigma", "zero", "Mean of the data residual."),
    "data_residual_lag1": Metric(
        "Data residual, whiteness", "", "zero", "Largest correlation of neighbouring voxels of the data residual."
    ),
    "changed_outside": Metric(
        "Changed outside of the hole", "voxels", "zero", "Voxels outside of the hole whose value is not the scan's."
    ),
    "hole_border_jump": Metric(
        "Step at the hole's border", "", "one", "Mean step across the border over the mean step just beside it."
    ),
    "hole_beside_constant": Metric(
        "Constant beside the hole", "", "zero", "Share of the voxels beside the hole that hold the artefact's value."
    ),
    "hole_share": Metric("Share of the hole", "", "", "Share of the scan that was filled."),
}


def write(folder: Path, file: Path | None = None) -> Path:
    """Write the report of a finished run.

    Args:
        folder: the run's output folder, with ``run.json``.
        file: the report; ``report.html`` in the folder when ``None``.

    Returns:
        The file.

    Raises:
        UsageError: the folder is no run of medidiff's.
        NoScanFound: the run has no case.
        CannotWrite: the report cannot be written.
    """
    target = folder / NAME if file is None else file
    draw(read(folder), folder, target)
    return target


def draw(record: Mapping[str, Any], folder: Path, file: Path) -> None:
    """Write the report of a run whose record is at hand.

    Args:
        record: as ``run.json`` holds it.
        folder: what its paths are relative to.
        file: the report.

    Raises:
        NoScanFound: the run has no case.
        CannotWrite: the report cannot be written.
    """
    from medidiff.evaluation import report

    report.write(evaluation(record, folder), file)


def read(folder: Path) -> dict[str, Any]:
    """The record of a run.

    Raises:
        UsageError: there is none.
    """
    file = folder / "run.json"
    try:
        record = limits.read_json(file)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder} holds no run.json that can be read; name the output folder of a run.") from error
    if not is_run_record(record):
        raise UsageError(f"{file} is not the record of a medidiff run; name the output folder of a run.")
    if why := records.why_no_run(record):
        raise UsageError(f"{file} is damaged ({why}); run again with the same output folder.")
    return dict(record)


@dataclass
class _Found:
    """What is gathered over the cases.

    Attributes:
        roots: folders that must not stand in a sentence.
        shelf: the scans that were read last.
        cases: of the evaluation.
        figures: of all cases.
        missing: what was left out.
    """

    roots: Sequence[str]
    shelf: Shelf = field(default_factory=Shelf)
    cases: list[EvaluatedCase] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def failed(self, name: str, reason: str) -> None:
        """A case without a result."""
        self.cases.append(EvaluatedCase(name, "", (1.0, 1.0, 1.0), "", (), failures={METHOD: reason}))


def evaluation(record: Mapping[str, Any], folder: Path) -> Evaluation:
    """What a run found, without any reference.

    Args:
        record: ``run.json``.
        folder: where it lies; its paths are relative to it.

    Raises:
        NoScanFound: the run has no case.
    """
    if not record["cases"]:
        raise NoScanFound(f"The run in {folder} has no case; there is nothing to report.")
    found = _Found(_roots(record.get("command") or ()))
    for entry in record["cases"]:
        _add(entry, folder, found)
    used = {figure.metric for figure in found.figures}
    own = {name: metric for name, metric in METRICS.items() if name in used}
    tasks = list(dict.fromkeys(case.task for case in found.cases if case.task))
    trees = [case.sidecar for case in found.cases if case.sidecar]
    first: Mapping[str, Any] = trees[0] if trees else {}
    return Evaluation(
        kind="run",
        title=f"{' and '.join(tasks).capitalize() or 'Restore'}: {_plural(len(record['cases']), 'scan')}",
        methods=("input", METHOD),
        cases=tuple(found.cases),
        metrics={**catalogue.used(used), **own},
        figures=tuple(found.figures),
        settings={"task": tasks, "restore": (first.get("config") or {}).get("restore") or {}},
        missing=tuple(found.missing),
        provenance={
            "medidiff": record.get("medidiff"),
            "command": _discreet_command(record.get("command") or ()),
            "started": record.get("started"),
            "finished": record.get("finished"),
            "status": record.get("status"),
            "pipelines": _pipelines(trees),
            "packages": first.get("packages") or {},
            "platform": first.get("platform") or {},
        },
    )


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _pipelines(trees: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    named = (tree.get("pipeline") or {} for tree in trees)
    return {f"{each.get('name')} {each.get('version')}": str(each.get("weights_sha256")) for each in named if each}


def _roots(command: Sequence[str]) -> list[str]:
    """The folders of the absolute paths in a command, longest first: what must not stand in a sentence."""
    paths = (PurePosixPath(part.replace("\\", "/")) for part in command)
    absolute = {
        path.parent.as_posix() for path in paths if path.is_absolute() or re.match(r"[A-Za-z]:/", path.as_posix())
    }
    return sorted((root.rstrip("/") + "/" for root in absolute if root.strip("/")), key=len, reverse=True)


def _discreet(text: str, roots: Sequence[str]) -> str:
    for root in roots:
        text = text.replace(root, "").replace(root.replace("/", "\\"), "")
    return text


def _discreet_command(command: Sequence[str]) -> str:
    """The command with every path cut down to its last part."""
    parts = (re.sub(r"^(--[\w-]+=)?.*[\\/]", r"\1", part.rstrip("/\\")) or part for part in command)
    return " ".join(f'"{part}"' if " " in part else part for part in parts)


def _add(entry: Mapping[str, Any], folder: Path, found: _Found) -> None:
    """One case of the record: as many cases of the evaluation as it has volumes that are shown."""
    if entry.get("status") == "failed" or not (entry.get("outputs") or {}).get("restored"):
        given = PurePosixPath(str(entry.get("input", ""))).name
        reason = _discreet(str(entry.get("reason") or "It was not restored."), found.roots)
        found.failed(str(entry.get("name") or nifti_stem(given) or given), reason)
        return
    files = ResultFiles(entry, folder, found.shelf)
    if files.tree is None:
        found.failed(files.name, "Its sidecar cannot be read.")
        return
    found.missing += files.missing
    volumes: Sequence[Mapping[str, Any]] = files.tree.get("volumes") or ()
    order = sorted(range(len(volumes)), key=lambda index: (not _verdicts(volumes[index]), index))
    if len(volumes) > MOST_VOLUMES:
        found.missing.append(
            f"{files.name}: of its {len(volumes)} volumes {MOST_VOLUMES} are shown, first those with a verdict."
        )
    for index in sorted(order[:MOST_VOLUMES]):
        try:
            case = _case(files, index, volumes[index], several=len(volumes) > 1)
            found.figures += _figures(case, files, index, volumes[index])
        except (MedidiffError, OSError, IndexError) as error:
            reason = str(error) if isinstance(error, MedidiffError) else "its files cannot be read"
            found.failed(files.name, _discreet(reason, found.roots))
            continue
        found.cases.append(case)


def _region(name: str) -> str:
    """Where a figure of the guard was taken."""
    return "foreground" if name == "noise_percent" else "hole" if name in HOLE else "full"


def _verdicts(volume: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, (volume.get("guard") or {}).get("verdicts") or ()))


def _notes(tree: Mapping[str, Any], volume: Mapping[str, Any]) -> list[str]:
    """What a sidecar notes of the scan or of one volume, without what it notes of the others."""
    own = records.warnings_of(volume)
    of_all = [text for each in tree.get("volumes") or () for text in records.warnings_of(each)]
    return [text for text in tree.get("notes") or () if text not in of_all or text in own]


def _case(files: ResultFiles, index: int, volume: Mapping[str, Any], *, several: bool) -> EvaluatedCase:
    """One volume as a case."""
    label = f" ({volume.get('label') or f'volume {index + 1}'})" if several else ""
    i, j, k = (float(size) for size in (volume.get("restored") or volume).get("spacing_mm") or (1, 1, 1))
    units = str(volume.get("units") or "")
    there = bool(files.roles)
    return EvaluatedCase(
        name=f"{files.name}{label}",
        task=files.task,
        spacing=(i, j, k),
        units="" if units == "a.u." else units,
        images=tuple(_shown(files, index)),
        verdicts=_verdicts(volume),
        checks=(volume.get("guard") or {}).get("figures") or {},
        sidecar={**(files.tree or {}), "volumes": [volume], "notes": _notes(files.tree or {}, volume)},
        failures={} if there else {METHOD: "The restored image is no longer where it was."},
        orientation=files.orientation(index) if there else "",
        pattern=files.pattern,
    )


def _shown(files: ResultFiles, index: int) -> Iterator[Shown]:
    for role in get_args(Role):
        if role in files.roles:
            method = {"input": "input", "hole": ""}.get(role, METHOD)
            yield Shown(role, method, partial(files.image, role, index))


def _figures(case: EvaluatedCase, files: ResultFiles, index: int, volume: Mapping[str, Any]) -> Iterator[Figure]:
    """What the guard found, and for denoising what the images show without a reference."""
    figures = {"noise_percent": (volume.get("record") or {}).get("noise_percent"), **case.checks}
    for name in METRICS:
        value = figures.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield Figure(case.name, METHOD, name, _region(name), float(value))
    if case.task == "denoise" and {"input", "restored"} <= set(files.roles):
        before, after = files.image("input", index), files.image("restored", index)
        found = unreferenced.figures(before, after, str(volume.get("modality") or "OT"))
        for name, value in found.items():
            if math.isfinite(value):
                yield Figure(case.name, METHOD, name, "full", value)
