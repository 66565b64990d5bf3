from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medidiff.evaluation import catalogue, judge
from medidiff.evaluation.judge import Truth


def values(method: str, image: np.ndarray, truth: Truth) -> dict[tuple[str, str], float]:
    return {(row.metric, row.region): row.value for row in judge.figures(method, image, truth)}


def truth_of(image: np.ndarray, **more: Any) -> Truth:
    return Truth("case", image, (1.0, 1.0, 1.0), **more)


def test_regions_and_units_of_magnitudes(image: np.ndarray) -> None:
    restored = image + np.where(image > 0, np.float32(2), np.float32(10))
    found = values("medidiff", restored, truth_of(image))
    assert found["psnr", "foreground"] == pytest.approx(20 * np.log10(200 / 2), abs=1e-5)
    assert found["mae", "foreground"] == pytest.approx(1.0, abs=1e-5)  # percent of 200
    assert found["bias", "full"] > 1
    assert found["psnr", "full"] < found["psnr", "foreground"]
    assert {metric for metric, _ in found} <= set(catalogue.METRICS)


def test_ct_is_judged_in_its_window_and_in_hounsfield_units() -> None:
    rng = np.random.default_rng(0)
    clean = rng.uniform(-100, 200, (16, 16, 16)).astype(np.float32)
    clean[:4] = -1000  # air
    restored = clean + 20
    restored[:4] = -400  # far off, but below the window
    found = values("medidiff", restored, truth_of(clean, units="HU"))
    assert found["psnr", "foreground"] == pytest.approx(20 * np.log10(400 / 20), abs=0.05)
    assert found["mae_hu", "foreground"] == pytest.approx(20, abs=1e-4)
    assert found["bias_hu", "full"] == pytest.approx((12 * 20 + 4 * 600) / 16, rel=1e-5)
    assert found["psnr", "full"] == pytest.approx(20 * np.log10(400 / (20 * np.sqrt(0.75))), abs=0.05)
    assert ("mae", "foreground") not in found
    wide = values("medidiff", restored, truth_of(clean, units="HU", window=(-1000.0, 1000.0)))
    assert wide["psnr", "foreground"] == pytest.approx(20 * np.log10(2000 / 20), abs=0.01)


def test_air_inside_the_body_counts_as_body() -> None:
    clean = np.full((20, 20, 3), -1000, np.float32)
    clean[4:16, 4:16] = 40
    clean[8:12, 8:12] = -900  # lung
    assert truth_of(clean, units="HU").regions["foreground"][:, :, 1].sum() == 12 * 12


def test_masks_holes_and_what_is_not_valid(image: np.ndarray) -> None:
    mask = np.zeros(image.shape, bool)
    mask[5:9, 5:9, 5:9] = True
    restored = image.copy()
    restored[~mask] += 50
    assert values("m", restored, truth_of(image, mask=mask))["psnr", "foreground"] == 200
    valid = np.zeros(image.shape, bool)
    valid[5:9, 5:9, 5:9] = True
    assert values("m", restored, truth_of(image, valid=valid))["psnr", "full"] == 200
    found = values("m", restored, truth_of(image, hole=mask))
    assert {region for _, region in found} == {"hole"}
    assert found["brats_mse", "hole"] == 0


def test_labels_have_rows_of_their_own(image: np.ndarray) -> None:
    labels = np.zeros(image.shape, np.int64)
    labels[4:8, 4:8, 4:8], labels[9:12, 9:12, 4:8] = 1, 7
    restored = image.copy()
    restored[labels == 7] += 4
    found = values("m", restored, truth_of(image, labels=labels))
    assert found["bias", "label 1"] == 0
    assert found["bias", "label 7"] == pytest.approx(2, abs=1e-4)  # percent of 200
    inside = image[labels == 1].astype(float)
    assert found["snr", "label 1"] == pytest.approx(inside.mean() / inside.std(ddof=1))
    assert found["cnr", "label 1"] > 0
    assert ("mtf50", "label 1") not in found  # not CT


def test_uncertainty_is_judged_where_the_scan_is(image: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(image.shape).astype(np.float32)
    truth = truth_of(image)
    std = np.full_like(image, 2)
    rows = judge.uncertain("m", image + 4 * noise, std, truth, 2 * 1.6449)  # stated twice too small, but calibrated
    found = {row.metric: row.value for row in rows}
    assert {row.region for row in rows} == {"foreground"}
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.03)
    assert found["coverage_50"] == pytest.approx(0.5, abs=0.05)
    assert found["width"] == pytest.approx(2 * 1.6449 * 4 / 2, rel=1e-3)  # percent of 200
    assert found["crps"] == pytest.approx(4 / np.sqrt(np.pi) / 2, rel=0.05)


def test_planar_images_are_judged_too() -> None:
    rng = np.random.default_rng(0)
    clean = rng.random((48, 48, 1)).astype(np.float32)
    found = values("m", clean + 0.1, truth_of(clean))
    assert np.isfinite(list(found.values())).all()


def test_methods_are_compared_where_they_were_judged(image: np.ndarray) -> None:
    rows = judge.figures("m", image, truth_of(image))
    assert ("psnr", "foreground") in judge.primary(rows)
    assert ("ms_ssim", "full") in judge.primary(rows)
    filled = judge.figures("m", image, truth_of(image, hole=image > 150))
    assert judge.primary(filled)[0] == ("psnr", "hole")
