"""A DICOM series that lacks slices: read on the full grid, written with new images in the gaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from medidiff.scans import read, read_mask, write
from medidiff.scans.discover import find_scans
from medidiff.scans.nifti import save_array
from medidiff.scans.volume import Derivation, Scan

INPAINT = Derivation("inpaint", "Inpainted by medidiff.", "medidiff 0.1.0 inpaint", "0.1.0")
LEVELS = (0, 1, 3, 4, 6)


def gappy(folder: Path, fill_gaps: bool = True) -> Scan:
    (case,) = find_scans([folder]).cases
    return read(case, fill_gaps=fill_gaps)


@pytest.fixture
def made(save_series):
    return save_series(
        count=5,
        step=(0, 0, 0),
        position=lambda k: (-10.0, 20.0, 5.0 + 2 * LEVELS[k]),
        instance=lambda k: 20 - LEVELS[k],
        SliceLocation=lambda k: -5.0 - 2 * LEVELS[k],
    )


def test_missing_slices_are_marked(tmp_path, made):
    scan = gappy(tmp_path / "series")
    (volume,) = scan.volumes
    assert volume.array.shape == (4, 6, 7)
    assert [bool(gap) for gap in volume.missing.all(axis=(0, 1))] == [False, False, True, False, False, True, False]
    np.testing.assert_array_equal(volume.valid, ~volume.missing)
    assert volume.spacing == pytest.approx((0.75, 0.5, 2))
    assert volume.irregular == ""
    assert scan.notes == ("2 slices are missing and will be filled in.",)
    for ds, level in zip(made, LEVELS, strict=True):
        np.testing.assert_array_equal(volume.array[:, :, level], ds.pixel_array.T - 1024.0)


def test_without_the_wish_slices_come_one_by_one_with_the_reason(tmp_path, made):
    scan = gappy(tmp_path / "series", fill_gaps=False)
    assert len(scan.volumes) == 5
    assert {volume.irregular for volume in scan.volumes} == {
        "a slice is missing between 7.00 and 11.00 mm (step 4 mm, elsewhere 2 mm)"
    }
    assert all(volume.missing is None for volume in scan.volumes)


def test_new_images_lie_in_the_gaps_and_the_others_stay(tmp_path, made):
    scan = gappy(tmp_path / "series")
    (volume,) = scan.volumes
    array = volume.array.copy()
    array[:, :, 2], array[:, :, 5] = 40, 50
    out = [pydicom.dcmread(file) for file in write(scan, [array], tmp_path / "out", INPAINT)]
    assert [int(ds.InstanceNumber) for ds in out] == [14, 15, 16, 17, 18, 19, 20]
    assert len({ds.SOPInstanceUID for ds in out}) == 7
    for number, ds in enumerate(out):
        level = 6 - number
        assert [float(value) for value in ds.ImagePositionPatient] == [-10, 20, 5 + 2 * level]
        assert float(ds.SliceLocation) == -5 - 2 * level
        assert (ds.SyntheticData, ds.DerivationCodeSequence[0].CodeValue) == ("YES", "113077")
        assert ds.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
        sources = [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence]
        if level in LEVELS:
            source = made[LEVELS.index(level)]
            assert sources == [source.SOPInstanceUID]
            assert ds.PixelData == source.PixelData
        else:
            lower, upper = (made[LEVELS.index(level + step)] for step in (-1, 1))
            assert sources == [lower.SOPInstanceUID, upper.SOPInstanceUID]
            np.testing.assert_array_equal(ds.pixel_array, {2: 40, 5: 50}[level] + 1024)
    (back,) = gappy(tmp_path / "out", fill_gaps=False).volumes
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-6)


def test_a_mask_adds_to_the_missing_slices(tmp_path, made):
    scan = gappy(tmp_path / "series")
    (volume,) = scan.volumes
    marked = np.zeros(volume.array.shape, dtype=np.float32)
    marked[1, 2, 3] = 1
    mask = read_mask(save_array(marked, volume.affine, tmp_path / "m.nii.gz", ""), scan)
    np.testing.assert_array_equal(mask.holes[0], volume.missing | (marked > 0))


@pytest.mark.parametrize("numbers", [lambda k: k + 1, lambda k: None])
def test_numbers_of_new_images_are_free(tmp_path, save_series, numbers):
    save_series(count=5, position=lambda k: (0, 0, 2.0 * LEVELS[k]), instance=numbers)
    scan = gappy(tmp_path / "series")
    out = [pydicom.dcmread(file) for file in write(scan, [scan.volumes[0].array], tmp_path / "out", INPAINT)]
    assert [int(ds.InstanceNumber) for ds in out] == list(range(1, 8))
    heights = [float(ds.ImagePositionPatient[2]) for ds in out]
    assert heights == ([0, 2, 6, 8, 12, 4, 10] if numbers(0) else [0, 2, 4, 6, 8, 10, 12])


@pytest.mark.parametrize(
    "levels",
    [(0, 2, 3.1, 5, 9), (0, 1, 12), (0, 1, 2, 3.5, 4.5)],
    ids=["uneven", "more missing than measured", "half a step"],
)
def test_what_is_no_regular_grid_with_gaps_stays_slices(tmp_path, save_series, levels):
    save_series(count=len(levels), position=lambda k: (0, 0, 2 * levels[k]))
    scan = gappy(tmp_path / "series")
    assert len(scan.volumes) == len(levels)
    assert all(volume.irregular for volume in scan.volumes)


def test_tilt_is_not_filled(tmp_path, save_series):
    save_series(count=5, position=lambda k: (0, 0.5 * LEVELS[k], 2.0 * LEVELS[k]))
    scan = gappy(tmp_path / "series")
    assert {volume.irregular for volume in scan.volumes} == {
        "the slice step leans 14.0 degrees from the slice normal (gantry tilt)"
    }
    assert {volume.array.shape[2] for volume in scan.volumes} == {1}


def test_lone_images_are_not_irregular(tmp_path, save_series):
    save_series(count=1)
    (volume,) = gappy(tmp_path / "series").volumes
    assert (volume.irregular, volume.missing, volume.slice_axis) == ("", None, 2)
