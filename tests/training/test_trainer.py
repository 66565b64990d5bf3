"""The objective against its definition, and a run of a few iterations."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medidiff import bundles
from medidiff.diffusion import schedule
from medidiff.errors import UsageError
from medidiff.physics import tasks
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.training import bundle as bundling
from medidiff.training import pack as packs
from medidiff.training import trainer as training
from medidiff.training.objective import loss, predict_mean
from medidiff.training.pack import Pack
from medidiff.training.recipe import Data, Optimiser, Recipe
from medidiff.training.simulator import Example, Simulator
from medidiff.training.trainer import Trainer

SHAPE = (4, 9, 10, 11)  # no multiple of the stride
NULL, FULL = torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)


class Oracle(nn.Module):
    """Knows the residual and tells the velocity exactly, times ``factor``; the log-variance is constant."""

    def __init__(self, target: Tensor, factor: float = 1.0, log_variance: float = 0.0) -> None:
        super().__init__()
        self.stride, self.spatial_dims = 4, 3
        self.target, self.log_variance = target, log_variance
        self.factor = nn.Parameter(torch.tensor(factor))
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        assert x.shape[1:] == (STATE_CHANNELS + len(VIEWS), 12, 12, 12)
        self.seen.append((x, parameters))
        inside = tuple(slice(0, n) for n in self.target.shape[1:])
        z = x[(slice(None), 0, *inside)]
        theta = parameters[:, 0].reshape(-1, 1, 1, 1)
        v = torch.where(z == 0, -self.target, (torch.cos(theta) * z - self.target) / torch.sin(theta))
        answer = torch.full((len(x), 2, 12, 12, 12), self.log_variance)
        answer[(slice(None), 0, *inside)] = self.factor * v
        return answer


@pytest.fixture(scope="module")
def example() -> Example:
    generator = torch.Generator().manual_seed(0)
    clean = torch.linspace(0.2, 1, SHAPE[1])[None, :, None, None].expand(SHAPE)
    sigma = torch.tensor([0.02, 0.05, 0.1, 0.2]).reshape(4, 1, 1, 1)
    noisy = clean + sigma * torch.randn(SHAPE, generator=generator)
    problem = tasks.denoise(noisy, sigma, "gaussian", torch.ones(4, 3))
    return Example(problem, problem.residual(clean))


def evaluate(network: nn.Module, example: Example, null: Tensor, weight: float = 0.0) -> tuple[float, float, float]:
    parts = loss(network, example, null, torch.Generator().manual_seed(1), weight)
    return tuple(float(part.detach()) for part in parts)


def weights(example: Example) -> Tensor:
    """Squared scale over its mean in each image, at most 10: the null token's loss is the image's squared error."""
    scale2 = example.problem.scale.square()
    return (scale2 / scale2.mean(dim=(1, 2, 3), keepdim=True)).clamp(max=10)


def test_exact_velocity_costs_nothing(example):
    for null in (NULL, FULL, torch.tensor([True, False, True, False])):
        value, *parts = evaluate(Oracle(example.target), example, null)
        assert value == pytest.approx(0, abs=1e-8)
        for part in parts:
            assert math.isnan(part) or part == pytest.approx(0, abs=1e-7)


def test_silence_costs_the_whole_velocity(example):
    value, null_part, other_part = evaluate(Oracle(example.target, 0.0), example, NULL)
    assert null_part == pytest.approx(1)
    assert math.isnan(other_part)
    assert value == pytest.approx(float((weights(example) * example.target.square()).mean()), rel=1e-5)
    value, null_part, other_part = evaluate(Oracle(example.target, 0.0), example, FULL)
    assert other_part == pytest.approx(1)
    assert math.isnan(null_part)
    assert 0.3 < value < 1.5  # a velocity has about unit variance whatever the time


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.2])
def test_error_is_squared(example, factor):
    for null in (NULL, FULL):
        whole = evaluate(Oracle(example.target, 0.0), example, null)
        part = evaluate(Oracle(example.target, factor), example, null)
        assert part[0] == pytest.approx((1 - factor) ** 2 * whole[0], rel=1e-4)
        assert np.nansum(part[1:]) == pytest.approx((1 - factor) ** 2, rel=1e-4)


def test_null_token_sees_nothing_of_the_answer(example):
    network = Oracle(example.target)
    evaluate(network, example, torch.tensor([True, False, True, False]))
    ((x, parameters),) = network.seen
    assert not x[[0, 2], 0].any()
    assert torch.all(parameters[[0, 2], 0] == schedule.TERMINAL)
    inside = (slice(0, 9), slice(0, 10), slice(0, 11))
    for i in (1, 3):
        theta = float(parameters[i, 0])
        assert math.atan(0.02 / 0.98) <= theta < schedule.TERMINAL
        eps = (x[(i, 0, *inside)] - math.cos(theta) * example.target[i]) / math.sin(theta)
        assert float(eps.mean()) == pytest.approx(0, abs=0.15)
        assert float(eps.std()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(x[:, 1:, :9, :10, :11], example.problem.views())
    torch.testing.assert_close(parameters[:, 1:], example.problem.parameters)
    assert parameters.shape == (4, len(parameter_names(3)))


def test_times_are_uniform(example):
    network = Oracle(example.target)
    for seed in range(100):
        loss(network, example, FULL, torch.Generator().manual_seed(seed), 0.0)
    tangent = torch.cat([parameters[:, 0] for _, parameters in network.seen]).tan()
    u = tangent / (1 + tangent)
    assert 0.02 <= float(u.min()) < 0.04
    assert 0.98 < float(u.max()) <= 1
    assert float(u.mean()) == pytest.approx(0.51, abs=5 * 0.283 / 20)
    assert float(u.std()) == pytest.approx(0.98 / math.sqrt(12), abs=0.03)


@pytest.mark.parametrize("log_variance", [-1.0, 0.0, 2.0])
def test_variance_head_pays_its_likelihood(example, log_variance):
    """0.5 (error^2 exp(-l) + l): least where exp(l) is the squared error."""
    network = Oracle(example.target, 0.0, log_variance)
    plain, weighted = evaluate(network, example, NULL)[0], evaluate(network, example, NULL, 0.25)[0]
    square = float(example.target.square().mean())
    assert weighted - plain == pytest.approx(0.125 * (square * math.exp(-log_variance) + log_variance), rel=1e-4)


def test_variance_head_does_not_move_the_mean(example):
    for null in (NULL, FULL):
        gradients = []
        for weight in (0.0, 100.0):
            network = Oracle(example.target, 0.5)
            loss(network, example, null, torch.Generator().manual_seed(1), weight)[0].backward()
            gradients.append(float(network.factor.grad))
        assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)
        assert gradients[0] < 0


def test_one_pass_image(example):
    clean = example.problem.image(example.target)
    torch.testing.assert_close(predict_mean(Oracle(example.target), example.problem), clean)
    assert torch.equal(predict_mean(Oracle(example.target, 0.0), example.problem), example.problem.base)


RECIPE = Recipe(
    name="tiny",
    network={"spatial_dims": 3, "channels": [4], "encoder_blocks": [1], "decoder_blocks": [], "embedding": 8},
    iterations=6,
    data=Data(patches=((1.0, 8, 4),), thin=0.0),
    optimiser=Optimiser(warmup=1, null=((0.5, 1.0), (1.0, 0.5))),
)


def trainer(pack: Pack, folder, **changes) -> Trainer:
    return Trainer(replace(RECIPE, **changes), pack, folder, torch.device("cpu"))


def state(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def finished(pack, tmp_path_factory) -> Trainer:
    run = trainer(pack, tmp_path_factory.mktemp("run"))
    run.start = state(run.network)
    run.run(max_seconds=math.inf, evaluate_every=math.inf)
    return run


def test_run_trains_every_weight_and_logs(finished):
    assert (finished.iteration, finished.fraction) == (6, 1.0)
    for key, value in finished.network.state_dict().items():
        assert torch.isfinite(value).all()
        assert not torch.equal(value, finished.start[key]), key
    with (finished.folder / "log.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert int(row["iteration"]) == 6
    assert 0.1 < float(row["null_loss"]) < 3
    assert 0.1 < float(row["v_loss"]) < 3
    for percent in (3, 9, 15):
        assert float(row[f"denoise_{percent}_base"]) > float(row[f"denoise_{percent}_noisy"])
        assert abs(float(row[f"denoise_{percent}_network"]) - float(row[f"denoise_{percent}_base"])) < 2
    assert float(row["denoise_9_nlm"]) == 25.0
    assert abs(float(row["inpaint_network"]) - float(row["inpaint_base"])) < 3


def test_moving_average_lags_behind(finished):
    """After n steps with decay (1 + n) / (10 + n) it lies between the start and the last weights."""
    key = "stem.weight"
    start, last, average = finished.start[key], finished.network.state_dict()[key], finished.ema.state_dict()[key]
    moved = (average - start).norm() / (last - start).norm()
    assert 0.3 < float(moved) < 1
    shipped = load_file(finished.folder / "model.safetensors")
    assert torch.equal(shipped[key], average.half())


def test_run_goes_on_where_it_stopped(pack, tmp_path):
    first = trainer(pack, tmp_path, iterations=3)
    first.run(math.inf, math.inf)
    second = trainer(pack, tmp_path)
    assert second.resume()
    assert (second.iteration, len(second.rows)) == (3, 1)
    assert all(torch.equal(a, b) for a, b in zip(state(first.ema).values(), state(second.ema).values(), strict=True))
    second.run(math.inf, math.inf)
    assert [row["iteration"] for row in second.rows] == [3, 6]
    saved = json.loads((tmp_path / "state.json").read_text())
    assert saved["iteration"] == 6
    assert saved["recipe"]["iterations"] == 6
    assert not trainer(pack, tmp_path / "elsewhere").resume()


def test_another_run_is_not_gone_on_with(pack, tmp_path):
    trainer(pack, tmp_path, iterations=1).run(math.inf, math.inf)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fewer = Pack(pack.entries[1:], pack.arrays[1:])
    with pytest.raises(UsageError, match=f"The data are not those of the run in {tmp_path}; begin again with --over"):
        trainer(fewer, tmp_path).resume()
    for changes, name in (
        ({"seed": 3}, "seed"),
        ({"data": replace(RECIPE.data, superres=0.5)}, r"data\.superres"),
        ({"optimiser": replace(RECIPE.optimiser, learning_rate=1e-5)}, r"optimiser\.learning_rate"),
        ({"network": {**RECIPE.network, "channels": [6]}}, "network"),
    ):
        with pytest.raises(UsageError, match=f"recipe's setting {name} is not that of the run in"):
            trainer(pack, tmp_path, **changes).resume()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_length_source_and_order_of_the_data_may_change(pack, tmp_path):
    trainer(pack, tmp_path, iterations=1).run(math.inf, math.inf)
    turned = Pack(
        tuple(replace(entry, nlm={}, licence="CC0-1.0") for entry in reversed(pack.entries)),
        tuple(reversed(pack.arrays)),
    )
    turned.save(tmp_path / "carried.npz")
    data = replace(RECIPE.data, source="carried.npz")
    assert trainer(packs.load(tmp_path / "carried.npz"), tmp_path, seconds=9.0, name="longer", data=data).resume()


def test_an_old_checkpoint_is_believed(pack, tmp_path):
    trainer(pack, tmp_path, iterations=1).run(math.inf, math.inf)
    told = json.loads((tmp_path / "state.json").read_text())
    del told["data"]
    (tmp_path / "state.json").write_text(json.dumps(told))
    assert trainer(Pack(pack.entries[1:], pack.arrays[1:]), tmp_path, seed=3).resume()


def test_the_module_refuses_other_data(pack, tmp_path, monkeypatch, capsys):
    trainer(pack, tmp_path, iterations=1).run(math.inf, math.inf)
    monkeypatch.setattr(training.recipe, "read", lambda path: RECIPE)
    Pack(pack.entries[1:], pack.arrays[1:]).save(tmp_path / "fewer.npz")
    arguments = ["trainer", "recipe.toml", str(tmp_path / "fewer.npz"), str(tmp_path), "--resume", "--device", "cpu"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="2"):
        training.main()
    assert "The data are not those of the run in" in capsys.readouterr().err
    assert json.loads((tmp_path / "state.json").read_text())["iteration"] == 1


def test_a_bundle_tells_no_other_data(finished, pack, tmp_path):
    Pack(pack.entries[1:], pack.arrays[1:]).save(tmp_path / "fewer.npz")
    with pytest.raises(UsageError, match=r"fewer\.npz is not what the run in .* learned from"):
        bundling.make(finished.folder, tmp_path / "fewer.npz", tmp_path / "tiny", version="0.0.1")
    assert not (tmp_path / "tiny").exists()


def test_resumed_part_draws_other_batches(pack, tmp_path, monkeypatch):
    drawn = []
    draw = Simulator.draw
    monkeypatch.setattr(Simulator, "draw", lambda self, *shape: drawn.append(draw(self, *shape)) or drawn[-1])
    trainer(pack, tmp_path, iterations=1).run(math.inf, math.inf)
    second = trainer(pack, tmp_path, iterations=2)
    assert second.resume()
    second.run(math.inf, math.inf)
    assert len(drawn) == 2
    assert not torch.equal(drawn[0].target, drawn[1].target)


def test_run_stops_in_time_and_still_saves(pack, tmp_path):
    run = trainer(pack, tmp_path, iterations=10**9)
    run.run(max_seconds=0.3, evaluate_every=math.inf)
    assert 0 < run.iteration < 10**6
    assert json.loads((tmp_path / "state.json").read_text())["iteration"] == run.iteration


def test_length_in_seconds(pack, tmp_path):
    run = trainer(pack, tmp_path, seconds=0.5)
    run.run(math.inf, math.inf)
    assert run.seconds >= 0.5
    assert run.fraction >= 1


def test_learning_rate_warms_up_and_falls(pack, tmp_path):
    run = trainer(pack, tmp_path, iterations=1000, optimiser=Optimiser(learning_rate=1e-3, warmup=100))
    rates = []
    for run.iteration in (0, 49, 99, 500, 1000):
        rates.append(run._learning_rate())
    assert rates[0] == pytest.approx(1e-5, rel=1e-2)
    assert rates[1] == pytest.approx(5e-4, rel=1e-2)
    assert rates[2] == pytest.approx(1e-3, rel=3e-2)
    assert rates[3] == pytest.approx(5e-4, rel=1e-2)
    assert rates[4] == pytest.approx(1e-6)


def test_pack_without_validation_volumes_still_trains(pack, tmp_path):
    chosen = [i for i in range(len(pack.entries)) if pack.entries[i].split == "train"]
    small = Pack(tuple(pack.entries[i] for i in chosen), tuple(pack.arrays[i] for i in chosen))
    run = trainer(small, tmp_path, iterations=1)
    run.run(math.inf, math.inf)
    assert set(run.rows[0]) == {"iteration", "seconds", "device", "null_loss", "v_loss"}


def test_bundle_of_a_run_holds_its_weights(finished, pack, tmp_path):
    pack.save(tmp_path / "p.npz")
    folder = tmp_path / "tiny"
    bundling.make(finished.folder, tmp_path / "p.npz", folder, version="0.0.1", description="A test.", halo=16)
    bundle = bundles.read(folder)
    network = bundle.network()
    for key, value in finished.ema.state_dict().items():
        assert torch.equal(network.state_dict()[key], value.half().float())
    told = bundle.settings["trained_on"]
    assert told["volumes"] == ["one", "two"]  # not the CT, not those that judge
    assert told["subjects"] == ["a", "b"]
    assert told["iterations"] == 6
    assert told["recipe"]["name"] == "tiny"
    assert (bundle.version, bundle.settings["halo"], bundle.settings["modalities"]) == ("0.0.1", 16, ["MR"])
    assert (folder / bundling.LOG).read_bytes() == (finished.folder / "log.csv").read_bytes()
    assert bundle.settings["tasks"] == ["denoise"]
    row = finished.rows[-1]
    card = (folder / bundling.CARD).read_text()
    figures = " | ".join(f"{row[f'denoise_9_{method}']:.2f}" for method in ("noisy", "nlm", "base", "network"))
    assert f"| denoise, 9 % noise | {figures} |" in card
    assert f"| inpaint |  |  | {row['inpaint_base']:.2f} | {row['inpaint_network']:.2f} |" in card
    assert "- one\n- two\n" in card
    assert told["licences"] == {"CC0-1.0": 1, "CC-BY-4.0 (Doe 2020)": 1}
    assert "- 1 volume: CC-BY-4.0 (Doe 2020)\n" in card
    assert "## Known failures" in card
    assert "RestorationInferer" in (folder / "configs" / "inference.json").read_text()


@pytest.mark.parametrize(
    ("shares", "tasks"),
    [
        ((0.0, 0.0, 0.0), ["denoise"]),
        ((0.3, 0.2, 0.1), ["denoise", "superres", "inpaint"]),
        ((0.7, 0.2, 0.1), ["superres", "inpaint"]),  # 1 - 0.7 - 0.2 - 0.1 is not 0 in floating point
        ((0.0, 0.0, 0.5), ["denoise", "superres"]),
        ((0.0, 1.0, 0.0), ["inpaint"]),
    ],
)
def test_bundle_does_what_its_network_was_trained_for(shares, tasks):
    superres, inpaint, combined = shares
    assert bundling._tasks({"superres": superres, "inpaint": inpaint, "combined": combined}) == tasks
