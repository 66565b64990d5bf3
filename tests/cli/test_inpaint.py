from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medidiff.cli import main
from medidiff.errors import CannotWrite, OutOfMemory, PipelineError, ScanError

Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("fake")


def inpaint(*args: object) -> int:
    return main(["inpaint", *map(str, args)])


@pytest.fixture
def hole(tmp_path: Path) -> Path:
    """A mask on the grid of the small scans."""
    array = np.zeros((8, 7, 6), np.uint8)
    array[2:4, 3:5, 1:4] = 1
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "hole.nii.gz")
    return tmp_path / "hole.nii.gz"


def test_nifti_from_end_to_end(scan: Write, hole: Path, tmp_path: Path, capsys: Capture) -> None:
    source, out = scan(tmp_path / "in" / "t1.nii.gz"), tmp_path / "out"
    assert inpaint(source, "-o", out, "--mask", hole) == 0
    assert capsys.readouterr().out.splitlines() == [str(out / "t1_inpainted.nii.gz")]
    inside = nib.load(hole).get_fdata() > 0
    before, after = (nib.load(path).get_fdata() for path in (source, out / "t1_inpainted.nii.gz"))
    np.testing.assert_array_equal(after, np.where(inside, 7, before))


def test_dicom_series_from_end_to_end(sample_data: Path, tmp_path: Path, capsys: Capture) -> None:
    series, out = tmp_path / "series", tmp_path / "out"
    shutil.copytree(sample_data / "dicom_mr", series)
    files = sorted(series.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])
    count = len(files)
    files[3].unlink()
    assert inpaint(series, "-o", out, "-v") == 0
    stdout, stderr = capsys.readouterr()
    assert len(list(Path(stdout.strip()).glob("*.dcm"))) == count
    assert "1 slice is missing" in stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "inpaint needs --mask"),
        (["--mask", "absent.nii.gz"], "The mask absent.nii.gz does not exist"),
        (["--mask", "absent.nii.gz", "--dry-run"], "The mask absent.nii.gz does not exist"),
        (["--factor", "2"], "--factor"),
    ],
)
def test_usage_errors(scan: Write, tmp_path: Path, capsys: Capture, args: list[str], words: str) -> None:
    assert inpaint(scan(tmp_path / "t1.nii.gz"), "-o", tmp_path / "out", *args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_scan_without_a_mask_fails_alone(scan: Write, hole: Path, tmp_path: Path, capsys: Capture) -> None:
    for name in ("a", "b"):
        scan(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "masks").mkdir()
    hole.rename(tmp_path / "masks" / "b.nii.gz")
    assert inpaint(tmp_path / "in", "-o", tmp_path / "out", "--mask", tmp_path / "masks") == 4
    stdout, stderr = capsys.readouterr()
    assert stdout.splitlines() == [str(tmp_path / "out" / "b_inpainted.nii.gz")]
    assert "a.nii.gz: failed: " in stderr
    assert "2 scans: 1 done, 1 failed" in stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ScanError("It is bad."), 5),
        (PipelineError("It is damaged."), 6),
        (OutOfMemory("It is too large."), 7),
        (CannotWrite("It cannot be written."), 8),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(scan: Write, hole: Path, tmp_path: Path, fake: ModuleType, error: BaseException, code: int) -> None:
    def fail(volume: object) -> None:
        raise error

    fake.on_restore = fail
    assert inpaint(scan(tmp_path / "t1.nii.gz"), "-o", tmp_path / "out", "--mask", hole) == code


def test_no_scan(hole: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert inpaint(tmp_path / "in", "-o", tmp_path / "out", "--mask", hole) == 3


def test_verdict_of_the_guard_is_a_warning(
    scan: Write, hole: Path, tmp_path: Path, fake: ModuleType, capsys: Capture
) -> None:
    fake.verdicts = ("The hole is brighter than its surroundings.",)
    source = scan(tmp_path / "t1.nii.gz")
    assert inpaint(source, "-o", tmp_path / "out", "--mask", hole) == 0
    assert f"warning: {source}: The hole is brighter than its surroundings." in capsys.readouterr().err
    volume = json.loads((tmp_path / "out" / "t1_inpainted.json").read_text())["volumes"][0]
    assert volume["guard"]["verdicts"] == ["The hole is brighter than its surroundings."]
