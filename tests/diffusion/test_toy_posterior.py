"""The first experiment: does the objective teach a network the posterior? On a toy whose posterior is known exactly.

Images of 16 x 16 voxels from a Gaussian process (Matern 3/2, two voxels long) carry white noise whose strength differs
between images and within each. The product's task poses them, and the product's network learns them with its loss, half
of the images with the null token. Then one pass must be the minimum mean square error estimate, and eight a fair
sample.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medidiff.diffusion.network import MedUNet
from medidiff.diffusion.sampler import Denoiser, posterior_mean, posterior_sample
from medidiff.diffusion.schedule import residual_of
from medidiff.physics import tasks
from medidiff.physics.degradations import smooth_field
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, Problem, parameter_names
from medidiff.training.objective import loss
from medidiff.training.simulator import Example

EDGE = 16
CASES = 32  # test images
DRAWS = 48  # samples of each
POOL = 8192  # training images
ITERATIONS = 1000
BATCH = 64
LEARNING_RATE = 5e-3
NULL_SHARE = 0.5
VARIANCE_WEIGHT = 0.05
PER_IMAGE = ("measured", "base", "scale", "sigma", "parameters")
REGION = (slice(None), slice(4, 12), slice(4, 12))


def prior() -> Tensor:
    position = torch.arange(EDGE, dtype=torch.float64)
    lag = math.sqrt(3) / 2 * (position[:, None] - position).abs()
    kernel = (1 + lag) * torch.exp(-lag)
    return torch.kron(kernel, kernel)


@dataclass
class Toy:
    """Images and how they are posed."""

    clean: Tensor
    problem: Problem

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> Toy:
        root = torch.from_numpy(np.linalg.cholesky(prior().numpy())).float()
        clean = (torch.randn(count, EDGE**2, generator=generator) @ root.T).reshape(count, EDGE, EDGE)
        level = 0.3 ** torch.rand(count, 1, 1, generator=generator)  # 0.3 to 1 times the signal
        sigma = level * torch.exp(0.5 * smooth_field(clean.shape, generator, clean.device))
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        return cls(clean, tasks.denoise(noisy, sigma, "gaussian", torch.ones(count, 2)))

    def take(self, index: Tensor) -> Toy:
        return Toy(self.clean[index], replace(self.problem, **{k: getattr(self.problem, k)[index] for k in PER_IMAGE}))


@dataclass
class Posterior:
    """Exact moments of the clean images given the noisy ones."""

    mean: Tensor
    variance: Tensor
    region: Tensor  # variance of the mean over REGION

    @classmethod
    def of(cls, problem: Problem) -> Posterior:
        covariance = prior()
        noise = torch.diag_embed(problem.sigma.double().flatten(1).square())
        # not torch.linalg: its MKL factorises wrongly, or never ends, once torch.set_num_threads has raised the number
        gain = torch.from_numpy(np.linalg.solve((covariance + noise).numpy(), covariance.expand_as(noise).numpy())).mT
        posterior = covariance - gain @ covariance
        mean = (gain @ problem.measured.double().flatten(1)[:, :, None]).reshape(problem.measured.shape)
        weight = torch.zeros(1, EDGE, EDGE, dtype=torch.float64)
        weight[REGION] = 1 / 64
        region = (posterior @ weight.flatten() * weight.flatten()).sum(1)
        variance = posterior.diagonal(dim1=1, dim2=2).reshape(problem.measured.shape)
        return cls(mean.float(), variance.float(), region.float())


def denoiser(network: nn.Module, problem: Problem) -> Denoiser:
    views = problem.views()

    @torch.inference_mode()
    def denoise(z: Tensor | None, theta: float) -> tuple[Tensor, Tensor]:
        state = torch.zeros_like(problem.base) if z is None else z
        angle = torch.tensor(theta)
        parameters = torch.cat([angle.expand(len(views), 1), problem.parameters], dim=1)
        velocity, log_variance = network(torch.cat([state[:, None], views], dim=1), parameters).unbind(1)
        return (-velocity if z is None else residual_of(z, velocity, angle)), log_variance

    return denoise


def train(pool: Toy, generator: torch.Generator) -> nn.Module:
    """The trainer's loop without its files: AdamW, warm-up and cosine, clipping, moving average."""
    torch.manual_seed(0)
    parameters = len(parameter_names(2))  # one spacing fewer in two dimensions
    network = MedUNet(2, STATE_CHANNELS + len(VIEWS), parameters, (24, 48), (1, 1), (1,), embedding=32)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.AdamW(network.parameters(), betas=(0.9, 0.99), weight_decay=1e-4)
    for iteration in range(ITERATIONS):
        warm, cosine = min(1, (iteration + 1) / 50), 0.5 * (1 + math.cos(math.pi * iteration / ITERATIONS))
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * warm * cosine
        batch = pool.take(torch.randint(POOL, (BATCH,), generator=generator))
        null = torch.rand(BATCH, generator=generator) < NULL_SHARE
        example = Example(batch.problem, batch.problem.residual(batch.clean))
        value, _, _ = loss(network, example, null, generator, VARIANCE_WEIGHT)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        decay = min(0.99, (1 + iteration) / (10 + iteration))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    return average


