from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.cli import main, sample_data


def test_copies_the_scans_and_no_code(tmp_path: Path, sample_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "samples"
    assert main(["sample-data", str(target)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert str(target / "phantom_t1w.nii.gz") in shown
    assert str(target / "dicom_mr") in shown
    assert (target / "phantom_t1w.nii.gz").read_bytes() == (sample_data / "phantom_t1w.nii.gz").read_bytes()
    assert len(list((target / "dicom_mr").iterdir())) == len(list((sample_data / "dicom_mr").iterdir()))
    assert not list(target.rglob("*.py"))


def test_may_run_twice(tmp_path: Path) -> None:
    assert main(["sample-data", str(tmp_path)]) == 0
    assert main(["sample-data", str(tmp_path)]) == 0


def test_keeps_a_file_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "phantom_t1w.nii.gz").write_text("mine")
    assert main(["sample-data", str(tmp_path)]) == 8
    assert "phantom_t1w.nii.gz" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["phantom_t1w.nii.gz"]
    assert (tmp_path / "phantom_t1w.nii.gz").read_text() == "mine"


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["sample-data", str(tmp_path / "file" / "x")]) == 8


def test_packaged_copy_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_data, "PACKAGED", tmp_path)
    assert sample_data.locate() == tmp_path
    monkeypatch.setattr(sample_data, "PACKAGED", tmp_path / "absent")
    monkeypatch.setattr(sample_data, "CHECKOUT", tmp_path / "absent")
    assert main(["sample-data", str(tmp_path / "new")]) == 8
