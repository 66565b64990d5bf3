"""The figures that judge a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.physics.rician import rician_mean
from medidiff.training import validation


def test_psnr_is_over_the_foreground_with_the_references_peak():
    reference = np.zeros((10, 10, 10), dtype=np.float32)
    reference[:5] = 2.0
    restored = reference + np.float32(0.02)
    restored[5:] += 100  # air does not count
    assert validation.foreground_psnr(restored, reference) == pytest.approx(40, abs=1e-3)


def test_noise_is_rician_and_the_same_on_every_machine():
    clean = np.full((64, 64, 64), 0.3, dtype=np.float32)
    noisy = validation.noisy_version(clean, 15)
    assert noisy.mean() == pytest.approx(0.15 * float(rician_mean(np.array([2.0]))[0]), rel=2e-3)
    np.testing.assert_array_equal(noisy, validation.noisy_version(clean, 15))
    assert not np.array_equal(noisy, validation.noisy_version(clean, 15, seed=1))
    first = validation.noisy_version(clean, 3)[0, 0, :4]
    np.testing.assert_allclose(first, [0.270047, 0.314572, 0.284611, 0.296711], rtol=1e-5)


def test_table_of_methods(pack):
    truth = torch.from_numpy(pack.normalised(3))[None]
    table = validation.evaluate(pack, lambda problem: problem.base + 0.5 * (truth - problem.base), torch.device("cpu"))
    assert list(table) == ["3", "9", "15"]
    for percent, row in table.items():
        clean = pack.normalised(3)
        noisy = validation.noisy_version(clean, int(percent))
        assert row["noisy"] == pytest.approx(validation.foreground_psnr(noisy, clean), abs=1e-3)
        assert row["network"] == pytest.approx(row["base"] + 20 * np.log10(2), abs=2e-3)
        assert row["base"] > row["noisy"] + 2
    assert table["9"]["nlm"] == 25.0
    assert np.isnan(table["3"]["nlm"])
