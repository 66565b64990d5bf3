"""One ``run.json`` for all runs that work in an output folder at the same time.

Each run keeps a journal beside the locks: a line with what it set out to do, one for each case, one for its end. Who
writes ``run.json`` joins the journals of the others with what it did itself. A run that was killed has lost its lock,
so that it is told from one that still works. The journals go with the last run.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medidiff.runs import locks
from medidiff.scans import outputs

SPARE, SPARE_A_CASE = 1 << 16, 1 << 12  # bytes kept free for `run.json`
RANK = ("done", "failed", "skipped")  # of what several runs say of one case, the first is kept
OWN = ("command", "started", "finished", "status")


@dataclass
class Told:
    """What a journal tells.

    Attributes:
        run: ``command``, ``config``, ``started``, ``finished`` and ``status``.
        planned: the keys of the cases that the run set out to do.
        cases: what became of each case, as ``run.json`` holds it, by its key.
    """

    run: dict[str, Any]
    planned: list[str] = field(default_factory=list)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)


class Journal:
    """The journal of one run in the hidden folder of its output folder.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place = folder / locks.PLACE
        self.file = self.place / f"run-{uuid.uuid4().hex[:12]}.jsonl"
        self._holding = ExitStack()

    def begin(self, run: dict[str, Any], planned: Sequence[str]) -> None:
        """Take the lock that shows that the run works, and write the first line."""
        self._holding.enter_context(locks.held(self.file.with_suffix(".lock"), wait=locks.PATIENCE))
        with self.writing():
            if not any(alive(each) for each in self.others()):
                for left in self.others():
                    with suppress(OSError):
                        left.unlink(missing_ok=True)
                for left in outputs.entries(self.folder, f"{outputs.TEMPORARY}*-run.json"):
                    with suppress(OSError):
                        left.unlink(missing_ok=True)
            self.append({"run": run, "planned": list(planned)})
        with suppress(OSError):
            self.file.with_suffix(".spare").write_bytes(os.urandom(SPARE + SPARE_A_CASE * len(planned)))

    def append(self, line: dict[str, Any]) -> None:
        """Add a line; a disk that is full is told of by ``run.json`` itself."""
        with suppress(OSError), self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=True) + "\n")

    def make_room(self) -> bool:
        """Give back the space that was kept for the record of a run that ends on a full disk; whether there was any."""
        spare = self.file.with_suffix(".spare")
        with suppress(OSError):
            spare.unlink()
            return True
        return False

    def end(self) -> None:
        """Leave; the journal stays while others work, see `locks.sweep`."""
        self.make_room()
        self._holding.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep the others from writing ``run.json`` meanwhile."""
        with locks.held(self.place / "record.lock", wait=locks.PATIENCE):
            yield

    def others(self) -> list[Path]:
        """The journals of other runs."""
        return [each for each in outputs.entries(self.place, "run-*.jsonl") if each != self.file]

    def joined(self, mine: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
        """The record of all runs at work; call it while `writing`.

        Args:
            mine: this run's own record.
            keys: the key of each of its cases.
        """
        others = [(told, alive(file)) for file in self.others() if (told := read(file)) is not None]
        if not others:
            return mine
        return join(mine, keys, others)


def join(mine: dict[str, Any], keys: Sequence[str], others: Sequence[tuple[Told, bool]]) -> dict[str, Any]:
    """One record out of one's own and those of other runs.

    Args:
        mine: this run's own record.
        keys: the key of each of its cases.
        others: what the other journals tell, and whether their runs still work.
    """
    runs = sorted([mine, *(as_seen(told, at_work) for told, at_work in others)], key=lambda run: str(run["started"]))
    cases: dict[str, dict[str, Any]] = {}
    for told in (*(told.cases for told, _ in others), dict(zip(keys, mine["cases"], strict=True))):
        for name, case in told.items():
            if name not in cases or RANK.index(case["status"]) <= RANK.index(cases[name]["status"]):
                cases[name] = case
    everything = {name for told, _ in others for name in told.planned}
    return {
        **mine,
        **{name: runs[0][name] for name in ("command", "config", "started")},
        **ended(mine, [run["status"] for run in runs], cases, everything),
        "runs": [{name: run[name] for name in OWN} for run in runs],
        "cases": [cases[name] for name in sorted(cases)],
    }


def as_seen(told: Told, at_work: bool) -> dict[str, Any]:
    """A run as it tells of itself, unless it was killed and could not tell."""
    return told.run if at_work or told.run["finished"] else {**told.run, "status": "killed"}


def ended(
    mine: dict[str, Any], statuses: Sequence[str], cases: dict[str, dict[str, Any]], planned: set[str]
) -> dict[str, Any]:
    """``status`` and ``finished`` of all runs together: running as long as one of them is."""
    if "running" in statuses:
        return {"status": "running", "finished": None}
    failed = mine["status"] == "failed" or any(case["status"] == "failed" for case in cases.values())
    if mine["status"] == "interrupted" or (not failed and not planned <= cases.keys()):
        return {"status": "interrupted", "finished": mine["finished"]}
    return {"status": "failed" if failed else "done", "finished": mine["finished"]}


def alive(journal: Path) -> bool:
    """Whether the run of a journal still works."""
    return locks.is_held(journal.with_suffix(".lock"))


def read(journal: Path) -> Told | None:
    """What a journal tells; a last line that is cut off is left out, and so is a journal without a first line."""
    told: Told | None = None
    with suppress(OSError):
        for line in journal.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                tree = json.loads(line)
                if told is None:
                    told = Told(dict(tree["run"]), list(tree["planned"]))
                elif "case" in tree:
                    told.cases[tree["key"]] = tree["case"]
                else:
                    told.run |= tree["end"]
    return told
