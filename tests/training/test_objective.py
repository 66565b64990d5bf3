"""The objective on drawn batches of every task: nothing to pay for the truth, the whole error for silence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medidiff.physics.tasks import STATE_CHANNELS, VIEWS
from medidiff.training.objective import loss, predict_mean
from medidiff.training.pack import Pack
from medidiff.training.recipe import Data
from medidiff.training.simulator import Example, Simulator

QUIET = Data(thin=0.0, rician=0.0, gaussian=1.0, varying=0.0, sigma_jitter=0.0, inherent=0.0, hole_radius=(2.0, 6.0))
TASKS = {
    "denoise": QUIET,
    "superres": replace(QUIET, superres=1.0),
    "inpaint": replace(QUIET, inpaint=1.0),
    "combined": replace(QUIET, combined=1.0),
}
BATCH = 4
AXES = {3: (1, 2), 4: (1, 2, 3)}  # the spatial ones of a batch
NULL, FULL = torch.ones(BATCH, dtype=torch.bool), torch.zeros(BATCH, dtype=torch.bool)


class Oracle(nn.Module):
    """Knows the residual and tells the velocity exactly, times ``factor``."""

    def __init__(self, target: Tensor, factor: float) -> None:
        super().__init__()
        self.stride, self.spatial_dims, self.target, self.factor = 4, target.ndim - 1, target, factor

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        assert x.shape[1] == STATE_CHANNELS + len(VIEWS)
        inside = tuple(slice(0, n) for n in self.target.shape[1:])
        z = x[(slice(None), 0, *inside)]
        theta = parameters[:, 0].reshape(-1, *(1,) * self.spatial_dims)
        terminal = theta > math.pi / 2 - 1e-6
        v = torch.where(terminal, -self.target, (torch.cos(theta) * z - self.target) / torch.sin(theta))
        answer = torch.zeros(len(x), 2, *x.shape[2:])
        answer[(slice(None), 0, *inside)] = self.factor * v
        return answer


@pytest.fixture(scope="module")
def isotropic(pack: Pack) -> Pack:
    """One volume of equal voxels, as super-resolution needs it."""
    return Pack((replace(pack.entries[0], spacing=(1.0, 1.0, 1.0)),), pack.arrays[:1])


def draw(pack: Pack, task: str, dims: int = 3, seed: int = 0, count: int = BATCH) -> Example:
    return Simulator(pack, TASKS[task], torch.device("cpu"), seed, ("MR",), dims).draw(16, count)


def evaluate(example: Example, factor: float, null: Tensor) -> tuple[float, float, float]:
    parts = loss(Oracle(example.target, factor), example, null, torch.Generator().manual_seed(1), 0.0)
    return tuple(float(part) for part in parts)


ALL = pytest.mark.parametrize(
    ("task", "dims", "seed"),
    [(task, dims, seed) for task in ("denoise", "superres", "inpaint") for dims in (2, 3) for seed in range(4)],
)


@ALL
def test_the_truth_costs_nothing(isotropic, task, dims, seed):
    example = draw(isotropic, task, dims, seed)
    for null in (NULL, FULL, torch.tensor([True, False, True, False])):
        value, *parts = evaluate(example, 1.0, null)
        assert value == pytest.approx(0, abs=1e-5)
        assert all(math.isnan(part) or part < 1e-5 for part in parts)


def image_errors(example: Example) -> Tensor:
    """Mean squared error of each base over the mean of its squared scale, where the image may change."""
    problem = example.problem
    inside = torch.ones_like(problem.base) if problem.support is None else problem.support.float()
    axes, scale2 = AXES[inside.ndim], problem.scale.square() * inside
    mean = scale2.sum(axes, keepdim=True) / inside.sum(axes, keepdim=True)
    return ((scale2 / mean).clamp(max=10) * example.target.square()).sum(axes) / inside.sum(axes)


@ALL
def test_silence_costs_the_whole_error(isotropic, task, dims, seed):
    """Relative to the base, less where it errs little; a projection takes off what the data tell of the noise."""
    example = draw(isotropic, task, dims, seed)
    value_of_silence, null_part, _ = evaluate(example, 0.0, NULL)
    sizes = image_errors(example)
    assert null_part == pytest.approx(float((sizes / sizes.clamp(min=0.3)).mean()), rel=1e-3)
    assert value_of_silence == pytest.approx(float((sizes / sizes.clamp(min=1)).mean()), rel=1e-3)
    value, _, part = evaluate(example, 0.0, FULL)
    assert 0.2 < value < 2
    assert 0.2 < part < 1.5


@ALL
def test_half_the_truth_costs_a_quarter(isotropic, task, dims, seed):
    example = draw(isotropic, task, dims, seed)
    for null in (NULL, FULL):
        whole, half = evaluate(example, 0.0, null)[0], evaluate(example, 0.5, null)[0]
        assert half == pytest.approx(whole / 4, rel=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_soft_projection_costs_the_truth_little(isotropic, dims):
    """Where data are noisy the truth does not explain them exactly, and is moved a little towards their noise."""
    parts = [evaluate(draw(isotropic, "combined", dims, seed), 1.0, NULL)[1] for seed in range(6)]
    assert max(parts) < 0.2


@pytest.mark.parametrize("task", ["superres", "inpaint", "combined"])
@pytest.mark.parametrize("dims", [2, 3])
def test_target_leads_to_the_clean_image(isotropic, task, dims):
    for seed in range(4):
        example = draw(isotropic, task, dims, seed)
        problem = example.problem
        clean = problem.base + problem.scale * example.target
        assert float(clean.min()) > -1e-4
        assert torch.isfinite(example.target).all()
        if task == "inpaint":
            assert not example.target[~problem.support].any()
        if task == "superres":
            torch.testing.assert_close(problem.acquisition.forward(clean), problem.data, atol=1e-5, rtol=0)
            assert any(not axis.trivial for axis in problem.acquisition.axes)
        if task != "combined":
            torch.testing.assert_close(predict_mean(Oracle(example.target, 1.0), problem), clean, atol=1e-4, rtol=0)
        assert 0.05 < float(example.target.square().mean().sqrt()) < 4


def test_tasks_come_in_their_shares(isotropic, monkeypatch):
    monkeypatch.setattr(Simulator, "_denoise", lambda *_: "denoise")
    monkeypatch.setattr(Simulator, "_inpaint", lambda *_: "inpaint")
    monkeypatch.setattr(Simulator, "_superresolve", lambda *_, combined: "combined" if combined else "superres")
    shares = replace(QUIET, superres=0.3, inpaint=0.2, combined=0.1)
    simulator = Simulator(isotropic, shares, torch.device("cpu"), 0, ("MR",))
    found = [simulator.draw(8, 1) for _ in range(1000)]
    for task, share in (("superres", 0.3), ("inpaint", 0.2), ("combined", 0.1), ("denoise", 0.4)):
        assert found.count(task) / 1000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 1000))


def test_acquisitions_lie_in_their_ranges(isotropic):
    simulator = Simulator(isotropic, replace(QUIET, superres=1.0), torch.device("cpu"), 0, ("MR",))
    thick = 0
    for _ in range(200):
        shape, acquisition = simulator._acquisition(32)
        assert acquisition.fine == shape
        refined = [axis for axis in acquisition.axes if not axis.trivial]
        assert 1 <= len(refined) <= 3
        thick += len(refined) == 1
        for axis in refined:
            assert 1.4 < axis.factor < (8.6 if len(refined) == 1 else 3.4)
            assert 0.7 <= axis.width <= 1.1 + 1e-9
            assert axis.profile != "kspace" or axis.width == 1.0
    assert thick / 200 == pytest.approx(0.7, abs=0.12)


def test_only_well_resolved_axes_are_refined(pack):
    """Volumes of 1 x 1 x 3 mm: never along their slices, whose own blur would be learnt as detail."""
    arrays = tuple(np.broadcast_to(np.indices(a.shape)[2] % 2 * 200, a.shape).astype(np.uint8) for a in pack.arrays)
    simulator = Simulator(Pack(pack.entries, arrays), QUIET, torch.device("cpu"), 0, ("MR",))
    for axis in range(3):
        for _ in range(10):
            patch, spacing, _ = simulator._crop((6, 6, 6), (axis,))
            assert spacing[axis] == 1.0
            assert not patch.diff(dim=axis).any()  # the stripes run across the slices


def test_network_is_told_of_the_acquisition(isotropic):
    for seed in range(6):
        example = draw(isotropic, "superres", 3, seed)
        told = example.problem.parameters[0, -6:].tolist()
        for index, axis in enumerate(example.problem.acquisition.axes):
            assert told[index] == pytest.approx(math.log2(axis.factor), abs=1e-5)
            code = {"box": 0.0, "gaussian": axis.width, "kspace": -1.0}[axis.profile]
            assert told[3 + index] == pytest.approx(0 if axis.trivial else code, abs=1e-5)
