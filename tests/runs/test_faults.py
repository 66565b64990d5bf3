"""Every fault of the table that the documentation shows, injected; and runs that are killed at many places."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fault_cases import FAULTS

QUICK = [fault.name for fault in FAULTS if not fault.slow]
ROOT = Path(__file__).parents[2]


def inject(*options: str) -> dict:
    """What the benchmark finds; in a process of its own, because it forks."""
    command = [sys.executable, "-m", "benchmarks.faults", "--json", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def found() -> dict:
    return inject("--quick", "--step", "53", "--moments", "1")


@pytest.mark.parametrize("number", range(len(QUICK)), ids=QUICK)
def test_fault_loses_nothing_and_is_told_in_one_sentence(found: dict, number: int) -> None:
    seen = found["faults"][number]
    if seen["left_out"]:
        pytest.skip("no disk can be mounted here")
    assert seen["wrong"] == []


def test_runs_killed_anywhere_lose_nothing(found: dict) -> None:
    assert found["kills"]["points"] > 100
    assert found["kills"]["kills"] >= 3
    assert found["kills"]["wrong"] == []


@pytest.mark.slow
def test_runs_killed_everywhere_lose_nothing() -> None:
    found = inject("--step", "3", "--moments", "20")
    assert found["kills"]["wrong"] == []
    assert [each["fault"] for each in found["faults"] if each["wrong"]] == []
