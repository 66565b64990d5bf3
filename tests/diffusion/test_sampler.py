"""The sampler against Gaussian posteriors, whose every moment is known, and against other people's solver."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.diffusion.sampler import Denoiser, position_noise, posterior_mean, posterior_sample
from medidiff.diffusion.schedule import TERMINAL, angle, diffuse, residual_of, time_grid, velocity

N = 64  # points of the signals
TOLERANCE = 0.025  # of the ratios below


def gaussian_oracle(mean: Tensor, covariance: Tensor) -> Denoiser:
    """The exact denoiser of ``r0 ~ N(mean, covariance)``: ``E[r0 | z] = m + a C (a^2 C + s^2 I)^-1 (z - a m)``."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)
    spread = covariance.diagonal().log()

    def denoise(z: Tensor | None, theta: float) -> tuple[Tensor, Tensor]:
        if z is None:
            assert theta == TERMINAL
            return mean, spread
        a, s = math.cos(theta), math.sin(theta)
        gain = a * values / (a**2 * values + s**2)
        return mean + ((z - a * mean) @ vectors * gain) @ vectors.T, spread

    return denoise


def squared_exponential(lag: Tensor, length: float) -> Tensor:
    return torch.exp(-0.5 * (lag / length) ** 2)


def exponential(lag: Tensor, length: float) -> Tensor:
    return torch.exp(-lag / length)


def matern(lag: Tensor, length: float) -> Tensor:
    scaled = math.sqrt(3) * lag / length
    return (1 + scaled) * torch.exp(-scaled)


def posterior_covariance(prior: Tensor, operator: Tensor, noise: float) -> Tensor:
    """Of x ~ N(0, prior) given ``operator x + noise n``."""
    gain = prior @ operator.T @ torch.linalg.inv(operator @ prior @ operator.T + noise**2 * torch.eye(len(operator)))
    return prior - gain @ operator @ prior


def gaussian_process(kernel: Callable[[Tensor, float], Tensor], length: float) -> Tensor:
    position = torch.arange(N, dtype=torch.float64)
    return kernel((position[:, None] - position).abs(), length)


def denoising() -> Tensor:
    """sigma = 1 x signal, standardised with s = sigma."""
    return posterior_covariance(gaussian_process(exponential, 3.5), torch.eye(N), 1.0)


