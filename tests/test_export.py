"""An exported bundle is the bundle, whole, and nothing of somebody else's is replaced."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from medidiff import bundles
from medidiff.cli import main
from medidiff.errors import CannotWrite, PipelineError, UsageError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two small bundles, the only ones that are installed."""
    for name in ("one", "two"):
        folder = tmp_path / "bundles" / name
        for part in ("configs", "models", "docs", ".cache", "scripts/__pycache__"):
            (folder / part).mkdir(parents=True)
        save_file({"a.weight": torch.arange(6, dtype=torch.float16).reshape(2, 3)}, folder / "models/model.safetensors")
        digest = hashlib.sha256((folder / "models/model.safetensors").read_bytes()).hexdigest()
        settings = {
            "tasks": ["denoise"],
            "network": {"spatial_dims": 3},
            "weights": {"file": "models/model.safetensors", "sha256": digest},
        }
        metadata = {"version": "1.0", "description": "Small.", "medidiff": settings}
        (folder / "configs/metadata.json").write_text(json.dumps(metadata))
        (folder / "docs/README.md").write_text(f"# {name}\n")
        (folder / "LICENSE").write_text("terms")
        (folder / ".cache/x").write_text("litter")
        (folder / "scripts/__pycache__/x.pyc").write_text("litter")
    monkeypatch.setattr(bundles, "folders", lambda: iter([tmp_path / "bundles"]))
    return tmp_path / "bundles"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_export_is_whole_and_keeps_its_name(home: Path, tmp_path: Path) -> None:
    made = bundles.export("one", tmp_path / "for a colleague")
    assert made.path == tmp_path / "for a colleague"
    assert (made.name, made.version) == ("one", "1.0")
    before = bundles.read(home / "one")
    assert (made.weights_sha256, made.settings_sha256) == (before.weights_sha256, before.settings_sha256)
    assert made.weights.read_bytes() == before.weights.read_bytes()
    whole = {"configs/metadata.json", "docs/README.md", "LICENSE", "models/model.safetensors"}
    assert files(made.path) == whole | {"models/model.pt"}
    assert (made.path / "LICENSE").read_text() == "terms"


def test_state_dict_is_the_weights_without_code(home: Path, tmp_path: Path) -> None:
    made = bundles.export("one", tmp_path / "out")
    state = torch.load(made.path / bundles.STATE_DICT, weights_only=True)
    weights = load_file(made.weights)
    assert state.keys() == weights.keys()
    np.testing.assert_array_equal(state["a.weight"], [[0, 1, 2], [3, 4, 5]])
    assert state["a.weight"].dtype == torch.float16


def test_export_is_found_under_its_name_in_any_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles.export("two", tmp_path / "shelf" / "from a colleague")
    monkeypatch.setattr(bundles, "folders", lambda: iter([tmp_path / "shelf"]))
    assert [bundle.name for bundle in bundles.every()] == ["two"]
    assert bundles.locate("two").path == tmp_path / "shelf" / "from a colleague"
    assert bundles.locate(tmp_path / "shelf" / "from a colleague").name == "two"
    with pytest.raises(PipelineError, match="known are: two"):
        bundles.locate("one")


def test_older_export_is_replaced_and_nothing_else(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    bundles.export("one", target)
    (target / "old").write_text("x")
    bundles.export(home / "one", target)
    assert "old" not in files(target)
    with pytest.raises(CannotWrite, match="is no bundle of two"):
        bundles.export("two", target)
    assert bundles.read(target).name == "one"
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(CannotWrite, match="is no bundle of one"):
        bundles.export("one", tmp_path / "thesis")
    with pytest.raises(CannotWrite):
        bundles.export("one", tmp_path / "thesis" / "chapter.txt")
    assert files(tmp_path / "thesis") == {"chapter.txt"}
    (tmp_path / "empty").mkdir()
    assert bundles.export("one", tmp_path / "empty").name == "one"


def test_bundle_is_not_exported_into_itself(home: Path) -> None:
    for target in (home / "one", home / "one" / "copy"):
        with pytest.raises(UsageError, match="lies in the bundle itself"):
            bundles.export("one", target)
    assert "LICENSE" in files(home / "one")


def test_damaged_weights_are_not_handed_on(home: Path, tmp_path: Path) -> None:
    weights = home / "one/models/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(
        PipelineError, match=r"damaged .*; copy the bundle again from where it comes, or make it again\."
    ):
        bundles.export("one", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_command(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "one", "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert main(["export", "two", "-o", str(tmp_path / "out")]) == 8
    assert main(["export", "three", "-o", str(tmp_path / "other")]) == 6
    assert main(["export", "one"]) == 2
    assert not (tmp_path / "other").exists()
