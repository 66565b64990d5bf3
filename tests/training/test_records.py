"""What a run leaves behind."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.training import records
from medidiff.training.pack import Pack, digest
from medidiff.training.recipe import Data, Recipe


def test_rows_of_a_resumed_run_may_have_other_columns(tmp_path: Path) -> None:
    rows = [{"iteration": 1, "old": 2.5}, {"iteration": 2, "new": 3.5}]
    records.write_log(tmp_path / "log.csv", rows)
    with (tmp_path / "log.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found == [{"iteration": "1", "old": "2.5", "new": ""}, {"iteration": "2", "old": "", "new": "3.5"}]
    records.write_log(tmp_path / "none.csv", [])
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_the_recipe_and_the_data_are_named(pack: Pack, tmp_path: Path) -> None:
    pack.save(tmp_path / "heads.npz")
    settings = Recipe("tiny", data=Data(source=str(tmp_path / "heads.npz")))
    records.write_config(tmp_path / "run", settings, pack, tmp_path / "heads.npz")
    text = (tmp_path / "run/config.json").read_text()
    assert str(tmp_path) not in text
    tree = json.loads(text)
    assert tree["recipe"]["data"]["source"] == tree["data"]["pack"] == "heads.npz"
    assert tree["recipe"]["seed"] == 0
    assert tree["data"]["sha256"] == digest(tmp_path / "heads.npz")
    assert tree["data"]["volumes"]["validation"] == ["judge"]


def test_examples_show_what_was_measured_and_how_close_it_came(pack: Pack) -> None:
    def double(problem: torch.Tensor) -> torch.Tensor:
        return 2 * problem.base

    shown = {one.name: one for one in records.examples(pack, double, torch.device("cpu"), ("MR",), 3)}
    assert set(shown) == {"denoise_9", "inpaint"}  # slices of 3 mm cannot be refined
    index = pack.of("validation")[0]
    truth = pack.normalised(index)
    for one in shown.values():
        measured, base, network, clean = one.images
        np.testing.assert_array_equal(clean, truth[truth.shape[0] // 2])
        np.testing.assert_allclose(network, 2 * base)
        assert one.figures[1] < one.figures[0] < 40
        assert measured.shape == clean.shape
    noise = shown["denoise_9"].images[0] - shown["denoise_9"].images[3]
    assert 0.05 < float(noise.std()) < 0.12


def test_a_machine_without_matplotlib_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not records.draw(tmp_path, [{"iteration": 1, "null_loss": 1.0}], [])
    assert not list(tmp_path.iterdir())


def test_the_curve_skips_what_a_row_lacks(tmp_path: Path) -> None:
    rows = [
        {"iteration": 1, "null_loss": 1.0, "v_loss": 0.0, "a_base": 20.0, "a_network": 20.1},
        {"iteration": 2, "null_loss": 0.9, "v_loss": 0.9, "b_base": 20.0, "b_network": 20.2},
    ]
    assert records.draw(tmp_path, rows, [])
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
