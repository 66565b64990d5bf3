"""What a network is trained for: one squared error for the posterior mean and for all diffusion times."""

from __future__ import annotations

import torch
from torch import Tensor

from medidiff.diffusion import network as networks
from medidiff.diffusion import schedule, tiles
from medidiff.physics.tasks import Problem
from medidiff.training.simulator import Example

_LARGEST_WEIGHT = 10.0
_SMALLEST_SIZE = 0.3


def loss(
    network: networks.Backbone, example: Example, null: Tensor, generator: torch.Generator, variance_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The training loss, and its two parts for the log.

    Args:
        network: ``(channels, parameters) -> (velocity, log-variance)``.
        example: a posed batch.
        null: (B,) boolean: images that get the null token, i.e. train the posterior mean.
        generator: for the diffusion noise.
        variance_weight: weight of the log-likelihood that trains the variance head alone.

    Returns:
        Loss; mean weighted squared error of null images and of the others, each relative to predicting zero (nan if
        none).
    """
    problem, r0 = example.problem, example.target
    shape, axes = (-1, *(1,) * (r0.ndim - 1)), tuple(range(1, r0.ndim))
    u = torch.rand(len(r0), generator=generator, device=r0.device) * 0.98 + 0.02
    u = torch.where(null, torch.ones_like(u), u)
    theta = schedule.angle(u)
    eps = torch.randn(r0.shape, generator=generator, device=r0.device)
    hide = null.reshape(shape)
    noise = torch.where(hide, torch.ones_like(r0), torch.sin(theta).reshape(shape))  # sin(theta); 1 for the null token
    z = torch.where(hide, torch.zeros_like(r0), problem.confine(schedule.diffuse(r0, eps, theta.reshape(shape))))
    v_hat, log_variance = _forward(network, problem, z, theta)
    r_hat = torch.where(hide, -v_hat, schedule.residual_of(z, v_hat, theta.reshape(shape)))
    # what explains the measurement is all that can come out, so the network is judged by that
    off = problem.consistent(r_hat) - r0
    wrong = off / noise  # minus the error of the velocity
    inside = torch.ones_like(r0) if problem.support is None else problem.support.to(r0.dtype)
    count = inside.sum(dim=axes).clamp(min=1)
    # in units of intensity, not of the base's expected error: the null token's loss is the squared error of the image
    scale2 = problem.scale.square() * inside
    weight = (scale2 / (scale2.sum(dim=axes) / count).reshape(shape)).clamp(max=_LARGEST_WEIGHT)
    weight = torch.where(hide, weight, inside)
    # an image whose base is far off, because its noise is correlated, would rule the gradient: its error counts in part
    v = torch.where(hide, -r0, schedule.velocity(r0, eps, theta.reshape(shape)))
    size = (weight * v.square()).sum(dim=axes) / count
    error = (weight * wrong.square()).sum(dim=axes) / count / size.clamp(min=1)
    unlikely = 0.5 * (off.detach().square() * torch.exp(-log_variance) + log_variance)
    likelihood = (unlikely * inside).sum(dim=axes) / count
    with torch.no_grad():
        relative = error * size.clamp(min=1) / size.clamp(min=_SMALLEST_SIZE)
    return error.mean() + variance_weight * likelihood.mean(), relative[null].mean(), relative[~null].mean()


def _forward(network: networks.Backbone, problem: Problem, z: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity and log-variance over the problem's own extent; bf16 inside the network on a GPU."""
    channels = torch.cat([z[:, None], problem.views()], dim=1)
    tiling = tiles.plan(z.shape[1:], None, 0, network.stride)
    parameters = torch.cat([theta[:, None], problem.parameters], dim=1)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=z.is_cuda):
        answer = network(tiles.pad(channels, tiling), parameters).float()
    answer = answer[(slice(None), slice(None), *(slice(0, n) for n in tiling.spatial))]
    return answer[:, 0], answer[:, 1].clamp(-12, 12)


def mean_residual(network: networks.Backbone, problem: Problem) -> Tensor:
    """The standardised residual of the posterior mean, whole images at once."""
    theta = torch.full((problem.base.shape[0],), schedule.TERMINAL, device=problem.base.device)
    v_hat, _ = _forward(network, problem, torch.zeros_like(problem.base), theta)
    return -v_hat


def predict_mean(network: networks.Backbone, problem: Problem) -> Tensor:
    """The posterior mean image of a posed problem, whole volume at once."""
    return problem.image(mean_residual(network, problem))


def drift(
    network: networks.Backbone, teacher: networks.Backbone, example: Example, null: Tensor, generator: torch.Generator
) -> Tensor:
    """How far a network's answers are from those of another: learning without forgetting (Li and Hoiem, TPAMI 2018).

    Args:
        network: that learns.
        teacher: that it came from.
        example: a posed batch.
        null: (B,) boolean: images that get the null token.
        generator: for the diffusion noise.

    Returns:
        Mean squared difference of the velocities plus 0.1 times that of the log-variances.
    """
    problem, r0 = example.problem, example.target
    shape = (-1, *(1,) * (r0.ndim - 1))
    u = torch.rand(len(r0), generator=generator, device=r0.device) * 0.98 + 0.02
    theta = schedule.angle(torch.where(null, torch.ones_like(u), u))
    eps = torch.randn(r0.shape, generator=generator, device=r0.device)
    z = problem.confine(schedule.diffuse(r0, eps, theta.reshape(shape)))
    z = torch.where(null.reshape(shape), torch.zeros_like(r0), z)
    velocity, log_variance = _forward(network, problem, z, theta)
    with torch.no_grad():
        wanted, variance = _forward(teacher, problem, z, theta)
    return (velocity - wanted).square().mean() + 0.1 * (log_variance - variance).square().mean()
