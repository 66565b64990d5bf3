"""Two copies with independent noise of known law, and what their difference says of an error."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.physics.rician import Law, rician_mean, rician_variance
from medidiff.physics.texture import Texture
from medidiff.training.recorrupt import Noisy, Pair, recorrupt
from tests.training.conftest import blobs

SIGMA = 0.1


def scan(clean: Tensor, law: Law, seed: int = 0) -> Noisy:
    generator = torch.Generator().manual_seed(seed)
    real, imaginary = (SIGMA * torch.randn(clean.shape, generator=generator) for _ in range(2))
    noisy = clean + real if law == "gaussian" else torch.hypot(clean + real, imaginary)
    return Noisy(noisy, torch.full_like(noisy, SIGMA), law, (1.0, 1.0, 1.0))


def pair_of(noisy: Noisy, strength: float) -> Pair:
    return recorrupt(noisy, strength, torch.Generator().manual_seed(7))


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("snr", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("law", ["gaussian", "rician"])
def test_copies_follow_the_law_and_know_nothing_of_each_other(law: Law, snr: float, strength: float) -> None:
    clean = torch.full((1, 48, 48, 48), snr * SIGMA)
    pair = pair_of(scan(clean, law), strength)
    first, second = pair.problem.measured, pair.second
    for copy, power in ((first, strength**2), (second, strength**-2)):
        sigma = SIGMA * math.sqrt(1 + power)
        nu = np.array(snr * SIGMA / sigma)
        mean = snr * SIGMA if law == "gaussian" else sigma * float(rician_mean(nu))
        variance = 1.0 if law == "gaussian" else float(rician_variance(nu))
        assert float(copy.mean()) == pytest.approx(mean, abs=0.01 * sigma)
        assert float(copy.std()) == pytest.approx(sigma * math.sqrt(variance), rel=0.01)
    together = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert abs(float(together)) < 5 / math.sqrt(clean.numel())
    assert float(pair.unit.mean()) == pytest.approx(SIGMA * math.sqrt(1 + strength**2))


@pytest.mark.parametrize("law", ["gaussian", "rician"])
def test_what_an_answer_saves_is_told_without_the_truth(law: Law) -> None:
    """Squared differences from the second copy fall as the squared errors do."""
    clean = torch.from_numpy(blobs((48, 48, 48), 0)).float()[None] + 0.1
    saved, true = [], []
    for seed in range(4):
        pair = recorrupt(scan(clean, law, seed), 0.7, torch.Generator().manual_seed(100 + seed))
        truth = (clean - pair.problem.base) / pair.problem.scale
        silent = torch.zeros_like(truth)
        saved.append(float((pair.error(silent).square() - pair.error(0.8 * truth).square()).mean()))
        weight = (pair.slope * pair.problem.scale / pair.unit).square()
        true.append(float((weight * truth.square() * (1 - 0.2**2)).mean()))
    assert np.mean(saved) == pytest.approx(np.mean(true), rel=0.1)


def test_the_rician_mean_is_followed_along_its_slope() -> None:
    clean = torch.linspace(0, 1, 32)[None, :, None, None].expand(1, 32, 16, 16)
    pair = pair_of(scan(clean, "rician"), 1.0)
    other = SIGMA * math.sqrt(2)
    nu = (pair.problem.base / other).double().numpy()
    np.testing.assert_allclose(pair.mean, other * rician_mean(nu), atol=2e-3 * other)
    step = 1e-3
    np.testing.assert_allclose(pair.slope, (rician_mean(nu + step) - rician_mean(nu)) / step, atol=0.03)
    assert float(pair.slope[:, 0].mean()) < 0.5 < 0.98 < float(pair.slope[:, -1].mean()) < 1.001


def test_noise_of_the_copies_has_the_texture_of_the_scan() -> None:
    texture = Texture(0.6, 0.4)
    noisy = replace(scan(torch.ones(1, 32, 32, 32), "gaussian"), texture=texture)
    added = (pair_of(noisy, 1.0).problem.measured - noisy.images)[0]
    neighbours = float((added[1:] * added[:-1]).mean() / added.square().mean())
    assert neighbours == pytest.approx(texture.lag1(3)[0], abs=0.03)
    assert neighbours > 0.3
