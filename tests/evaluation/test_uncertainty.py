from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from medidiff.evaluation import uncertainty

SHAPE = (40, 40, 40)
INSIDE = np.ones(SHAPE, bool)


def gaussian() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An estimate whose deviation varies from voxel to voxel and is right; its truth is zero."""
    rng = np.random.default_rng(0)
    std = rng.uniform(0.5, 2, SHAPE)
    return std * rng.standard_normal(SHAPE), std, np.zeros(SHAPE)


def test_coverage_of_normal_errors() -> None:
    mean, std, clean = gaussian()
    assert uncertainty.coverage(mean, std, clean, 1.6449, INSIDE) == pytest.approx(0.9, abs=0.005)
    half = INSIDE.copy()
    half[:20] = False
    mean[:20] = 1e9
    assert uncertainty.coverage(mean, std, clean, 1.6449, half) == pytest.approx(0.9, abs=0.005)
    assert uncertainty.interval_width(std, 1.6449, INSIDE) == pytest.approx(2 * 1.6449 * 1.25, rel=0.01)


def test_sparsification_takes_the_largest_away_first() -> None:
    error = np.array([[[4.0, 3.0, 0.0, 0.0]]])
    curve = uncertainty.sparsification(error, error, np.ones(error.shape, bool), 4)
    assert curve == pytest.approx(np.sqrt([25 / 4, 9 / 3, 0, 0]) / np.sqrt(25 / 4))


def test_ause_is_zero_for_an_oracle_and_lies_between_it_and_chance_for_a_right_deviation() -> None:
    mean, std, clean = gaussian()
    oracle = uncertainty.ause(mean, np.abs(mean), clean, INSIDE)
    assert oracle["ause"] == pytest.approx(0, abs=1e-9)
    right = uncertainty.ause(mean, std, clean, INSIDE)
    assert 0.1 < right["ause"] < right["ause_random"] - 0.1
    constant = uncertainty.ause(mean, np.random.default_rng(1).random(SHAPE), clean, INSIDE)
    assert constant["ause"] == pytest.approx(constant["ause_random"], abs=0.02)


def test_crps_is_the_integral_that_defines_it() -> None:
    mean, std, truth = np.array([[[1.0, 2.0]]]), np.array([[[0.5, 2.0]]]), np.array([[[1.7, -1.0]]])

    def score(m: float, s: float, x: float) -> float:
        below, _ = integrate.quad(lambda t: stats.norm.cdf(t, m, s) ** 2, -40, x)
        above, _ = integrate.quad(lambda t: (1 - stats.norm.cdf(t, m, s)) ** 2, x, 40)
        return below + above

    expected = np.mean([score(*each) for each in zip(mean.ravel(), std.ravel(), truth.ravel(), strict=True)])
    found = uncertainty.crps_normal(mean, std, truth, np.ones(mean.shape, bool))
    assert found == pytest.approx(expected, abs=1e-6)
    sure = uncertainty.crps_normal(mean, 0 * std, truth, np.ones(mean.shape, bool))
    assert sure == pytest.approx((0.7 + 3) / 2)


def test_rank_correlation_of_error_and_deviation() -> None:
    mean, std, clean = gaussian()
    assert uncertainty.error_rank(np.abs(std), std, clean, INSIDE) == pytest.approx(1)
    expected = stats.spearmanr(np.abs(mean).ravel(), std.ravel()).statistic
    assert uncertainty.error_rank(mean, std, clean, INSIDE) == pytest.approx(expected)
    assert np.isnan(uncertainty.error_rank(mean, np.ones(SHAPE), clean, INSIDE))
