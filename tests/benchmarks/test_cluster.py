from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import cluster


def row(workers: int, seconds: float) -> dict[str, float]:
    return {"workers": workers, "whole": seconds + 5, "working": seconds, "of_cases": seconds}


def test_the_goal_is_the_ratio_of_the_best_runs() -> None:
    rows = [row(0, 95), row(1, 100), row(2, 55), row(1, 90), row(2, 50)]
    ratio, same = cluster.verdicts(rows, True)
    assert (ratio.found, ratio.met, same.met) == ("1.80", True, True)
    ratio, same = cluster.verdicts([row(1, 90), row(2, 60)], False)
    assert (ratio.found, ratio.met, same.met) == ("1.50", False, False)
    assert cluster.verdicts([row(0, 90)], True)[0].met is None


@pytest.mark.slow
def test_workers_with_a_real_network_give_the_bytes_of_one_process(tiny_home: Path, tmp_path: Path) -> None:
    options = ["--volumes", "3", "--crop", "32", "--repeats", "1", "--workers", "2", "--pipeline", "tiny"]
    cluster.main([*options, "--results", str(tmp_path)])
    result = json.loads((tmp_path / "cluster.json").read_text())
    assert result["equal"] is True
    assert [run["workers"] for run in result["runs"]] == [0, 2]
    assert "2 workers" in (tmp_path / "cluster.md").read_text()
