"""How far two result files lie apart, against what was put in."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff.errors import ScanError
from medidiff.scans.compare import Difference, difference


def save(path: Path, values: np.ndarray, slope: float = 1.0, shift: float = 0.0) -> Path:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[0, 3] = shift
    image = nib.Nifti1Image(values, affine, dtype=values.dtype)
    if slope != 1:
        image.header.set_slope_inter(slope, 0)
    nib.save(image, path)
    return path


def test_nifti_in_the_units_of_the_image(tmp_path: Path) -> None:
    values = np.linspace(-10, 30, 60, dtype=np.float32).reshape(5, 4, 3)
    other = values.copy()
    other[1, 2, 1] -= 0.5
    found = difference(save(tmp_path / "a.nii.gz", values), save(tmp_path / "b.nii", other))
    assert found.largest == pytest.approx(0.5, rel=1e-5)
    assert found.range == pytest.approx(40)
    assert found.relative == pytest.approx(0.0125, rel=1e-5)
    assert (found.step, found.same_place) == (0, True)
    assert found.within(0.013)
    assert not found.within(0.012)


def test_one_step_of_whole_numbers_is_rounding(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    for more, within in ((1, True), (2, False)):
        other = values.copy()
        other[0, 0, 0] += more
        found = difference(save(tmp_path / "a.nii", values), save(tmp_path / "b.nii", other))
        assert found.largest == more
        assert found.within(1e-6) is within


def test_nan_is_nan_and_nothing_else(tmp_path: Path) -> None:
    values = np.ones((3, 3, 3), dtype=np.float32)
    values[1, 1, 1] = np.nan
    first, second = save(tmp_path / "a.nii", values), save(tmp_path / "b.nii", values)
    assert difference(first, second).largest == 0
    values[1, 1, 1] = 7
    assert difference(first, save(tmp_path / "b.nii", values)).largest == np.inf


def test_another_place_or_shape_is_another_image(tmp_path: Path) -> None:
    values = np.ones((3, 3, 3), dtype=np.float32)
    first = save(tmp_path / "a.nii", values)
    moved = difference(first, save(tmp_path / "b.nii", values, shift=0.5))
    assert (moved.largest, moved.same_place, moved.within(1)) == (0, False, False)
    assert difference(first, save(tmp_path / "b.nii", values[:2])).largest == np.inf


def test_dicom_with_its_slope_and_place(tmp_path: Path, save_series) -> None:
    (first,) = save_series("one", 1, RescaleSlope=0.5, RescaleIntercept=-100)
    path, other = tmp_path / "one" / "image001", tmp_path / "other.dcm"
    pixels = first.pixel_array.copy()
    pixels[2, 3] += 8
    first.PixelData = pixels.tobytes()
    first.save_as(other)
    found = difference(path, other)
    assert (found.largest, found.step, found.same_place) == (4.0, 0.5, True)
    first.ImagePositionPatient = [-10, 20, 6]
    first.save_as(other)
    assert not difference(path, other).same_place


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no scan")
    with pytest.raises(ScanError):
        difference(tmp_path / "a.nii.gz", tmp_path / "a.nii.gz")


def test_constant_image_has_no_range() -> None:
    assert Difference(0.0, 0.0, 0.0, same_place=True).within(1e-3)
    assert not Difference(0.1, 0.0, 0.0, same_place=True).within(1e-3)
