"""A run: plan, then for each case read, restore, write, sidecar, record; one bad case never ends the others."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medidiff._version import __version__
from medidiff.config import RunConfig
from medidiff.errors import CannotWrite, ExitCode, MedidiffError
from medidiff.runs import failures, paths, settings
from medidiff.runs.case import restore_case
from medidiff.runs.plan import Plan, PlannedCase, make_plan
from medidiff.runs.record import CaseResult, CaseStatus, RunRecord, RunStatus, refuse_foreign
from medidiff.runs.reporter import Reporter
from medidiff.scans import outputs

if TYPE_CHECKING:
    from medidiff.pipelines import Restorer

NAMED_CAUSES = (ExitCode.PIPELINE, ExitCode.MEMORY, ExitCode.CANNOT_WRITE)


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        exit_code: the exit code of the command.
        status: ``done``, ``failed`` or ``interrupted``.
        record: the run's record, as ``run.json`` holds it.
        plan: what the run set out to do.
    """

    exit_code: ExitCode
    status: RunStatus
    record: RunRecord
    plan: Plan


def run(config: RunConfig, *, reporter: Reporter, command: Sequence[str] = ()) -> RunResult:
    """Restore every scan of the inputs.

    Ctrl-C ends the run in good order: the file in hand is finished or removed, the record says ``interrupted``.

    Args:
        config: what to do.
        reporter: hears of the progress.
        command: the command line, for the record.

    Raises:
        UsageError: an argument is wrong, or the output would touch the input.
        NoScanFound: nothing in the input can be processed.
        PipelineError: the pipeline or its weights are missing or damaged.
        CannotWrite: the output folder cannot be written.
    """
    plan = make_plan(config)
    outputs.check_writable(plan.folder)
    if plan.run_file is not None:
        refuse_foreign(plan.run_file)
        outputs.remove_leftovers(plan.folder)
    record = RunRecord(__version__, tuple(command), plan.run_file, settings.portable(config, plan.folder))
    failed: list[BaseException] = []
    try:
        record.write()
        reporter.planned(plan)
        restorer = load(config, plan) if plan.count("todo") else None
        for case in plan.cases:
            result, error = attempt(case, config, plan, restorer, reporter)
            record.add(result)
            reporter.finished(case, result, error)
            if error is not None:
                failed.append(error)
                if config.fail_fast:
                    reporter.note("Stopped at the first failure, as --fail-fast asks.")
                    break
                if isinstance(error, CannotWrite):
                    outputs.check_writable(plan.folder)  # a full disk ends the run, one bad name does not
    except KeyboardInterrupt:
        with suppress(CannotWrite):
            record.finish("interrupted")
        return RunResult(ExitCode.INTERRUPTED, "interrupted", record, plan)
    except Exception:
        with suppress(CannotWrite):
            record.finish("failed")
        raise
    status: RunStatus = "failed" if failed else "done"
    record.finish(status)
    if config.report and record.cases:
        add_report(config, plan, record)
    return RunResult(exit_code(failed, len(record.cases)), status, record, plan)


def add_report(config: RunConfig, plan: Plan, record: RunRecord) -> None:
    """Write the report of a run that ended, and name it in the record.

    Raises:
        CannotWrite: it cannot be written.
    """
    from medidiff.runs import report

    single = outputs.nifti_stem(config.output.name) if plan.run_file is None else None
    file = plan.folder / (report.NAME if single is None else f"{single}_{report.NAME}")
    report.draw(record.as_json(), plan.folder, file)
    record.cases = [case if case.status == "failed" else replace(case, report=file.name) for case in record.cases]
    record.write()


def load(config: RunConfig, plan: Plan) -> Restorer:
    """Load the pipeline of the plan, or the chooser among several; this is where torch comes in."""
    from medidiff import pipelines

    name = plan.pipelines[0].path if len(plan.pipelines) == 1 else pipelines.DEFAULT
    return pipelines.load(name, config.task, compute=config.compute)


def attempt(
    case: PlannedCase, config: RunConfig, plan: Plan, restorer: Restorer | None, reporter: Reporter
) -> tuple[CaseResult, BaseException | None]:
    """Work on one case and tell how it went; only an interruption leaves this function as an exception."""
    start = time.perf_counter()

    def result(status: CaseStatus, reason: str = "") -> CaseResult:
        there = status != "failed"
        names, folder = case.names, plan.folder

        def written(path: Path) -> str | None:
            return paths.relative(path, folder) if there and paths.exists(path) else None

        return CaseResult(
            input=paths.relative(case.ref.path, folder),
            kind=case.ref.kind,
            status=status,
            reason=reason,
            seconds=time.perf_counter() - start,
            restored=paths.relative(names.restored, folder) if there else None,
            uncertainty=written(names.uncertainty),
            supplied=written(names.supplied),
            sample=written(names.sample),
            sidecar=paths.relative(names.sidecar, folder) if there else None,
        )

    if case.state == "done":
        return result("skipped", case.reason), None
    if case.state == "refused" or restorer is None:
        return result("failed", case.reason), CannotWrite(case.reason)
    reporter.started(case)
    try:
        restore_case(case, config, restorer, reporter)
    except Exception as error:
        return result("failed", failures.sentence(error, case.ref)), failures.classified(error)
    finally:
        gc.collect()
    return result("done"), None


def exit_code(failed: Sequence[BaseException], tried: int) -> ExitCode:
    """The exit code out of the failures: a common cause is named when nothing succeeded."""
    if not failed:
        return ExitCode.OK
    if len(failed) < tried:
        return ExitCode.SOME_FAILED
    codes = {error.exit_code if isinstance(error, MedidiffError) else ExitCode.ALL_FAILED for error in failed}
    common = codes.pop() if len(codes) == 1 else ExitCode.ALL_FAILED
    return common if common in NAMED_CAUSES else ExitCode.ALL_FAILED
