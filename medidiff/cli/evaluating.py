"""What ``evaluate`` and ``benchmark`` share: progress on stderr, files, the table on stdout, the exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medidiff.cli.options import printable, show_json
from medidiff.cli.progress import shorten
from medidiff.errors import ExitCode

if TYPE_CHECKING:
    from medidiff.evaluation.results import Evaluation


class Lines:
    """One line a result.

    Args:
        quiet: only failures are told.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet, self.total, self.count = quiet, 0, 0

    def planned(self, total: int) -> None:
        """Remember how many results there will be."""
        self.total = total

    def doing(self, case: str, method: str) -> None:
        """Say nothing before there is a result."""

    def done(self, case: str, method: str, text: str) -> None:
        """Tell a result."""
        self.count += 1
        if not self.quiet or text.startswith("failed"):
            self.write(f"[{self.count}/{self.total}] {case}, {method}: {text}")

    def write(self, text: str) -> None:
        """Print a line on stderr."""
        with suppress(OSError):  # nobody listens any more
            print(printable(text), file=sys.stderr, flush=True)


class Bar(Lines):
    """Lines above a bar that shows method and case."""

    def __init__(self, bar: Progress) -> None:
        super().__init__()
        self.bar = bar
        self.task: TaskID | None = None

    def planned(self, total: int) -> None:
        """Draw the bar."""
        super().planned(total)
        self.task = self.bar.add_task("starting", total=total)

    def doing(self, case: str, method: str) -> None:
        """Name method and case."""
        if self.task is not None:
            self.bar.update(self.task, description=f"{method}: {shorten(case)}")

    def done(self, case: str, method: str, text: str) -> None:
        """Grow the bar."""
        super().done(case, method, text)
        if self.task is not None:
            self.bar.update(self.task, completed=self.count)

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def watcher(mode: str) -> Iterator[Lines]:
    """Who tells the progress: a bar on a terminal, else lines; ``plain`` never draws a bar, ``none`` tells failures."""
    console = Console(stderr=True)
    if mode != "auto" or not console.is_terminal:
        yield Lines(quiet=mode == "none")
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, speed_estimate_period=600) as bar:
        yield Bar(bar)


def publish(evaluation: Evaluation, folder: Path, *, as_json: bool) -> int:
    """Write report and tables, print the summary, and give the exit code.

    Raises:
        CannotWrite: a file cannot be written.
    """
    from medidiff.evaluation import report, tables

    evaluation = report.complete(evaluation)
    tables.write(evaluation, folder)
    report.write(evaluation, folder / "report.html")
    for text in evaluation.notes:
        print(printable(f"warning: {text}"), file=sys.stderr)
    if as_json:
        show_json(tables.as_json(evaluation))
    else:
        click.echo(f"{evaluation.title}\n\n{tables.summary(evaluation)}\n\n{folder / 'report.html'}")
    some, none = tables.failed(evaluation)
    if none == len(evaluation.cases):
        return int(ExitCode.ALL_FAILED)
    alone = evaluation.kind == "evaluate" and evaluation.missing  # restored scans without a reference
    return int(ExitCode.SOME_FAILED if some or none or alone else ExitCode.OK)
