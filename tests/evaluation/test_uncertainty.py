from __future__ import annotations

import numpy as np
import pytest

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
