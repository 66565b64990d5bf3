"""The command group, and the one place where errors become a sentence and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import rich_click as click
from click import exceptions

from medidiff._version import __version__
from medidiff.cli.stopping import good_order
from medidiff.errors import EXIT_MEANINGS, ExitCode, MedidiffError

# Command name -> module of this package; a module is imported only when its command is wanted.
COMMANDS = {
    "denoise": "denoise",
    "superres": "superres",
    "inpaint": "inpaint",
    "evaluate": "evaluate",
    "benchmark": "benchmark",
    "report": "report",
    "verify": "verify",
    "list": "list_pipelines",
    "info": "info",
    "doctor": "doctor",
    "train": "train",
    "finetune": "finetune",
    "calibrate": "calibrate",
    "export": "export",
    "sample-data": "sample_data",
    "cite": "cite",
}
EXIT_TABLE = "Exit codes: " + "; ".join(f"{int(code)} {meaning}" for code, meaning in EXIT_MEANINGS.items()) + "."
# These libraries quote header values in their messages; header values may be patient data.
TALKATIVE = ("pydicom", "nibabel", "nibabel.global", "highdicom", "py.warnings")


@dataclass
class State:
    """What the commands tell ``main``: how much the user wants to hear; ``None`` for a command without ``-v``."""

    verbosity: int | None = None


class LazyGroup(click.RichGroup):
    """A group that imports a command's module when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The command names in the order of the help page."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or ``None`` when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"medidiff.cli.{COMMANDS[cmd_name]}").command
        return command


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_TABLE, no_args_is_help=True
)
@click.version_option(__version__, "--version", prog_name="medidiff", message="%(prog)s %(version)s")
def app() -> None:
    """Restore medical scans with conditional diffusion, and show the work.

    Reads NIfTI files, DICOM series and folders of them, and writes the same kind. Not for diagnostic use.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: the arguments after the program's name; those of the process when ``None``.

    Returns:
        The exit code.
    """
    hush()
    state = State()
    try:
        with good_order():
            code = app.main(list(args) if args is not None else None, "medidiff", standalone_mode=False, obj=state)
            sys.stdout.flush()
    except Exception as error:
        return answer(error, state)
    except KeyboardInterrupt:
        return interrupted()
    except SystemExit as end:  # rich-click ends so after the help of a group without a command
        code = end.code
    return int(code) if isinstance(code, int) else int(ExitCode.OK)


def answer(error: Exception, state: State) -> int:
    """Say what went wrong in one sentence and give the exit code."""
    if isinstance(error, click.Abort):
        return interrupted()
    if isinstance(error, exceptions.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        # The reader of stdout has gone; give the interpreter's last flush somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    if (state.verbosity or 0) >= 2:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, click.ClickException):
        say_error(error.format_message())
        return int(ExitCode.USAGE)
    if isinstance(error, MedidiffError):
        say_error(str(error))
        return int(error.exit_code)
    if isinstance(error, MemoryError):
        say_error("The memory is not enough; free some or use a machine with more.")
        return int(ExitCode.MEMORY)
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" ({Path(place[0].filename).name}, line {place[0].lineno})" if place else ""
    do = "please report it" if state.verbosity is None else "run again with -vv for details and please report it"
    say_error(f"Stopped by an unexpected {type(error).__name__}{where}; {do}.")
    return int(ExitCode.ALL_FAILED)


def interrupted() -> int:
    """Say that the user stopped the command."""
    say_error("Interrupted.")
    return int(ExitCode.INTERRUPTED)


def say_error(text: str) -> None:
    """One line on stderr."""
    from medidiff.cli.options import printable

    print(printable(f"medidiff: {' '.join(text.split())}"), file=sys.stderr)


def hush() -> None:
    """Keep the warnings of libraries off the screen: they are not for the user, and may quote header values."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
