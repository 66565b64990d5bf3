"""Memory that runs out: smaller windows, the same answer, and one sentence when not even those fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.config import RestoreOptions
from medidiff.diffusion import device as devices
from medidiff.diffusion import memory
from medidiff.diffusion.memory import WindowTooLarge
from medidiff.engine import Engine
from medidiff.errors import OutOfMemory
from medidiff.pipelines import DenoisePipeline
from medidiff.scans.volume import Volume
from tests.fake_networks import Local

CPU = devices.Device(torch.device("cpu"), "fp32")


def limited_to(edge: int, asked: list[int | None]) -> Any:
    def compute(window: int | None) -> str:
        asked.append(window)
        if (window or 224) > edge:
            raise WindowTooLarge(window or 224)
        return f"in {window}"

    return compute


def test_windows_shrink_until_they_fit() -> None:
    asked: list[int | None] = []
    fitted = memory.fit(limited_to(100, asked), halo=24)
    assert asked == [None, 192, 128, 96]
    assert fitted.result == "in 96"
    assert len(fitted.warnings) == 1
    assert "windows of at most 96 voxels" in fitted.warnings[0]


def test_nothing_is_said_when_the_plan_fits() -> None:
    assert memory.fit(limited_to(300, []), halo=24) == memory.Fitted("in None")


@pytest.mark.parametrize(("halo", "tried"), [(24, [None, 192, 128, 96, 64]), (40, [None, 192, 128, 96])])
def test_windows_stay_larger_than_their_context(halo: int, tried: list[int | None]) -> None:
    asked: list[int | None] = []
    with pytest.raises(OutOfMemory, match=f"not even in windows of {tried[-1]} voxels") as caught:
        memory.fit(limited_to(1, asked), halo)
    assert asked == tried
    assert not isinstance(caught.value, WindowTooLarge)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("can't allocate memory: 9 GB")]
)
def test_network_tells_which_window_was_too_large(error: Exception) -> None:
    def network(windows: Tensor, parameters: Tensor) -> Tensor:
        raise error

    with pytest.raises(WindowTooLarge) as caught:
        devices.run(network, CPU, torch.zeros(1, 2, 8, 24, 16), torch.zeros(1, 1))  # type: ignore[arg-type]
    assert caught.value.edge == 24
    assert pickle.loads(pickle.dumps(caught.value)).edge == 24


def test_other_errors_of_the_network_pass() -> None:
    def network(windows: Tensor, parameters: Tensor) -> Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        devices.run(network, CPU, torch.zeros(1, 2, 8, 8, 8), torch.zeros(1, 1))  # type: ignore[arg-type]


class Limited(Local):
    """Has memory for windows up to 64 voxels."""

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        if max(x.shape[2:]) > 64:
            raise MemoryError
        return super().forward(x, parameters)


def test_scan_that_does_not_fit_is_restored_in_smaller_windows() -> None:
    rng = np.random.default_rng(0)
    image = np.abs(500 + 100 * np.sin(np.arange(100)[:, None, None] / 9) + rng.normal(0, 30, (100, 24, 20)))
    volume = Volume(image.astype(np.float32), np.eye(4), "MR")
    settings = {"network": {"spatial_dims": 3}, "halo": 8}
    bundle = SimpleNamespace(name="n", version="1", path=Path("n"), metadata={}, weights_sha256="w", settings=settings)
    network = Limited()

    def restored(network: Local) -> Any:
        pipeline = DenoisePipeline(bundle, Engine(network, CPU, halo=8, tile=None, batch=2))  # type: ignore[arg-type]
        return pipeline.restore(volume, RestoreOptions(noise=6.0))

    small, whole = restored(network), restored(Local())
    assert max(max(shape[2:]) for shape in network.windows) <= 64
    np.testing.assert_allclose(small.mean, whole.mean, atol=1e-3)
    assert [text for text in small.record["warnings"] if "windows of at most 96 voxels" in text]
    assert not [text for text in whole.record["warnings"] if "windows" in text]
