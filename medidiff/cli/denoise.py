"""``medidiff denoise``."""

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

from medidiff.cli.options import DeviceParam, NoiseParam, PathParam, show_json
from medidiff.config import ComputeOptions, RestoreOptions, RunConfig, describe
from medidiff.errors import ExitCode, UsageError
from medidiff.scans.outputs import nifti_stem


@click.command("denoise")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=PathParam())
@click.option(
    "-o",
    "--output",
    "output",
    required=True,
    metavar="OUT",
    type=PathParam(),
    help="Output folder; with one NIfTI input it may be a file name (.nii, .nii.gz).",
)
@click.option(
    "-p",
    "--pipeline",
    default="auto",
    show_default=True,
    metavar="NAME|PATH",
    help="Pretrained pipeline; `medidiff list` shows them.",
)
@click.option(
    "--noise",
    type=NoiseParam(),
    default="auto",
    show_default=True,
    help="Noise level in percent of the bright foreground, or auto to estimate it from the scan.",
)
@click.option(
    "--strength",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    metavar="X",
    help="0 leaves the scan as it is, 1 removes all the noise found.",
)
@click.option(
    "--samples",
    type=click.IntRange(0, 1024),
    default=0,
    show_default=True,
    metavar="N",
    help="Posterior samples, from which an uncertainty map is made; 0 gives the posterior mean only.",
)
@click.option(
    "--steps",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    metavar="K",
    help="Diffusion steps of each sample.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="S", help="Seed of the samples.")
@click.option("--device", type=DeviceParam(), default="auto", show_default=True, help="Where to compute.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Number format of the network.",
)
@click.option("--threads", type=click.IntRange(1), metavar="N", help="CPU threads; all cores by default.")
@click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match; may be repeated.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Leave out files that match; may be repeated.")
@click.option("--no-recursive", is_flag=True, help="Do not look into subfolders.")
@click.option(
    "--resume/--overwrite",
    "resume",
    default=True,
    show_default=True,
    help="Skip results that still stand (same input, options and weights), or make all again.",
)
@click.option("--fail-fast", is_flag=True, help="Stop at the first scan that fails.")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show failures only.")
@click.option("-v", "--verbose", count=True, metavar="", help="Show notes; -vv also shows tracebacks.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "none"]),
    default="auto",
    show_default=True,
    help="Bars on a terminal, one line a scan, or failures only.",
)
@click.option("--log", "log_file", metavar="FILE", type=PathParam(), help="Append the lines of the run to FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's record as JSON on stdout.")
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> int:
    """Denoise NIfTI files, DICOM series and folders of them.

    Each result lies in OUT under the name of its scan with `_denoised`, beside a JSON file that tells how it was made;
    OUT/run.json lists all scans. The paths of the results are printed on stdout.
    """
    ctx.obj.verbosity = -1 if flags["quiet"] else flags["verbose"]
    config = settings(flags)
    if flags["log_file"] in config.inputs or nifti_stem(str(flags["log_file"])) is not None:
        raise UsageError(f"The log {flags['log_file']} is a scan; choose another file.")
    if flags["dry_run"]:
        from medidiff.cli.dry_run import show

        show(config, as_json=flags["as_json"])
        return int(ExitCode.OK)
    return execute(config, flags, ctx.obj.verbosity)


def settings(flags: dict[str, Any]) -> RunConfig:
    """The flags as a run's settings.

    Raises:
        UsageError: a value is out of range.
    """
    try:
        return RunConfig(
            task="denoise",
            inputs=flags["inputs"],
            output=flags["output"],
            pipeline=flags["pipeline"],
            restore=RestoreOptions(**{key: flags[key] for key in ("noise", "strength", "samples", "steps", "seed")}),
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
