from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import soak


def test_growth_tells_a_leak_from_noise() -> None:
    rng = np.random.default_rng(0)
    flat = [*range(300, 320), *(500 + rng.normal(0, 1, 180))]
    found = soak.growth(flat, 20)
    assert abs(found["growth"]) < 0.005
    assert found["widest"] < 0.01
    leaky = [each + 0.2 * index for index, each in enumerate(flat)]
    found = soak.growth(leaky, 20)
    assert found["growth"] == pytest.approx(0.2 * 162 / 506, rel=0.05)
    assert found["mb_a_case"] == pytest.approx(0.2, abs=0.01)


@pytest.mark.slow
def test_memory_of_a_long_run_is_flat(tiny_home: Path, tmp_path: Path) -> None:
    options = ["--pipeline", "tiny", "--cases", "60", "--warm", "20", "--threads", "1", "--results", str(tmp_path)]
    soak.main(options)
    found = json.loads((tmp_path / "soak.json").read_text())
    assert found["cases"] == {"done": 40, "failed": 20}
    assert found["widest"] <= soak.LARGEST_GROWTH
