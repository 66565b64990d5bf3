"""Patient names, IDs and dates never appear in what medidiff writes, but inside the DICOM files that need them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
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


DATES = ("1961-04-17", "17.04.1961", "2019-08-02", "02.08.2019")
NAMED = "Okonkwo^Adaeze 7719304"


@pytest.fixture
def series(sample_data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted((sample_data / "dicom_mr").iterdir()):
        dataset = pydicom.dcmread(path)
        for keyword, value in SECRETS.items():
            setattr(dataset, keyword, value)
        dataset.OtherPatientIDs, dataset.PatientComments = ["MRN-7719304"], NAMED
        dataset.AcquisitionDate = dataset.SeriesDate = dataset.ContentDate = SECRETS["StudyDate"]
        dataset.private_block(0x0009, "Lindqvist", create=True).add_new(0x01, "LO", NAMED)
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


@pytest.fixture
def named_scan(sample_data: Path, tmp_path: Path) -> Path:
    """A NIfTI file that names the patient wherever the format has room for text."""
    crop = nib.load(sample_data / "phantom_t1w.nii.gz").slicer[24:48, 40:64, 40:56]
    header = crop.header.copy()
    header["descrip"], header["aux_file"], header["db_name"] = NAMED.encode(), b"ACC55120 20190802", b"Okonkwo 7719304"
    header["data_type"] = b"Adaeze"
    for code, text in (("comment", NAMED), ("afni", f"[Lindqvist@Olavs] {NAMED}"), ("dicom", NAMED), ("ignore", NAMED)):
        number = nib.nifti1.extension_codes.code[code]
        header.extensions.append(nib.nifti1.Nifti1Extension(number, text.encode()))
    path = tmp_path / "scans" / "t1.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(crop.get_fdata(dtype=np.float32), crop.affine, header), path)
    assert all(
        part in gzip.decompress(path.read_bytes()).decode("latin-1") for part in ("Okonkwo", "ACC55120", "Olavs")
    )
    hole = np.zeros(crop.shape, dtype=np.uint8)
    hole[8:14, 8:14, 6:10] = 1
    mask = nib.Nifti1Image(hole, crop.affine)
    mask.header["descrip"] = NAMED.encode()
    nib.save(mask, tmp_path / "t1_mask.nii.gz")
    return path


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of all files, gzipped ones as they are and unpacked."""
    for path in sorted(folder.rglob("*")):
        yield f"name of {path.name}", path.relative_to(folder).as_posix().encode()
        if path.is_file():
            data = path.read_bytes()
            yield path.name, data
            if data[:2] == b"\x1f\x8b":
                yield f"{path.name}, unpacked", gzip.decompress(data)


def found_in(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [part for part in (*PARTS, *DATES) if part.encode() in data or part.encode("utf-16-le") in data]


@pytest.mark.parametrize("task", ["denoise", "superres", "inpaint"])
@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_no_patient_data_in_any_byte(
    series: Path,
    named_scan: Path,
    tmp_path: Path,
    fake: ModuleType,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    task: str,
) -> None:
    """Every command that looks at a scan or writes, and every byte that comes out of it."""
    monkeypatch.chdir(tmp_path)
    source, mask = ("scans/t1.nii.gz", ["--mask", "t1_mask.nii.gz"]) if kind == "nifti" else ("in", [])
    more = {"denoise": [], "superres": [*mask, "--factor", "1,1,2"], "inpaint": mask}[task]
    slices = sorted(series.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    for path in slices[6:] + (slices[3:4] if task == "inpaint" else []):  # a few are enough; one is missing
        path.unlink()
    more += ["--format", "both"]
    flags = ["--samples", "1", "--gamma", "1", "--report", "--log", "logs/run.log", "-vv", *more]
    commands = [
        ["info", source],
        ["info", source, "--json"],
        [task, source, "-o", "out", *flags, "--dry-run"],
        [task, source, "-o", "out", *flags],
        [task, source, "-o", "out", *flags, "--json"],
        ["verify", "out"],
        ["verify", "out", "--json"],
        ["report", "out", "-o", "pages/report.html"],
        [
            "evaluate",
            "out",
            "-o",
            "evaluated",
            *(["--reference", source] if kind == "nifti" and task != "superres" else []),
        ],
    ]
    if kind == "dicom" and task == "inpaint":  # what was filled has no reference
        commands.pop()
    for command in commands:
        assert main(command) == 0, (command, capfd.readouterr())
        for text in capfd.readouterr():
            assert not found_in(text), command
            assert str(tmp_path) not in text, command
    kept_in_dicom = 0
    for folder in ("out", "logs", "pages", "evaluated"):
        for name, data in contents(tmp_path / folder):
            if name.endswith(".dcm") and not name.startswith("name of"):
                kept_in_dicom += "Okonkwo" in data.decode("latin-1")  # a series belongs to its patient
                continue
            assert not found_in(data), name
            assert str(tmp_path).encode() not in data, name
    assert (kept_in_dicom > 0) == (kind == "dicom")
    written = {path.suffix for path in (tmp_path / "out").rglob("*")}
    assert {".json", ".html", ".gz"} <= written


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_no_patient_data_in_messages_of_failures(
    series: Path,
    named_scan: Path,
    tmp_path: Path,
    fake: ModuleType,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Damaged scans, and results that no longer are what they were."""
    monkeypatch.chdir(tmp_path)
    source = "scans" if kind == "nifti" else "in"
    assert main(["denoise", source, "-o", "out", "-q"]) == 0
    for path in (tmp_path / source).iterdir():
        if kind == "nifti":
            path.write_bytes(path.read_bytes()[:-99])
        else:
            dataset = pydicom.dcmread(path)
            dataset.HighBit -= 3
            dataset.save_as(path)
    for command, code in (
        (["verify", "out"], 9),
        (["verify", "out", "--json"], 9),
        (["denoise", source, "-o", "other", "-vv"], 5),
        (["info", source], 5),
    ):
        assert main(command) == code, command
        for text in capfd.readouterr():
            assert not found_in(text), command
    record = (tmp_path / "other" / "run.json").read_text()
    assert not found_in(record)
    assert json.loads(record)["cases"][0]["status"] == "failed"


def test_input_is_never_touched(series: Path, tmp_path: Path, fake: ModuleType) -> None:
    digest: Callable[[], dict[str, tuple[bytes, int]]] = lambda: {  # noqa: E731
        path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in series.iterdir()
    }
    before = digest()
    assert main(["denoise", str(series), "-o", str(tmp_path / "out")]) == 0
    assert digest() == before
