"""Stopping and going on."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medidiff.training import checkpoint


def make() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 2))
    return network, copy.deepcopy(network), torch.optim.AdamW(network.parameters(), lr=1e-2, betas=(0.9, 0.99))


def steps(network: nn.Module, optimiser: torch.optim.Optimizer, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimiser.zero_grad()
        x = torch.randn(16, 5, generator=generator)
        (network(x) - x[:, :2].sin()).square().mean().backward()
        optimiser.step()


def test_weights_come_back_exactly_and_moments_nearly(tmp_path):
    network, average, optimiser = make()
    steps(network, optimiser, 20, seed=1)
    checkpoint.save(tmp_path, network, average, optimiser, {"iteration": 20, "rows": [1]})
    other, other_average, other_optimiser = make()
    nn.init.zeros_(other_average[0].weight)
    state = checkpoint.restore(tmp_path, other, other_average, other_optimiser)
    assert state == {"iteration": 20, "rows": [1]}
    for a, b in ((network, other), (average, other_average)):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    old, new = optimiser.state_dict()["state"], other_optimiser.state_dict()["state"]
    for i in old:
        assert int(new[i]["step"]) == int(old[i]["step"]) == 20
        for name in ("exp_avg", "exp_avg_sq"):
            assert new[i][name].dtype == torch.float32
            torch.testing.assert_close(new[i][name], old[i][name], rtol=2**-8, atol=0)
            assert float(new[i][name].abs().max()) > 0


def test_going_on_is_like_not_stopping(tmp_path):
    network, average, optimiser = make()
    steps(network, optimiser, 20, seed=1)
    checkpoint.save(tmp_path, network, average, optimiser, {"iteration": 20})
    steps(network, optimiser, 20, seed=2)
    resumed, resumed_average, resumed_optimiser = make()
    checkpoint.restore(tmp_path, resumed, resumed_average, resumed_optimiser)
    steps(resumed, resumed_optimiser, 20, seed=2)
    forgetful, forgetful_average, _ = make()
    checkpoint.restore(tmp_path, forgetful, forgetful_average, torch.optim.AdamW(forgetful.parameters(), lr=1e-2))
    steps(forgetful, torch.optim.AdamW(forgetful.parameters(), lr=1e-2, betas=(0.9, 0.99)), 20, seed=2)

    @torch.no_grad()
    def distance(other: nn.Module) -> float:
        return max(float((p - q).abs().max()) for p, q in zip(network.parameters(), other.parameters(), strict=True))

    assert distance(resumed) < 1e-3
    assert distance(forgetful) > 5 * distance(resumed)


def test_no_checkpoint(tmp_path):
    assert checkpoint.restore(tmp_path, *make()) is None


def test_files_hold_no_pickle_and_no_leftovers(tmp_path):
    network, average, optimiser = make()
    steps(network, optimiser, 1, seed=1)
    for _ in range(2):
        checkpoint.save(tmp_path, network, average, optimiser, {"iteration": 1})
    assert {path.name for path in tmp_path.iterdir()} == {
        "weights.safetensors",
        "ema.safetensors",
        "exp_avg.safetensors",
        "exp_avg_sq.safetensors",
        "state.json",
    }
    assert json.loads((tmp_path / "state.json").read_text()) == {"iteration": 1}
    assert load_file(tmp_path / "exp_avg.safetensors")["0"].dtype == torch.bfloat16


def test_shipped_weights_are_the_averages_in_half_precision(tmp_path):
    _, average, _ = make()
    checkpoint.export_fp16(average, tmp_path / "model.safetensors")
    found = load_file(tmp_path / "model.safetensors")
    assert set(found) == set(average.state_dict())
    for key, value in average.state_dict().items():
        assert torch.equal(found[key], value.half())


def test_other_network_is_refused(tmp_path):
    network, average, optimiser = make()
    steps(network, optimiser, 1, seed=1)
    checkpoint.save(tmp_path, network, average, optimiser, {"iteration": 1})
    wider = nn.Sequential(nn.Linear(5, 8), nn.SiLU(), nn.Linear(8, 2))
    with pytest.raises(RuntimeError, match="size mismatch"):
        checkpoint.restore(tmp_path, wider, copy.deepcopy(wider), torch.optim.AdamW(wider.parameters()))
