from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage
from medidiff.training.calibration import Trial


def trial_of(truth: np.ndarray) -> Trial:
    inside = np.ones(truth.shape, dtype=np.bool_)
    return Trial("denoise", 9, truth, (1.0, 1.0, 1.0), None, {"noise": "auto"}, truth, inside)


def test_coverage_and_areas_by_hand() -> None:
    truth = np.zeros((10, 10, 10), np.float32)
    std = np.repeat(np.linspace(0.1, 1, 10, dtype=np.float32), 100).reshape(truth.shape)
    mean = std * np.resize(np.linspace(0.05, 1.95, 20, dtype=np.float32), truth.shape)  # 0.05 to 1.95 deviations off
    found = coverage.judge(trial_of(truth), coverage.Answer(mean, std, 1.5, True, 2 * mean, np.ones_like(std)))
    assert found["coverage"] == pytest.approx(15 / 20)
    assert found["width"] == pytest.approx(2 * 1.5 * 0.55, rel=1e-5)
    assert found["rms_error"] == pytest.approx(np.sqrt(np.mean(mean.astype(np.float64) ** 2)), rel=1e-5)
    assert coverage.gain([found]) == pytest.approx(20 * np.log10(2), rel=1e-6)
    assert 0 < found["ause"] < found["ause_random"]
    perfect = coverage.judge(trial_of(truth), coverage.Answer(mean, np.abs(mean), 1.5, True, mean, std))
    assert perfect["ause"] == pytest.approx(0, abs=1e-9)


def row(task: str, share: float, **areas: float) -> coverage.Row:
    return {
        "task": task,
        "level": 9,
        "coverage": share,
        "calibrated": True,
        "ause": 0.2,
        "ause_random": 0.6,
        "ause_correction": 0.4,
        "rms_error": 0.5,
        "rms_error_base": 0.5,
        **areas,
    }


def test_goals_hold_for_the_mean_over_volumes_of_each_task() -> None:
    rows = [row("denoise", 0.85), row("denoise", 0.93), row("inpaint", 0.95, ause=0.5, rms_error=0.6)]
    assert [verdict.met for verdict in coverage.verdicts(rows)] == [True, True, True, False, False, False]


def test_a_run_judges_every_task_and_says_what_is_not_calibrated(
    silent_bundle: Path, body: Path, tmp_path: Path
) -> None:
    arguments = [
        "--pipeline",
        str(silent_bundle),
        "--files",
        str(body),
        "--crop",
        "48",
        "--threads",
        "1",
        "--results",
        str(tmp_path),
    ]
    coverage.main(arguments)
    result = json.loads((tmp_path / "coverage.json").read_text())
    found = {(one["task"], one["level"]) for one in result["rows"]}
    assert {("denoise", 9), ("superres", 2), ("superres", 8), ("inpaint", 1)} <= found
    assert ("superres", 6) not in found  # 40 slices are too few
    for one in result["rows"]:
        assert 0 < one["coverage"] <= 1
        if one["task"] != "denoise":
            assert one["ause_correction"] > 0
    assert "not calibrated" in (tmp_path / "coverage.md").read_text()
