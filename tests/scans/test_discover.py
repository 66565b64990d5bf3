"""Discovery: which cases lie in files and folders, and why the rest does not count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.fileset import FileSet

from medidiff.errors import ScanError, UsageError
from medidiff.scans import open_scan, read
from medidiff.scans.discover import content_hash, find_scans


def save_nifti(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), value, dtype=np.float32), np.eye(4)), path)
    return path


def reasons(folder: Path) -> dict[str, str]:
    return {skipped.path.name: skipped.reason for skipped in find_scans([folder]).skipped}


def test_missing_input_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        find_scans([tmp_path / "nowhere"])


def test_nifti_files_keep_their_folder_and_name(tmp_path):
    for name in ("sub-01/anat/t1w.nii.gz", "sub-02/T2.NII"):
        save_nifti(tmp_path / "top.nii").rename((tmp_path / name).parent.mkdir(parents=True) or tmp_path / name)
    cases = find_scans([tmp_path]).cases
    assert [case.relative.as_posix() for case in cases] == ["sub-01/anat/t1w.nii.gz", "sub-02/T2.NII"]
    assert [case.stem for case in cases] == ["t1w", "T2"]
    assert find_scans([tmp_path], recursive=False).cases == ()


def test_one_file_as_input(tmp_path):
    path = save_nifti(tmp_path / "a" / "t1.nii.gz")
    (case,) = find_scans([path]).cases
    assert case.relative == Path("t1.nii.gz")
    assert case.files == (path,)


def test_colliding_names_become_distinct(tmp_path):
    inputs = [save_nifti(tmp_path / name) for name in ("a/t1.nii.gz", "b/t1.nii.gz", "b/T1.nii")]
    cases = find_scans(inputs).cases
    assert sorted(case.stem for case in cases) == ["T1", "t1-2", "t1-3"]
    assert cases == find_scans(inputs[::-1]).cases
    assert len(find_scans([tmp_path / "b", tmp_path / "b" / "t1.nii.gz"]).cases) == 2, "one file twice is one case"


def test_links_within_the_input_are_followed_and_loops_end(tmp_path):
    folder = tmp_path / "in"
    save_nifti(folder / "z" / "elsewhere" / "t1.nii.gz")
    (folder / "linked").symlink_to(folder / "z" / "elsewhere")
    (folder / "loop").symlink_to(folder)
    (folder / "gone.dcm").symlink_to(tmp_path / "gone")
    found = find_scans([folder])
    assert [case.relative.as_posix() for case in found.cases] == ["linked/t1.nii.gz"]
    assert [(skipped.path.name, skipped.reason) for skipped in found.skipped] == [("gone.dcm", "a broken link")]


def test_hidden_files_are_ignored_and_others_named(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"x")
    save_nifti(tmp_path / ".cache" / "t1.nii")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "long.txt").write_text("hello " * 100)
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "preamble.dcm").write_bytes(b"\0" * 128 + b"DICM")
    assert reasons(tmp_path) == {
        "notes.txt": "not a NIfTI or DICOM file",
        "long.txt": "not a NIfTI or DICOM file",
        "empty.dcm": "empty file",
        "preamble.dcm": "damaged or without a SOP class: not a DICOM image",
    }
    assert find_scans([tmp_path]).cases == ()


def test_folder_without_permission_is_named(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    (tmp_path / "closed").mkdir(mode=0)
    assert "cannot be read" in reasons(tmp_path)["closed"]


def test_include_and_exclude(tmp_path, save_series):
    for name in ("sub-01/t1.nii.gz", "sub-01/t2.nii.gz", "sub-02/t1.nii.gz"):
        save_nifti(tmp_path / name)
    save_series("sub-02/dicom")

    def names(**options):
        return [case.relative.as_posix() for case in find_scans([tmp_path], **options).cases]

    assert names(include=["*t1*"]) == ["sub-01/t1.nii.gz", "sub-02/t1.nii.gz"]
    assert names(include=["sub-01/*"], exclude=["t2*"]) == ["sub-01/t1.nii.gz"]
    assert names(exclude=["sub-01"]) == ["sub-02/dicom/3_Thin_slices", "sub-02/t1.nii.gz"]
    assert names(include=["3_Thin*"]) == ["sub-02/dicom/3_Thin_slices"]
    assert names(exclude=["3_Thin*", "*.gz"]) == []


def test_series_of_one_name_are_left_out_one_by_one(tmp_path, save_series):
    save_series("a", series="1.2.3")
    for path in list((tmp_path / "a").iterdir()):
        path.rename(path.with_name(f"first_{path.name}"))
    save_series("a", series="1.2.4")
    save_series("b", series="1.2.5")

    def stems(*exclude):
        cases = find_scans([tmp_path], exclude=exclude).cases
        return [(case.relative.parent / case.stem).as_posix() for case in cases]

    assert stems() == ["a/3_Thin_slices", "a/3_Thin_slices-2", "b/3_Thin_slices"]
    assert stems("a/3_Thin_slices-2") == ["a/3_Thin_slices", "b/3_Thin_slices"]
    assert stems("a/3_Thin_slices") == ["a/3_Thin_slices-2", "b/3_Thin_slices"]


def test_series_are_told_apart_by_uid_and_joined_over_folders(tmp_path, save_series):
    save_series("a", series="1.2.3")
    save_series("a/deep", series="1.2.4", count=2, SeriesNumber=7, SeriesDescription="Ax T1/FLAIR: 3 mm")
    save_series("b", series="1.2.3", count=3)
    cases = find_scans([tmp_path]).cases
    assert [(case.stem, len(case.files), case.series_uid) for case in cases] == [
        ("3_Thin_slices", 8, "1.2.3"),
        ("7_Ax_T1_FLAIR_3_mm", 2, "1.2.4"),
    ]
    assert cases[0].path == tmp_path
    assert cases[1].path == tmp_path / "a" / "deep"
    assert cases[1].relative.parent == Path("a/deep")


def test_a_disc_is_walked_and_its_index_left_out(tmp_path, make_image):
    disc = FileSet()
    for n in range(6):
        more = {"series": f"1.2.{n // 2 + 3}", "PatientID": f"P{n // 4}", "study": f"1.2.{n // 4 + 7}"}
        ds = make_image((0, 0, 2 * n), np.full((6, 4), n, dtype=np.int16), instance=n + 1, StudyID="1", **more)
        ds.AccessionNumber = ""
        disc.add(ds)
    disc.write(tmp_path)
    found = find_scans([tmp_path])
    assert [(skipped.path.name, skipped.reason) for skipped in found.skipped] == [
        ("DICOMDIR", "a DICOMDIR (an index of a disc), not an image")
    ]
    assert sorted((case.series_uid, len(case.files)) for case in found.cases) == [(f"1.2.{n}", 2) for n in (3, 4, 5)]
    assert len({case.relative for case in found.cases}) == 3
    assert [read(case).volumes[0].array.shape for case in found.cases] == [(4, 6, 2)] * 3


def test_output_series_number_is_unused_in_the_study(tmp_path, save_series):
    save_series("a", series="1.2.3", count=1)
    save_series("b", series="1.2.4", count=1)
    save_series("c", series="1.2.5", count=1, SeriesNumber=10003)
    save_series("d", series="1.2.6", count=1, study="1.2.99")
    save_series("e", series="1.2.7", count=1, SeriesNumber=2**31 - 1)
    numbers = {case.series_uid: case.output_series_number for case in find_scans([tmp_path]).cases}
    assert numbers == {"1.2.3": 10004, "1.2.4": 10005, "1.2.5": 20003, "1.2.6": 10003, "1.2.7": 10000}


def test_objects_that_are_no_scans_have_their_own_reason(tmp_path, save_series, make_image):
    pixels = np.zeros((6, 4), dtype=np.int16)
    odd = {
        "mosaic": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "modality": "MR"},
        "vframe": {"ImageType": ["ORIGINAL", "PRIMARY", "M", "VFRAME"], "modality": "MR"},
        "localizer": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "enhanced": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.1"},
        "segmentation": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.66.4"},
        "capture": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        "xray": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1"},
        "frames": {"NumberOfFrames": 3},
    }
    expected = {
        "mosaic": "Siemens mosaic",
        "vframe": "VFRAME",
        "localizer": "localizer",
        "enhanced": "Enhanced MR Image Storage",
        "segmentation": "Segmentation Storage",
        "capture": "secondary capture",
        "xray": "projection image",
        "frames": "3 frames",
    }
    for name, more in odd.items():
        make_image((0, 0, 0), pixels, **more).save_as(tmp_path / name, enforce_file_format=True)
    rgb = make_image((0, 0, 0), pixels.astype(np.uint8), PhotometricInterpretation="RGB", SamplesPerPixel=3)
    rgb.save_as(tmp_path / "rgb", enforce_file_format=True)
    found = reasons(tmp_path)
    assert "colour" in found.pop("rgb")
    assert found.keys() == expected.keys()
    for name, words in expected.items():
        assert words in found[name]
    assert find_scans([tmp_path]).cases == ()


@pytest.mark.parametrize("left", [-1, -40, 400, 200])
def test_truncated_file_is_skipped(tmp_path, save_series, left):
    save_series(count=1)
    (path,) = (tmp_path / "series").iterdir()
    path.write_bytes(path.read_bytes()[:left])
    (reason,) = reasons(tmp_path).values()
    assert "truncated" in reason or "damaged" in reason


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_what_is_no_regular_file_is_left_out(tmp_path):
    os.mkfifo(tmp_path / "x.nii.gz")
    (tmp_path / "y.nii.gz").symlink_to(tmp_path / "x.nii.gz")
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    found = find_scans([tmp_path])
    assert [case.path.name for case in found.cases] == ["gone.nii.gz"]
    assert [(each.path.name, each.reason) for each in found.skipped] == [("x.nii.gz", "not a regular file")]
    assert find_scans([tmp_path / "x.nii.gz"]).skipped == found.skipped
    assert find_scans([tmp_path], include=["other*"]).skipped == ()


def test_broken_nifti_is_a_case_that_fails_by_itself(tmp_path):
    (tmp_path / "broken.nii.gz").write_bytes(b"no gzip at all")
    (case,) = find_scans([tmp_path]).cases
    with pytest.raises(ScanError, match=r"broken\.nii\.gz"):
        read(case)


def test_content_hash_sees_bytes_and_not_names(tmp_path, save_series):
    save_series("a")
    before = find_scans([tmp_path / "a"]).cases[0]
    first = content_hash(before)
    for n, path in enumerate(sorted((tmp_path / "a").iterdir())):
        path.rename(path.with_name(f"other{n}.ima"))
    assert content_hash(find_scans([tmp_path / "a"]).cases[0]) == first
    with pytest.raises(ScanError, match="cannot be read"):
        content_hash(before)
    one, two = (find_scans([save_nifti(tmp_path / f"{value}.nii", value)]).cases[0] for value in (1, 2))
    assert content_hash(one) != content_hash(two)


def test_open_scan_wants_exactly_one(tmp_path, save_series):
    save_series("a")
    assert open_scan(tmp_path / "a").volumes[0].array.shape == (4, 6, 5)
    save_nifti(tmp_path / "t1.nii")
    with pytest.raises(UsageError, match="2 scans"):
        open_scan(tmp_path)


def test_import_is_light():
    code = "import sys, medidiff.scans.discover, medidiff.scans.outputs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "nibabel", "pydicom", "highdicom"} & set(loaded)
