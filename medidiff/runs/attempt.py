"""One case under its lock, and how it went; nothing that goes wrong with a scan leaves `attempt` as an exception."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medidiff import pipelines
from medidiff.config import RunConfig
from medidiff.errors import CannotWrite
from medidiff.runs import failures, garbage, locks, paths, sidecar
from medidiff.runs.case import restore_case
from medidiff.runs.plan import PlannedCase, judge
from medidiff.runs.record import CaseResult, CaseStatus
from medidiff.runs.reporter import Reporter
from medidiff.scans import outputs

if TYPE_CHECKING:
    from medidiff.pipelines import Restorer


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        result: as the run's record holds it.
        error: what is behind a failure, as one of medidiff's own errors where its nature is known.
    """

    result: CaseResult
    error: BaseException | None = None


def attempt(
    case: PlannedCase, config: RunConfig, folder: Path, restorer: Restorer | None, reporter: Reporter
) -> Outcome | None:
    """Work on one case, unless another run has it in hand; only an interruption leaves as an exception.

    Args:
        case: the case.
        config: the run's settings.
        folder: the run's output folder.
        restorer: the pipeline, or the chooser among several; ``None`` when there is nothing to do.
        reporter: hears of the progress.

    Returns:
        How it went; ``None`` when another run has it in hand, so that it is to be tried again later.
    """
    start = time.perf_counter()
    if case.state != "todo" or restorer is None:
        return outcome(case, folder, start)
    with locks.in_hand(folder, case.names) as mine:
        if not mine:
            return None
        case = judged_again(case, config)
        if case.state != "todo":
            return outcome(case, folder, start)
        reporter.started(case)
        try:
            restore_case(case, config, restorer, reporter)
        except Exception as error:
            reason = failures.sentence(error, case.ref)
            return Outcome(result(case, folder, start, "failed", reason), failures.classified(error))
        finally:
            gc.collect()
            garbage.lighten()
        return Outcome(result(case, folder, start, "done"))


def outcome(case: PlannedCase, folder: Path, start: float) -> Outcome:
    """How a case went in which there was nothing to do, or nothing to be done."""
    if case.state == "done":
        return Outcome(result(case, folder, start, "skipped", case.reason))
    return Outcome(result(case, folder, start, "failed", case.reason), CannotWrite(case.reason))


def judged_again(case: PlannedCase, config: RunConfig) -> PlannedCase:
    """The case as it stands now that nobody else works on it; another run may have finished it since the plan."""
    stamp = sidecar.stamp(case.names.sidecar)
    if stamp == case.before:
        return case
    able = pipelines.candidates(config.pipeline, task=config.task)
    resumed = config.model_copy(update={"existing": "resume"})  # what another run makes now is made, even to overwrite
    now = judge(replace(case, before=stamp), resumed, able, outputs.is_file_name(config.output))
    if now.state == "done":
        return replace(now, reason=f"{case.names.restored} was made by another run at the same time.")
    return now


def result(case: PlannedCase, folder: Path, start: float, status: CaseStatus, reason: str = "") -> CaseResult:
    """The entry of a case in the record of the run that has ``folder`` as its output."""
    names, there = case.names, status != "failed"

    def written(path: Path) -> str | None:
        return paths.relative(path, folder) if there and paths.exists(path) else None

    return CaseResult(
        input=paths.relative(case.ref.path, folder),
        name=paths.relative(names.restored.with_name(case.ref.stem), folder) if case.ref.kind == "dicom" else "",
        kind=case.ref.kind,
        status=status,
        reason=reason,
        seconds=time.perf_counter() - start,
        restored=paths.relative(names.restored, folder) if there else None,
        uncertainty=written(names.uncertainty),
        supplied=written(names.supplied),
        sample=written(names.sample),
        nifti=None if names.as_nifti is None else written(names.as_nifti),
        sidecar=paths.relative(names.sidecar, folder) if there else None,
    )
