"""Injects every fault that a run may meet, and tells what was lost and what the user saw.

    python -m benchmarks.faults
    python -m benchmarks.faults --step 10 --moments 5     kill at fewer places

Each fault harms a real process; afterwards the same command runs again with the cause removed. Faults that need a disk
of their own are left out where none can be mounted.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import kills
from benchmarks.fault import Fault, Seen
from benchmarks.fault_cases import FAULTS
from benchmarks.forks import ROOT, Stage

PAGE = ROOT / "docs/explanation/when-things-go-wrong.md"
GOAL = "no fault loses anything, every fault gives one sentence and its exit code, and the same command goes on"


def inject(fault: Fault, folder: Path) -> Seen | None:
    """Inject a fault in a fresh folder; ``None`` where this machine cannot."""
    print(f"{fault.name} ...", file=sys.stderr, flush=True)
    return fault.inject(Stage(folder, fault.names))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=1, help="kill at every so many accesses to a file (default: 1)")
    parser.add_argument("--moments", type=int, default=50, help="and at so many random moments")
    parser.add_argument("--quick", action="store_true", help="leave out the faults that take a real network")
    parser.add_argument("--docs", action="store_true", help=f"also put the table into {PAGE.relative_to(ROOT)}")
    parser.add_argument("--json", action="store_true", help="print what was found, and write nothing")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        taken = [fault for fault in FAULTS if not (fault.slow and options.quick)]
        rows = [row(fault, inject(fault, Path(folder) / str(index))) for index, fault in enumerate(taken)]
        killing = kills.everywhere(Path(folder) / "kills", options.step, options.moments)
    result = {"faults": rows, "kills": vars(killing)}
    if options.json:
        print(json.dumps(result))
        return
    table, found = document(rows, killing)
    print(table, found, sep="\n\n")
    from benchmarks import report  # not before: it loads torch, which the processes would have to carry

    tree = {"environment": report.environment(None, 1), **result}
    report.write("faults", tree, f"# Faults\n\n{table}\n\n{found}", options.results)
    if options.docs:
        report.update_block(PAGE, "faults", f"{table}\n\n{found.splitlines()[0]}")


def row(fault: Fault, seen: Seen | None) -> dict[str, Any]:
    """What came of a fault, for the table."""
    if seen is None:
        return {"fault": fault.name, "wrong": [], "left_out": True}
    return {
        "fault": fault.name,
        "left_out": False,
        "wrong": fault.judge(seen),
        "lost": list(seen.lost),
        "code": seen.ended.code,
        "saw": seen.shown or seen.ended.sentence,
        "again": seen.again,
    }


def document(rows: Sequence[dict[str, Any]], killing: kills.Kills) -> tuple[str, str]:
    """The table; and the kills with the verdict."""
    body = [
        [
            each["fault"],
            "; ".join(each["lost"]) or "nothing",
            "(not injected here)" if each["left_out"] else each["saw"].replace("|", "/"),
            "" if each["left_out"] else "killed" if each["code"] < 0 else each["code"],
            "" if each.get("again") is None else each["again"],
        ]
        for each in rows
    ]
    head = ["fault", "lost", "what the user saw", "exit code", "exit code of the same command again"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---:|---:|"]
    lines += ["| " + " | ".join(map(str, cells)) + " |" for cells in body]
    moments = (
        f"A run over two scans, each with an image, two maps, a sample and a sidecar, was killed {killing.kills} "
        f"times: at accesses to a file ({killing.points} in one run), half of them over older results of other options "
        f"and a third of them twice in a row, and at random moments. "
        f"{len(killing.wrong)} times something was lost, taken for done, left behind or told wrongly in `run.json`."
    )
    wrong = sum(bool(each["wrong"]) for each in rows) + len(killing.wrong)
    verdict = f"- **{'NOT MET' if wrong else 'met'}**: {GOAL}. Found: {wrong} not as they should be."
    return "\n".join(lines), f"{moments}\n\n{verdict}"


if __name__ == "__main__":
    main()
