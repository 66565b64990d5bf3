"""Calibration gives back what is known about errors that were made to measure."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from medidiff.training import calibration
from medidiff.training.calibration import Reference, Scores, Trial, quantile, simulate
from tests.training.conftest import blobs


@pytest.fixture(scope="module")
def references():
    return [
        Reference(blobs((48, 44, 48), seed).astype(np.float32), (1.0, 1.0, 1.0), f"s{seed % 3}") for seed in range(4)
    ]


def gaussian(sigma, told):
    """A restoration that is off by normal errors of ``sigma`` and says ``told``."""
    rng = np.random.default_rng(0)

    def restore(trial):
        error = sigma * rng.standard_normal(trial.truth.shape)
        base = trial.truth + 1  # which the network mends but for its error
        return base, (trial.truth + error).astype(np.float32), np.full(trial.truth.shape, told, np.float32)

    return restore


def test_normal_errors_have_normal_quantiles(references):
    table = calibration.calibrate(references, gaussian(0.1, 0.05))
    assert {task: list(rows) for task, rows in table.items()} == {
        "denoise": ["3", "9", "15"],
        "superres": ["2", "4", "6", "8"],
        "inpaint": ["1"],
    }
    for rows in table.values():
        for row in rows.values():
            assert row["gain"] == pytest.approx(1 / 1.01, rel=1e-3)
            assert row["scale"] == pytest.approx(2, rel=0.05)
            assert row["quantile90"] == pytest.approx(stats.norm.ppf(0.95), rel=0.05)
            assert (row["volumes"], row["subjects"]) == (4, ["s0", "s1", "s2"])


def following(factor, sigma, told=0.1, off=0.1):
    """A restoration with a base that is off by normal errors, which the network mends by a factor and an own error."""
    rng = np.random.default_rng(0)

    def restore(trial):
        missing, error = rng.standard_normal((2, *trial.truth.shape))
        base = trial.truth - off * missing
        mean = base + factor * off * missing + sigma * error
        return base.astype(np.float32), mean.astype(np.float32), np.full(trial.truth.shape, told, np.float32)

    return restore


@pytest.mark.parametrize(("factor", "sigma"), [(1, 0.001), (0.5, 0.001), (2, 0.02), (1, 0.1), (-1, 0.05), (0, 0.1)])
def test_the_gain_is_what_comes_nearest_to_the_truth(references, factor, sigma):
    row = calibration.calibrate(references, following(factor, sigma), ["denoise"])["denoise"]["9"]
    gain = min(max(0.01 * factor / (0.01 * factor**2 + sigma**2), 0), 1)
    error = math.hypot(0.1 * (1 - gain * factor), gain * sigma)
    assert row["gain"] == pytest.approx(gain, abs=0.01)
    assert row["scale"] == pytest.approx(error / 0.1, rel=0.02)  # of the mean with that gain
    assert row["quantile90"] == pytest.approx(stats.norm.ppf(0.95), rel=0.02)
    assert error <= 0.1 + 1e-9


def test_the_gain_where_nothing_was_corrected(references):
    assert calibration.calibrate(references, following(0, 0), ["inpaint"])["inpaint"]["1"]["gain"] == 1


def test_the_gain_counts_every_volume_the_same():
    def judged(edge, factor):
        truth = np.zeros((edge,) * 3, np.float32)
        trial = Trial("denoise", 9, truth, (1.0,) * 3, None, {}, truth, np.ones(truth.shape, np.bool_))
        return calibration.score(trial, truth - 1, truth - 1 + np.float32(factor), truth)

    few, many = judged(4, 2), judged(40, 1)  # gains of 1/2 and 1
    assert calibration.best_gain([few, many]) == pytest.approx((2 + 1) / (4 + 1))


def test_every_volume_weighs_the_same():
    few, many = np.full(10, 1, np.float32), np.full(100_000, 3, np.float32)
    assert quantile([few, many], 0.45) == 1
    assert quantile([few, many], 0.55) == 3


def test_trials_of_each_task(references):
    generator = torch.Generator().manual_seed(0)
    denoise = simulate("denoise", 9, references[0], generator)
    error = (denoise.scan - denoise.truth)[denoise.truth > 0.5]
    assert float(error.std()) == pytest.approx(0.09, rel=0.05)
    through = simulate("superres", 4, references[0], generator)
    assert through.scan.shape == (48, 44, 12)
    assert through.spacing == (1, 1, 4)
    assert through.options["factor"] == (1, 1, 4)
    cube = simulate("superres", 8, references[0], generator)
    assert cube.scan.shape == (24, 22, 24)
    assert float(cube.scan.mean()) == pytest.approx(float(cube.truth.mean()), rel=0.01)
    hole = simulate("inpaint", 1, references[0], generator)
    assert np.array_equal(hole.scan[~hole.hole], hole.truth[~hole.hole])
    assert not hole.scan[hole.hole].any()
    assert np.array_equal(hole.inside, hole.hole)


def test_a_task_is_tried_alike_alone_and_with_others(references):
    def tried(*tasks):
        seen = []

        def restore(trial):
            if trial.task == "inpaint":
                seen.append(trial.hole.tobytes())
            return trial.truth - np.float32(0.1), trial.truth + np.float32(0.2), np.full_like(trial.truth, 0.1)

        calibration.calibrate(references[:1], restore, tasks)
        return seen

    alone = tried("inpaint")
    assert alone == tried("denoise", "inpaint")
    assert len(alone) == len(set(alone)) > 4


def test_thick_slices_cannot_teach_superresolution():
    thick = Reference(blobs((48, 44, 48), 0).astype(np.float32), (1.0, 1.0, 4.0))
    assert simulate("superres", 4, thick, torch.Generator()) is None
    with pytest.raises(ValueError, match="superres"):
        calibration.calibrate([thick], gaussian(0.1, 0.1), ["superres"])


def test_the_table_is_kept_in_the_metadata(tmp_path):
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({"version": "1", "medidiff": {"tasks": [], "calibration": {"inpaint": {"1": 1}}}}))
    calibration.write(path, {"denoise": {"3": {"quantile90": 1.6}}})
    tree = json.loads(path.read_text())
    assert tree["version"] == "1"
    assert tree["medidiff"]["calibration"] == {"inpaint": {"1": 1}, "denoise": {"3": {"quantile90": 1.6}}}
    assert list(tmp_path.iterdir()) == [path]


def test_scores_are_errors_over_deviations(references):
    trial = simulate("denoise", 3, references[0], torch.Generator())
    base, mean = trial.truth - np.float32(0.1), trial.truth + np.float32(0.2)
    found = calibration.score(trial, base, mean, np.full(trial.truth.shape, 0.0999, np.float32))
    assert isinstance(found, Scores)
    assert found.deviation == pytest.approx(0.1, rel=1e-4)
    for gain, error in ((0.0, 0.1), (0.5, 0.05), (1.0, 0.2)):
        assert found.square_error(gain) == pytest.approx(error**2, rel=1e-4)
        assert found.ratios(gain) == pytest.approx(10 * error, rel=1e-3)


def test_the_range_of_the_training_volumes(pack):
    found = calibration.trained_range(pack, (1.0, 18.0))
    assert found["anisotropy"] == [3.0, 3.0]
    mean, deviation = found["intensity"]["middle"]
    assert 0.5 < mean < 0.9
    assert deviation > 0
    assert json.loads(json.dumps(found)) == found
    assert calibration.trained_range(pack, (1.0, 18.0), ("MR", "CT"))["anisotropy"] == [3.0, 3.0]


def test_the_middle_of_the_body():
    image = np.zeros((60, 40, 30), np.float32)
    image[40:50, 10:20, 5:15] = 1
    assert calibration.middle(image, 20).shape == (20, 20, 20)
    assert calibration.middle(image, 20).sum() == 1000
    assert calibration.middle(0 * image, 20).shape == image.shape
