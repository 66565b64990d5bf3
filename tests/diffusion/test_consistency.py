"""Figures of the removed part, where it is pure noise and where it is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.diffusion.consistency import check


@pytest.fixture(scope="module")
def truth():
    radius = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[np.linspace(-1, 1, 48)] * 3, indexing="ij")))
    return ndimage.gaussian_filter(1.0 * (radius < 0.9) - 0.4 * (radius < 0.4), 1).astype(np.float32)


def measure(truth, sigma, law):
    first, second = np.random.default_rng(0).standard_normal((2, *truth.shape))
    if law == "gaussian":
        return (truth + sigma * first).astype(np.float32)
    return np.hypot(truth + sigma * first, sigma * second).astype(np.float32)


@pytest.mark.parametrize("law", ["gaussian", "rician"])
@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
def test_exactly_the_noise_was_removed(truth, law, sigma):
    found = check(measure(truth, sigma, law), truth, np.float32(sigma), law)
    assert found["removed_variance_ratio"] == pytest.approx(1, abs=0.03)
    assert found["removed_mean"] == pytest.approx(0, abs=0.02)
    assert found["removed_lag1"] == pytest.approx(0, abs=0.02)
    assert found["removed_edge_correlation"] == pytest.approx(0, abs=0.02)


def test_noise_that_varies(truth):
    sigma = np.broadcast_to(0.05 * np.linspace(1, 3, 48, dtype=np.float32)[:, None, None], truth.shape)
    found = check(measure(truth, sigma, "rician"), truth, sigma, "rician")
    assert found["removed_variance_ratio"] == pytest.approx(1, abs=0.03)


def test_nothing_was_removed(truth):
    noisy = measure(truth, 0.1, "gaussian")
    assert check(noisy, noisy, np.float32(0.1), "gaussian")["removed_variance_ratio"] == 0


def test_structure_was_removed(truth):
    blurred = ndimage.gaussian_filter(truth, 3)
    found = check(measure(truth, 0.02, "gaussian"), blurred, np.float32(0.02), "gaussian")
    assert found["removed_variance_ratio"] > 2
    assert found["removed_lag1"] > 0.5
    assert found["removed_edge_correlation"] > 0.3


def test_coarse_power_is_that_of_the_noise_or_of_the_structure_where_it_is_steep(truth):
    noisy = measure(truth, 0.05, "gaussian")
    exact = check(noisy, truth, np.float32(0.05), "gaussian")["removed_coarse"]
    blurred = check(noisy, ndimage.gaussian_filter(truth, 2), np.float32(0.05), "gaussian")["removed_coarse"]
    assert exact == pytest.approx(1, abs=0.2)
    assert blurred > 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_correlation_along_any_axis_is_seen(truth, axis):
    noisy = truth + ndimage.gaussian_filter1d(measure(0 * truth, 0.1, "gaussian"), 0.8, axis)
    found = check(noisy, truth, np.float32(0.1), "gaussian")
    assert found["removed_lag1"] > 0.3


def test_bias_is_seen(truth):
    found = check(measure(truth, 0.1, "gaussian"), truth - np.float32(0.05), np.float32(0.1), "gaussian")
    assert found["removed_mean"] == pytest.approx(0.5, abs=0.02)


def test_rician_bias_that_was_left_in_is_seen(truth):
    """An image that still holds the mean of the magnitudes is too bright: the removed part is below zero on average."""
    sigma = np.float32(0.5)
    noisy = measure(truth, sigma, "rician")
    kept = np.sqrt(truth**2 + sigma**2)
    assert check(noisy, kept, sigma, "rician")["removed_mean"] < -0.1


def test_too_small_to_tell():
    small = np.random.default_rng(0).random((5, 5, 5)).astype(np.float32)
    assert check(small, small, np.float32(0.1), "rician") == {}
