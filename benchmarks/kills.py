"""Kills a run at every access to a file, and at random moments, and looks what the next run makes of it."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from benchmarks.forks import Stage

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
FLAGS = ("--samples", "1", "--gamma", "0.5")  # with maps and a sample, so that a case has several files


@dataclass
class Kills:
    """What came of the kills.

    Attributes:
        kills: how many runs were killed.
        points: how many accesses to files one run has.
        wrong: one sentence on each thing that was lost or not told truly.
    """

    kills: int = 0
    points: int = 0
    wrong: list[str] = field(default_factory=list)


def counter(stage: Stage, number: int) -> Callable[[ModuleType], None]:
    """Kills the process at access ``number`` to a file of the stage; with 0 it counts them into ``events.txt``."""
    inside = str(stage.folder) + os.sep

    def prepare(fake: ModuleType) -> None:
        count = 0
        tally = os.open(stage.folder / "events.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if number == 0 else None

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count
            if event not in EVENTS or not isinstance(arguments[0], str | os.PathLike):
                return
            if not os.path.abspath(arguments[0]).startswith(inside):  # noqa: PTH100 - a path object would open files
                return
            count += 1
            if tally is not None:
                os.pwrite(tally, str(count).encode(), 0)
            elif count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return prepare


def after(seconds: float) -> Callable[[ModuleType], None]:
    """Ends the process after some time, in the middle of whatever it does; nothing in it hears of the alarm."""

    def prepare(fake: ModuleType) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    return prepare


def everywhere(folder: Path, step: int = 1, moments: int = 0) -> Kills:
    """Kill a run at every ``step``-th access to a file, and at random moments, each in a folder of its own.

    Args:
        folder: where to work.
        step: 1 for every access.
        moments: how many random moments.
    """
    found = Kills()
    whole = Stage(folder / "whole", ("a", "b"))
    begin = time.monotonic()
    ended = whole.run(*FLAGS, prepare=counter(whole, 0))
    seconds = time.monotonic() - begin
    assert ended.code == 0, ended.said
    found.points = int((whole.folder / "events.txt").read_text())
    points: Iterable[int] = range(1, found.points + 1, step)
    for number in points:
        one(Stage(folder / f"point-{number}", ("a", "b")), whole, f"access {number}", number, None, found)
    times = random.Random(0)
    for index in range(moments):
        moment = times.uniform(0.0, seconds)
        one(Stage(folder / f"moment-{index}", ("a", "b")), whole, f"{moment:.3f} s", None, moment, found)
    return found


def one(stage: Stage, whole: Stage, where: str, number: int | None, moment: float | None, found: Kills) -> None:
    """Kill one run, every third time the next one too, and let the last one finish."""
    harm = counter(stage, number) if number is not None else after(moment or 0.0)
    if number is not None and number % 2:  # over results of other options, which are to be made again
        stage.run("--seed", "7", "--samples", "1")
    again = number is not None and number % 3 == 0
    for _ in range(2 if again else 1):
        killed = stage.run(*FLAGS, prepare=harm)
        found.kills += killed.code < 0
        found.wrong += [f"killed at {where}: {lie}" for lie in untrue(stage, killed.code)]
    whole_before = {name for name, why in finished(stage).items() if not why}
    ended = stage.run(*FLAGS)
    if ended.code != 0 or stage.record()["status"] != "done":
        found.wrong.append(f"after {where} the next run ended with {ended.code}: {ended.sentence}")
        return
    skipped = {case["outputs"]["sidecar"] for case in stage.record()["cases"] if case["status"] == "skipped"}
    if skipped != whole_before:
        found.wrong.append(f"after {where}: {sorted(skipped)} were taken for done, {sorted(whole_before)} were")
    if stage.images() != whole.images():
        found.wrong.append(f"after {where}: the images differ from those of a run that was not killed")
    found.wrong += [f"after {where}: {what}" for what in (*stage.lies(), *stage.leftovers())]


def untrue(stage: Stage, code: int) -> list[str]:
    """What is wrong just after the kill: a record that does not parse, or tells of what is not there."""
    found = stage.lies()
    if code < 0 and (stage.out / "run.json").exists() and stage.record()["status"] not in ("running", "done"):
        found.append(f"run.json says {stage.record()['status']}")
    return found


def finished(stage: Stage) -> dict[str, str]:
    """Every sidecar in the output, and why its result does not stand."""
    from medidiff.runs import sidecar

    found = {}
    for file in sorted(stage.out.glob("[!.]*_denoised.json")) if stage.out.exists() else ():
        tree = sidecar.load(file)
        older = tree is not None and tree["config"]["restore"]["gamma"] == 0
        found[file.name] = "not whole" if tree is None else "older" if older else sidecar.damaged(tree, stage.out)
    return found
