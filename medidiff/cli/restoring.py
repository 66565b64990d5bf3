"""What ``denoise``, ``superres`` and ``inpaint`` do with their flags: settings, then a run or a dry run."""

from __future__ import annotations

import sys
from collections.abc import Set
from pathlib import Path
from typing import Any

import rich_click as click
from click.core import ParameterSource
from pydantic import BaseModel, ValidationError

from medidiff.cli.options import show_json
from medidiff.config import BALANCED, ComputeOptions, RestoreOptions, RunConfig, Task, describe
from medidiff.errors import ExitCode, NoScanFound, UsageError
from medidiff.scans.outputs import nifti_stem

SECTIONS: dict[str, type[BaseModel]] = {"restore": RestoreOptions, "compute": ComputeOptions}
FINENESS = {"factor", "spacing"}


def perform(ctx: click.Context, task: Task, flags: dict[str, Any]) -> int:
    """Carry out a command and give its exit code.

    Raises:
        UsageError: a flag is wrong, or the log would replace a scan.
    """
    ctx.obj.verbosity = -1 if flags["quiet"] else flags["verbose"]
    given = {name for name in flags if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
    config = settings(task, flags, given)
    if flags["log_file"] in config.inputs or nifti_stem(str(flags["log_file"])) is not None:
        raise UsageError(f"The log {flags['log_file']} is a scan; choose another file.")
    try:
        if flags["dry_run"]:
            from medidiff.cli.dry_run import show

            show(config, as_json=flags["as_json"])
            return int(ExitCode.OK)
        return execute(config, flags, ctx.obj.verbosity)
    except NoScanFound as error:
        from medidiff.cli.progress import Lines

        Lines(1 if flags["dry_run"] else ctx.obj.verbosity).left_out(error.left_out)
        raise


def settings(task: Task, flags: dict[str, Any], given: Set[str]) -> RunConfig:
    """The flags as a run's settings, over those of ``--config``; a task without a flag takes the default.

    Args:
        task: the command.
        flags: the value of every flag.
        given: the names of the flags that the user gave.

    Raises:
        UsageError: a value is out of range, or two do not go together.
    """
    tree, file = as_settings(flags), None
    if flags["config_file"] is not None:
        mine = as_settings({name: value for name, value in flags.items() if name in given})
        file = from_file(flags["config_file"], task, mine.keys())
        tree = over(file, mine)
    if not tree.get("inputs"):
        raise UsageError("INPUT is missing; name at least one scan or folder, or a --config that does.")
    if not tree.get("output"):
        raise UsageError("The output is missing; name it with -o (--output), or a --config that does.")
    try:
        return RunConfig.model_validate({**tree, "task": task})
    except ValidationError as error:
        raise UsageError(f"{blamed(flags['config_file'], file, {**tree, 'task': task})}{describe(error)}") from error


def blamed(name: Path | None, file: dict[str, Any] | None, tree: dict[str, Any]) -> str:
    """How a sentence on wrong settings begins: with the file that is wrong alone, or only together with the flags.

    Args:
        name: of the file; ``None`` when there is none.
        file: what it holds.
        tree: all settings; those that the file may lack are taken from here.
    """
    if file is None:
        return ""
    try:
        RunConfig.model_validate({"inputs": tree["inputs"], "output": tree["output"], **file, "task": tree["task"]})
    except ValidationError:
        return f"{name}: "
    return f"With the settings of {name}: "


def as_settings(flags: dict[str, Any]) -> dict[str, Any]:
    """Flags under the names of the settings."""
    tree = {name: flags[name] for name in RunConfig.model_fields if name in flags}
    if "no_recursive" in flags:
        tree["recursive"] = not flags["no_recursive"]
    if "resume" in flags:
        tree["existing"] = "resume" if flags["resume"] else "overwrite"
    for section, model in SECTIONS.items():
        tree[section] = {name: flags[name] for name in model.model_fields if name in flags}
    return tree


def from_file(file: Path, task: Task, replaced: Set[str] = frozenset()) -> dict[str, Any]:
    """The settings of ``--config``.

    Args:
        file: the file.
        task: the command.
        replaced: the settings that the user gives beside it.

    Raises:
        UsageError: the file cannot be read, holds no settings, those of another command, or of a scan whose place it
            does not tell.
    """
    from medidiff.runs import settings

    tree = settings.read(file)
    if tree.get("task", task) != task:
        raise UsageError(f"{file} holds settings of {tree['task']}; run medidiff {tree['task']} with it.")
    settings.refuse_unplaced(file, {name: value for name, value in tree.items() if name not in replaced})
    for section in SECTIONS:
        if not isinstance(tree.setdefault(section, {}), dict):
            raise UsageError(f"{file}: {section} is not a table of settings.")
    return tree


def over(file: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file with one's own over them."""
    if FINENESS & mine["restore"].keys():  # one question with two ways to answer it
        file = {**file, "restore": {name: value for name, value in file["restore"].items() if name not in FINENESS}}
    if "preset" in mine["restore"]:  # a record holds what another preset set
        file = {**file, "restore": {name: value for name, value in file["restore"].items() if name not in BALANCED}}
    return {**file, **mine, **{section: {**file[section], **mine[section]} for section in SECTIONS}}


def execute(config: RunConfig, flags: dict[str, Any], verbosity: int) -> int:
    """Run, print the results on stdout, and give the exit code."""
    from medidiff import runs
    from medidiff.cli import progress

    with progress.log_to(flags["log_file"]):
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
