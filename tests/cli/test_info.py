from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff.cli import main

Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


def info(*args: object) -> int:
    return main(["info", *map(str, args)])


def test_nifti_as_text(sample_data: Path, capsys: Capture) -> None:
    path = sample_data / "phantom_t1w.nii.gz"
    image = nib.load(path)
    assert info(path) == 0
    shown = capsys.readouterr().out
    assert " x ".join(map(str, image.shape)) in shown
    assert "orientation RAS" in shown
    assert "rician" in shown


def test_noise_of_the_phantom_is_near_the_truth(sample_data: Path, capsys: Capture) -> None:
    assert info(sample_data / "phantom_t1w.nii.gz", "--json") == 0
    volume = json.loads(capsys.readouterr().out)[0]["volumes"][0]
    assert volume["noise"]["percent"] == pytest.approx(9, abs=2)


def test_geometry_and_range_as_json(scan: Write, tmp_path: Path, capsys: Capture) -> None:
    path = scan(tmp_path / "t1 é.nii.gz", value=100)
    assert info(path, "--json") == 0
    tree = json.loads(capsys.readouterr().out)[0]
    assert tree["path"] == str(path)
    assert (tree["kind"], tree["dtype"]) == ("nifti", "float32")
    volume = tree["volumes"][0]
    assert volume["shape"] == [8, 7, 6]
    assert volume["spacing_mm"] == [2.0, 2.0, 3.0]
    assert volume["orientation"] == "RAS"
    assert volume["range"] == [100.0, 435.0]


def test_dicom_series(sample_data: Path, capsys: Capture) -> None:
    assert info(sample_data / "dicom_mr", "--json") == 0
    tree = json.loads(capsys.readouterr().out)[0]
    assert tree["kind"] == "dicom"
    assert tree["dtype"].endswith("-bit unsigned")
    assert tree["files"] == len(list((sample_data / "dicom_mr").iterdir()))
    assert tree["volumes"][0]["modality"] == "MR"


def test_four_dimensions(tmp_path: Path, capsys: Capture) -> None:
    array = np.random.default_rng(0).normal(100, 5, (8, 8, 8, 3)).astype(np.float32)
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "bold.nii")
    assert info(tmp_path / "bold.nii", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)[0]["volumes"]) == 3


def test_missing_damaged_and_empty(scan: Write, tmp_path: Path, capsys: Capture) -> None:
    assert info(tmp_path / "absent.nii") == 2
    (tmp_path / "in").mkdir()
    assert info(tmp_path / "in") == 3
    (tmp_path / "in" / "bad.nii.gz").write_text("text")
    capsys.readouterr()
    assert info(tmp_path / "in") == 5
    assert "bad.nii.gz" in capsys.readouterr().err
    scan(tmp_path / "in" / "good.nii.gz")
    assert info(tmp_path / "in") == 4
    shown = capsys.readouterr()
    assert "cannot be read" in shown.out
    assert "Traceback" not in shown.err
