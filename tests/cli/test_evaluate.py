from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medidiff.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Restored scans and references, in the current folder."""
    monkeypatch.chdir(tmp_path)
    image = np.pad(np.linspace(100, 200, 12**3, dtype=np.float32).reshape(12, 12, 12), 2)
    for place in ("out", "truth"):
        (tmp_path / place).mkdir()
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"truth/{name}.nii.gz")
        nib.save(nib.Nifti1Image(image + np.float32(2), np.eye(4)), tmp_path / f"out/{name}_denoised.nii.gz")
    return tmp_path


def test_report_tables_and_summary(folder: Path, capsys: Capture) -> None:
    assert main(["evaluate", "out", "--reference", "truth", "-o", "found"]) == 0
    shown = capsys.readouterr()
    assert "| restored | 40.00 ± 0.00 |" in shown.out  # 2 of 200
    assert "found/report.html" in shown.out
    assert "[2/2] b, restored: PSNR 40.00 dB" in shown.err
    assert sorted(path.name for path in (folder / "found").iterdir()) == [
        "comparisons.csv",
        "evaluation.json",
        "figures.csv",
        "report.html",
    ]
    rows = (folder / "found/figures.csv").read_text().splitlines()
    assert rows[0] == "case,method,metric,region,value"
    psnr = next(row for row in rows if row.startswith("a,restored,psnr,foreground,"))
    assert float(psnr.rpartition(",")[2]) == pytest.approx(40, abs=1e-5)


def test_a_scan_as_its_own_reference_is_warned_of(folder: Path, capsys: Capture) -> None:
    command = ["evaluate", "out/a_denoised.nii.gz", "--reference", "truth/a.nii.gz", "--input", "truth/a.nii.gz"]
    assert main([*command, "-o", "found", "--progress", "none"]) == 0
    warning = (
        "The reference of a is the scan that was restored: these figures say how much was changed, not how good it is."
    )
    assert capsys.readouterr().err == f"warning: {warning}\n"
    assert warning in (folder / "found/report.html").read_text()


def test_json(folder: Path, capsys: Capture) -> None:
    assert main(["evaluate", "out", "--reference", "truth", "-o", "found", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["kind"] == "evaluate"
    assert {row["case"] for row in tree["figures"]} == {"a", "b"}


def test_some_fail_then_all_fail_then_nothing_fits(folder: Path, capsys: Capture) -> None:
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.float32), np.eye(4)), folder / "truth/a.nii.gz")
    command = ["evaluate", "out", "--reference", "truth", "-o", "found"]
    assert main(command) == 4
    assert "The reference has another geometry" in capsys.readouterr().err
    shutil.copy(folder / "truth/a.nii.gz", folder / "truth/b.nii.gz")
    capsys.readouterr()
    assert main(command) == 5
    assert "No scan could be judged." in capsys.readouterr().out
    for name in ("a", "b"):
        (folder / f"truth/{name}.nii.gz").rename(folder / f"truth/other_{name}.nii.gz")
    assert main(command) == 3
    assert "No reference fits" in capsys.readouterr().err


def test_a_scan_without_a_reference_is_told(folder: Path, capsys: Capture) -> None:
    (folder / "truth/b.nii.gz").unlink()
    assert main(["evaluate", "out", "--reference", "truth", "-o", "found"]) == 4
    assert "b_denoised has no reference named b." in capsys.readouterr().out


def test_wrong_use(folder: Path, capsys: Capture) -> None:
    assert main(["evaluate", "out"]) == 2
    assert main(["evaluate", "absent", "-o", "found"]) == 2
    assert main(["evaluate", "out", "-o", "found", "--window", "200,100"]) == 2
    assert "is not a window" in capsys.readouterr().err
    assert main(["evaluate", "out", "-o", "out/a_denoised.nii.gz"]) == 8


NAMES = {"PatientName": "Okonkwo^Adaeze", "PatientID": "MRN-7719304", "PatientBirthDate": "19610417"}


def texts(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        yield path.name
        if path.is_file() and path.suffix in (".html", ".csv", ".json"):
            yield path.read_text()


def test_no_patient_data_in_what_is_written(tmp_path: Path, sample_data: Path, capsys: Capture) -> None:
    for place in ("restored", "truth"):
        (tmp_path / place).mkdir()
        for path in sorted((sample_data / "dicom_mr").glob("*.dcm")):
            dataset = pydicom.dcmread(path)
            for keyword, value in NAMES.items():
                setattr(dataset, keyword, value)
            dataset.save_as(tmp_path / place / path.name)
    command = ["evaluate", str(tmp_path / "restored"), "--reference", str(tmp_path / "truth")]
    assert main([*command, "-o", str(tmp_path / "found")]) == 0
    shown = capsys.readouterr()
    everything = "\n".join([*texts(tmp_path / "found"), shown.err])
    assert "psnr" in everything
    (tmp_path / "broken.nii.gz").write_bytes(b"\x1f\x8bOkonkwo")
    broken = ["evaluate", str(tmp_path / "broken.nii.gz"), "--reference", str(tmp_path / "truth")]
    main([*broken, "-o", str(tmp_path / "failed")])
    everything += "\n".join([*texts(tmp_path / "failed"), capsys.readouterr().err])
    assert "broken.nii.gz" in everything
    for part in ("Okonkwo", "Adaeze", "7719304", "19610417", str(tmp_path)):
        assert part not in everything
