"""The Rician law against scipy's and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from medidiff.physics.rician import RAYLEIGH_MEAN, look_up, remove_rician_bias, rician_mean, rician_variance

NU = np.concatenate([[0, 1e-3], np.linspace(0.05, 30, 400)])


def test_moments_are_scipys():
    np.testing.assert_allclose(rician_mean(NU), stats.rice.mean(NU), rtol=1e-9)
    np.testing.assert_allclose(rician_variance(NU), stats.rice.var(NU), rtol=1e-6, atol=1e-9)


def test_looking_up_is_interpolation_with_the_ends_beyond():
    table = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    values = np.concatenate([np.linspace(-5, 20, 999), [2.0, 2 + 0.25 * 39]]).astype(np.float32)
    expected = np.interp(values, 2 + 0.25 * np.arange(40), table)
    np.testing.assert_allclose(look_up(values, 2, 0.25, table), expected, atol=1e-5)


def test_moments_without_signal_are_rayleighs():
    assert float(rician_mean(np.zeros(1))[0]) == pytest.approx(np.sqrt(np.pi / 2), rel=1e-14)
    assert float(rician_mean(np.zeros(1))[0]) == pytest.approx(RAYLEIGH_MEAN)
    assert float(rician_variance(np.zeros(1))[0]) == pytest.approx(2 - np.pi / 2, rel=1e-14)


@pytest.mark.parametrize("nu", [0.0, 0.7, 1.5, 4.0, 20.0])
def test_moments_of_simulated_magnitudes(nu):
    rng = np.random.default_rng(0)
    count = 400_000
    magnitude = np.hypot(nu + rng.standard_normal(count), rng.standard_normal(count))
    assert magnitude.mean() == pytest.approx(float(rician_mean(np.array([nu]))[0]), abs=5 / np.sqrt(count))
    assert magnitude.var() == pytest.approx(float(rician_variance(np.array([nu]))[0]), rel=5 * np.sqrt(2 / count))


def test_large_values_do_not_overflow():
    nu = np.array([50.0, 1e3, 1e5])
    np.testing.assert_allclose(rician_mean(nu), np.sqrt(nu**2 + 1), rtol=1e-4)
    np.testing.assert_allclose(rician_variance(nu[:2]), 1, rtol=1e-3)


def test_inverse_of_the_mean():
    nu = np.concatenate([np.linspace(0, 14, 5001), np.linspace(14, 500, 200)])
    found = remove_rician_bias(torch.from_numpy(rician_mean(nu).astype(np.float32))).numpy()
    # the mean is flat at zero, so there the inverse amplifies float32 rounding and the table's grid
    np.testing.assert_allclose(found[nu > 0.2], nu[nu > 0.2], atol=1e-3)
    np.testing.assert_allclose(found, nu, atol=0.05)


def test_below_the_rayleigh_mean_there_is_no_signal():
    means = torch.tensor([-3.0, 0.0, 0.5, 1.2, RAYLEIGH_MEAN])
    assert torch.all(remove_rician_bias(means)[:4] == 0)
    assert float(remove_rician_bias(means)[4]) == pytest.approx(0, abs=1e-3)


def test_inverse_is_monotone_and_keeps_shape():
    means = torch.linspace(0, 30, 100_001)
    found = remove_rician_bias(means)
    assert torch.all(found.diff() >= -2e-5)
    assert torch.equal(remove_rician_bias(means[:100_000].reshape(10, 100, 100)).flatten(), found[:100_000])
