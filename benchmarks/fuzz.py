"""Throws damaged files at medidiff: each must end in a result or in one of its own errors, soon and in little memory.

    python -m benchmarks.fuzz                               10,000 inputs, about ten minutes of one core
    python -m benchmarks.fuzz --inputs 200 --kind DICOM     fewer
    python -m benchmarks.fuzz --only DICOM:1234             one of them again, with its traceback

Everything follows from the seed. The inputs run in a process of their own with limits on its memory and on the
processor time of an input, so that one that kills it or hangs is found too; the process is then started again.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from benchmarks import cases, fuzz_targets, report
from benchmarks.fuzz_targets import Kind, Place

INPUTS = 10_000
SECONDS = 10.0  # of processor time for one input
MEMORY = 1.5e9  # bytes of address space above what the process has when it starts
Result = dict[str, Any]


class Hang(BaseException):
    """An input took too long; no handler of medidiff's may catch it."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.worker:
        work(options)
    elif options.only:
        kind, index = options.only.split(":")
        again(kind, int(index), options.seed)
    else:
        publish(options)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=INPUTS, help=f"how many in all (default: {INPUTS})")
    parser.add_argument("--kind", action="append", help="only these kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:INDEX", help="one input, with its traceback")
    parser.add_argument("--fixed", type=int, default=0, help="crashes found by earlier runs and mended since, to print")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    for name in ("--worker", "--start", "--stop"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def publish(options: argparse.Namespace) -> None:
    """All inputs, and what was found as a table, which is written after each kind."""
    for name, count in plan(options.inputs, options.kind).items():
        found = list(batch(name, count, options.seed))
        before = earlier(options)
        findings = groups([each for each in found if each["outcome"] != "result"])
        result = {
            "environment": report.environment(None, 1),
            "seed": options.seed,
            "seconds_allowed": SECONDS,
            "memory_allowed": MEMORY,
            "fixed": max(options.fixed, before.get("fixed", 0)),
            "kinds": {**before.get("kinds", {}), name: summary(found)},
            "findings": [*(each for each in before.get("findings", ()) if each["kind"] != name), *findings],
        }
        text = document(result)
        report.write("fuzz", result, text, options.results)
    print("\n" + text)


def earlier(options: argparse.Namespace) -> Result:
    """What was published with the same seed; one kind at a time may be let in again."""
    file = options.results / "fuzz.json"
    found: Result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found if found.get("seed") == options.seed else {}


def plan(inputs: int, wanted: Sequence[str] | None) -> dict[str, int]:
    """How many inputs of each kind."""
    shares = {name: share for name, share in fuzz_targets.SHARES.items() if not wanted or name in wanted}
    return {name: max(round(inputs * share / sum(shares.values())), 1) for name, share in shares.items()}


def batch(name: str, count: int, seed: int) -> Iterator[Result]:
    """The outcomes of all inputs of a kind; a process that dies is started again behind the input that killed it."""
    begin, start = time.monotonic(), 0
    while start < count:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--worker", name, "--seed", str(seed)]
        command += ["--start", str(start), "--stop", str(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with subprocess.Popen(command, cwd=cases.ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                found = json.loads(line)
                start = found["index"] + 1
                if found["outcome"] != "result":
                    print(f"{name}:{found['index']}: {found['outcome']}: {found['where']}", flush=True)
                if start % 500 == 0:
                    print(f"{name}: {start} of {count} in {time.monotonic() - begin:.0f} s", flush=True)
                yield found
        if process.returncode == 1:  # an error of this script: medidiff's own are outcomes
            raise SystemExit(f"{name}: the process that lets the inputs in failed")
        if start < count and process.returncode:
            how = signal.Signals(-process.returncode).name if process.returncode < 0 else f"exit {process.returncode}"
            print(f"{name}:{start}: killed by {how}", flush=True)
            yield {"kind": name, "index": start, "outcome": "killed", "where": how, "seconds": SECONDS, "memory": 0}
            start += 1
    print(f"{name}: {count} inputs in {time.monotonic() - begin:.0f} s", flush=True)


def work(options: argparse.Namespace) -> None:
    """Let inputs in, one line of JSON on stdout for each."""
    os.nice(5)
    sys.setrecursionlimit(1000)
    out = os.fdopen(os.dup(1), "w")  # commands print on stdout too
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with prepared(options.worker) as (kind, home):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        limit_memory()
        for index in range(int(options.start), int(options.stop)):
            found = one(kind, options.worker, index, options.seed, home)
            out.write(json.dumps(found) + "\n")
            out.flush()


@contextmanager
def prepared(name: str) -> Iterator[tuple[Kind, Path]]:
    """A kind with its seeds, and a folder to work in."""
    given = os.environ.get("MEDIDIFF_REAL_DATA")
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # every file that is written is synced
    with tempfile.TemporaryDirectory(prefix="medidiff-fuzz-", dir=fast) as temporary:
        home = Path(temporary)
        with fuzz_targets.stand_in(home):
            kind = fuzz_targets.kinds(home, Path(given) if given else None)[name]
            for index in range(2):  # imports and caches count neither as time nor as memory
                one(kind, name, index, -1, home, limited=False)
            gc.freeze()  # runs collect garbage after each case, and would look at all of torch each time
            yield kind, home


def limit_memory() -> None:
    """Let the address space grow by no more than `MEMORY`."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + int(MEMORY), resource.RLIM_INFINITY))


def one(kind: Kind, name: str, index: int, seed: int, home: Path, *, limited: bool = True) -> Result:
    """One input and what came of it."""
    rng = Random(f"{seed}/{name}/{index}")
    files = kind.make(rng)
    place = Place(fuzz_targets.cleared(home / "work"), rng, deep=index % fuzz_targets.DEEP == 7)
    begin, before = time.process_time(), peak()
    outcome, where = "result", ""
    try:
        with time_limit(SECONDS * (4 if place.deep else 1) if limited else 600):
            fuzz_targets.attempt(kind, files, place)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # panics of code in Rust are no Exception, and hangs shall not be
        outcome, where = type(error).__name__, location(error)
    seconds = time.process_time() - begin
    return {
        "kind": name,
        "index": index,
        "outcome": outcome,
        "where": where,
        "seconds": round(seconds, 3),
        "memory": peak() - before,
    }


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `Hang` after so much processor time; code that never comes back to Python is killed at twice that."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    # the limit is held against ticks, which after minutes of work are seconds off what getrusage tells
    resource.setrlimit(resource.RLIMIT_CPU, (int(1.1 * used + 2 * seconds) + 1, hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


def location(error: BaseException) -> str:
    """The last line of medidiff's that an error passed, and what it says."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/medidiff/" in frame.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "?"
    return f"{place}: {' '.join(str(error).split())[:120]}"


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def again(name: str, index: int, seed: int) -> None:
    """One input once more; its files stay for a look."""
    with prepared(name) as (kind, _):
        rng = Random(f"{seed}/{name}/{index}")
        files = kind.make(rng)
        place = Place(fuzz_targets.cleared(Path(tempfile.gettempdir()) / "medidiff-fuzz-again"), rng)
        place.deep = index % fuzz_targets.DEEP == 7
        print(f"The input lies in {place.given}.")
        with time_limit(SECONDS * 4):
            fuzz_targets.attempt(kind, files, place)
        print("It ends as it should.")


def summary(found: Sequence[Result]) -> Result:
    """What came of the inputs of a kind."""
    bad = [each for each in found if each["outcome"] != "result"]
    return {
        "inputs": len(found),
        "bad": len(bad),
        "seconds": sum(each["seconds"] for each in found),
        "longest": max(each["seconds"] for each in found),
        "memory": max(each["memory"] for each in found),
    }


def groups(findings: Sequence[Result]) -> list[Result]:
    """Findings of one cause together: the same error at the same line."""
    counts = Counter((each["kind"], each["outcome"], each["where"].partition(": ")[0]) for each in findings)
    firsts: dict[Any, Result] = {}
    for each in findings:
        firsts.setdefault((each["kind"], each["outcome"], each["where"].partition(": ")[0]), each)
    return [{**firsts[key], "count": count} for key, count in counts.most_common()]


def document(result: Result) -> str:
    """Everything that was found, in Markdown."""
    kinds = result["kinds"]
    body = [
        [
            name,
            each["inputs"],
            each["bad"],
            report.figure(each["seconds"], 0),
            report.figure(each["longest"], 1),
            report.figure(each["memory"] / 1e6, 0),
        ]
        for name, each in kinds.items()
    ]
    inputs, bad = (sum(each[key] for each in kinds.values()) for key in ("inputs", "bad"))
    goals = [
        report.Verdict("10,000 damaged inputs", f"{inputs}", inputs >= INPUTS),
        report.Verdict("no traceback, hang, kill or half-written output", f"{bad} of {inputs}", bad == 0),
    ]
    head = ["", "inputs", "wrong", "CPU s", "longest, s", "most memory, MB"]
    parts = [
        "# Damaged files",
        f"Seed {result['seed']}; an input may take {SECONDS:g} s of processor time and {MEMORY / 1e9:g} GB of memory.",
        report.table(head, body),
        "Memory is what the process grew by at most in one input.",
        f"Earlier runs found {result['fixed']} causes, which are mended and have tests.",
        "\n".join(str(goal) for goal in goals),
    ]
    if result["findings"]:
        lines = [[f"{e['kind']}:{e['index']}", e["outcome"], e["where"], e["count"]] for e in result["findings"]]
        parts.append(report.table(["first", "what", "where", "times"], lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
