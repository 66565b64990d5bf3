from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.evaluation import unreferenced


def head(shape: tuple[int, ...] = (48, 48, 40)) -> np.ndarray:
    """A ball with a darker half and a little texture."""
    grid = np.indices(shape) - np.array([n / 2 for n in shape])[:, None, None, None]
    inside = np.linalg.norm(grid, axis=0) < 17
    texture = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(shape), 2)
    image = np.where(inside, np.where(grid[0] > 0, 900.0, 500.0) + 100 * texture, 0.0)
    return ndimage.gaussian_filter(image, 0.6).astype(np.float32)


def noisy(image: np.ndarray, sigma: float = 60.0) -> np.ndarray:
    rng = np.random.default_rng(0)
    real, imaginary = sigma * rng.standard_normal((2, *image.shape))
    return np.hypot(image + real, imaginary).astype(np.float32)


def test_noise_before_and_after() -> None:
    clean = head()
    scan = noisy(clean)
    found = unreferenced.figures(scan, (0.5 * clean + 0.5 * scan).astype(np.float32), "MR")
    bright = np.percentile(clean[clean > 200], 99.5)
    assert found["noise_before"] == pytest.approx(100 * 60 / bright, rel=0.15)
    assert found["noise_ratio"] == pytest.approx(0.5, abs=0.12)


def test_what_was_removed_is_noise_or_structure() -> None:
    clean = head()
    scan = noisy(clean)
    good = unreferenced.residual(scan, clean, "MR")
    assert good["removed"] == pytest.approx(1, abs=0.15)
    assert abs(good["residual_lag1"]) < 0.05
    assert abs(good["residual_edges"]) < 0.05
    blurred = unreferenced.residual(scan, ndimage.gaussian_filter(clean, 2), "MR")
    assert blurred["residual_lag1"] > 0.1
    assert blurred["residual_edges"] > good["residual_edges"] + 0.1


def test_sharpness_of_blurred_edges() -> None:
    position = np.arange(48) - 23.5
    step = ndimage.gaussian_filter1d((position > 0).astype(float), 1.0) * 500 + 300
    before = np.broadcast_to(step[:, None, None], (48, 40, 40)).astype(np.float32)
    after = ndimage.gaussian_filter(before, (1.5, 0, 0))
    found = unreferenced.sharpness(before, after)
    assert found < 0.75
    assert unreferenced.sharpness(before, before) == pytest.approx(1)
    rng = np.random.default_rng(0)
    scan = before + 30 * rng.standard_normal(before.shape).astype(np.float32)
    assert unreferenced.sharpness(scan, before) == pytest.approx(1, abs=0.03)  # noise averages out


def test_another_grid_and_a_constant_image_tell_less() -> None:
    scan = noisy(head())
    finer = np.repeat(scan, 2, axis=2)
    assert set(unreferenced.figures(scan, finer, "MR")) == {"noise_before", "noise_after", "noise_ratio"}
    flat = np.ones((20, 20, 20), np.float32)
    found = unreferenced.figures(flat, flat, "MR")
    assert np.isnan(found["noise_ratio"])
    assert np.isnan(found["sharpness"])
