"""Fine-tuning keeps what is surely better, says by how much, and forgets little."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medidiff.diffusion.network import Backbone, build
from medidiff.physics.fidelity import foreground_psnr
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.training import finetune, objective
from medidiff.training.finetune import Settings, improve
from medidiff.training.held_out import Judged, NoisyJudge, part
from medidiff.training.recipe import Data
from medidiff.training.recorrupt import Noisy
from tests.training.conftest import blobs

pytestmark = pytest.mark.usefixtures("time_of_its_own")

SIGMA = 0.08
BASE, SCALE = STATE_CHANNELS + VIEWS.index("base"), STATE_CHANNELS + VIEWS.index("log scale")


@pytest.fixture(autouse=True)
def small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "_EDGE", {3: 16})


def tell(*_: object) -> None:
    pass


class Knowing(nn.Module):
    """Takes a share of the base's error away; the clean image is known."""

    def __init__(self, clean: Tensor, share: float) -> None:
        super().__init__()
        self.stride, self.spatial_dims, self.clean = 1, 3, clean
        self.share = nn.Parameter(torch.tensor(share))

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        residual = (self.clean - x[:, BASE]) / 10 ** (x[:, SCALE] - 2)
        return torch.stack([-self.share * residual, torch.zeros_like(residual)], dim=1)


def noisy(clean: np.ndarray, seed: int, law: str = "rician") -> Noisy:
    rng = np.random.default_rng(seed)
    real, imaginary = (SIGMA * rng.standard_normal(clean.shape) for _ in range(2))
    measured = np.hypot(clean + real, imaginary) if law == "rician" else clean + real
    images = torch.from_numpy(measured.astype(np.float32))[None]
    return Noisy(images, torch.full_like(images, SIGMA), law, (1.0, 1.0, 1.0))


@pytest.mark.parametrize("law", ["gaussian", "rician"])
def test_the_gain_is_estimated_without_the_truth(law: str) -> None:
    """A fifth of every error taken away is 1.9 dB."""
    clean = blobs((64, 48, 48), 0).astype(np.float32) + 0.2
    scan, known = noisy(clean, 0, law), torch.from_numpy(clean)[None]
    judge = NoisyJudge(Knowing(known, 0.0), [scan], seed=3)
    same, better, worse = (judge(Knowing(known, share)) for share in (0.0, 0.2, -0.2))
    assert (same.gain, same.error) == (0, 0)
    assert better.gain == pytest.approx(-20 * math.log10(0.8), abs=0.5)
    assert 0 < better.error < 0.1
    assert worse.gain == pytest.approx(-20 * math.log10(1.2), abs=0.5)


def test_a_fifth_of_the_longest_axis_is_held_out() -> None:
    images = torch.arange(50.0)[None, None, :, None].expand(2, 20, 50, 30)
    learn, held = part(Noisy(images, torch.ones_like(images), "gaussian", (1.0, 1.0, 1.0)))
    assert learn.images.shape == learn.sigma.shape == (2, 20, 40, 30)
    assert held.images.shape == (2, 20, 10, 30)
    assert float(held.images.min()) == 40
    small = torch.ones(1, 9, 8, 4)
    with pytest.raises(ValueError, match="too small"):
        part(Noisy(small, small, "gaussian", (1.0, 1.0, 1.0)))


class Dial(Backbone):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def pull(target: float) -> Callable[[Backbone, int], None]:
    def step(network: Backbone, _: int) -> None:
        (network.weight - target).square().sum().backward()

    return step


def run(judge: Callable[[Backbone], Judged], seconds: float = 0.4) -> finetune.Outcome:
    return improve(Dial(), pull(1.0), judge, Settings(seconds=seconds, learning_rate=0.05), tell)


def test_the_best_weights_come_out() -> None:
    seen = []

    def judge(network: Backbone) -> Judged:
        seen.append(float(network.weight))
        return Judged(0.3 if len(seen) == 2 else 0.1, 0.01)

    outcome = run(judge)
    assert len(seen) > 2
    assert outcome.weights is not None
    assert float(outcome.weights["weight"]) == pytest.approx(seen[1])
    assert outcome.judged == Judged(0.3, 0.01)