@dataclass
class Findings:
    """Test images, their exact posterior, and what a network says of them."""

    problem: Problem
    exact: Posterior
    mean: Tensor
    head: Tensor  # standard deviation from the variance head
    samples: Tensor  # (CASES, DRAWS, EDGE, EDGE)

    @classmethod
    def of(cls, network: nn.Module, test: Toy) -> Findings:
        problem = test.problem
        residual, log_variance = posterior_mean(denoiser(network, problem))
        repeated = test.take(torch.arange(CASES).repeat_interleave(DRAWS)).problem
        noise = torch.randn(repeated.base.shape, generator=torch.Generator().manual_seed(5))
        drawn = repeated.image(posterior_sample(denoiser(network, repeated), noise, 8))
        head = problem.scale * (0.5 * log_variance).exp()
        samples = drawn.reshape(CASES, DRAWS, EDGE, EDGE)
        return cls(problem, Posterior.of(problem), problem.image(residual), head, samples)

    def loss_in_db(self, image: Tensor) -> float:
        """How much worse than the exact posterior mean, in mean squared error, free of the noise of the test images."""
        excess = float((image - self.exact.mean).square().mean() / self.exact.variance.mean())
        return 10 * math.log10(1 + excess)

    @property
    def spread(self) -> float:
        """Standard deviation of samples at a voxel over the posterior's."""
        return float((self.samples.var(1).mean() / self.exact.variance.mean()).sqrt())

    @property
    def region_spread(self) -> float:
        """The same of the mean over 8 x 8 voxels, which white noise of the right strength would miss by far."""
        means = self.samples[:, :, 4:12, 4:12].mean((2, 3))
        return float((means.var(1).mean() / self.exact.region.mean()).sqrt())

    @property
    def head_ratio(self) -> float:
        return float((self.head.square().mean() / self.exact.variance.mean()).sqrt())

    @property
    def drift(self) -> float:
        """Squared distance of the mean of samples from the exact mean, beyond what so few samples explain."""
        off = (self.samples.mean(1) - self.exact.mean).square().mean() - self.samples.var(1).mean() / DRAWS
        return float(off / self.exact.variance.mean())

    def __str__(self) -> str:
        return (
            f"mean {self.loss_in_db(self.mean):.3f} dB above the exact one "
            f"(base {self.loss_in_db(self.problem.base):.2f}, noisy {self.loss_in_db(self.problem.measured):.2f}); "
            "spread of samples over the posterior's: "
            f"voxel {self.spread:.3f}, region {self.region_spread:.3f}; "
            f"variance head {self.head_ratio:.3f}; drift of the mean of samples {self.drift:.4f}"
        )


@pytest.fixture(scope="module")
def test_images() -> Toy:
    return Toy.draw(CASES, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def learned(test_images: Toy) -> Findings:
    generator = torch.Generator().manual_seed(2)
    findings = Findings.of(train(Toy.draw(POOL, generator), generator), test_images)
    print(f"\nlearned: {findings}")
    return findings


def test_exact_posterior_has_the_error_that_it_promises(test_images):
    exact = Posterior.of(test_images.problem)
    error = (exact.mean - test_images.clean).square().mean() / exact.variance.mean()
    assert float(error) == pytest.approx(1, abs=0.1)


def test_zero_network_is_the_base_and_far_from_the_posterior(test_images):
    network = MedUNet(2, STATE_CHANNELS + len(VIEWS), len(parameter_names(2)), (8, 16), (1, 1), (1,))
    findings = Findings.of(network, test_images)
    print(f"\nuntrained: {findings}")
    assert torch.equal(findings.mean, test_images.problem.base)
    assert findings.loss_in_db(findings.mean) > 0.6
    assert findings.region_spread < 0.7  # independent voxels


def test_one_pass_is_the_minimum_mean_square_error_estimate(learned):
    assert learned.loss_in_db(learned.mean) < 0.1


def test_samples_have_the_spread_of_the_posterior(learned):
    assert learned.spread == pytest.approx(1, abs=0.1)
    assert learned.region_spread == pytest.approx(
        0.96, abs=0.12
    )  # 0.96 is what eight passes of a perfect network reach


def test_mean_of_samples_is_the_posterior_mean(learned):
    assert learned.drift < 0.05


def test_variance_head_is_calibrated(learned):
    assert learned.head_ratio == pytest.approx(1, abs=0.1)
