"""Simulated batches: what they say about themselves is true."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from medidiff.training.pack import Pack
from medidiff.training.recipe import Data
from medidiff.training.simulator import Example, Simulator, _remap

PLAIN = Data(thin=0.0, rician=0.0, gaussian=1.0, varying=0.0, sigma_jitter=0.0, inherent=0.0)


def simulator(pack: Pack, data: Data = PLAIN, seed: int = 0) -> Simulator:
    return Simulator(pack, data, torch.device("cpu"), seed, ("MR",))


def clean(example: Example) -> torch.Tensor:
    return example.problem.image(example.target)


def test_target_leads_from_the_base_to_the_clean_image(pack):
    example = simulator(pack).draw(16, 4)
    problem = example.problem
    assert problem.base.shape == (4, 16, 16, 16)
    noise = problem.measured - clean(example)
    # Gaussian noise of the strength that the network is told, and clean images that are none of it
    sigma = problem.sigma.mean(dim=(1, 2, 3))
    np.testing.assert_allclose(noise.std(dim=(1, 2, 3)), sigma, rtol=0.08)
    assert float(clean(example).min()) > -1e-5
    assert float((clean(example) < 1e-5).float().mean()) < 0.9
    assert 0.3 < float(example.target.square().mean().sqrt()) < 1.5


def test_sigma_is_log_uniform_within_its_bounds(pack):
    draw = simulator(pack, replace(PLAIN, sigma=(0.01, 0.1)))
    levels = torch.cat([draw.draw(8, 8).problem.sigma[:, 0, 0, 0] for _ in range(25)]).log10()
    assert -2 <= float(levels.min()) < -1.9
    assert -1.1 < float(levels.max()) <= -1
    assert float(levels.mean()) == pytest.approx(-1.5, abs=0.08)


def test_told_sigma_may_err_and_include_the_references_own_noise(pack):
    same = {"seed": 3}
    exact = simulator(pack, replace(PLAIN, sigma=(0.05, 0.05)), **same).draw(8, 8).problem.sigma
    np.testing.assert_allclose(exact, 0.05, rtol=1e-5)
    inherent = simulator(pack, replace(PLAIN, sigma=(0.05, 0.05), inherent=1.0), **same).draw(8, 8).problem.sigma
    np.testing.assert_allclose(inherent, math.hypot(0.05, 0.01), rtol=1e-5)
    jitter = simulator(pack, replace(PLAIN, sigma=(0.05, 0.05), sigma_jitter=0.2), **same)
    levels = torch.cat([jitter.draw(8, 8).problem.sigma[:, 0, 0, 0] for _ in range(12)]).log()
    assert float(levels.std()) == pytest.approx(0.2, rel=0.25)


def test_laws_are_told(pack):
    assert not simulator(pack).draw(8, 2).problem.parameters[:, 1].any()
    rician = simulator(pack, replace(PLAIN, rician=1.0, gaussian=0.0)).draw(8, 2).problem
    assert rician.parameters[:, 1].all()
    assert float(rician.measured.min()) >= 0
    coils = simulator(pack, replace(PLAIN, rician=0.0, gaussian=0.0, sigma=(0.1, 0.1))).draw(12, 4)
    air = clean(coils) < 1e-5
    assert float(coils.problem.measured[air].mean()) > 1.6 * 0.1  # more than Rayleigh's 1.25: two coils or more


def test_varying_noise_varies(pack):
    sigma = simulator(pack, replace(PLAIN, varying=1.0, sigma=(0.05, 0.05))).draw(16, 8).problem.sigma
    assert float((sigma.amax(dim=(1, 2, 3)) / sigma.amin(dim=(1, 2, 3))).max()) > 1.3
    np.testing.assert_allclose(sigma.square().mean(dim=(1, 2, 3)).sqrt(), 0.05, rtol=1e-4)


def test_thin_stacks(pack):
    thin = simulator(pack, replace(PLAIN, thin=1.0))
    shapes = {tuple(thin.draw(8, 1).problem.base.shape[1:]) for _ in range(30)}
    assert shapes == {(16, 16, n) for n in (1, 2, 3, 5)}


def test_same_seed_same_batches(pack):
    a, b, c = (simulator(pack, Data(), seed).draw(12, 2) for seed in (1, 1, 2))
    assert torch.equal(a.target, b.target)
    assert a.target.shape != c.target.shape or not torch.equal(a.target, c.target)


def test_batches_come_again_as_often_as_the_recipe_says(pack):
    draw = simulator(pack, replace(PLAIN, echo=4.0))
    drawn = [draw.draw(8, 2) for _ in range(400)]
    different = len({id(example) for example in drawn})
    assert different == pytest.approx(100 + 16 * 3 / 4, abs=30)  # the first 16 are all new
    assert len({id(draw.draw(16, 2)) for _ in range(4)}) == 4  # larger patches do not wait for the smaller to go
    assert draw.draw(16, 2).target.shape == (2, 16, 16, 16)
    plain = simulator(pack)
    assert len({id(example) for example in [plain.draw(8, 2) for _ in range(40)]}) == 40


def test_holes_never_come_again(pack):
    """What was in them would be learned by heart."""
    draw = simulator(pack, replace(PLAIN, echo=50.0, inpaint=0.5))
    drawn = [draw.draw(8, 2) for _ in range(200)]
    holes = [example for example in drawn if example.problem.support is not None]
    assert len(holes) == pytest.approx(100, abs=30)
    assert len({id(example) for example in holes}) == len(holes)
    assert len({id(example) for example in drawn}) - len(holes) < 30


def test_no_volume_to_learn_from(pack):
    with pytest.raises(ValueError, match="no training volume of PT"):
        Simulator(pack, PLAIN, torch.device("cpu"), 0, ("PT",))


def test_only_training_volumes_of_the_modality_are_drawn(pack):
    arrays = [np.full_like(array, 60 * i) for i, array in enumerate(pack.arrays)]
    found = set()
    marked = simulator(Pack(pack.entries, tuple(arrays)))
    for _ in range(40):
        found |= {round(float(v)) for v in marked._crop((4, 4, 4), ())[0].mul(255 / 1.25).unique()}
    assert found == {0, 60}


def test_intensity_curve_starts_at_zero_and_runs_through_its_knots():
    image = torch.linspace(0, 2, 11)
    levels = torch.tensor([0.5, 0.1, 1.0, 0.3, 0.9])
    found = _remap(image, levels)
    np.testing.assert_allclose(found[::2], [0, 0.5, 0.1, 1.0, 0.3, 0.9], atol=2e-3)
    np.testing.assert_allclose(found[1::2], [0.25, 0.3, 0.55, 0.65, 0.6], atol=2e-3)
