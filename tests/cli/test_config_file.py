"""``--config``: a run is repeated out of a TOML file, a run.json or a sidecar."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medidiff.cli import main
from medidiff.config import RunConfig
from medidiff.runs import settings

ROOT = Path(__file__).parents[2]

Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("fake")


@pytest.fixture
def folder(scan: Write, tmp_path: Path) -> Path:
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "b.nii.gz", value=7)
    return tmp_path / "in"


def run(*args: object) -> int:
    return main([*map(str, args), "-q"])


def config_of(file: Path) -> dict:
    return json.loads(file.read_text())["config"]


TOML = """
inputs = ["in"]
output = "out"
include = ["a*"]
uncertainty = true
pipeline = "fake"

[restore]
seed = 5
strength = 0.5
samples = 2

[compute]
device = "cpu"
threads = 2
"""


def test_toml_is_a_whole_run(folder: Path, tmp_path: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.toml"
    file.write_text(TOML)
    computes = []
    fake.on_load = computes.append
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # paths are relative to the file
    assert run("denoise", "--config", file) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.glob("*.nii.gz")) == [
        "a_denoised.nii.gz",
        "a_denoised_supplied.nii.gz",
        "a_denoised_uncertainty.nii.gz",
    ]
    restored, source = (nib.load(path).get_fdata() for path in (out / "a_denoised.nii.gz", folder / "a.nii.gz"))
    np.testing.assert_allclose(restored, 0.5 * source + 5, rtol=1e-5)
    assert (computes[0].device, computes[0].threads) == ("cpu", 2)
    restore = config_of(out / "run.json")["restore"]
    assert (restore["strength"], restore["samples"], restore["steps"]) == (0.5, 2, 8)


def test_example_of_the_documentation_is_a_run(tmp_path: Path) -> None:
    page = (ROOT / "docs/how-to/verify-a-result.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "run.toml").write_text(text)
    config = RunConfig.model_validate(settings.read(tmp_path / "run.toml"))
    assert config.inputs == (tmp_path / "scans",)
    assert (config.pipeline, config.restore.noise, config.compute.threads) == ("mr", 9, 2)


def test_flags_go_before_the_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(TOML)
    args = ["--seed", 6, "--include", "b*", "-o", tmp_path / "other", "--no-uncertainty", "--strength", "1"]
    assert run("denoise", "--config", file, *args) == 0
    assert not (tmp_path / "out").exists()
    found = config_of(tmp_path / "other" / "run.json")
    assert (found["restore"]["seed"], found["restore"]["strength"]) == (6, 1.0)  # a default that is given counts
    assert (found["include"], found["uncertainty"]) == (["b*"], False)
    assert (found["restore"]["samples"], found["compute"]["threads"]) == (2, 2)
    assert [path.name for path in (tmp_path / "other").glob("*.nii.gz")] == ["b_denoised.nii.gz"]


def test_factor_on_the_command_line_replaces_the_spacing_of_the_file(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('inputs = "in"\noutput = "out"\nrestore.spacing = 1\n')
    assert run("superres", "--config", file, "--factor", "2,1,1") == 0
    restore = config_of(tmp_path / "out" / "run.json")["restore"]
    assert (restore["factor"], restore["spacing"]) == ([2.0, 1.0, 1.0], None)


def test_preset_of_a_file_and_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    def steps(*args: object) -> tuple[str, int, bool]:
        assert run("denoise", *args, "--overwrite") == 0
        found = config_of(tmp_path / "out" / "run.json")["restore"]
        return found["preset"], found["steps"], found["flips"]

    file = tmp_path / "run.toml"
    file.write_text('inputs = "in"\noutput = "out"\nrestore.preset = "best"\nrestore.steps = 6\n')
    assert steps("--config", file) == ("best", 6, True)
    assert steps("--config", file, "--steps", 12) == ("best", 12, True)
    assert steps("--config", file, "--preset", "fast") == ("fast", 4, False)  # what is given goes before the file
    record = tmp_path / "out" / "run.json"
    assert steps("--config", record) == ("fast", 4, False)
    assert steps("--config", record, "--preset", "best", "--steps", 9) == ("best", 9, True)


@pytest.mark.parametrize("source", ["run.json", "a_inpainted.json"])
def test_record_repeats_the_run(folder: Path, scan: Write, tmp_path: Path, source: str) -> None:
    mask = tmp_path / "mask.nii.gz"
    hole = np.zeros((8, 7, 6), dtype=np.uint8)
    hole[2:4, 2:4, 2:4] = 1
    nib.save(nib.Nifti1Image(hole, np.diag([2.0, 2.0, 3.0, 1.0])), mask)
    flags = ["--mask", mask, "--samples", "1", "--gamma", "0.5", "--seed", "9"]
    assert run("inpaint", folder / "a.nii.gz", "-o", tmp_path / "out", *flags) == 0
    names = ["a_inpainted.nii.gz", "a_inpainted_sample.nii.gz", "a_inpainted_uncertainty.nii.gz"]
    assert run("inpaint", "--config", tmp_path / "out" / source, "-o", tmp_path / "again") == 0
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    before, after = (config_of(tmp_path / out / "run.json") for out in ("out", "again"))
    assert before["restore"] == after["restore"]
    assert after["mask"] == "../mask.nii.gz"
    text = (tmp_path / "out" / "run.json").read_text()
    assert str(tmp_path) not in json.dumps(json.loads(text)["config"])


def test_record_in_its_place_finds_all_done(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("denoise", folder, "-o", tmp_path / "out", "--seed", 1) == 0
    for source in ("run.json", "a_denoised.json"):
        assert main(["denoise", "--config", str(tmp_path / "out" / source), "--dry-run"]) == 0
        assert "0 to restore" in capsys.readouterr().out


def test_series_is_repeated_out_of_its_sidecar(sample_data: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(sample_data / "dicom_mr", tmp_path / "in")
    assert run("denoise", tmp_path / "in", "-o", tmp_path / "out") == 0
    capsys.readouterr()
    sidecar = next((tmp_path / "out").glob("*_denoised.json"))
    assert main(["denoise", "--config", str(sidecar), "--dry-run", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert [case["action"] for case in tree["cases"]] == ["skip"]  # the output is the same folder


def test_sidecar_of_another_tree_of_folders_needs_scan_and_mask(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.path.commonpath", lambda paths: "/")  # as for /home/somebody/study and /data/out
    mask = tmp_path / "mask.nii.gz"
    nib.save(nib.Nifti1Image(np.eye(8, 7, dtype=np.uint8)[..., None].repeat(6, 2), np.diag([2.0, 2.0, 3.0, 1.0])), mask)
    assert run("inpaint", folder / "a.nii.gz", "-o", tmp_path / "out", "--mask", mask) == 0
    sidecar = tmp_path / "out" / "a_inpainted.json"
    capsys.readouterr()
    text = f"{sidecar} holds only the name of its {{}}, which does not lie beside it; say where it lies {{}}."
    assert run("inpaint", "--config", sidecar, "-o", tmp_path / "again") == 2
    assert text.format("scan, a.nii.gz", "as INPUT") in capsys.readouterr().err
    assert run("inpaint", folder / "a.nii.gz", "--config", sidecar, "-o", tmp_path / "again") == 2
    assert text.format("mask, mask.nii.gz", "with --mask") in capsys.readouterr().err
    assert run("inpaint", folder / "a.nii.gz", "--mask", mask, "--config", sidecar, "-o", tmp_path / "again") == 0
    name = "a_inpainted.nii.gz"
    assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert run("inpaint", "--config", tmp_path / "out" / "run.json", "-o", tmp_path / "third") == 0


def test_bundle_in_a_folder_is_found_from_the_record(
    folder: Path, tmp_path: Path, fake: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.home.rename(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert run("denoise", "in", "-o", "out", "-p", "mine") == 0
    assert config_of(tmp_path / "out" / "run.json")["pipeline"] == "../mine"
    monkeypatch.chdir(folder)
    assert run("denoise", "--config", tmp_path / "out" / "run.json", "-o", tmp_path / "again") == 0
    assert (tmp_path / "again" / "b_denoised.nii.gz").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("inputs = [\n", "neither TOML nor JSON"),
        ("restore.sed = 3\n", "run.toml: unknown setting 'restore.sed'; known are factor, flips, force, gamma, noise"),
        ("seed = 3\n", "run.toml: unknown setting 'seed'; known are bids, cluster, compute, exclude"),
        ("restore.seed = -3\n", "run.toml: restore.seed: Input should be greater than or equal to 0"),
        ('restore.preset = "slow"\n', "run.toml: restore.preset: Input should be 'fast', 'balanced' or 'best'"),
        ("restore = 3\n", "restore is not a table"),
        ('task = "superres"\n', "holds settings of superres; run medidiff superres with it"),
        ("output = 3\n", "run.toml: output: "),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, tmp_path: Path, capsys: Capture, text: str, words: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    flags = [] if "output" in text else ["-o", tmp_path / "out"]
    assert run("denoise", folder, "--config", file, *flags) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert words in stderr
    assert not (tmp_path / "out").exists()


def test_a_flag_that_does_not_fit_the_file_is_not_the_fault_of_the_file(
    folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('inputs = "in"\noutput = "out"\nrestore.samples = 1\nrestore.gamma = 0.5\n')
    assert run("denoise", "--config", file, "--samples", 0) == 2
    words = f"With the settings of {file}: gamma mixes a posterior sample in; it needs samples of 1 or more."
    assert words in capsys.readouterr().err
    file.write_text('inputs = "in"\noutput = "out"\nrestore.gamma = 0.5\n')
    assert run("denoise", "--config", file) == 2
    assert f"medidiff: {file}: gamma mixes" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", '{"config": {}}', '{"medidiff": "1"}', "\x00"])
def test_other_files_hold_no_settings(folder: Path, tmp_path: Path, capsys: Capture, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    assert run("denoise", folder, "-o", tmp_path / "out", "--config", file) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run("denoise", folder, "-o", tmp_path / "out", "--config", tmp_path / "absent.toml") == 2
    assert "absent.toml cannot be read" in capsys.readouterr().err


def test_file_without_inputs_needs_them_on_the_command_line(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "run.toml"
    file.write_text("restore.seed = 2\n")
    assert run("denoise", "--config", file, "-o", tmp_path / "out") == 2
    assert "INPUT" in capsys.readouterr().err
    assert run("denoise", folder, "--config", file) == 2
    assert "-o" in capsys.readouterr().err
    assert run("denoise", folder, "--config", file, "-o", tmp_path / "out") == 0
    assert config_of(tmp_path / "out" / "run.json")["restore"]["seed"] == 2
