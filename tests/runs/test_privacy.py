"""Patient names, IDs and dates never appear in what medidiff writes as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pydicom
import pytest

from medidiff.cli import main

SECRETS = {
    "PatientName": "Okonkwo^Adaeze",
    "PatientID": "MRN-7719304",
    "PatientBirthDate": "19610417",
    "StudyDate": "20190802",
    "AccessionNumber": "ACC55120",
    "ReferringPhysicianName": "Lindqvist^Maja",
    "InstitutionName": "Sankt Olavs",
    "StudyDescription": "Okonkwo follow-up",
}
PARTS = ("Okonkwo", "Adaeze", "7719304", "19610417", "20190802", "ACC55120", "Lindqvist", "Olavs")


@pytest.fixture
def series(sample_data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted((sample_data / "dicom_mr").iterdir()):
        dataset = pydicom.dcmread(path)
        for keyword, value in SECRETS.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / path.name)
    return folder


@pytest.mark.parametrize("failure", [None, ValueError("could not read 'Okonkwo^Adaeze'")])
@pytest.mark.parametrize("task", ["denoise", "superres", "inpaint"])
def test_no_patient_data_in_text(
    series: Path,
    tmp_path: Path,
    fake: ModuleType,
    capsys: pytest.CaptureFixture[str],
    task: str,
    failure: Exception | None,
) -> None:
    def fail(volume: object) -> None:
        if failure is not None:
            raise failure

    fake.on_restore = fail
    if task == "inpaint":  # a slice is missing
        sorted(series.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])[3].unlink()
    log = tmp_path / "run.log"
    flags = ["-v", "--json", "--log", str(log), "--samples", "1", "--gamma", "1"]
    code = main([task, str(series), "-o", str(tmp_path / "out"), *flags])
    assert code == (0 if failure is None else 5)
    shown = capsys.readouterr()
    texts = [shown.out, shown.err, log.read_text(), *(path.read_text() for path in (tmp_path / "out").glob("*.json"))]
    assert len(texts) == (5 if failure is None else 4)
    for text in texts:
        assert not [part for part in PARTS if part in text]


@pytest.mark.real
def test_no_patient_data_of_real_series(
    real_data: Path, tmp_path: Path, fake: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = set()
    for path in sorted((real_data / "dicom").rglob("*")):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            try:
                dataset = pydicom.dcmread(path, stop_before_pixels=True)
            except Exception:
                continue
            secrets |= {str(dataset.get(keyword, "")) for keyword in ("PatientName", "PatientID", "PatientBirthDate")}
    names = " ".join(str(path) for path in (real_data / "dicom").rglob("*"))
    secrets = {secret for secret in secrets if len(secret) >= 6 and secret not in names}
    assert secrets
    out = tmp_path / "out"
    main(["denoise", str(real_data / "dicom"), "-o", str(out), "-v", "--json"])
    shown = capsys.readouterr()
    for text in (shown.out, shown.err, *(path.read_text() for path in out.rglob("*.json"))):
        assert not [secret for secret in secrets if secret in text]


def test_input_is_never_touched(series: Path, tmp_path: Path, fake: ModuleType) -> None:
    digest: Callable[[], dict[str, tuple[bytes, int]]] = lambda: {  # noqa: E731
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in series.iterdir()
    }
    before = digest()
    assert main(["denoise", str(series), "-o", str(tmp_path / "out")]) == 0
    assert digest() == before
