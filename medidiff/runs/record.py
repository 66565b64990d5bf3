"""``OUT/run.json``, the truth about a run: written whole and atomically after every case."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medidiff.errors import CannotWrite
from medidiff.scans import outputs
from medidiff.scans.volume import Kind

CaseStatus = Literal["done", "skipped", "failed"]
RunStatus = Literal["running", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class CaseResult:
    """What became of one case; all paths are relative to the run's folder, with forward slashes.

    Attributes:
        input: the NIfTI file or the DICOM folder.
        kind: the file format.
        status: ``done``, ``skipped`` (the result was already there) or ``failed``.
        reason: one sentence for a skipped or failed case, empty for a done one.
        seconds: the time spent on it.
        restored: the restored file, or the folder of a DICOM series.
        uncertainty: the uncertainty map, if one was written.
        supplied: the map of what the prior supplied, if one was written.
        sample: the generated sample, if one was written.
        sidecar: the JSON file that tells how the result came about.
        report: the report page, if one was written.
    """

    input: str
    kind: Kind
    status: CaseStatus
    reason: str = ""
    seconds: float = 0.0
    restored: str | None = None
    uncertainty: str | None = None
    supplied: str | None = None
    sample: str | None = None
    sidecar: str | None = None
    report: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The case as it stands in ``run.json``; supplied and sample stand there only when they were written."""
        more = {"supplied": self.supplied, "sample": self.sample}
        return {
            "input": self.input,
            "kind": self.kind,
            "status": self.status,
            "reason": self.reason,
            "seconds": round(self.seconds, 3),
            "outputs": {
                "restored": self.restored,
                "uncertainty": self.uncertainty,
                "sidecar": self.sidecar,
                "report": self.report,
                **{name: path for name, path in more.items() if path is not None},
            },
        }


@dataclass
class RunRecord:
    """The growing record of a run.

    Attributes:
        version: medidiff's version.
        command: the command as the user gave it.
        file: where the record is kept, or ``None`` when the output is one named file and no record is written.
        config: the run's settings, paths relative to its folder: ``--config run.json`` repeats the run.
    """

    version: str
    command: tuple[str, ...]
    file: Path | None
    config: dict[str, Any] = field(default_factory=dict)
    started: str = field(default_factory=lambda: now())
    finished: str | None = None
    status: RunStatus = "running"
    cases: list[CaseResult] = field(default_factory=list)

    def add(self, case: CaseResult) -> None:
        """Note a case and write the record."""
        self.cases.append(case)
        self.write()

    def finish(self, status: RunStatus) -> None:
        """Close the record with the run's end state and write it."""
        self.finished = now()
        self.status = status
        self.write()

    def write(self) -> None:
        """Write the record; the file on disk is whole at every moment.

        Raises:
            CannotWrite: the folder does not take the file.
        """
        if self.file is not None:
            outputs.write_json_atomic(self.file, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The record as it stands in ``run.json``."""
        return {
            "medidiff": self.version,
            "command": list(self.command),
            "config": self.config,
            "started": self.started,
            "finished": self.finished,
            "status": self.status,
            "cases": [case.as_json() for case in self.cases],
        }


def refuse_foreign(file: Path) -> None:
    """Stop before a ``run.json`` that medidiff did not write would be replaced.

    Raises:
        CannotWrite: such a file is there.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not is_run_record(found):
        raise CannotWrite(
            f"{file} exists and was not written by medidiff; choose another output folder or move it away."
        )


def is_run_record(found: object) -> bool:
    """Whether parsed JSON is the record of a medidiff run."""
    return isinstance(found, dict) and "medidiff" in found and "cases" in found


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
