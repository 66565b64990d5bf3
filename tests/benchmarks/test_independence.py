from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import independence
from benchmarks.independence import Row
from medidiff import pipelines


def test_a_step_at_a_border_is_seen_and_a_smooth_image_is_not() -> None:
    rng = np.random.default_rng(0)
    noise = 0.2 * rng.standard_normal((64, 24, 24)).astype(np.float32)
    assert independence.seam(noise, [[32], [], []])["z"] < 3
    noise[32:] += 0.5
    found = independence.seam(noise, [[32], [], []])
    assert found["z"] > 3
    assert found["ratio"] > 1.02


def test_without_borders_there_is_no_seam() -> None:
    assert np.isnan(independence.seam(np.zeros((8, 8, 8), np.float32), [[], [], []])["z"])


def test_borders_are_where_tiles_start(tiny_home: Path) -> None:
    engine = independence.engine_of(pipelines.load(tiny_home))
    cut = independence.replace(engine, tile=48, halo=8)
    assert independence.tile_borders(cut, (96, 40, 64)) == [[40, 72], [], [32]]


def test_the_smallest_halo_is_judged_on_the_worst_image() -> None:
    rows: list[Row] = [
        {"halo": 8, "max_sigma": 0.01},
        {"halo": 8, "max_sigma": 0.05},
        {"halo": 16, "max_sigma": 0.015},
        {"halo": 24, "max_sigma": 0.001},
    ]
    assert independence.smallest_halo(rows) == 16
    assert independence.smallest_halo(rows[:2]) is None


def test_too_small_a_halo_is_found_out(tiny_home: Path) -> None:
    engine = independence.engine_of(pipelines.load(tiny_home))
    each = independence.probe("ramp", independence.ramp((112, 32, 24)), 9.0)
    without, wide = independence.halo_rows(engine, each, (0, 24))
    assert without["max_sigma"] > 100 * wide["max_sigma"] > 0
    assert without["p999_sigma"] <= without["max_sigma"]


def test_a_run_judges_all_goals(tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(independence, "TILE_SHAPE", (64, 24, 24))
    monkeypatch.setattr(independence, "HALO_SHAPE", (72, 24, 24))
    arguments = [
        "--pipeline",
        "tiny",
        "--noise",
        "9",
        "--images",
        "constant",
        "--tiles",
        "56",
        "--halos",
        "16",
        "--threads",
        "1",
        "--results",
        str(tmp_path),
    ]
    independence.main(arguments)
    result = json.loads((tmp_path / "independence.json").read_text())
    assert result["verdicts"][0]["met"] is True  # only rounding from batch, order, threads
    assert max(result["exact"].values()) < 1e-6
    assert result["tiles"][0]["tile"] == 56
    assert result["halos"][0]["halo"] == 16
