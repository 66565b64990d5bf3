"""The pace of a machine: what is measured adds up, and the phantom is one that a pipeline takes."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch

from medidiff import pipelines
from medidiff.cli import main
from medidiff.config import ComputeOptions
from medidiff.runs import bench, pace


def test_phantom_has_the_noise_that_it_should_have() -> None:
    for modality, scale in (("MR", 1000), ("CT", 1000)):
        array = pace.phantom((40, 40, 40), modality).array
        step = np.diff(array[15:25, 15:25, 15:25], axis=0)
        assert step.std() / np.sqrt(2) / scale == pytest.approx(pace.NOISE, rel=0.2)
    assert pace.phantom((16, 16, 1)).array.shape == (16, 16, 1)


def test_pace_is_seconds_over_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = pipelines.load("mr", compute=ComputeOptions(device="cpu"))
    assert isinstance(pipeline, pipelines.Pipeline)
    ticks = itertools.count()
    monkeypatch.setattr(pace, "warm_up", lambda *_: None)
    found = pace.measure(pipeline, pace.phantom((24, 25, 26)), lambda: float(next(ticks)), whole=False)
    voxels = 24 * 25 * 26
    assert found.stages == {stage: pytest.approx(1 / voxels) for stage in pace.STAGES}  # each took one tick
    assert found.rate == pytest.approx(found.operations * 24 * 32 * 32)
    assert found.seconds(10 * voxels, 24 * 32 * 32) == pytest.approx(10 * (len(pace.STAGES) - 1) + 1)


def test_rate_of_convolution_counts_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "DENSE", ((4, 8),))
    ticks = itertools.count()
    rate = pace.convolution_rate(torch.device("cpu"), clock=lambda: float(next(ticks)))
    assert rate == 2 * 27 * 4 * 4 * 8**3


def test_pipeline_for_mr_volumes_is_measured() -> None:
    assert bench.chosen(None).name == "mr"
    assert bench.chosen("ct").name == "ct"


@pytest.mark.slow
def test_doctor_measures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--bench", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["dense convolution"]["unit"] == "GFLOP/s"
    assert 0.2 < found["network of mr"]["number"] / found["dense convolution"]["number"] < 1.2
    assert {f"stage {stage}" for stage in pace.STAGES} <= found.keys()
