"""What a fault is, and how it is judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks.forks import Ended, Stage


@dataclass(frozen=True)
class Seen:
    """What came of a fault.

    Attributes:
        ended: how the harmed run ended.
        lost: what was lost or not told truly; empty when nothing.
        again: the exit code of the same command with the cause removed; ``None`` where there is nothing to repeat.
        shown: the line to show; the last one on stderr by default.
    """

    ended: Ended
    lost: Sequence[str] = ()
    again: int | None = None
    shown: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault, and what the user is to see.

    Attributes:
        name: in a few words.
        inject: harms a run on a stage; ``None`` in its place where this machine cannot.
        code: the exit code.
        sentence: a pattern of the line that tells.
        names: the scans that it needs.
        slow: whether it takes a real network.
    """

    name: str
    inject: Callable[[Stage], Seen | None]
    code: int
    sentence: str
    names: tuple[str, ...] = ("a", "b", "c")
    slow: bool = False

    def judge(self, seen: Seen) -> list[str]:
        """What is not as it should be."""
        wrong = list(seen.lost)
        if seen.ended.code != self.code:
            wrong.append(f"exit code {seen.ended.code} in place of {self.code}")
        if not re.search(self.sentence, seen.shown or seen.ended.sentence):
            wrong.append(f"the user saw: {seen.shown or seen.ended.sentence}")
        if "Traceback" in seen.ended.said:
            wrong.append("the user saw a traceback")
        if seen.again not in (None, 0):
            wrong.append(f"the same command again ended with {seen.again}")
        return wrong


def again(stage: Stage, ended: Ended, lost: Sequence[str] = (), *, shown: str = "", **options: Any) -> Seen:
    """Run the same command once more, and look at everything."""
    lost = [*lost, *stage.lies()]
    after = stage.run(**options)
    lost += [*stage.lies(), *stage.leftovers()]
    if after.code == 0 and (stage.out / "run.json").exists() and stage.record()["status"] != "done":
        lost.append("run.json does not say done")
    return Seen(ended, lost, after.code, shown)


def line(ended: Ended, pattern: str) -> str:
    """The first line on stderr with a pattern."""
    return next((each for each in ended.said.splitlines() if re.search(pattern, each)), "")


def at(name: str, act: Callable[[], object]) -> Callable[[ModuleType], None]:
    """Do something while the scan of a name is restored; the scans of a stage differ in their values."""
    low = {"a": 0, "b": 200, "c": 300}[name]

    def prepare(fake: ModuleType) -> None:
        fake.on_restore = lambda volume: low <= volume.array.min() < low + 190 and act()

    return prepare
