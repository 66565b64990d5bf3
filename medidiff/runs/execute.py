"""A run: plan, then for each case read, restore, write, sidecar, record; one bad case never ends the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from medidiff._version import __version__
from medidiff.config import RunConfig
from medidiff.errors import CannotWrite, ExitCode, MedidiffError
from medidiff.runs import bids, garbage, locks, settings
from medidiff.runs.attempt import Outcome, attempt
from medidiff.runs.plan import Plan, PlannedCase, make_plan
from medidiff.runs.record import RunRecord, RunStatus, refuse_foreign
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
    locks.recover(folder_of(config))
    plan = make_plan(config, reporter.status)
    outputs.check_writable(plan.folder)
    if plan.run_file is not None:
        refuse_foreign(plan.run_file)
        outputs.remove_leftovers(plan.folder)
    if config.bids:
        bids.begin(config, [(case.ref, case.names) for case in plan.cases])
    if not locks.supported(plan.folder):
        reporter.warning(locks.NO_LOCKS.format(folder=plan.folder))
    record = RunRecord(__version__, tuple(command), plan.run_file, settings.portable(config, plan.folder))
    try:
        with record.open([locks.key(plan.folder, case.names) for case in plan.cases]):
            return carry_out(config, plan, record, reporter)
    finally:
        locks.sweep(plan.folder)


def folder_of(config: RunConfig) -> Path:
    """The folder of the outputs."""
    return config.output.parent if outputs.is_file_name(config.output) else config.output


def carry_out(config: RunConfig, plan: Plan, record: RunRecord, reporter: Reporter) -> RunResult:
    """Work on the cases of a plan, and close the record whatever happens.

    Raises:
        PipelineError: the pipeline or its weights are missing or damaged.
        CannotWrite: the output folder takes nothing any more.
    """
    failed: list[ExitCode] = []
    try:
        reporter.planned(plan)
        with source(config, plan, reporter) as cases:
            try:
                take(cases, config, plan, record, reporter, failed)
            except KeyboardInterrupt:
                cases.stop()
                take(cases, config, plan, record, reporter, failed)  # those that are being written
                raise
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


def take(
    cases: Source, config: RunConfig, plan: Plan, record: RunRecord, reporter: Reporter, failed: list[ExitCode]
) -> None:
    """Note what becomes of each case, and what failed.

    Raises:
        CannotWrite: the output folder takes nothing any more.
    """
    stopped = False
    for case, outcome in cases:
        record.add(locks.key(plan.folder, case.names), outcome.result)
        reporter.finished(case, outcome.result, outcome.error)
        if outcome.error is None:
            continue
        failed.append(code_of(outcome.error))  # the error itself would keep the arrays of its frames
        if config.fail_fast and not stopped:
            stopped = True
            reporter.note("Stopped at the first failure, as --fail-fast asks.")
            cases.stop()
        if isinstance(outcome.error, CannotWrite) and not stopped:  # a full disk ends the run, one bad name does not
            if outcome.error.everywhere:
                raise CannotWrite(f"Ended at scan {len(record.cases)} of {len(plan.cases)}: {outcome.error}")
            outputs.check_writable(plan.folder)


class Source(Protocol):
    """Where the cases are worked on: here, or by several workers."""

    def __iter__(self) -> Iterator[tuple[PlannedCase, Outcome]]:
        """What became of each case, as soon as it is known; may be gone through again after `stop`."""

    def stop(self) -> None:
        """Begin no case any more."""


@contextmanager
def source(config: RunConfig, plan: Plan, reporter: Reporter) -> Iterator[Source]:
    """Where the cases of a run are worked on; what it needs is loaded or started.

    Raises:
        UsageError: there are no such workers.
        PipelineError: the pipeline or its weights are missing or damaged.
    """
    if config.spread and plan.count("todo"):
        from medidiff.runs import cluster

        with cluster.crew(config, plan, reporter) as crew:
            yield crew
    else:
        yield Here(config, plan, load(config, plan) if plan.count("todo") else None, reporter)


class Here:
    """Works on one case after the other; those that another run has in hand come last, when it let go of them."""

    def __init__(self, config: RunConfig, plan: Plan, restorer: Restorer | None, reporter: Reporter) -> None:
        self.config, self.plan, self.restorer, self.reporter = config, plan, restorer, reporter
        self.stopped = False

    def stop(self) -> None:
        """Begin no case any more."""
        self.stopped = True

    def __iter__(self) -> Iterator[tuple[PlannedCase, Outcome]]:
        """Work on the cases."""
        try:
            yield from self.one_by_one()
        finally:
            garbage.restore()

    def one_by_one(self) -> Iterator[tuple[PlannedCase, Outcome]]:
        """Work on the cases, over and over until another run has none of them in hand."""
        waiting = list(self.plan.cases)
        pause = 0.0
        while waiting:
            busy = []
            for case in waiting:
                if self.stopped:
                    return
                outcome = attempt(case, self.config, self.plan.folder, self.restorer, self.reporter)
                if outcome is None:
                    busy.append(case)
                else:
                    yield case, outcome
            if busy:
                self.reporter.status(f"waiting for {len(busy)} of the scans, which another run has in hand")
                pause = min(pause + 0.1, 2.0)
                time.sleep(pause)
            waiting = busy


def add_report(config: RunConfig, plan: Plan, record: RunRecord) -> None:
    """Write the report of a run that ended, and name it in the record.

    Raises:
        CannotWrite: it cannot be written.
    """
    from medidiff.runs import report

    single = outputs.nifti_stem(config.output.name) if plan.run_file is None else None
    file = plan.folder / (report.NAME if single is None else f"{single}_{report.NAME}")
    report.draw(record.joined(), plan.folder, file)
    record.name_report(file.name)


def load(config: RunConfig, plan: Plan) -> Restorer:
    """Load the pipeline of the plan, or the chooser among several; this is where torch comes in."""
    from medidiff import pipelines

    name = plan.pipelines[0].path if len(plan.pipelines) == 1 else pipelines.DEFAULT
    return pipelines.load(name, config.task, compute=config.compute)


def code_of(error: BaseException) -> ExitCode:
    """The exit code of one failure."""
    return error.exit_code if isinstance(error, MedidiffError) else ExitCode.ALL_FAILED


def exit_code(failed: Sequence[ExitCode], tried: int) -> ExitCode:
    """The exit code out of the failures: a common cause is named when nothing succeeded."""
    if not failed:
        return ExitCode.OK
    if len(failed) < tried:
        return ExitCode.SOME_FAILED
    common = failed[0] if len(set(failed)) == 1 else ExitCode.ALL_FAILED
    return common if common in NAMED_CAUSES else ExitCode.ALL_FAILED
