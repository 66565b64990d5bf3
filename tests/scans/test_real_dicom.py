"""Real and made DICOM folders, read, smoothed a little, written, and judged by an independent checker."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom

from benchmarks.dicom_cases import checked
from medidiff.scans import read, read_mask, write, write_map
from medidiff.scans.discover import Discovery, find_scans
from medidiff.scans.outputs import output_names
from medidiff.scans.volume import Derivation, Scan, Volume

pytestmark = pytest.mark.real

# case: (cases, volumes, words of the notes)
PROCESSED = {
    "ct_ge_missing_slice": (1, 4, "missing between 28.11 and 38.11"),
    "ct_lossy_j2k": (1, 1, ""),
    "ct_philips_noext": (1, 1, ""),
    "ct_siemens_gantry_tilt": (1, 4, "14.0 degrees"),
    "ct_siemens_same_position": (1, 4, "4 images lie at one position (61.50 mm)"),
    "ct_small_ge": (1, 1, ""),
    "ct_with_seg_and_sr": (1, 1, ""),
    "mr_canon_40slices": (1, 1, ""),
    "mr_compressed_j2k": (1, 1, ""),
    "mr_compressed_jpeg": (1, 1, ""),
    "mr_compressed_jpegls": (1, 1, ""),
    "mr_compressed_rle": (1, 1, ""),
    "mr_duplicate_file_made": (1, 1, "more than once"),
    "mr_ge_oblique_dwi_4d": (1, 7, "6 images a position"),
    "mr_hitachi_oblique_japanese": (1, 1, ""),
    "mr_implicit_vr": (1, 1, ""),
    "mr_monochrome1_made": (1, 1, ""),
    "mr_nonascii_names_made": (1, 1, ""),
    "mr_overlays": (1, 1, "Overlays"),
    "mr_philips_enhanced": (1, 1, ""),
    "mr_philips_two_orientations": (1, 2, "sagittal"),
    "mr_pmod_per_slice_slope": (1, 1, ""),
    "mr_siemens_sag": (1, 1, ""),
    "mr_siemens_xa_enhanced": (1, 4, "4 multi-frame objects"),
    "mr_small_big_endian": (1, 1, ""),
    "mr_small_explicit_le": (1, 1, ""),
    "mr_small_padded": (1, 1, ""),
    "mr_uncompressed_twin": (1, 1, ""),
    "pt_per_slice_slope_made": (1, 1, ""),
    "two_series_flat": (2, 2, ""),
}

# case: words of the reason that every file is skipped for
SKIPPED = {
    "dx_monochrome1": "projection image (Digital X-Ray",
    "mr_enhanced_small": "Enhanced MR Image Storage without functional groups",
    "mr_siemens_mosaic_jpegll": "mosaic",
    "mr_truncated": "truncated",
    "mr_uih_tiled": "VFRAME",
    "rgb_secondary": "in colour (RGB)",
}


def smoothed(volume: Volume) -> np.ndarray:
    """A little smoothing in the image plane: neighbouring slices of some cases are unrelated noise."""
    return (0.6 * volume.array + 0.4 * gaussian_filter(volume.array, (0.6, 0.6, 0))).astype(np.float32)


def restore_folder(
    folder: Path, out: Path, change: Callable[[Volume], np.ndarray] = smoothed
) -> tuple[Discovery, list[Scan]]:
    found = find_scans([folder])
    text = "Denoised by medidiff 0.1.0, pipeline test 1 (weights 0), strength 1, noise 3 percent."
    derivation = Derivation("denoise", text, "medidiff 0.1.0 denoise test", "0.1.0")
    scans = [read(case) for case in found.cases]
    for scan in scans:
        write(
            scan,
            [change(volume) for volume in scan.volumes],
            output_names(scan.ref, out, "denoise").restored,
            derivation,
        )
    return found, scans


def judge(real_data: Path, folder: Path, out: Path, *options: str, task: str = "denoise") -> list[str]:
    """Failed rules of the checker."""
    result = checked(real_data, folder, out, task, *options)
    assert "passed" in result.stdout, result.stdout + result.stderr
    return [line for line in result.stdout.splitlines() if line.startswith("FAIL")]


@pytest.mark.parametrize("name", PROCESSED)
def test_processed(real_data, tmp_path, name):
    cases, volumes, words = PROCESSED[name]
    found, scans = restore_folder(real_data / "dicom" / name, tmp_path)
    assert len(found.cases) == cases
    assert sum(len(scan.volumes) for scan in scans) == volumes
    assert words in " ".join(note for scan in scans for note in scan.notes)
    assert judge(real_data, real_data / "dicom" / name, tmp_path) == []


@pytest.mark.parametrize("name", SKIPPED)
def test_skipped(real_data, name):
    found = find_scans([real_data / "dicom" / name])
    assert found.cases == ()
    assert len(found.skipped) == sum(path.is_file() for path in (real_data / "dicom" / name).iterdir())
    assert all(SKIPPED[name] in skipped.reason for skipped in found.skipped)


def test_mosaic_and_report(real_data):
    found = find_scans([real_data / "dicom" / "mr_siemens_mosaic"])
    assert found.cases == ()
    assert sorted(skipped.reason.split(" (")[0] for skipped in found.skipped) == [
        "Enhanced SR Storage is not a CT, MR or PET image",
        "a Siemens mosaic",
        "a Siemens mosaic",
    ]


def test_junk(real_data):
    found = find_scans([real_data / "dicom" / "junk_folder"])
    assert found.cases == ()
    assert len(found.skipped) == 9
    assert all(skipped.reason for skipped in found.skipped)


def test_a_whole_disc(real_data, tmp_path):
    folder = real_data / "dicom" / "dicomdir_tree"
    found, _ = restore_folder(folder, tmp_path)
    assert len(found.cases) == 9
    assert len([path for path in tmp_path.rglob("*_denoised*") if path.is_dir()]) == 9
    assert sorted(skipped.path.name for skipped in found.skipped) == [
        "6154",
        "6247",
        "6278",
        "6293",
        "6924",
        "DICOMDIR",
    ]
    # --partial: scouts are left out; window: two of the source's images lie outside their own window
    assert judge(real_data, folder, tmp_path, "--partial", "--ignore", "window") == []


# case: factors along columns, rows and slices
FINER = {
    "ct_philips_noext": (1, 1, 5),
    "mr_canon_40slices": (1, 1, 3),
    "mr_hitachi_oblique_japanese": (2, 2, 2),
    "mr_philips_enhanced": (1, 1, 2),
    "mr_siemens_sag": (2, 1, 3),
    "mr_siemens_xa_enhanced": (2, 2, 3),
    "pt_per_slice_slope_made": (1, 1, 2),
}


@pytest.mark.parametrize("name", FINER)
def test_super_resolved(real_data, tmp_path, name):
    (case,) = find_scans([real_data / "dicom" / name]).cases
    scan = read(case)
    factors = np.array(FINER[name])
    change = np.diag([*(1 / factors), 1])
    change[:3, 3] = (1 / factors - 1) / 2
    arrays = [
        zoom(volume.array, factors, order=1, grid_mode=True, mode="nearest").astype(np.float32)
        for volume in scan.volumes
    ]
    affines = [volume.affine @ change for volume in scan.volumes]
    label = Derivation("superres", "Super-resolved by medidiff 0.1.0.", "medidiff 0.1.0 superres", "0.1.0")
    write(scan, arrays, tmp_path / "out", label, affines)
    assert judge(real_data, real_data / "dicom" / name, tmp_path / "out", task="superres") == []
    back = read(find_scans([tmp_path / "out"]).cases[0]).volumes
    for volume, array, affine in zip(back, arrays, affines, strict=True):
        assert volume.array.shape == array.shape
        np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    made = write_map(scan, arrays, tmp_path / "u.nii.gz", label, affines)
    assert len(made) == (1 if name in NO_FRAME_OF_REFERENCE else 1 + len(arrays))


NO_FRAME_OF_REFERENCE = ("mr_hitachi_oblique_japanese", "mr_philips_enhanced")

FILLED = [
    "ct_lossy_j2k",
    "ct_small_ge",
    "mr_compressed_j2k",
    "mr_compressed_jpeg",
    "mr_compressed_jpegls",
    "mr_compressed_rle",
    "mr_ge_oblique_dwi_4d",
    "mr_hitachi_oblique_japanese",
    "mr_philips_enhanced",
    "mr_siemens_xa_enhanced",
    "pt_per_slice_slope_made",
]


@pytest.mark.parametrize("name", FILLED)
def test_inpainted(real_data, tmp_path, name):
    (case,) = find_scans([real_data / "dicom" / name]).cases
    scan = read(case)
    label = Derivation("inpaint", "Inpainted by medidiff 0.1.0.", "medidiff 0.1.0 inpaint", "0.1.0")
    arrays = [volume.array.copy() for volume in scan.volumes]
    for array in arrays:
        hole = tuple(slice(size // 3, size // 2) for size in array.shape[:2])
        array[hole] = array[hole].mean()
    write(scan, arrays, tmp_path / "out", label)
    assert judge(real_data, real_data / "dicom" / name, tmp_path / "out", task="inpaint") == []
    for array, volume in zip(arrays, read(find_scans([tmp_path / "out"]).cases[0]).volumes, strict=True):
        hole = tuple(slice(size // 3, size // 2) for size in array.shape[:2])
        array[hole] = volume.array[hole]  # rounded
        np.testing.assert_array_equal(volume.array, array)


def test_missing_slice_filled(real_data, tmp_path):
    folder = real_data / "dicom" / "ct_ge_missing_slice"
    (case,) = find_scans([folder]).cases
    scan = read(case, fill_gaps=True)
    (volume,) = scan.volumes
    assert list(volume.missing.all(axis=(0, 1))) == [False, False, False, True, False]
    array = volume.array.copy()
    array[:, :, 3] = (array[:, :, 2] + array[:, :, 4]) / 2
    label = Derivation("inpaint", "Inpainted by medidiff 0.1.0.", "medidiff 0.1.0 inpaint", "0.1.0")
    assert len(write(scan, [array], tmp_path / "out", label)) == 5
    # the new slice lies where no source image does, which is what these two rules are about
    ignored = ("--ignore", "geometry", "--ignore", "nifti-geometry")
    assert judge(real_data, folder, tmp_path / "out", *ignored, task="inpaint") == []
    (back,) = read(find_scans([tmp_path / "out"]).cases[0]).volumes
    measured = [0, 1, 2, 4]
    np.testing.assert_array_equal(back.array[:, :, measured], volume.array[:, :, measured])
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)


def test_a_real_segmentation_is_a_mask(real_data):
    folder = real_data / "dicom" / "ct_with_seg_and_sr"
    (case,) = find_scans([folder]).cases
    mask = read_mask(folder, read(case))
    assert [int(count) for count in mask.holes[0].sum(axis=(0, 1))] == [36233, 35645, 35220]
    assert (mask.notes, mask.files) == ((), (folder / "liver.dcm",))


def test_encodings_agree(real_data):
    names = ["mr_uncompressed_twin", *(f"mr_compressed_{how}" for how in ("rle", "jpeg", "jpegls", "j2k"))]
    first, *others = [read(find_scans([real_data / "dicom" / name]).cases[0]).volumes[0] for name in names]
    for other in others:
        np.testing.assert_array_equal(other.array, first.array)
        np.testing.assert_array_equal(other.affine, first.affine)


AS_DCM2NIIX = [
    "ct_philips_noext",
    "mr_hitachi_oblique_japanese",
    "mr_philips_enhanced",
    "mr_siemens_sag",
    "mr_siemens_xa_enhanced",
]


@pytest.mark.parametrize("name", AS_DCM2NIIX)
def test_geometry_agrees_with_dcm2niix(real_data, tmp_path, name):
    dcm2niix = pytest.importorskip("dcm2niix")
    folder = real_data / "dicom" / name
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-m", "y", "-p", "n", "-f", "out", "-o", tmp_path, folder]
    subprocess.run(command, check=True, capture_output=True)
    theirs = nib.load(next(tmp_path.glob("*.nii")))
    stored = np.asarray(theirs.dataobj)
    ours = read(find_scans([folder]).cases[0]).volumes
    for time, volume in enumerate(ours):
        values = stored[..., time] if stored.ndim == 4 else stored
        map_to_theirs = np.linalg.inv(theirs.affine) @ volume.affine
        for index in np.ndindex(2, 2, 2):
            corner = [n * (size - 1) for n, size in zip(index, volume.array.shape, strict=True)]
            there = map_to_theirs @ np.array([*corner, 1])
            np.testing.assert_allclose(there[:3], np.rint(there[:3]), atol=1e-2)
            value = values[tuple(np.rint(there[:3]).astype(int))]
            np.testing.assert_allclose(value, volume.array[tuple(corner)], rtol=1e-6)


def test_all_nifti_volumes(real_data, tmp_path):
    found = find_scans([real_data / "data"])
    assert len(found.cases) > 50
    for case in found.cases:
        scan = read(case)
        assert all(np.isfinite(volume.array).all() for volume in scan.volumes)
        assert scan.volumes[0].modality in ("MR", "CT")
