"""``OUT/run.json``, the truth about a run: written whole and atomically after every case."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medidiff.errors import CannotWrite
from medidiff.runs.together import Journal
from medidiff.scans import limits, outputs
from medidiff.scans.volume import Kind

CaseStatus = Literal["done", "skipped", "failed"]
RunStatus = Literal["running", "done", "failed", "interrupted"]
PAUSE = 1.0  # seconds between two writings while cases are only skipped; a folder may hold thousands


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
        nifti: the restored scan as NIfTI, if it was written beside a DICOM series.
        sidecar: the JSON file that tells how the result came about.
        report: the report page, if one was written.
        name: of a DICOM series, the start of what its outputs are called, ``sub/301_Ax_T1``, which tells two series in
            one folder apart; empty for a NIfTI file.
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
    nifti: str | None = None
    sidecar: str | None = None
    report: str | None = None
    name: str = ""

    def as_json(self) -> dict[str, Any]:
        """The case as it stands in ``run.json``; name, supplied, sample and nifti only where they are not empty."""
        more = {"supplied": self.supplied, "sample": self.sample, "nifti": self.nifti}
        return {
            "input": self.input,
            "kind": self.kind,
            **({"name": self.name} if self.name else {}),
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
        keys: what tells each of the cases apart, see `locks.key`.
        journal: what other runs read that work in the folder at the same time; ``None`` before `open`.
        written: the clock at the last writing, seconds.
    """

    version: str
    command: tuple[str, ...]
    file: Path | None
    config: dict[str, Any] = field(default_factory=dict)
    started: str = field(default_factory=lambda: now())
    finished: str | None = None
    status: RunStatus = "running"
    cases: list[CaseResult] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    journal: Journal | None = None
    written: float = 0.0

    @contextmanager
    def open(self, planned: Sequence[str]) -> Iterator[None]:
        """Keep the record, together with other runs that work in the same folder.

        Args:
            planned: the keys of the cases that the run sets out to do.

        Raises:
            CannotWrite: the folder does not take the file.
        """
        if self.file is None:
            yield
            return
        self.journal = Journal(self.file.parent)
        try:
            self.journal.begin(self.head(), planned)
            self.write()
            yield
        finally:
            self.journal.end()

    def add(self, key: str, case: CaseResult) -> None:
        """Note a case and write the record.

        Args:
            key: what tells the case apart in its folder.
            case: what became of it.
        """
        self.cases.append(case)
        self.keys.append(key)
        self.tell(key, case)
        if case.status != "skipped" or time.monotonic() - self.written > PAUSE:
            self.write()

    def finish(self, status: RunStatus) -> None:
        """Close the record with the run's end state and write it."""
        self.finished = now()
        self.status = status
        if self.journal is not None:
            self.journal.append({"end": {"status": self.status, "finished": self.finished}})
        self.write()

    def name_report(self, name: str) -> None:
        """Note where the report lies that shows the cases which did not fail, and write the record."""
        self.cases = [case if case.status == "failed" else replace(case, report=name) for case in self.cases]
        for key, case in zip(self.keys, self.cases, strict=True):
            self.tell(key, case)
        self.write()

    def tell(self, key: str, case: CaseResult) -> None:
        """Let the other runs know of a case."""
        if self.journal is not None:
            self.journal.append({"key": key, "case": case.as_json()})

    def write(self) -> None:
        """Write the record; the file on disk is whole at every moment.

        Raises:
            CannotWrite: the folder does not take the file.
        """
        self.written = time.monotonic()
        if self.journal is not None and self.file is not None:
            with self.journal.writing():
                try:
                    outputs.write_json_atomic(self.file, self.joined())
                except CannotWrite:
                    if not self.journal.make_room():
                        raise
                    outputs.write_json_atomic(self.file, self.joined())

    def joined(self) -> dict[str, Any]:
        """The record as ``run.json`` holds it: with what other runs did that worked in the folder at the same time."""
        return self.as_json() if self.journal is None else self.journal.joined(self.as_json(), self.keys)

    def as_json(self) -> dict[str, Any]:
        """The record of this run alone, as it stands in ``run.json``."""
        return {**self.head(), "cases": [case.as_json() for case in self.cases]}

    def head(self) -> dict[str, Any]:
        """The record without its cases."""
        return {
            "medidiff": self.version,
            "command": list(self.command),
            "config": self.config,
            "started": self.started,
            "finished": self.finished,
            "status": self.status,
        }


def refuse_foreign(file: Path) -> None:
    """Stop before a ``run.json`` that medidiff did not write would be replaced.

    Raises:
        CannotWrite: such a file is there.
    """
    try:
        found = limits.read_json(file)
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
