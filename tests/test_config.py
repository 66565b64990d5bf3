"""Settings as scripts give them: what is wrong with them is one sentence, and numbers of numpy are numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medidiff.config import ComputeOptions, RestoreOptions, RunConfig, describe
from medidiff.errors import UsageError


@pytest.mark.parametrize("noise", [101, -1, float("nan"), float("inf"), True, np.True_, "low", (1, 2), np.ones(2)])
def test_noise_that_is_none_is_told_its_range(noise: Any) -> None:
    for settings, given in (
        (RestoreOptions, {"noise": noise}),
        (RunConfig, {"inputs": ["a"], "output": "b", "restore": {"noise": noise}}),
    ):
        with pytest.raises(ValidationError) as caught:
            settings.model_validate(given)
        assert describe(caught.value).startswith("noise is auto, or a number from 0 to 100 percent, not ")


@pytest.mark.parametrize(
    ("noise", "taken"), [("auto", "auto"), (None, None), (9, 9.0), ("9.5", 9.5), (np.int64(5), 5.0)]
)
def test_noise(noise: Any, taken: Any) -> None:
    assert RestoreOptions(noise=noise).noise == taken


@pytest.mark.parametrize("figure", [2, 2.0, np.int64(2), np.float32(2), np.array(2)])
def test_one_figure_of_any_type_is_for_all_axes(figure: Any) -> None:
    assert RestoreOptions(factor=figure).factor == (2.0, 2.0, 2.0)
    assert RestoreOptions(spacing=figure).spacing == (2.0, 2.0, 2.0)


def test_three_figures_are_one_an_axis() -> None:
    assert RestoreOptions(factor=np.array([1, 1, 2])).factor == (1.0, 1.0, 2.0)
    with pytest.raises(ValidationError, match="factor"):
        RestoreOptions.model_validate({"factor": True})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("device", "tpu", "'tpu' is not a device; use auto, cpu, mps, cuda, cuda:N"),
        ("device", "cuda:0,cpu", "'cuda:0,cpu' is not a device"),
        ("tile", 33, "tile: .*multiple of 8"),
        ("batch", 0, "batch: .*greater than or equal to 1"),
        ("memory", -1, "memory: .*greater than 0"),
        ("precision", "fp8", "precision: .*'fp32'"),
        ("thread", 1, "unknown setting 'thread'; known are batch, device"),
    ],
)
def test_settings_that_are_wrong_are_a_sentence(name: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        ComputeOptions(**{name: value})
    assert "\n" not in str(caught.value)
    where = {"device": "device", "thread": "'compute.thread'"}.get(name, f"compute.{name}: ")
    with pytest.raises(UsageError, match=where):
        RunConfig(inputs=["a"], output="b", compute={name: value})  # the outer settings say where
    with pytest.raises(ValidationError):
        ComputeOptions.model_validate({name: value})


def test_several_devices() -> None:
    assert ComputeOptions(device="cuda:0,cuda:1").devices == ("cuda:0", "cuda:1")
