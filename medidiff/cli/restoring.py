"""What ``denoise``, ``superres`` and ``inpaint`` do with their flags: settings, then a run or a dry run."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import rich_click as click
from pydantic import ValidationError

from medidiff.cli.options import show_json
from medidiff.config import ComputeOptions, RestoreOptions, RunConfig, Task, describe
from medidiff.errors import ExitCode, UsageError
from medidiff.scans.outputs import nifti_stem


def perform(ctx: click.Context, task: Task, flags: dict[str, Any]) -> int:
    """Carry out a command and give its exit code.

    Raises:
        UsageError: a flag is wrong, or the log would replace a scan.
    """
    ctx.obj.verbosity = -1 if flags["quiet"] else flags["verbose"]
    config = settings(task, flags)
    if flags["log_file"] in config.inputs or nifti_stem(str(flags["log_file"])) is not None:
        raise UsageError(f"The log {flags['log_file']} is a scan; choose another file.")
    if flags["dry_run"]:
        from medidiff.cli.dry_run import show

        show(config, as_json=flags["as_json"])
        return int(ExitCode.OK)
    return execute(config, flags, ctx.obj.verbosity)


def settings(task: Task, flags: dict[str, Any]) -> RunConfig:
    """The flags as a run's settings; a task without a flag takes the default.

    Raises:
        UsageError: a value is out of range, or two do not go together.
    """
    try:
        return RunConfig(
            task=task,
            inputs=flags["inputs"],
            output=flags["output"],
            mask=flags.get("mask"),
            uncertainty=flags["uncertainty"],
            pipeline=flags["pipeline"],
            restore=RestoreOptions(**{key: flags[key] for key in RestoreOptions.model_fields if key in flags}),
            compute=ComputeOptions(**{key: flags[key] for key in ("device", "precision", "threads")}),
            include=flags["include"],
            exclude=flags["exclude"],
            recursive=not flags["no_recursive"],
            existing="resume" if flags["resume"] else "overwrite",
            fail_fast=flags["fail_fast"],
        )
    except ValidationError as error:
        raise UsageError(describe(error)) from error


def execute(config: RunConfig, flags: dict[str, Any], verbosity: int) -> int:
    """Run, print the results on stdout, and give the exit code."""
    from medidiff import runs
    from medidiff.cli import progress

    with progress.log_to(flags["log_file"]), stop_on_sigterm():
        with progress.reporter(flags["progress"], verbosity) as reporter:
            result = runs.run(config, reporter=reporter, command=command_line())
        cases = result.record.cases
        progress.Lines(-1 if flags["progress"] == "none" else verbosity).show(progress.summary(result.plan, cases))
    if flags["as_json"]:
        show_json(result.record.as_json())
    else:
        for case in cases:
            if case.restored is not None:
                click.echo(result.plan.folder / case.restored)
    if result.exit_code == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    return int(result.exit_code)


def command_line() -> list[str]:
    """The command as the user gave it."""
    return ["medidiff", *sys.argv[1:]]


@contextmanager
def stop_on_sigterm() -> Iterator[None]:
    """Let a batch system's SIGTERM end the run in the same good order as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
