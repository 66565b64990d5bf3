from __future__ import annotations

import json
from pathlib import Path

from benchmarks import speed
from benchmarks.speed import Result


def done(method: str, seconds: float, peak: float = 1.0) -> Result:
    return {
        "method": method,
        "tile": "",
        "seconds": seconds,
        "cpu_seconds": seconds,
        "load_seconds": 1.0,
        "peak_gb": peak,
        "idle_gb": 0.5,
        "stages": {},
    }


def test_goals_are_ratio_to_bm4d_and_peak() -> None:
    results = [done(speed.MEDIDIFF, 20, peak=4.5), done(speed.BM4D, 190)]
    assert [verdict.met for verdict in speed.verdicts(results)] == [False, False]
    results = [done(speed.MEDIDIFF, 18, peak=3.5), done(speed.BM4D, 190)]
    assert [verdict.met for verdict in speed.verdicts(results)] == [True, True]


def test_what_was_not_run_is_not_judged() -> None:
    ratio, peak = speed.verdicts([done(speed.MEDIDIFF, 20)])
    assert ratio.met is None
    assert peak.met is True
    assert {v.met for v in speed.verdicts([{"method": speed.MEDIDIFF, "tile": "whole", "error": "killed"}])} == {None}


def test_a_run_tells_time_stages_and_memory(tiny_home: Path, tmp_path: Path) -> None:
    speed.main(["--pipeline", "tiny", "--crop", "24", "--without-nlm", "--threads", "1", "--results", str(tmp_path)])
    result = json.loads((tmp_path / "speed.json").read_text())
    (found,) = result["methods"]
    assert result["data"] == "phantom"
    assert list(found["stages"]) == ["intensity", "noise estimate", "classical base", "network", "checks"]
    assert 0 < sum(found["stages"].values()) <= found["seconds"]
    assert 0.05 < found["idle_gb"] <= found["peak_gb"] < 4
    assert "µs a voxel" in (tmp_path / "speed.md").read_text()


def test_a_failing_method_does_not_end_the_run(tiny_home: Path, tmp_path: Path) -> None:
    speed.main(["--crop", "24", "--without-nlm", "--pipeline", "absent", "--threads", "1", "--results", str(tmp_path)])
    (found,) = json.loads((tmp_path / "speed.json").read_text())["methods"]
    assert "There is no pipeline 'absent'" in found["error"]