def super_resolution() -> Tensor:
    """Means of 4 points were measured without noise; s = 0.5."""
    means = torch.kron(torch.eye(N // 4), torch.full((1, 4), 0.25))
    return posterior_covariance(gaussian_process(matern, 3.0), means, 1e-5) / 0.5**2


def hole() -> Tensor:
    """The 24 points in the middle are missing; s = 0.5."""
    missing = torch.zeros(N, dtype=torch.bool)
    missing[20:44] = True
    covariance = posterior_covariance(gaussian_process(squared_exponential, 6.0), torch.eye(N)[~missing], 1e-4)
    return covariance[missing][:, missing] / 0.5**2


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("problem", "kappa", "expected"),
    [
        (denoising, 1.0, (0.79, 0.98, 1.00)),
        (super_resolution, 1.0, (0.77, 0.96, 0.99)),
        (hole, 1.0, (0.68, 0.90, 0.95)),
        (denoising, 2.0, (0.65, 0.88, 0.95)),
        (super_resolution, 2.0, (0.75, 0.94, 0.98)),
        (hole, 2.0, (0.73, 0.91, 0.954)),
    ],
)
def test_spread_of_samples_after_4_8_12_evaluations(problem, kappa, expected):
    """Sample over posterior standard deviation for a perfect network; a function of the eigenvalues of cov(r0)."""
    covariance = problem()
    denoise = gaussian_oracle(torch.zeros(len(covariance)), covariance)
    ratios = []
    for steps in (4, 8, 12):
        # a sample is mean + M noise: unit vectors as noise give M, and M M^T is free of sampling error
        response = posterior_sample(denoise, torch.eye(len(covariance)), steps, kappa=kappa)
        ratios.append(float((response.square().sum(0) / covariance.diagonal()).sqrt().mean()))
    print(f"\n{problem.__name__} kappa {kappa:g}: " + " ".join(f"{ratio:.3f}" for ratio in ratios))
    assert ratios == pytest.approx(expected, abs=TOLERANCE)


def test_samples_have_the_posterior_mean_and_covariance_when_steps_are_many():
    covariance = denoising()
    mean = torch.sin(torch.arange(N) / 5.0)
    values, vectors = torch.linalg.eigh(covariance)
    noise = torch.randn(3, N, generator=torch.Generator().manual_seed(0))
    # the probability flow of a Gaussian keeps quantiles: along each eigenvector sqrt(eigenvalue) times the noise
    exact = mean + (noise @ vectors * values.sqrt()) @ vectors.T

    def error(steps: int) -> float:
        return float((posterior_sample(gaussian_oracle(mean, covariance), noise, steps) - exact).abs().max())

    errors = [error(steps) for steps in (50, 100, 200)]
    assert errors[-1] < 2e-3
    # second order up to a logarithm (the grid is uneven in log tau); a first-order solver would halve the error
    assert min(errors[0] / errors[1], errors[1] / errors[2]) > 3


def test_mean_over_samples_is_the_posterior_mean():
    mean = torch.cos(torch.arange(N) / 3.0)
    noise = torch.randn(5, N, generator=torch.Generator().manual_seed(1))
    pairs = torch.cat([noise, -noise])  # antithetic: the sampler is affine in the noise, so the average is exact
    drawn = posterior_sample(gaussian_oracle(mean, gaussian_process(matern, 4.0)), pairs, 8)
    torch.testing.assert_close(drawn.mean(0), mean, atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [2, 3, 5, 8, 12, 25])
@pytest.mark.parametrize("kappa", [1.0, 2.0])
def test_same_as_the_published_update_in_the_noise_to_signal_coordinate(steps, kappa):
    """DPM-Solver++(2M) as k-diffusion writes it, in y = z / alpha and tau = tan(theta)."""
    mean, covariance = torch.linspace(-1, 1, N), denoising()
    denoise = gaussian_oracle(mean, covariance)
    noise = torch.randn(N, generator=torch.Generator().manual_seed(2))
    tau = [math.inf if k == 0 else kappa * (1 - k / steps) / (k / steps) for k in range(steps + 1)]
    y, old = mean + tau[1] * noise, mean  # the step from infinity: exact for constant data
    for k in range(1, steps):
        theta = math.atan(tau[k])
        data = denoise(y * math.cos(theta), theta)[0]
        if k == steps - 1:
            y = data
            break
        extrapolated = data
        if k > 1:
            h, h_last = math.log(tau[k] / tau[k + 1]), math.log(tau[k - 1] / tau[k])
            extrapolated = data + (data - old) * h / (2 * h_last)
        y = tau[k + 1] / tau[k] * y + (1 - tau[k + 1] / tau[k]) * extrapolated
        old = data
    torch.testing.assert_close(posterior_sample(denoise, noise, steps, kappa=kappa), y, atol=1e-10, rtol=0)


@pytest.mark.parametrize("steps", [2, 4, 8, 12])
@pytest.mark.parametrize("kappa", [1.0, 2.0])
def test_same_as_diffusers(steps, kappa):
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the second opinion, not a dependency")
    mean, covariance = torch.linspace(-1, 1, N), denoising()
    denoise = gaussian_oracle(mean, covariance)
    noise = torch.randn(N, generator=torch.Generator().manual_seed(3))
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="sample",
        use_flow_sigmas=True,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    tau = torch.tan(angle(time_grid(steps), kappa))
    # rectified flow x = (1 - t) r0 + t eps is the same path: t = tau / (1 + tau), z = x / sqrt(t^2 + (1 - t)^2)
    scheduler.sigmas = tau / (1 + tau)
    scheduler.sigmas[0] = 1.0
    x = noise.clone()
    for k, time in enumerate(scheduler.timesteps):
        t = float(scheduler.sigmas[k])
        theta = math.atan2(t, 1 - t)
        data = denoise(None if k == 0 else x / math.hypot(t, 1 - t), TERMINAL if k == 0 else theta)[0]
        x = scheduler.step(data, time, x, return_dict=False)[0]
    torch.testing.assert_close(posterior_sample(denoise, noise, steps, kappa=kappa), x, atol=2e-5, rtol=0)


def test_one_step_is_the_mean_itself():
    mean = torch.linspace(-2, 2, N)
    denoise = gaussian_oracle(mean, denoising())
    found, log_variance = posterior_mean(denoise)
    assert torch.equal(found, mean)
    assert torch.equal(log_variance, denoising().diagonal().log())
    assert torch.equal(posterior_sample(denoise, torch.ones(N), 1), mean)


@pytest.mark.parametrize("steps", [1, 2, 8])
def test_evaluations_of_the_network_are_as_many_as_steps_and_a_known_mean_saves_one(steps):
    angles = []

    def denoise(z: Tensor | None, theta: float) -> tuple[Tensor, Tensor]:
        angles.append(theta)
        assert (z is None) == (theta == TERMINAL)
        return torch.full((5,), 0.25), torch.zeros(5)

    noise = torch.ones(5)
    drawn = posterior_sample(denoise, noise, steps)
    assert len(angles) == steps
    assert angles == [pytest.approx(math.atan2(1 - k / steps, k / steps)) for k in range(steps)]
    again = posterior_sample(denoise, noise, steps, first=torch.full((5,), 0.25))
    assert len(angles) == 2 * steps - 1
    assert torch.equal(drawn, again)
    # a point mass: every path ends in it
    torch.testing.assert_close(drawn, torch.full((5,), 0.25), atol=1e-15, rtol=0)


def test_velocity_and_state_give_the_residual_back():
    generator = torch.Generator().manual_seed(4)
    r0, eps = torch.randn(2, 1000, generator=generator)
    theta = angle(torch.rand(1000, generator=generator))
    torch.testing.assert_close(residual_of(diffuse(r0, eps, theta), velocity(r0, eps, theta), theta), r0)
    end = angle(torch.tensor(1.0), 2.0)
    assert float(end) == TERMINAL
    torch.testing.assert_close(velocity(r0, eps, end), -r0)  # zero terminal signal-to-noise ratio
    torch.testing.assert_close(diffuse(r0, eps, end), eps)


def test_time_scale_multiplies_the_noise_to_signal_ratio():
    u = torch.linspace(0, 0.99, 50)
    np.testing.assert_allclose(torch.tan(angle(u, 2.0)), 2 * u / (1 - u), rtol=1e-12)


def test_position_noise_is_a_function_of_seed_sample_and_voxel():
    torch.set_default_dtype(torch.float32)
    shape = (31, 17, 23)
    first = position_noise(shape, 7, 3)
    torch.manual_seed(99)  # and of nothing else
    assert torch.equal(first, position_noise(shape, 7, 3))
    others = [position_noise(shape, *pair) for pair in ((7, 4), (8, 3), (3, 7), (0, 0), (2**63 - 1, 1023))]
    for i, a in enumerate([first, *others]):
        for b in others[i:]:
            correlation = float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
            assert abs(correlation) < 5 / math.sqrt(a.numel())


def test_position_noise_is_white_and_standard_normal():
    torch.set_default_dtype(torch.float32)
    noise = position_noise((64, 64, 64), 0, 0).numpy().astype(np.float64)
    count = noise.size
    assert abs(noise.mean()) < 5 / math.sqrt(count)
    assert abs(noise.var() - 1) < 5 * math.sqrt(2 / count)
    assert abs((noise**4).mean() - 3) < 5 * math.sqrt(96 / count)
    for axis in range(3):
        lagged = np.roll(noise, 1, axis)
        assert abs((noise * lagged).mean()) < 5 / math.sqrt(count)


@pytest.mark.parametrize("box", [(slice(3, 9), slice(0, 17), slice(5, 6)), (slice(30, 31), slice(2, 4), slice(0, 23))])
def test_position_noise_of_a_box_is_that_part_of_the_whole(box):
    torch.set_default_dtype(torch.float32)
    assert torch.equal(position_noise((31, 17, 23), 7, 3, box), position_noise((31, 17, 23), 7, 3)[box])
