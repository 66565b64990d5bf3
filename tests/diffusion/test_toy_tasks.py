"""Samples of super-resolution and inpainting from a perfect network, on a toy whose posterior is known exactly.

Images of 16 x 16 voxels from a Gaussian process (Matern 3/2, two voxels long) are seen through slices twice as thick
or lack a square. The product poses these problems and samples them; the network is the exact conditional mean of the
residual given its diffused state. What is left is the error of a few steps of the sampler.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.sampler import Denoiser, posterior_mean, posterior_sample
from medidiff.diffusion.schedule import TERMINAL
from medidiff.physics import tasks
from medidiff.physics.operators import Acquisition, Axis, forward_matrix
from medidiff.physics.tasks import Problem

EDGE, MEAN = 16, 4.0
CASES, DRAWS, STEPS = 6, 60, 12
ACQUISITION = Acquisition((Axis(8, 16, "gaussian"), Axis(16, 16)))
HOLE = np.zeros((EDGE, EDGE), dtype=bool)
HOLE[5:11, 4:10] = True
FACTOR, GAP = "superres", "inpaint"


def prior() -> NDArray[np.float64]:
    position = np.arange(EDGE)
    lag = math.sqrt(3) / 2 * np.abs(position[:, None] - position)
    kernel = (1 + lag) * np.exp(-lag)
    return np.kron(kernel, kernel)


@dataclass
class Toy:
    """Posed problems, one a row, with the exact posterior of their images."""

    problem: Problem
    mean: Tensor  # (CASES, EDGE, EDGE)
    covariance: NDArray[np.float64]  # of the image, the same for all: it does not depend on the data

    @classmethod
    def draw(cls, task: str) -> Toy:
        C = prior()
        root = np.linalg.cholesky(C)
        clean = MEAN + (np.random.default_rng(0).standard_normal((CASES, EDGE**2)) @ root.T)
        images = torch.from_numpy(clean.reshape(CASES, EDGE, EDGE))
        if task == FACTOR:
            A = np.kron(forward_matrix(ACQUISITION.axes[0]), np.eye(EDGE))
            problem = tasks.superresolve(ACQUISITION.forward(images), ACQUISITION, torch.ones(CASES, 2))
        else:
            A = np.eye(EDGE**2)[~HOLE.ravel()]
            problem = tasks.inpaint(images, torch.from_numpy(HOLE).expand_as(images), torch.ones(CASES, 2))
        gain = np.linalg.solve(A @ C @ A.T + 1e-9 * np.eye(len(A)), A @ C).T
        mean = MEAN + (clean - MEAN) @ A.T @ gain.T
        return cls(problem, torch.from_numpy(mean.reshape(CASES, EDGE, EDGE)), C - gain @ A @ C)

    def denoiser(self) -> Denoiser:
        """``E[r0 | z] = m + cos S (cos^2 S + sin^2 I)^-1 (z - cos m)`` in the eigenvectors of S, for each image."""
        scale = self.problem.scale.flatten(1).numpy()
        spectra = [np.linalg.eigh(self.covariance / np.outer(s, s)) for s in scale]
        power = torch.from_numpy(np.stack([np.clip(values, 0, None) for values, _ in spectra]))
        basis = torch.from_numpy(np.stack([vectors for _, vectors in spectra]))
        centre = self.problem.residual(self.mean).flatten(1)

        def denoise(z: Tensor | None, theta: float) -> tuple[Tensor, Tensor]:
            if z is None or theta == TERMINAL:
                expected = centre
            else:
                cos, sin = math.cos(theta), math.sin(theta)
                gain = cos * power / (cos**2 * power + sin**2)
                state = self.problem.confine(z).flatten(1) - cos * centre
                expected = centre + torch.einsum("bij,bj->bi", basis, gain * torch.einsum("bji,bj->bi", basis, state))
            expected = expected.reshape(CASES, EDGE, EDGE)
            return self.problem.consistent(expected), torch.zeros_like(expected)

        return denoise

    def samples(self, steps: int, kappa: float) -> Tensor:
        """(DRAWS, CASES, EDGE, EDGE)."""
        denoise, generator = self.denoiser(), torch.Generator().manual_seed(3)
        first = posterior_mean(denoise)[0]
        noise = torch.randn((DRAWS, CASES, EDGE, EDGE), generator=generator, dtype=torch.float64)
        return torch.stack(
            [self.problem.image(posterior_sample(denoise, each, steps, kappa=kappa, first=first)) for each in noise]
        )


@pytest.fixture(scope="module")
def toys() -> dict[str, Toy]:
    return {task: Toy.draw(task) for task in (FACTOR, GAP)}


@pytest.fixture(scope="module")
def drawn(toys) -> Callable[[str, int, float], Tensor]:
    made: dict[tuple[str, int, float], Tensor] = {}

    def draw(task: str, steps: int, kappa: float) -> Tensor:
        key = (task, steps, kappa)
        if key not in made:
            made[key] = toys[task].samples(steps, kappa)
        return made[key]

    return draw


BOTH = pytest.mark.parametrize("task", [FACTOR, GAP])
KAPPA = pytest.mark.parametrize("kappa", [1.0, 2.0])


@BOTH
def test_one_pass_is_the_posterior_mean(toys, task):
    toy = toys[task]
    torch.testing.assert_close(toy.problem.image(posterior_mean(toy.denoiser())[0]), toy.mean, atol=1e-4, rtol=0)


@BOTH
@KAPPA
def test_samples_have_the_spread_of_the_posterior(toys, drawn, task, kappa):
    toy, samples = toys[task], drawn(task, STEPS, kappa)
    variance = torch.from_numpy(np.diag(toy.covariance).copy()).reshape(EDGE, EDGE)
    ratio = float((samples.var(0).mean() / variance.mean()).sqrt())
    assert ratio == pytest.approx(1, abs=0.1)


@BOTH
@KAPPA
def test_means_over_a_region_have_it_too(toys, drawn, task, kappa):
    """White noise of the right strength would not: what is unknown is smooth."""
    toy, samples = toys[task], drawn(task, STEPS, kappa)
    region = HOLE.ravel() / HOLE.sum() if task == GAP else np.eye(EDGE**2)[4 * EDGE + 3 : 4 * EDGE + 13].mean(0)
    exact = math.sqrt(region @ toy.covariance @ region)
    found = (samples.flatten(2) @ torch.from_numpy(region)).std(0).mean()
    assert float(found) == pytest.approx(exact, rel=0.15)
    independent = math.sqrt(region @ (np.diag(toy.covariance) * region))
    assert exact > 1.3 * independent


@BOTH
@KAPPA
def test_mean_of_samples_is_the_posterior_mean(toys, drawn, task, kappa):
    toy, samples = toys[task], drawn(task, STEPS, kappa)
    off = (samples.mean(0) - toy.mean).square().mean() - samples.var(0).mean() / DRAWS
    assert float(off) < 0.01 * float(np.diag(toy.covariance).mean())


@BOTH
@KAPPA
def test_samples_explain_the_data(toys, drawn, task, kappa):
    problem, samples = toys[task].problem, drawn(task, STEPS, kappa)
    for image in samples[:8]:
        if task == FACTOR:
            torch.testing.assert_close(ACQUISITION.forward(image), problem.data, atol=1e-9, rtol=0)
        else:
            assert torch.equal(image[:, ~HOLE], problem.base[:, ~HOLE])


def test_fewer_steps_spread_less(toys, drawn):
    """What a few steps leave out is known, and the calibration of a bundle makes up for it."""
    for task in (FACTOR, GAP):
        spread = [float(drawn(task, steps, 1.0).var(0).mean()) for steps in (2, 4, STEPS)]
        assert spread[0] < spread[1] < spread[2]
