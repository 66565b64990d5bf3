"""What the user sees on stderr during a run: bars on a terminal, else one line a case."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medidiff.cli.options import counted, printable
from medidiff.errors import CannotWrite
from medidiff.runs import CaseResult, Plan, PlannedCase, Reporter

Mode = Literal["auto", "plain", "none"]
QUIET = 20.0  # seconds without a line, after which one says what the run is at
log = logging.getLogger("medidiff")


class Lines:
    """One line a case; failures are always shown, notes with ``-v``, tracebacks with ``-vv``.

    Args:
        verbosity: -1 for failures only, 0 for a line a case, 1 for notes as well, 2 for tracebacks as well.
    """

    def __init__(self, verbosity: int) -> None:
        self.verbosity = verbosity
        self.warned: set[str] = set()
        self.total = 0
        self.count = 0
        self.last = time.monotonic()

    def show(self, text: str, level: int = 0) -> None:
        """Print a line if the user wants to hear that much, and log it."""
        text = printable(text)
        log.info(text)
        if self.verbosity >= level:
            self.write(text)

    def write(self, text: str) -> None:
        """Print a line on stderr."""
        self.last = time.monotonic()
        with suppress(OSError):  # nobody listens any more; the run goes on
            print(text, file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        """A line now and then, so that a slow disk is not taken for a run that hangs."""
        if time.monotonic() - self.last > QUIET:
            self.last = time.monotonic()
            self.show(f"{text} ...")

    def planned(self, plan: Plan) -> None:
        """Say what will be done."""
        self.total = len(plan.cases)
        self.left_out([(each.path, each.reason) for each in plan.skipped])

    def left_out(self, files: Sequence[tuple[Path, str]]) -> None:
        """Name the files that are no scan: with ``-v`` each of them, else one for each reason."""
        for line in every_left_out(files) if self.verbosity > 0 else grouped_left_out(files):
            self.show(f"left out: {line}")

    def started(self, case: PlannedCase) -> None:
        """Say why a result is made again."""
        if case.reason:
            self.show(f"{case.title}: made again, {case.reason}", 1)

    def progress(self, case: PlannedCase, fraction: float) -> None:
        """Say nothing between the lines."""

    def finished(self, case: PlannedCase, result: CaseResult, error: BaseException | None) -> None:
        """One line on the case."""
        self.count += 1
        where = f"[{self.count}/{self.total}] {case.title}"
        if result.status == "failed":
            self.show(f"{where}: failed: {result.reason}", -1)
        elif result.status == "skipped":
            self.show(f"{where}: skipped: {result.reason}")
        else:
            self.show(f"{where}: done in {duration(result.seconds)}: {case.names.restored}")
        if error is not None and self.verbosity >= 2:
            self.write("".join(traceback.format_exception(error)).rstrip())

    def note(self, text: str) -> None:
        """A note for ``-v``."""
        self.show(f"note: {text}", 1)

    def warning(self, text: str) -> None:
        """A warning; what concerns no scan, and so may come again, once a run."""
        if text not in self.warned:
            self.warned.add(text)
            self.show(f"warning: {text}")


class Bars(Lines):
    """Lines above a bar for the whole run with the time left; the bar grows with the bytes of the cases."""

    def __init__(self, verbosity: int, progress: Progress) -> None:
        super().__init__(verbosity)
        self.bar = progress
        self.task: TaskID | None = None
        self.before = 0.0

    def write(self, text: str) -> None:
        """Print a line above the bar."""
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """Say it on the bar, which only shows that time goes by before the cases are known."""
        if self.task is None:
            self.task = self.bar.add_task(text, total=None)
        else:
            self.bar.update(self.task, description=text)

    def planned(self, plan: Plan) -> None:
        """Draw the bar."""
        super().planned(plan)
        todo = [case for case in plan.cases if case.state == "todo"]
        if self.task is not None:
            self.bar.remove_task(self.task)
            self.task = None
        if todo:
            self.task = self.bar.add_task("starting", total=sum(map(weight, todo)))

    def started(self, case: PlannedCase) -> None:
        """Name the case on the bar."""
        super().started(case)
        if self.task is not None:
            self.bar.update(self.task, description=f"[{self.count + 1}/{self.total}] {shorten(case.ref.stem)}")

    def progress(self, case: PlannedCase, fraction: float) -> None:
        """Grow the bar."""
        if self.task is not None:
            self.bar.update(self.task, completed=self.before + fraction * weight(case))

    def finished(self, case: PlannedCase, result: CaseResult, error: BaseException | None) -> None:
        """One line on the case, and the bar behind it."""
        if case.state == "todo" and self.task is not None:
            self.before += weight(case)
            self.bar.update(self.task, completed=self.before)
        super().finished(case, result, error)


@contextmanager
def reporter(mode: Mode, verbosity: int) -> Iterator[Reporter]:
    """The reporter that suits the terminal.

    Args:
        mode: ``auto`` draws bars on a terminal; ``plain`` never does; ``none`` shows failures only.
        verbosity: see ``Lines``.
    """
    console = Console(stderr=True)
    if mode == "none":
        yield Lines(min(verbosity, -1))
    elif mode == "plain" or verbosity < 0 or not console.is_terminal:
        yield Lines(verbosity)
    else:
        with bar(console) as progress:
            yield Bars(verbosity, progress)


def bar(console: Console) -> Progress:
    """An empty bar that goes when it is done; its rate is that of the last ten minutes."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, speed_estimate_period=600)


@contextmanager
def log_to(file: Path | None) -> Iterator[None]:
    """Append the run's lines with their times to a file.

    Raises:
        CannotWrite: the file cannot be opened.
    """
    if file is None:
        yield
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise CannotWrite(f"The log {file} cannot be written ({error.strerror}); choose another file.") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


def every_left_out(files: Sequence[tuple[Path, str]]) -> list[str]:
    """One line for each file that is no scan."""
    return [f"{path}: {reason}" for path, reason in files]


def grouped_left_out(files: Sequence[tuple[Path, str]]) -> list[str]:
    """One line for each reason; a user should see that a scan was left out, but not every text file."""
    reasons: dict[str, list[Path]] = {}
    for file, why in files:
        reasons.setdefault(why, []).append(file)
    return [
        f"{path}: {reason}" if not others else f"{path} and {counted(len(others), 'other file')}: {reason}"
        for reason, (path, *others) in reasons.items()
    ]


def summary(plan: Plan, results: list[CaseResult]) -> str:
    """One line on the whole run."""
    counts = {status: sum(result.status == status for result in results) for status in ("done", "skipped", "failed")}
    left = len(plan.cases) - len(results)
    parts = [f"{number} {status}" for status, number in counts.items() if number]
    parts += [f"{left} not tried"] if left else []
    record = f"; see {plan.run_file}" if plan.run_file else ""
    return f"{counted(len(plan.cases), 'scan')}: {', '.join(parts) or 'nothing done'}{record}"


def duration(seconds: float) -> str:
    """Seconds for a person: ``0.8 s``, ``75 s``, ``12 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min"


def shorten(name: str, limit: int = 40) -> str:
    """A name that fits beside a bar."""
    return name if len(name) <= limit else f"{name[: limit - 3]}..."


def weight(case: PlannedCase) -> int:
    """How much work a case is, by the size of its files."""
    return max(1, sum(path.stat().st_size for path in case.ref.files if path.exists()))
