from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import presets


def test_spread_is_judged_at_voxels_and_over_cubes() -> None:
    rng = np.random.default_rng(0)
    shape, inside = (32, 32, 32), np.ones((32, 32, 32), dtype=np.bool_)
    error = rng.standard_normal(shape).astype(np.float32)
    white = [rng.standard_normal(shape).astype(np.float32) for _ in range(4)]
    found = presets.spread(white, error, inside)
    assert found["voxel"] == pytest.approx(1, abs=0.02)
    assert found["cube"] == pytest.approx(1, abs=0.2)
    smooth = presets.spread(white, error + 1, inside)  # an error in which whole regions are off
    assert smooth["voxel"] == pytest.approx(1 / np.sqrt(2), abs=0.02)
    assert smooth["cube"] == pytest.approx(8**-1.5, rel=0.2)
    assert np.isnan(presets.spread(white, error, np.zeros_like(inside))["cube"])


def test_cubes_are_means() -> None:
    image = np.zeros((17, 8, 9), dtype=np.float32)
    image[8:16, :4, :8] = 2
    np.testing.assert_array_equal(presets.cubes(image).ravel(), [0, 1])


def row(preset: str, psnr: float, seconds: float, cube: float) -> presets.Row:
    figures = {"psnr": psnr, "mean_seconds": 1.0, "samples_seconds": seconds, "voxel": 1.0, "cube": cube}
    return {"task": "denoise", "preset": preset, **figures}


def test_each_preset_has_to_be_worth_its_name() -> None:
    rows = [row("fast", 30.0, 3, 0.3), row("balanced", 30.0, 7, 0.5), row("best", 30.03, 15, 0.6)]
    assert presets.gains(rows, "denoise", "best") == pytest.approx([0.03])
    assert [verdict.met for verdict in presets.verdicts(rows)] == [True, True, True]
    rows = [row("fast", 30.0, 5, 0.3), row("balanced", 30.0, 7, 0.5), row("best", 30.01, 15, 0.4)]
    assert [verdict.met for verdict in presets.verdicts(rows)] == [False, False, False]


def test_a_run_writes_a_row_for_each_preset(
    silent_bundle: Path, body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "SAMPLES", 2)
    flags = ["--pipeline", str(silent_bundle), "--files", str(body), "--crop", "24", "--threads", "1"]
    presets.main([*flags, "--results", str(tmp_path)])
    rows = json.loads((tmp_path / "presets.json").read_text())["rows"]
    assert [one["preset"] for one in rows] == ["fast", "balanced", "best"]
    assert {one["task"] for one in rows} == {"denoise"}  # too small for slices of four voxels
    assert presets.gains(rows, "denoise", "best") == pytest.approx([0], abs=1e-6)  # nothing comes of nothing
    assert "denoise, 9 % noise: `best` | 16 | yes" in (tmp_path / "presets.md").read_text()
