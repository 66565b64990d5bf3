"""``medidiff train`` on a tiny network."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.torch import load_file

import medidiff
from medidiff.cli import main
from medidiff.training import pack as packs
from medidiff.training.pack import Pack
from tests.training.conftest import blobs, pack  # noqa: F401

Capture = pytest.CaptureFixture[str]

RECIPE = """
name = "tiny"
iterations = {iterations}
modalities = ["MR"]

[network]
spatial_dims = 3
channels = [4]
encoder_blocks = [1]
decoder_blocks = []
embedding = 8

[optimiser]
warmup = 1

[data]
patches = [[1.0, 8, 2]]
thin = 0.0
source = "{source}"
"""


@pytest.fixture
def recipe(tmp_path: Path, pack: Pack) -> Path:  # noqa: F811
    pack.save(tmp_path / "heads.npz")
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE.format(iterations=3, source="heads.npz"))
    return path


def volume(path: Path, seed: int) -> None:
    nib.save(nib.Nifti1Image((500 * blobs((24, 24, 20), seed)).astype(np.float32), np.eye(4)), path)


def test_a_recipe_becomes_a_pipeline(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    assert main(["train", str(recipe), "-o", str(run), "--threads", "1"]) == 0
    heard = capsys.readouterr()
    assert "begins on 3 volumes" in heard.err
    assert "iteration 3, " in heard.err
    assert "3 iterations, 100 % of the recipe" in heard.out
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["data"]["source"] == "heads.npz"
    assert config["data"]["sha256"] == packs.digest(tmp_path / "heads.npz")
    assert config["data"]["volumes"] == {
        "train": ["one", "two", "ct"],
        "calibration": ["scale"],
        "validation": ["judge"],
    }
    assert (run / "picture.png").read_bytes()[:4] == (run / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert str(tmp_path) not in "".join(path.read_text() for path in run.glob("**/*.json"))
    scan = blobs((20, 20, 20), 5).astype(np.float32)
    restored = medidiff.load(run / "bundle")((scan, np.eye(4)), noise=5, force=True)
    assert restored.record["pipeline"] == "bundle"
    assert 0 < float(np.abs(restored.mean - scan).max()) < 0.5


def test_a_scan_is_no_recipe(tmp_path: Path, capsys: Capture) -> None:
    volume(tmp_path / "t1.nii.gz", 0)
    assert main(["train", str(tmp_path / "t1.nii.gz"), "-o", str(tmp_path / "run")]) == 2
    words = "t1.nii.gz is no recipe: it is no text; give a TOML file, and what to learn from with --data."
    assert words in capsys.readouterr().err


def test_a_folder_of_something_else_is_no_output(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["train", str(recipe), "-o", str(tmp_path)]) == 8
    assert f"{tmp_path} exists and holds no training run; choose an empty or a new folder." in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_goes_on_or_begins_again(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    command = ["train", str(recipe), "-o", str(run)]
    assert main(command) == 0
    weights = load_file(run / "weights.safetensors")
    recipe.write_text(recipe.read_text().replace("iterations = 3", "iterations = 5"))
    capsys.readouterr()
    assert main(command) == 0
    assert "goes on at iteration 3, 60 % done" in capsys.readouterr().err
    with (run / "log.csv").open() as file:
        assert [int(row["iteration"]) for row in csv.DictReader(file)] == [3, 5]
    calibrated = run / "bundle/configs/metadata.json"
    calibrated.write_text(calibrated.read_text().replace("{", '{"mark": 1,', 1))
    assert main(command) == 0  # nothing is left to do
    assert json.loads(calibrated.read_text())["mark"] == 1
    with (run / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    recipe.write_text(recipe.read_text().replace("iterations = 5", "iterations = 3"))
    assert main([*command, "--overwrite"]) == 0
    again = load_file(run / "weights.safetensors")
    assert all(np.array_equal(again[key], weights[key]) for key in weights)


def test_of_a_manifest_a_pack_is_made_once(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    table = tmp_path / "scans.CSV"
    lines = ["file,modality,subject_id,weights_ok,split,licence"]
    for seed, split in enumerate(["train", "validation"]):
        volume(tmp_path / f"{seed}.nii.gz", seed)
        lines.append(f"{seed}.nii.gz,T1w,s{seed},yes,{split},CC0-1.0")
    table.write_text("\n".join(lines))
    command = ["train", str(recipe), "-o", str(tmp_path / "run"), "--data", str(table)]
    assert main(command) == 0
    assert "train       0.nii.gz" in capsys.readouterr().err
    assert main(command) == 0
    assert "0.nii.gz" not in capsys.readouterr().err
    os.utime(tmp_path / "0.nii.gz", (2e9, 2e9))
    assert main(command) == 0
    assert "0.nii.gz" in capsys.readouterr().err
    metadata = json.loads((tmp_path / "run/bundle/configs/metadata.json").read_text())
    assert metadata["medidiff"]["trained_on"]["volumes"] == ["0.nii.gz"]
    assert metadata["medidiff"]["trained_on"]["licences"] == {"CC0-1.0": 1}
    assert metadata["medidiff"]["licence"] == "not stated"


def manifest(path: Path, seeds: tuple[int, ...], words: str = "T1w") -> Path:
    """A table of made-up heads, of which the last one judges."""
    lines = ["file,modality,subject_id,weights_ok,split"]
    for seed in seeds:
        name = f"{seed}.nii.gz"
        if not (path.parent / name).exists():
            volume(path.parent / name, seed)
        lines.append(f"{name},{words},s{seed},yes,{'validation' if seed == seeds[-1] else 'train'}")
    path.write_text("\n".join(lines))
    return path


def packed(run: Path) -> list[str]:
    return [entry.name for entry in packs.load(run / "pack.npz").entries]


def test_another_manifest_makes_another_pack(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    one, two = manifest(tmp_path / "one.csv", (0, 1)), manifest(tmp_path / "two.csv", (2, 0, 1))
    command = ["train", str(recipe), "-o", str(run), "--overwrite", "--data"]
    assert main([*command, str(one)]) == 0
    for path in (two, *tmp_path.glob("*.nii.gz")):
        os.utime(path, (1e9, 1e9))  # older than the pack
    assert main([*command, str(two)]) == 0
    assert packed(run) == ["2.nii.gz", "0.nii.gz", "1.nii.gz"]
    told = json.loads((run / "bundle/configs/metadata.json").read_text())["medidiff"]["trained_on"]
    assert told["volumes"] == ["2.nii.gz", "0.nii.gz"]
    capsys.readouterr()
    assert main([*command, str(two)]) == 0
    assert "2.nii.gz" in capsys.readouterr().err  # --overwrite makes it again


def test_other_modalities_make_another_pack(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    run, table = tmp_path / "run", manifest(tmp_path / "one.csv", (0, 1))
    table.write_text(table.read_text() + "\n2.nii.gz,CT,s2,yes,train")
    volume(tmp_path / "2.nii.gz", 2)
    command = ["train", str(recipe), "-o", str(run), "--data", str(table)]
    assert main(command) == 0
    assert packed(run) == ["0.nii.gz", "1.nii.gz"]
    recipe.write_text(recipe.read_text().replace('["MR"]', '["MR", "CT"]'))
    config = (run / "config.json").read_text()
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"The recipe's setting modalities is not that of the run in {run}; begin again with --overwrite" in said
    assert (run / "config.json").read_text() == config
    assert packed(run) == ["0.nii.gz", "1.nii.gz"]  # the run can still go on with its own
    assert "2.nii.gz" not in said  # nothing was read in vain
    assert main([*command, "--overwrite"]) == 0
    assert packed(run) == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]


def test_weights_to_begin_with(recipe: Path, tmp_path: Path) -> None:
    assert main(["train", str(recipe), "-o", str(tmp_path / "a")]) == 0
    recipe.write_text(
        recipe.read_text().replace("iterations = 3", "iterations = 1").replace("warmup = 1", "warmup = 1000000")
    )
    starts = [tmp_path / "a/bundle", tmp_path / "a/model.safetensors"]
    for index, start in enumerate(starts):
        assert main(["train", str(recipe), "-o", str(tmp_path / str(index)), "--start", str(start)]) == 0
        found, begun = load_file(tmp_path / str(index) / "weights.safetensors"), load_file(starts[1])
        assert all(np.allclose(found[key], begun[key].float(), atol=1e-6) for key in begun)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("channels", "channel"), "describes no network"),
        (("warmup", "warm_up"), "tiny.toml is no recipe: [optimiser]: unknown setting 'warm_up'"),
        (("iterations", "iteration"), "tiny.toml is no recipe: unknown setting 'iteration'"),
        (('"heads.npz"', '"."'), "is a folder; give a pack (.npz), or a manifest (.csv) of the scans in it."),
        (("heads.npz", "tails.npz"), "is not there"),
        (('source = "heads.npz"', ""), "Say what to learn from"),
        (("iterations = 3", "iterations ="), "is no recipe"),
        (('modalities = ["MR"]', 'modalities = ["PT"]'), "no training volume of PT"),
    ],
)
def test_a_bad_recipe_is_one_sentence(
    recipe: Path, tmp_path: Path, capsys: Capture, change: tuple[str, str], sentence: str
) -> None:
    recipe.write_text(recipe.read_text().replace(*change))
    assert main(["train", str(recipe), "-o", str(tmp_path / "run")]) in {2, 3}
    said = capsys.readouterr().err
    assert sentence in said
    assert said.endswith(".\n")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("file,modality,split\na.nii,T1w,train\n", "has no column 'subject_id'"),
        (
            "file,modality,subject_id,weights_ok,split\na,T1w,s,yes,train\nb,T1w,s,yes,validation\n",
            "line 3: this subject",
        ),
        ("file,modality,subject_id,weights_ok,split\na,T1w,s,yes,test\n", "not 'test'"),
        (
            "file;modality;subject_id;weights_ok;split\na;T1w;s;yes;train\n",
            "separators than commas",
        ),
        ("\ufeff", "bad.csv is empty; it needs the columns file, modality, subject_id, weights_ok, split."),
        ("file,modality,subject_id,weights_ok,split\n", "bad.csv lists no volume"),
        ("file,modality,subject_id,weights_ok,split\na.nii.gz,T1w,s,yes,train\n", "a.nii.gz"),
    ],
)
def test_a_bad_manifest_is_one_sentence(
    recipe: Path, tmp_path: Path, capsys: Capture, table: str, sentence: str
) -> None:
    (tmp_path / "bad.csv").write_text(table, encoding="utf-8")
    assert main(["train", str(recipe), "-o", str(tmp_path / "run"), "--data", str(tmp_path / "bad.csv")]) != 0
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_weights_of_another_network(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["train", str(recipe), "-o", str(tmp_path / "run")]
    assert main(command) == 0
    recipe.write_text(recipe.read_text().replace("channels = [4]", "channels = [6]"))
    capsys.readouterr()
    assert main(command) == 2
    assert "setting network is not that of the run in" in capsys.readouterr().err
    other = ["train", str(recipe), "-o", str(tmp_path / "other"), "--start", str(tmp_path / "run/bundle")]
    assert main(other) == 2
    assert "--start" in capsys.readouterr().err


def test_a_file_that_is_no_pack(recipe: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "heads.npz").write_bytes(b"nothing")
    assert main(["train", str(recipe), "-o", str(tmp_path / "run")]) == 2
    assert "is no pack" in capsys.readouterr().err
