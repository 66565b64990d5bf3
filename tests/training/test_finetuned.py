"""The bundle of fine-tuned weights says where it comes from, and promises nothing that was measured with others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff import bundles
from medidiff.training import finetuned
from medidiff.training.calibration import Reference
from medidiff.training.finetune import Outcome
from medidiff.training.finetuned import Scans
from medidiff.training.held_out import Judged
from tests.benchmarks.conftest import tiny_bundle  # noqa: F401
from tests.training.conftest import blobs


@pytest.fixture
def base(tiny_bundle: Path, tmp_path: Path) -> Path:  # noqa: F811
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "tiny"))
    tree = json.loads((folder / "configs/metadata.json").read_text())
    tree["medidiff"]["calibration"] = {"denoise": {"9": {"quantile90": 1.6, "scale": 1.0, "volumes": 9}}}
    tree["medidiff"]["trained_on"] = {
        "noise_percent": [1, 10],
        "spacing_mm": [0.9, 1.0],
        "anisotropy": [1.0, 1.1],
        "intensity": {"middle": [0.2, 0.05], "odd": [1.0, 0.1]},
    }
    (folder / "configs/metadata.json").write_text(json.dumps(tree))
    (folder / "docs").mkdir()
    (folder / "docs/README.md").write_text("# tiny 0.0.1\n")
    return folder


@pytest.fixture(scope="module")
def scans() -> Scans:
    volumes = [Reference(blobs((30, 30, 20), seed).astype(np.float32), (1.0, 1.0, 3.0)) for seed in range(2)]
    return Scans(volumes, "CT", (4.0, 12.5))


def outcome(base: Path, change: float = 0.25) -> Outcome:
    weights = {key: value + change for key, value in bundles.read(base).network().state_dict().items()}
    return Outcome(weights, Judged(0.41, 0.02), 123, 59.6)


def test_new_weights_old_name_no_calibration(base: Path, scans: Scans, tmp_path: Path) -> None:
    old = bundles.read(base)
    assert finetuned.write(base, tmp_path / "mine", outcome(base), scans) == "0.0.1+finetuned"
    found = bundles.read(tmp_path / "mine")
    network = found.network().state_dict()  # checks the hash
    for key, value in old.network().state_dict().items():
        torch.testing.assert_close(network[key], (value + 0.25).half().float())
    assert "calibration" not in found.settings
    assert found.settings["finetuned"] == [
        {
            "from": {"name": "tiny", "version": "0.0.1", "weights_sha256": old.weights_sha256},
            "scans": 2,
            "clean": False,
            "modality": "CT",
            "seconds": 60,
            "iterations": 123,
            "gain_db": {"estimate": 0.41, "standard_error": 0.02},
        }
    ]
    card = (tmp_path / "mine/docs/README.md").read_text()
    assert "on 2 noisy CT\nscans, 123 iterations" in card
    assert "**not calibrated**" in card
    assert card.endswith("# tiny 0.0.1\n")
    assert "calibration" in bundles.read(base).settings  # the old one stays as it is


def test_scans_like_those_are_in_range_afterwards(base: Path, scans: Scans, tmp_path: Path) -> None:
    finetuned.write(base, tmp_path / "mine", outcome(base), scans)
    settings = bundles.read(tmp_path / "mine").settings
    assert settings["modalities"] == ["CT", "MR"]
    told = settings["trained_on"]
    assert told["noise_percent"] == [1, 12.5]
    assert told["spacing_mm"] == [0.9, 3.0]
    assert told["anisotropy"] == [1.0, 3.0]
    mean, deviation = told["intensity"]["middle"]
    assert 0.3 < mean < 0.6  # half way to about 0.7
    assert deviation == pytest.approx(mean - 0.2, abs=0.1)
    assert told["intensity"]["odd"] == [1.0, 0.1]


def test_versions_count(base: Path, scans: Scans, tmp_path: Path) -> None:
    finetuned.write(base, tmp_path / "a", outcome(base), scans)
    assert finetuned.write(tmp_path / "a", tmp_path / "b", outcome(base), scans) == "0.0.1+finetuned.2"
    assert finetuned.write(tmp_path / "b", tmp_path / "c", outcome(base), scans) == "0.0.1+finetuned.3"
    assert len(bundles.read(tmp_path / "c").settings["finetuned"]) == 3


def test_where_nothing_is_better_the_pipeline_stays(base: Path, scans: Scans, tmp_path: Path) -> None:
    nothing = Outcome(None, Judged(-0.1, 0.02), 10, 5.0)
    assert finetuned.write(base, tmp_path / "mine", nothing, scans) == "0.0.1"
    for path in base.rglob("*"):
        if path.is_file():
            assert (tmp_path / "mine" / path.relative_to(base)).read_bytes() == path.read_bytes()


def test_a_bundle_is_not_written_over_itself(base: Path, scans: Scans) -> None:
    with pytest.raises(ValueError, match="replace"):
        finetuned.write(base, base, outcome(base), scans)