@pytest.mark.parametrize(("gain", "error"), [(-0.1, 0.0), (0.1, 0.06), (0.0, 0.0), (math.nan, 0.0)])
def test_nothing_comes_out_unless_it_is_surely_better(gain: float, error: float) -> None:
    outcome = run(lambda _: Judged(gain, error))
    assert outcome.weights is None
    assert outcome.iterations > 0


def test_it_ends_early_when_there_is_no_hope() -> None:
    gains = iter([0.5] + [0.1] * 50)
    begun = run(lambda _: Judged(next(gains)), seconds=2.0)
    assert begun.seconds < 1.9
    assert begun.weights is not None


@pytest.fixture(scope="module")
def network() -> Backbone:
    torch.manual_seed(0)
    found = build(
        spatial_dims=3,
        in_channels=STATE_CHANNELS + len(VIEWS),
        parameters=len(parameter_names(3)),
        channels=[6, 6],
        encoder_blocks=[1, 1],
        decoder_blocks=[1],
        embedding=8,
    )
    nn.init.constant_(found.head.bias, 0.8)  # an offset to get rid of
    return found


def test_noisy_scans_alone_teach(network: Backbone) -> None:
    clean = [blobs((40, 32, 32), seed).astype(np.float32) for seed in range(3)]
    scans = [noisy(image, seed) for seed, image in enumerate(clean)]
    bases = [(scan.pose().base[0].numpy(), scan.spacing, str(index)) for index, scan in enumerate(scans)]
    replayed, data = finetune.clean_pack(bases, "MR", held=False), Data(superres=0.5, inpaint=0.5)
    tuned = copy.deepcopy(network)
    settings = Settings(seconds=4.0, learning_rate=1e-2)
    outcome = finetune.without_truth(tuned, scans[:2], replayed, data, "MR", settings, tell)
    assert outcome.weights is not None
    tuned.load_state_dict(outcome.weights)
    with torch.inference_mode():
        before, after = (
            foreground_psnr(objective.predict_mean(one.eval(), scans[2].pose())[0].numpy(), clean[2])
            for one in (network, tuned)
        )
    assert after - before > 0.3  # on a scan that it never saw
    assert outcome.judged.gain > 0.3


def test_clean_scans_teach(network: Backbone) -> None:
    volumes = [(blobs((40, 24, 24), seed).astype(np.float32), (1.0, 1.0, 1.0), str(seed)) for seed in range(2)]
    clean = finetune.clean_pack(volumes, "MR")
    settings = Settings(seconds=6.0, learning_rate=3e-2)
    tuned = copy.deepcopy(network)
    outcome = finetune.with_truth(tuned, clean, Data(thin=0.0), "MR", settings, tell, torch.device("cpu"))
    assert outcome.weights is not None
    assert outcome.judged.gain > 0.3
    assert outcome.judged.error == 0


def test_a_pack_of_arrays_holds_a_part_of_each() -> None:
    volume = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32)[:, None, None], (40, 12, 12))
    found = finetune.clean_pack([(volume, (1.0, 1.0, 2.0), "a")], "MR")
    assert [(entry.split, entry.subject, entry.spacing) for entry in found.entries] == [
        ("train", "a", (1.0, 1.0, 2.0)),
        ("validation", "a", (1.0, 1.0, 2.0)),
    ]
    np.testing.assert_allclose(found.normalised(0), volume[:32], atol=2 / 255)
    np.testing.assert_allclose(found.normalised(1), volume[32:], atol=2 / 255)
    whole = finetune.clean_pack([(volume, (1.0, 1.0, 2.0), "a")], "MR", held=False)
    assert [array.shape for array in whole.arrays] == [(40, 12, 12)]


def test_drift_is_the_distance_of_the_answers(network: Backbone) -> None:
    clean = torch.from_numpy(blobs((16, 16, 16), 0)).float()[None]
    problem = Noisy(clean, torch.full_like(clean, SIGMA), "gaussian", (1.0, 1.0, 1.0)).pose()
    example = objective.Example(problem, problem.residual(clean))
    other = copy.deepcopy(network)
    nn.init.constant_(other.head.bias, 0.9)
    for null in (torch.tensor([True]), torch.tensor([False])):
        same, off = (
            float(objective.drift(one, network, example, null, torch.Generator().manual_seed(0)).detach())
            for one in (network, other)
        )
        assert same == 0
        assert off == pytest.approx(0.1**2 * 1.1, rel=1e-3)
