"""--format: what is written, and that records, resuming, verifying, reports and evaluations go on working with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medidiff import scans
from medidiff.cli import main
from medidiff.config import RestoreOptions, RunConfig
from medidiff.errors import ExitCode, UsageError
from medidiff.evaluation import pairing
from medidiff.evaluation.evaluate_case import Options, figures_of
from medidiff.runs import RunResult
from medidiff.runs.results import ResultFiles, Shelf
from medidiff.runs.verify import sidecars, verify

Go = Callable[..., RunResult]
Write = Callable[..., Path]
NAME = "3_T1w_phantom_denoised"
BOTH = RestoreOptions(samples=1, gamma=0.5, seed=3)


@pytest.fixture
def series(sample_data: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in sorted((sample_data / "dicom_mr").glob("*.dcm"))[:4]:
        dataset = pydicom.dcmread(path)
        crop = np.ascontiguousarray(dataset.pixel_array[40:64, 30:50])
        dataset.Rows, dataset.Columns = crop.shape
        dataset.PixelData = crop.tobytes()
        dataset.save_as(folder / path.name)
    return folder


@pytest.fixture
def turned(series: Path) -> Path:
    """The series as if it were sagittal; acquired in three dimensions, its axes are exchanged."""
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [z, x, y]
        dataset.save_as(path)
    return series


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nifti_of_a_series(go: Go, series: Path, tmp_path: Path) -> None:
    result = go(series, output=tmp_path / "out", format="nifti", restore=BOTH)
    assert result.exit_code == ExitCode.OK
    more = [f"{NAME}{word}.nii.gz" for word in ("", "_sample", "_supplied", "_uncertainty")]
    assert visible(tmp_path / "out") == sorted([*more, f"{NAME}.json", "run.json"])
    (volume,) = scans.open_scan(series).volumes
    images = [nib.load(tmp_path / "out" / name) for name in more]
    for image in images:
        assert image.shape == volume.array.shape
        np.testing.assert_allclose(image.affine, images[0].affine)
    half = np.rint(0.5 * volume.array + 3)[::-1, ::-1]  # acquired in three dimensions: right, anterior, superior
    np.testing.assert_allclose(images[0].get_fdata(), half, atol=0.51)
    np.testing.assert_allclose(images[1].get_fdata(), half + 0.5, atol=0.51)
    assert images[2].get_fdata().max() == 0.125
    assert images[3].get_fdata().max() == 0.25
    case = json.loads((tmp_path / "out" / "run.json").read_text())["cases"][0]
    assert (case["kind"], case["outputs"]["restored"]) == ("dicom", f"{NAME}.nii.gz")


def test_both_formats_hold_the_same_values(go: Go, series: Path, tmp_path: Path) -> None:
    go(series, output=tmp_path / "out", format="both", restore=BOTH)
    out = tmp_path / "out"
    for word in ("", "_sample"):
        (dicom,) = scans.open_scan(out / f"{NAME}{word}").volumes
        image = nib.load(out / f"{NAME}{word}.nii.gz")
        np.testing.assert_array_equal(image.get_fdata(dtype=np.float32)[::-1, ::-1], dicom.array)
        across = np.linalg.inv(image.affine) @ dicom.affine
        np.testing.assert_allclose(across[:3, :3], np.diag([-1, -1, 1]), atol=1e-6)
    assert {"_uncertainty.nii.gz", "_uncertainty.dcm"} <= {path.name.removeprefix(NAME) for path in out.iterdir()}
    outputs = json.loads((out / "run.json").read_text())["cases"][0]["outputs"]
    assert (outputs["restored"], outputs["nifti"]) == (NAME, f"{NAME}.nii.gz")


@pytest.mark.parametrize("asked", ["same", "both", "nifti"])
def test_nifti_stays_nifti(go: Go, scan: Write, tmp_path: Path, asked: str) -> None:
    go(scan(tmp_path / "t1.nii.gz"), output=tmp_path / "out", format=asked)
    assert visible(tmp_path / "out") == ["run.json", "t1_denoised.json", "t1_denoised.nii.gz"]


def test_dicom_of_nifti_is_refused(go: Go, scan: Write, series: Path, tmp_path: Path) -> None:
    source = scan(tmp_path / "scans" / "t1.nii.gz")
    with pytest.raises(UsageError, match="no patient, study or modality"):
        go(source, output=tmp_path / "out", format="dicom")
    assert not (tmp_path / "out").exists()
    result = go(tmp_path / "scans", series, output=tmp_path / "out", format="dicom")
    assert result.exit_code == ExitCode.SOME_FAILED
    done = {case.kind: case for case in result.record.cases}
    assert done["dicom"].status == "done"
    assert done["nifti"].status == "failed"
    assert "t1.nii.gz cannot become DICOM" in done["nifti"].reason


@pytest.mark.parametrize(
    ("task", "asked", "count"), [("denoise", "both", 14), ("superres", "nifti", 4), ("inpaint", "nifti", 4)]
)
def test_results_come_again(go: Go, series: Path, tmp_path: Path, task: str, asked: str, count: int) -> None:
    if task == "inpaint":  # a slice is missing
        sorted(series.iterdir(), key=lambda path: pydicom.dcmread(path).ImagePositionPatient[2])[2].unlink()
    go(series, output=tmp_path / "out", task=task, format=asked, restore=BOTH)
    (file,) = sidecars(tmp_path / "out")
    found = verify(file)
    assert {finding.state for finding in found.findings} == {"same"}
    assert found.findings[-1].text == f"the same bytes came again, {count} files"


def test_a_finer_grid_is_the_grid_of_the_series(go: Go, series: Path, tmp_path: Path) -> None:
    options = RestoreOptions(factor=(1, 1, 2))
    go(series, output=tmp_path / "a", task="superres", format="nifti", restore=options)
    go(series, output=tmp_path / "b", task="superres", restore=options)
    image = nib.load(tmp_path / "a" / "3_T1w_phantom_superres.nii.gz")
    (volume,) = scans.open_scan(tmp_path / "b" / "3_T1w_phantom_superres").volumes
    np.testing.assert_array_equal(image.get_fdata(dtype=np.float32)[::-1, ::-1], volume.array)
    corner = np.array([volume.array.shape[0] - 1, volume.array.shape[1] - 1, 0, 1])
    np.testing.assert_allclose(image.affine[:3, 3], (volume.affine @ corner)[:3], atol=1e-4)


def test_another_format_is_made_and_the_older_one_goes(go: Go, fake: ModuleType, series: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for asked, there in (("same", {NAME}), ("nifti", {f"{NAME}.nii.gz"}), ("both", {NAME, f"{NAME}.nii.gz"})):
        before = len(fake.loads)
        assert go(series, output=out, format=asked).exit_code == ExitCode.OK
        assert len(fake.loads) == before + 1
        assert set(visible(out)) == {*there, f"{NAME}.json", "run.json"}
        assert go(series, output=out, format=asked).record.cases[0].status == "skipped"
        assert len(fake.loads) == before + 1
    assert go(series, output=out, format="dicom").record.cases[0].status == "done"
    assert go(series, output=out).record.cases[0].status == "skipped"  # of a series, dicom is the same


def test_one_series_may_become_a_named_file(go: Go, series: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "clean.nii.gz"
    with pytest.raises(UsageError, match="--format nifti"):
        go(series, output=file)
    go(series, output=file, format="nifti")
    assert visible(tmp_path / "out") == ["clean.json", "clean.nii.gz"]
    assert verify(tmp_path / "out" / "clean.json").verified


def test_what_leans_is_refused_and_dicom_still_goes(go: Go, series: Path, tmp_path: Path) -> None:
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x, float(y) + 0.3 * float(z), z]
        dataset.save_as(path)
    for asked in ("nifti", "both"):
        result = go(series, output=tmp_path / asked, format=asked)
        assert result.exit_code == ExitCode.ALL_FAILED
        reason = result.record.cases[0].reason
        assert "gantry tilt" in reason
        assert "use --format dicom" in reason
        assert visible(tmp_path / asked) == ["run.json"]
    assert go(series, output=tmp_path / "dicom", format="dicom").exit_code == ExitCode.OK


def test_settings_in_files(go: Go, series: Path, tmp_path: Path, fake: ModuleType) -> None:
    go(series, output=tmp_path / "out", format="nifti")
    for number, file in enumerate(("run.json", f"{NAME}.json")):
        out = tmp_path / f"again{number}"
        assert main(["denoise", "--config", str(tmp_path / "out" / file), "-o", str(out), "-q"]) == 0
        assert f"{NAME}.nii.gz" in visible(out)
    toml = tmp_path / "run.toml"
    toml.write_text('inputs = "in"\noutput = "by_toml"\nformat = "both"\n')
    assert main(["denoise", "--config", str(toml), "-q"]) == 0
    assert {NAME, f"{NAME}.nii.gz"} <= set(visible(tmp_path / "by_toml"))
    toml.write_text('inputs = "in"\noutput = "by_toml"\nformat = "png"\n')
    assert main(["denoise", "--config", str(toml), "-q"]) == 2


@pytest.mark.parametrize("asked", ["nifti", "both"])
def test_report_shows_it_with_the_axes_of_the_scan(go: Go, turned: Path, tmp_path: Path, asked: str) -> None:
    out = tmp_path / "out"
    result = go(turned, output=out, format=asked, restore=BOTH, report=asked == "nifti")
    assert (out / "report.html").is_file() == (asked == "nifti")
    (volume,) = scans.open_scan(turned).volumes
    assert nib.load(next(out.glob("*_denoised.nii.gz"))).shape == tuple(volume.array.shape[n] for n in (2, 0, 1))
    files = ResultFiles(result.record.cases[0].as_json(), out, Shelf())
    np.testing.assert_array_equal(files.image("input", 0), volume.array)
    np.testing.assert_allclose(files.image("restored", 0), 0.5 * volume.array + 3, atol=0.51)
    assert files.image("uncertainty", 0).shape == volume.array.shape
    assert files.orientation(0) == "".join(nib.aff2axcodes(volume.affine))


@pytest.mark.parametrize("asked", ["nifti", "both"])
def test_evaluation_compares_it_with_a_series(go: Go, turned: Path, tmp_path: Path, asked: str) -> None:
    """The fake halves the scan: a series of the halves is its reference, and no other slice or turn comes close."""
    out, clean = tmp_path / "out", tmp_path / "clean"
    clean.mkdir()
    for path in turned.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = (dataset.pixel_array // 2).astype(dataset.pixel_array.dtype).tobytes()
        dataset.save_as(clean / path.name)
    go(turned, output=out, format=asked, uncertainty=True)
    (pair,), missing = pairing.find(out, clean, None)
    assert missing == []
    assert pair.name == "3_T1w_phantom"
    assert pair.input is not None
    rows = list(figures_of(pair, "us", Options()))
    psnr = {row.method: row.value for row in rows if (row.metric, row.region) == ("psnr", "full")}
    assert psnr["us"] > 45
    assert psnr["input"] < 15
    assert all(0.3 < row.value < 0.9 for row in rows if row.metric == "coverage_90")  # odd values lie half a step off
    assert any(row.metric == "coverage_90" for row in rows)


def test_b_values_are_not_forgotten_silently(go: Go, series: Path, tmp_path: Path) -> None:
    for path in series.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.DiffusionBValue = 1000.0
        dataset.save_as(path)
    go(series, output=tmp_path / "out", format="nifti")
    notes = json.loads((tmp_path / "out" / f"{NAME}.json").read_text())["notes"]
    assert any("dcm2niix" in note for note in notes)


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="BIDS dataset holds NIfTI"):
        RunConfig(inputs=(Path("a"),), output=Path("b"), bids=True, format="both")
