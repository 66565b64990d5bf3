from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cases, inpaint
from medidiff.evaluation.baselines import biharmonic, mean_of_rim
from medidiff.evaluation.degrade import tumour_like
from medidiff.physics.intensity import Intensity


def test_holes_are_tumours_and_neither_boxes_nor_slabs() -> None:
    ball = np.linalg.norm(np.indices((30, 30, 30)) - 15, axis=0) < 7
    assert tumour_like(ball)
    box, slab, two = np.zeros_like(ball), np.zeros_like(ball), np.zeros_like(ball)
    box[5:15, 5:15, 5:15], slab[:, :, 10:13] = True, True
    two[np.linalg.norm(np.indices((30, 30, 30)) - 6, axis=0) < 4] = True
    two[np.linalg.norm(np.indices((30, 30, 30)) - 22, axis=0) < 4] = True
    assert not any(tumour_like(hole) for hole in (box, slab, two))


def test_holes_lie_in_tissue_that_looks_healthy_and_are_the_same_again(body: Path) -> None:
    case = cases.load(body, 48, "MR")
    hole = inpaint.healthy_hole(case, 3)
    assert hole is not None
    assert (hole == inpaint.healthy_hole(case, 3)).all()
    assert (case.clean[hole] > 0.2).mean() > 0.9
    empty = cases.Case(
        "empty",
        "empty",
        "MR",
        (1.0, 1.0, 1.0),
        np.eye(32, dtype=np.float32)[None] + case.clean[:1, :1, :1],
        Intensity(0.0, 1.0),
    )
    assert inpaint.healthy_hole(empty, 3) is None


def test_classical_fillings_of_a_ramp() -> None:
    ramp = np.broadcast_to(np.linspace(1, 2, 24, dtype=np.float32), (20, 20, 24)).copy()
    hole = np.linalg.norm(np.indices(ramp.shape) - np.array([10, 10, 12])[:, None, None, None], axis=0) < 4
    scan = np.where(hole, np.float32(0), ramp)
    assert np.allclose(biharmonic(scan, hole), ramp, atol=1e-4)
    mean = mean_of_rim(scan, hole)
    assert mean[hole] == pytest.approx(ramp[10, 10, 12], abs=0.01)
    assert (mean[~hole] == ramp[~hole]).all()


def row(biharmonic: float, harmonic: float, mine: float, changed: int = 0) -> inpaint.Row:
    values = {inpaint.MEAN: 10.0, inpaint.BIHARMONIC: biharmonic, inpaint.BASE: harmonic, inpaint.MEDIDIFF: mine}
    return {"methods": {name: {"psnr": value} for name, value in values.items()}, "changed_outside": changed}


def test_goals_are_gains_over_both_fillings_and_nothing_changed() -> None:
    found = inpaint.verdicts([row(20, 19, 22), row(20, 19, 21)])
    assert [verdict.met for verdict in found] == [True, False, True]  # +2.5 dB, +1.5 dB, none
    assert inpaint.verdicts([row(20, 19, 22, changed=1)])[-1].met is False


def test_a_run_fills_as_the_base_does_when_the_network_adds_nothing(
    silent_bundle: Path, body: Path, tmp_path: Path
) -> None:
    arguments = [
        "--pipeline",
        str(silent_bundle),
        "--files",
        str(body),
        "--crop",
        "40",
        "--holes",
        "2",
        "--threads",
        "1",
    ]
    inpaint.main([*arguments, "--results", str(tmp_path)])
    result = json.loads((tmp_path / "inpaint.json").read_text())
    assert len(result["rows"]) == 2
    for found in result["rows"]:
        base, mine = found["methods"][inpaint.BASE], found["methods"][inpaint.MEDIDIFF]
        assert mine["mse"] == pytest.approx(base["mse"], rel=1e-5)
        assert mine["psnr"] > found["methods"][inpaint.MEAN]["psnr"]
        assert found["changed_outside"] == 0
    assert "computed with MONAI" in (tmp_path / "inpaint.md").read_text()
