from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import card_figures, slices
from benchmarks.cases import Case
from medidiff.physics.intensity import Intensity


def case(depth: int) -> Case:
    volume = np.linspace(0.1, 1, 32 * 32 * depth, dtype=np.float32).reshape(32, 32, depth)
    return Case("made", "somebody", "MR", (1.0, 1.0, 2.0), volume, Intensity(0.0, 100.0))


@pytest.mark.parametrize(("depth", "expected"), [(9, [2, 4, 6]), (2, [0]), (1, [0])])
def test_three_slices_of_a_volume_fewer_of_a_thin_one(depth: int, expected: list[int]) -> None:
    found = list(slices.slices_of(iter([case(depth)])))
    assert [index for _, index in found] == expected
    for one, index in found:
        assert np.array_equal(one.clean, case(depth).clean[:, :, index : index + 1])


def test_empty_slices_are_left_out() -> None:
    empty = case(9)
    empty.clean[:, :, 4] = 0
    assert [index for _, index in slices.slices_of(iter([empty]))] == [2, 6]


def test_goals_compare_means_of_one_setting_or_task() -> None:
    rows = [
        {"task": task, "setting": setting, "methods": {name: {"psnr": 20.0} for name in (slices.NLM, slices.BASE)}}
        for task, setting in [("denoise", "noise of 15"), ("denoise", "noise of 25"), ("denoise", "noise of 50")] * 2
        + [("inpaint", "one hole")]
    ]
    for row, gain in zip(rows, [0.75, 0.25, 1.0, 0.5, 0.25, 0.25, -0.125], strict=True):
        row["methods"][slices.MEDIDIFF] = {"psnr": 20.0 + gain}
    assert slices.gains(rows, "noise of 15", slices.NLM).tolist() == [0.75, 0.5]
    assert slices.gains(rows, "inpaint", slices.BASE).tolist() == [-0.125]
    found = slices.verdicts(rows)
    assert [verdict.met for verdict in found] == [True, False, True, True, False]
    assert found[-1].found == "-0.12 dB in the mean, worse on 1 of 1 images"


def test_a_run_judges_every_method_on_the_same_slices(
    silent_planar: Path, body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIDIFF_BUNDLES", str(silent_planar.parent))
    command = ["--files", str(body), "--pipeline", silent_planar.name, "--crop", "40", "--results", str(tmp_path)]
    slices.main([*command, "--threads", "1"])
    found = json.loads((tmp_path / "slices.json").read_text())
    assert len(found["rows"]) == 3 * (len(slices.LEVELS) + len(slices.COARSE) + 1)
    for row in found["rows"]:
        figures = row["methods"]
        assert figures[slices.MEDIDIFF]["psnr"] == pytest.approx(figures[slices.BASE]["psnr"], abs=1e-3)
        if row["task"] == "denoise":
            sigma = int(row["setting"].split()[-1]) / 255
            assert figures[slices.NOISY]["psnr"] == pytest.approx(-20 * np.log10(sigma), abs=0.4)
            assert figures[slices.MEDIDIFF]["psnr"] > figures[slices.NOISY]["psnr"] + 3
    assert "| noise of 15 | 1 of 1 |" in card_figures.slices(found)
