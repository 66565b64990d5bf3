"""Synthetic bodies: reproducible, in the range of CT, with tubes; and batches of CT made of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medidiff.physics import texture
from medidiff.physics.intensity import CT_BRIGHT, CT_OFFSET, CT_SCALE
from medidiff.training import calibration, phantoms, validation
from medidiff.training.pack import Pack
from medidiff.training.recipe import Data
from medidiff.training.simulator import Simulator

PLAIN = Data(thin=0.0, varying=0.0, sigma_jitter=0.0, inherent=0.0, phantoms=1)


@pytest.fixture(scope="module")
def body() -> np.ndarray:
    return phantoms.make(1, 40, 3)[0][0] * CT_SCALE + CT_OFFSET


def test_bodies_are_reproducible_and_differ():
    (first, size), (second, _) = phantoms.make(2, 24, 5)
    again, same = phantoms.make(1, 24, 5)[0]
    np.testing.assert_array_equal(first, again)
    assert size == same
    assert 0.4 <= size <= 5
    assert np.abs(first - second).mean() > 0.01


def test_tissue_has_the_values_of_ct(body):
    assert body.min() >= CT_OFFSET - 1e-3
    assert body.max() < 2000
    air, soft, bone = (body < -900).mean(), ((body > -150) & (body < 150)).mean(), (body > 200).mean()
    assert air > 0.05
    assert soft > 0.3
    assert 0.001 < bone < 0.3


def test_tubes_are_no_wider_than_they_are_asked():
    image, inside = np.zeros((24, 24, 24), np.float32), np.ones((24, 24, 24), dtype=bool)
    phantoms._ball(image, inside, np.array([10.0, 12.0, 11.0]), 3.0, np.float32(7))
    grid = np.indices(image.shape)
    near = sum(np.square(g - c) for g, c in zip(grid, (10, 12, 11), strict=True)) <= 9
    np.testing.assert_array_equal(image == 7, near)


def test_batches_of_ct_have_gaussian_noise_of_a_texture_in_parts_of_the_bright_level(pack):
    draw = Simulator(pack, replace(PLAIN, sigma=(0.05, 0.05)), torch.device("cpu"), 0, ("CT",))
    names = {entry.name for entry in draw._entries}
    assert names == {"ct", "phantom 0"}
    lags = []
    for _ in range(6):
        problem = (example := draw.draw(16, 4)).problem
        noise = problem.measured - problem.image(example.target)
        np.testing.assert_allclose(problem.sigma, 0.05 * CT_BRIGHT, rtol=1e-5)
        assert float(noise.std()) == pytest.approx(0.05 * CT_BRIGHT, rel=0.15)
        assert not problem.parameters[:, 1].any()  # not Rician
        lags.append([float((noise.narrow(a, 0, 15) * noise.narrow(a, 1, 15)).mean() / noise.var()) for a in (1, 2, 3)])
    assert np.ptp(np.max(lags, axis=1)) > 0.1  # every batch has its own


def test_a_spectrum_is_read_nearly_as_it_is(pack):
    draw = Simulator(pack, PLAIN, torch.device("cpu"), 0, ("CT",))
    off = []
    for _ in range(20):
        true, read = draw._spectrum()
        assert true.axis == read.axis
        block = (4, 4, 4)
        off.append(float((texture.block_variances(true, block) - texture.block_variances(read, block)).square().mean()))
    assert 0 < np.sqrt(np.mean(off)) < 0.25


def test_networks_for_ct_are_judged_and_calibrated_with_its_noise(pack):
    assert validation.noise_of(("CT",)) == "CT"
    assert validation.noise_of(("MR", "CT")) == "MR"
    clean = np.full((48, 48, 32), 0.5, np.float32)
    off = validation.noisy_version(clean, 4, modality="CT") - clean
    assert off.std() == pytest.approx(0.04 * CT_BRIGHT, rel=0.05)
    lag = float((off[1:] * off[:-1]).mean() / off.var())
    assert lag == pytest.approx(validation.CT_TEXTURE.lag1(3)[0], abs=0.03)
    assert calibration.levels("denoise", "CT") == (2, 4, 8)
    assert calibration.levels("denoise", "MR") == (3, 9, 15)
    reference = calibration.Reference(clean, (1.0, 1.0, 1.0), "", "CT")
    trial = calibration.simulate("denoise", 8, reference, torch.Generator().manual_seed(0))
    assert trial is not None
    assert float(np.std(trial.scan - clean)) == pytest.approx(0.08 * CT_BRIGHT, rel=0.05)


def test_int16_volumes_of_a_pack_keep_their_values(pack):
    levels = np.array([[[0, 16384, 32767]]], dtype=np.int16)
    fine = Pack((pack.entries[0],), (levels,))
    np.testing.assert_allclose(fine.normalised(0), levels * (1.25 / 32767), rtol=1e-6)
