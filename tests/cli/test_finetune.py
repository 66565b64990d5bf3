"""``medidiff finetune`` on a small network that does harm."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medidiff
from medidiff.cli import main
from medidiff.training import finetune
from tests.benchmarks.conftest import write_bundle
from tests.training.conftest import blobs

pytestmark = pytest.mark.usefixtures("time_of_its_own")

Capture = pytest.CaptureFixture[str]
FAST = ("--threads", "1", "--learning-rate", "0.01", "--progress", "plain")


@pytest.fixture(autouse=True)
def small_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "_EDGE", {3: 16})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "tiny", ["denoise"], 0.3)


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed in range(2):
        rng = np.random.default_rng(seed)
        clean = 1000 * blobs((40, 36, 32), seed)
        real, imaginary = (80 * rng.standard_normal(clean.shape) for _ in range(2))
        nib.save(
            nib.Nifti1Image(np.hypot(clean + real, imaginary).astype(np.float32), np.eye(4)), folder / f"{seed}.nii.gz"
        )
    (folder / "notes.txt").write_text("no scan")
    return folder


def test_noisy_scans_make_a_better_pipeline(bundle: Path, noisy: Path, tmp_path: Path, capsys: Capture) -> None:
    mine = tmp_path / "mine"
    command = ["finetune", str(noisy), "-p", str(bundle), "-o", str(mine), "--minutes", "0.1", *FAST]
    assert main(command) == 0
    heard = capsys.readouterr()
    assert "0: " in heard.err
    assert "% noise, rician" in heard.err
    assert "dB on what was held out" in heard.err
    assert "0.0.1+finetuned" in heard.out
    metadata = json.loads((mine / "configs/metadata.json").read_text())
    story = metadata["medidiff"]["finetuned"][0]
    assert (story["scans"], story["clean"], story["modality"]) == (2, False, "MR")
    assert story["gain_db"]["estimate"] > 0
    assert str(tmp_path) not in "".join(path.read_text() for path in [*mine.rglob("*.json"), *mine.rglob("*.md")])
    rng = np.random.default_rng(9)
    clean = blobs((40, 36, 32), 9)
    scan = np.hypot(clean + 0.08 * rng.standard_normal(clean.shape), 0.08 * rng.standard_normal(clean.shape))
    errors = [
        float(np.square(medidiff.load(path)((scan, np.eye(4)), noise=8, force=True).mean - clean).mean())
        for path in (mine, bundle)
    ]
    assert errors[0] < errors[1]


def test_clean_scans(bundle: Path, noisy: Path, tmp_path: Path, capsys: Capture) -> None:
    clean = tmp_path / "clean.nii.gz"
    nib.save(nib.Nifti1Image((1000 * blobs((40, 30, 24), 3)).astype(np.float32), np.eye(4)), clean)
    command = ["finetune", str(clean), "-p", str(bundle), "-o", str(tmp_path / "mine"), "--clean", "--minutes", "0.1"]
    assert main([*command, *FAST]) == 0
    assert "+-" not in capsys.readouterr().out  # the truth is known
    story = json.loads((tmp_path / "mine/configs/metadata.json").read_text())["medidiff"]["finetuned"][0]
    assert story["clean"]


def test_nothing_better(bundle: Path, noisy: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["finetune", str(noisy), "-p", str(bundle), "-o", str(tmp_path / "mine"), "--minutes", "0.01"]
    assert main([*command, "--learning-rate", "1e-9"]) == 0
    assert "nothing surely better was found" in capsys.readouterr().out
    assert (tmp_path / "mine/model.safetensors").read_bytes() == (bundle / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("make", "code", "sentence"),
    [
        (lambda folder: (folder / "empty").mkdir(), 3, "There is no scan to learn from"),
        (
            lambda folder: nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.eye(4)), folder / "a.nii.gz"),
            3,
            "There is no scan to learn from",
        ),
        (
            lambda folder: nib.save(
                nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)).astype(np.float32), np.eye(4)),
                folder / "a.nii",
            ),
            5,
            "too small",
        ),
    ],
)
def test_bad_input_is_one_sentence(
    bundle: Path, tmp_path: Path, capsys: Capture, make: object, code: int, sentence: str
) -> None:
    folder = tmp_path / "input"
    folder.mkdir()
    make(folder)
    assert main(["finetune", str(folder), "-p", str(bundle), "-o", str(tmp_path / "mine"), "--minutes", "0.01"]) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_folder_of_something_else_is_no_output(bundle: Path, noisy: Path, tmp_path: Path, capsys: Capture) -> None:
    before = {path: path.read_bytes() for path in noisy.iterdir()}
    command = ["finetune", "-p", str(bundle), "--minutes", "0.01", *FAST]
    assert main([*command, str(noisy), "-o", str(noisy)]) == 2
    assert f"{noisy} is also the input; choose another one, such as {noisy / 'pipeline'}." in capsys.readouterr().err
    assert main([*command, str(noisy / "0.nii.gz"), "-o", str(noisy)]) == 8
    words = f"medidiff: {noisy} exists and is no bundle; choose an empty or a new folder.\n"
    assert capsys.readouterr().err == words  # nothing was read and measured before
    assert {path: path.read_bytes() for path in noisy.iterdir()} == before
    for _ in range(2):  # its own result is made again
        assert main([*command, str(noisy), "-o", str(tmp_path / "mine")]) == 0


def test_the_pipeline_itself_is_no_output(bundle: Path, noisy: Path, capsys: Capture) -> None:
    assert main(["finetune", str(noisy), "-p", str(bundle), "-o", str(bundle)]) == 2
    assert "choose another folder" in capsys.readouterr().err
