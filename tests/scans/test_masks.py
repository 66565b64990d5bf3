"""Masks of what is to be restored: which file, on which grid, and what is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.sr.codedict import codes
from scipy.spatial.transform import Rotation

from medidiff.errors import ScanError, UsageError
from medidiff.scans import mask_hash, masks, read, read_mask
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Scan, ScanRef, Volume

AFFINE = nib.affines.from_matvec(np.diag([1.0, 1.5, 3.0]), [-10.0, 5.0, 2.0])


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, intent: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.header["intent_code"] = intent
    nib.save(image, path)
    return path


def scan_at(path: Path, shape: tuple[int, ...] = (6, 5, 4)) -> Scan:
    save(path, np.arange(1, np.prod(shape) + 1, dtype=np.int16).reshape(shape))
    (case,) = find_scans([path]).cases
    return read(case)


def box(shape: tuple[int, ...] = (6, 5, 4), dtype: type = np.uint8) -> np.ndarray:
    mask = np.zeros(shape, dtype=dtype)
    mask[1:4, 2, 1:3] = 1
    return mask


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 1), (np.int16, -3), (np.float32, 0.25), (np.uint8, 255)])
def test_what_is_not_zero_is_restored(tmp_path, dtype, value):
    scan = scan_at(tmp_path / "t1w.nii.gz")
    path = save(tmp_path / "mask.nii.gz", (box() * np.array(value)).astype(dtype), intent=1002)
    mask = read_mask(path, scan)
    np.testing.assert_array_equal(mask.holes[0], box().astype(bool))
    assert (mask.notes, mask.files) == ((), (path,))
    assert mask.holes[0].dtype == np.bool_
    assert mask_hash(path, scan.ref) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_mask_serves_all_volumes_or_each_has_its_own(tmp_path):
    scan = scan_at(tmp_path / "bold.nii.gz", (6, 5, 4, 3))
    mask = read_mask(save(tmp_path / "one.nii.gz", box()), scan)
    assert len(mask.holes) == 3
    assert all(np.array_equal(hole, box()) for hole in mask.holes)
    each = np.stack([box() * (n != 1) for n in range(3)], axis=-1)
    mask = read_mask(save(tmp_path / "each.nii.gz", each), scan)
    assert [int(hole.sum()) for hole in mask.holes] == [6, 0, 6]
    with pytest.raises(ScanError, match=r"has 2 volumes, the scan .* has 3"):
        read_mask(save(tmp_path / "two.nii.gz", each[..., :2]), scan)
    with pytest.raises(ScanError, match=r"has 3 volumes, the scan .* has 1"):
        read_mask(tmp_path / "each.nii.gz", scan_at(tmp_path / "t1.nii.gz"))


def test_other_grids_are_resampled_through_the_affines(tmp_path):
    scan = scan_at(tmp_path / "t1w.nii.gz")
    fine = np.repeat(np.repeat(box(), 2, axis=0), 3, axis=2)
    affine = AFFINE @ np.diag([1 / 2, 1, 1 / 3, 1])
    affine[:3, 3] = (AFFINE @ [(1 / 2 - 1) / 2, 0, (1 / 3 - 1) / 2, 1])[:3]
    mask = read_mask(save(tmp_path / "fine.nii.gz", fine, affine), scan)
    np.testing.assert_array_equal(mask.holes[0], box())
    assert "resampled" in mask.notes[0]
    turned = nib.Nifti1Image(box(), AFFINE).as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    mask = read_mask(save(tmp_path / "turned.nii.gz", np.asanyarray(turned.dataobj), turned.affine), scan)
    np.testing.assert_array_equal(mask.holes[0], box())
    shifted = AFFINE.copy()
    shifted[0, 3] += 1
    mask = read_mask(save(tmp_path / "shifted.nii.gz", box(), shifted), scan)
    np.testing.assert_array_equal(mask.holes[0], np.roll(box(), 1, axis=0))
    assert "resampled" in mask.notes[0], "same shape, other place"


@settings(deadline=None)
@given(angles=st.tuples(*[st.floats(-3, 3)] * 3), data=st.data())
def test_a_mask_in_any_orientation_marks_the_same_places(angles, data):
    rotation = np.eye(4)
    rotation[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix()
    marked = np.zeros((5, 4, 3), dtype=bool)
    marked[tuple(data.draw(st.integers(0, size - 1)) for size in marked.shape)] = True
    volume = Volume(np.zeros((5, 4, 3), dtype=np.float32), rotation @ AFFINE)
    order = data.draw(st.permutations(range(3)))
    flips = [data.draw(st.sampled_from([-1, 1])) for _ in range(3)]
    turn = np.array(list(zip(order, flips, strict=True)))
    there = nib.apply_orientation(marked, turn)
    affine = rotation @ AFFINE @ nib.orientations.inv_ornt_aff(turn, marked.shape)
    hole, _ = masks._on(volume, masks._Grid(there, affine))
    np.testing.assert_array_equal(hole, marked)


def test_axes_that_are_swapped_or_reversed_are_no_other_grid(tmp_path):
    """As of a mask drawn on the NIfTI file that dcm2niix makes of a series."""
    scan = scan_at(tmp_path / "t1w.nii.gz")
    image = nib.Nifti1Image(box(), AFFINE)
    turned = image.as_reoriented([[2, -1], [0, 1], [1, -1]])
    mask = read_mask(save(tmp_path / "turned.nii.gz", np.asarray(turned.dataobj), turned.affine), scan)
    np.testing.assert_array_equal(mask.holes[0], box().astype(bool))
    assert mask.notes == ()
    fewer = turned.slicer[1:]  # a slice of the scan has no voxel of the mask
    assert (
        "resampled"
        in read_mask(save(tmp_path / "fewer.nii.gz", np.asarray(fewer.dataobj), fewer.affine), scan).notes[0]
    )


def test_errors_are_one_sentence(tmp_path):
    scan = scan_at(tmp_path / "t1w.nii.gz")
    nan = box(dtype=np.float32)
    nan[0, 0, 0] = np.nan
    far = AFFINE.copy()
    far[0, 3] = 900
    (tmp_path / "text.txt").write_text("no mask " * 40)
    cases = {
        "nan.nii.gz": (nan, AFFINE, "holds NaN"),
        "empty.nii.gz": (box() * 0, AFFINE, "is empty"),
        "far.nii.gz": (box(), far, "does not overlap"),
        "all.nii.gz": (np.ones_like(box()), AFFINE, "covers the whole scan"),
        "colour.nii.gz": (np.zeros((6, 5, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), AFFINE, "RGB"),
    }
    for name, (data, affine, words) in cases.items():
        with pytest.raises(ScanError, match=words) as caught:
            read_mask(save(tmp_path / name, data, affine), scan)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ScanError, match="neither a NIfTI file nor a DICOM segmentation"):
        read_mask(tmp_path / "text.txt", scan)
    with pytest.raises(UsageError, match="does not exist"):
        read_mask(tmp_path / "nowhere.nii.gz", scan)
    with pytest.raises(UsageError, match="does not exist"):
        mask_hash(tmp_path / "nowhere.nii.gz", scan.ref)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipe_is_no_mask(tmp_path):
    os.mkfifo(tmp_path / "mask.nii.gz")
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        masks.find_mask(tmp_path / "mask.nii.gz", ScanRef("nifti", tmp_path / "t1.nii.gz", (), Path("t1.nii.gz"), "t1"))


def test_all_that_was_measured_is_the_whole_scan(tmp_path):
    data = np.ones((4, 4, 4), dtype=np.float32)
    data[0] = np.nan
    save(tmp_path / "a.nii", data)
    scan = read(find_scans([tmp_path / "a.nii"]).cases[0])
    with pytest.raises(ScanError, match="covers the whole"):
        read_mask(save(tmp_path / "m.nii", np.isfinite(data).astype(np.uint8)), scan)


@pytest.mark.parametrize(
    "name", ["sub/t1w.nii.gz", "sub/t1w_mask.nii.gz", "t1w.nii", "t1w_mask.nii.gz", "sub/t1w_mask.nii"]
)
def test_a_folder_is_searched_by_name(tmp_path, name):
    save(tmp_path / "in" / "sub" / "t1w.nii.gz", np.arange(1, 121, dtype=np.int16).reshape(6, 5, 4))
    (case,) = find_scans([tmp_path / "in"]).cases
    path = save(tmp_path / "masks" / name, box())
    save(tmp_path / "masks" / "other.nii.gz", box() * 0)
    assert read_mask(tmp_path / "masks", read(case)).files == (path,)
    assert mask_hash(tmp_path / "masks", case) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_scan_is_not_its_own_mask(tmp_path):
    scan = scan_at(tmp_path / "t1w.nii.gz")
    with pytest.raises(UsageError, match=r"holds no mask for t1w.nii.gz; call it t1w_mask.nii.gz"):
        read_mask(tmp_path, scan)
    path = save(tmp_path / "t1w_mask.nii.gz", box())
    assert read_mask(tmp_path, scan).files == (path,)
    save(tmp_path / "t1w_mask.nii", box())
    with pytest.raises(UsageError, match="several masks"):
        read_mask(tmp_path, scan)


@pytest.mark.parametrize("given", [".", "sub-01", "sub-01/anat", "sub-01/anat/sub-01_T1w.nii.gz"])
def test_a_dataset_of_masks_serves_whatever_part_of_the_dataset_is_the_input(tmp_path, given):
    save(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz", np.arange(1, 121, dtype=np.int16).reshape(6, 5, 4))
    (tmp_path / "dataset_description.json").write_text("{}")
    lesions = tmp_path / "derivatives" / "lesions"
    save(lesions / "sub-02/anat/sub-02_label-lesion_mask.nii.gz", box())
    path = save(lesions / "sub-01/anat/sub-01_label-lesion_mask.nii.gz", box())
    (case,) = find_scans([tmp_path / given]).cases
    assert read_mask(lesions, read(case)).files == (path,)


# ---------------------------------------------------------------------------------------------------- segmentations


def segmentation(scan: Scan, marked: np.ndarray, kind: str = "BINARY") -> hd.seg.Segmentation:
    """A segmentation with one segment for each value in ``marked``, shape (columns, rows, slices)."""
    images = [pydicom.dcmread(header.path) for header in scan.source.images]
    for image in images:
        image.StudyID, image.AccessionNumber, image.PatientBirthDate, image.PatientSex = "1", "", "", ""
    array = np.stack([marked == value for value in range(1, int(marked.max()) + 1)], axis=-1).transpose(2, 1, 0, 3)
    segments = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=f"part {number}",
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type="MANUAL",
        )
        for number in range(1, array.shape[-1] + 1)
    ]
    return hd.seg.Segmentation(
        source_images=images,
        pixel_array=array.astype(np.float32 if kind == "FRACTIONAL" else np.uint8),
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=hd.UID(),
        series_number=9,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
    )


def series(folder: Path) -> Scan:
    (case,) = find_scans([folder]).cases
    return read(case)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_any_segment_of_a_segmentation(tmp_path, save_series, kind):
    save_series(count=5, modality="MR", orientation=(0, 1, 0, 0, 0, -1), step=(2, 0, 0))
    scan = series(tmp_path / "series")
    marked = np.zeros(scan.volumes[0].array.shape, dtype=np.uint8)
    marked[1:3, 2, 1], marked[0, 4:, 2] = 1, 2
    (tmp_path / "masks").mkdir()
    segmentation(scan, marked, kind).save_as(tmp_path / "masks" / "seg.dcm")
    for path in (tmp_path / "masks" / "seg.dcm", tmp_path / "masks"):
        mask = read_mask(path, scan)
        np.testing.assert_array_equal(mask.holes[0], marked > 0)
        assert (mask.notes, mask.files) == ((), (tmp_path / "masks" / "seg.dcm",))


def test_a_folder_of_segmentations_is_matched_by_series(tmp_path, save_series):
    save_series("in/a", count=3, modality="MR", series="1.2.3")
    save_series("in/b", count=3, modality="MR", series="1.2.4")
    scans = [read(case) for case in find_scans([tmp_path / "in"]).cases]
    (tmp_path / "masks").mkdir()
    for number, scan in enumerate(scans):
        marked = np.zeros(scan.volumes[0].array.shape, dtype=np.uint8)
        marked[number, 0, 0] = 1
        segmentation(scan, marked).save_as(tmp_path / "masks" / f"{number}")
    for number, scan in enumerate(scans):
        hole = read_mask(tmp_path / "masks", scan).holes[0]
        assert [int(value) for value in np.argwhere(hole)[0]] == [number, 0, 0]
        assert hole.sum() == 1
    (tmp_path / "masks" / "0").unlink()
    with pytest.raises(UsageError, match="holds no mask"):
        read_mask(tmp_path / "masks", scans[0])
    (tmp_path / "masks" / "2").write_bytes((tmp_path / "masks" / "1").read_bytes())
    with pytest.raises(UsageError, match="several masks"):
        read_mask(tmp_path / "masks", scans[1])


def test_an_image_is_no_segmentation(tmp_path, save_series):
    save_series(count=3)
    scan = series(tmp_path / "series")
    with pytest.raises(ScanError, match=r"not a DICOM segmentation but CT Image Storage; give .* NIfTI file\."):
        read_mask(tmp_path / "series" / "image001", scan)


def test_slices_treated_one_by_one_get_their_part(tmp_path, save_series):
    save_series(count=4, position=lambda k: (0, 0, (0, 3, 5, 11)[k]))
    scan = series(tmp_path / "series")
    assert len(scan.volumes) == 4
    marked = np.zeros((4, 6, 12), dtype=np.uint8)
    marked[1, 2, 4:8] = 1  # from 4 to 7 mm
    affine = nib.affines.from_matvec(np.diag([-0.75, -0.5, 1.0]))
    mask = read_mask(save(tmp_path / "m.nii.gz", marked, affine), scan)
    assert [hole.sum() for hole in mask.holes] == [0, 0, 1, 0]
    assert mask.holes[2][1, 2, 0]


def test_reference_of_a_series_without_name(tmp_path):
    ref = ScanRef("dicom", tmp_path, (), Path("301_T1"), "301_T1", "1.2.3")
    path = save(tmp_path / "301_T1_mask.nii.gz", box())
    assert masks.find_mask(tmp_path, ref) == path
