"""Two processes train one network: each on its own batches, both with the same weights."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from medidiff.training import workers
from medidiff.training.pack import Pack

RECIPE = """
name = "tiny"
iterations = 4
modalities = ["MR"]
network = {spatial_dims = 3, channels = [4], encoder_blocks = [1], decoder_blocks = [], embedding = 8}
optimiser = {warmup = 1}
data = {patches = [[1.0, 8, 2]], thin = 0.0}
"""
# runs the module's command line as accelerate launches it, and tells of its process's weights and first batch
CODE = """
import os, sys
import torch
from medidiff.training import trainer

train, draw = trainer.train, trainer.Simulator.draw
drawn = []
trainer.Simulator.draw = lambda self, *shape: drawn.append(draw(self, *shape)) or drawn[-1]

def told(*args, **options):
    run = train(*args, **options)
    weights = {key: value.clone() for key, value in run.network.state_dict().items()}
    torch.save({"weights": weights, "target": drawn[0].target, "rows": len(run.rows)}, sys.argv[3] + os.environ["RANK"])
    return run

trainer.train = told
trainer.main()
torch.distributed.destroy_process_group()
"""


def test_a_process_alone_is_its_own_crew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    crew, device = workers.assemble(torch.device("cpu"))
    assert (crew.rank, crew.size, crew.leads, crew.seed(7)) == (0, 1, True, 7)
    assert device == torch.device("cpu")
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.tensor([1.0, 2.0, 3.0])
    assert crew.agree([weight], 2.5) == 2.5
    assert weight.grad.tolist() == [1, 2, 3]


class Both:
    """Stands in for accelerate in the second of two processes, of which the other has zeros."""

    process_index, num_processes, device = 1, 2, torch.device("cpu")

    def reduce(self, tensor: torch.Tensor, reduction: str) -> torch.Tensor:
        assert reduction == "mean"
        return tensor / 2


def test_gradients_and_time_are_averaged() -> None:
    crew = workers.Crew(Both())
    weights = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(4))]
    weights[0].grad, weights[2].grad = torch.arange(6.0).reshape(2, 3), torch.full((4,), 8.0)
    assert crew.agree(weights, 5.0) == 2.5
    assert weights[0].grad.tolist() == [[0, 0.5, 1], [1.5, 2, 2.5]]
    assert weights[1].grad is None
    assert weights[2].grad.tolist() == [4, 4, 4, 4]
    assert not crew.leads
    assert crew.seed(7) != 7


def test_several_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModuleNotFoundError, match="pip install accelerate"):
        workers.assemble(torch.device("cpu"))


@pytest.mark.slow
def test_two_processes_end_with_the_same_weights(pack: Pack, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "program.py").write_text(CODE)
    pack.save(tmp_path / "heads.npz")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", port]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    arguments = [tmp_path / "program.py", tmp_path / "tiny.toml", tmp_path / "heads.npz", tmp_path / "run"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", *launch),
            *(str(argument) for argument in arguments),
            *("--device", "cpu"),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"run{rank}", weights_only=True) for rank in "01")
    assert not torch.equal(first["target"], second["target"])  # batches of their own
    for key, value in first["weights"].items():
        assert torch.equal(value, second["weights"][key]), key
    assert (first["rows"], second["rows"]) == (1, 0)
    with (tmp_path / "run/log.csv").open() as file:
        assert [row["iteration"] for row in csv.DictReader(file)] == ["4"]
