from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import cases, inpaint, metrics
from medidiff.physics.intensity import Intensity


def hole_of(shape: tuple[int, ...], *voxels: tuple[int, ...]) -> inpaint.Mask:
    hole = np.zeros(shape, dtype=np.bool_)
    hole[tuple(np.transpose(voxels))] = True
    return hole


def test_mse_and_psnr_of_the_challenge_by_hand() -> None:
    truth, restored = np.full((9, 9, 9), 50, np.float32), np.zeros((9, 9, 9), np.float32)
    hole = hole_of(truth.shape, (4, 4, 4), (4, 4, 5))
    truth[4, 4, 4:6], restored[4, 4, 4:6] = (2, 4), (3, 4)
    found = metrics.brats_inpainting(restored, truth, hole)
    assert found["mse"] == pytest.approx((1 / 4) ** 2 / 2)  # over the maximum inside the hole, 4
    assert found["psnr"] == pytest.approx(10 * np.log10((2 / 4) ** 2 / found["mse"]))
    assert metrics.brats_inpainting(truth, truth, hole)["ssim"] == pytest.approx(1)


@pytest.mark.parametrize("height", [0.5, 1.5])
def test_ssim_of_the_challenge_by_hand(height: float) -> None:
    truth, restored = np.full((15, 15, 15), 7, np.float32), np.full((15, 15, 15), 3, np.float32)
    truth[7, 7, 7], restored[7, 7, 7] = 20, 20 * height
    hole = hole_of(truth.shape, (7, 7, 7))
    # one voxel of 1, and of `height`, in zeros: every window sees it with the weight of the kernel's middle
    line = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    weight = (1 / line.sum()) ** 3
    c1, c2 = (0.01 * max(1, height)) ** 2, (0.03 * max(1, height)) ** 2
    brightness = (2 * weight**2 * height + c1) / (weight**2 * (1 + height**2) + c1)
    structure = (2 * (weight - weight**2) * height + c2) / ((weight - weight**2) * (1 + height**2) + c2)
    assert metrics.brats_inpainting(restored, truth, hole)["ssim"] == pytest.approx(brightness * structure, rel=1e-4)


def test_ssim_equals_that_of_torchmetrics() -> None:
    image = pytest.importorskip("torchmetrics.image")
    rng = np.random.default_rng(0)
    truth = rng.random((24, 20, 22), dtype=np.float32)
    restored = truth + 0.1 * rng.standard_normal(truth.shape).astype(np.float32)
    hole = np.zeros(truth.shape, dtype=np.bool_)
    hole[3:14, 8:20, 5:12] = True  # up to a face
    pair = [torch.from_numpy(one * hole / truth[hole].max())[None, None] for one in (truth, restored)]
    _, similarity = image.StructuralSimilarityIndexMeasure(return_full_image=True)(*pair)
    expected = float(similarity[0, 0].numpy()[hole].mean())
    assert metrics.brats_inpainting(restored, truth, hole)["ssim"] == pytest.approx(expected, abs=1e-5)


def test_holes_are_tumours_and_neither_boxes_nor_slabs() -> None:
    ball = np.linalg.norm(np.indices((30, 30, 30)) - 15, axis=0) < 7
    assert inpaint.tumour_like(ball)
    box, slab, two = np.zeros_like(ball), np.zeros_like(ball), np.zeros_like(ball)
    box[5:15, 5:15, 5:15], slab[:, :, 10:13] = True, True
    two[np.linalg.norm(np.indices((30, 30, 30)) - 6, axis=0) < 4] = True
    two[np.linalg.norm(np.indices((30, 30, 30)) - 22, axis=0) < 4] = True
    assert not any(inpaint.tumour_like(hole) for hole in (box, slab, two))


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
    assert np.allclose(inpaint.biharmonic(scan, hole), ramp, atol=1e-4)
    mean = inpaint.mean_of_rim(scan, hole)
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
