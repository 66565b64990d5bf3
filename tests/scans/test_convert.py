"""DICOM series as NIfTI: the place of every voxel, what is kept, what is refused, and dcm2niix as the judge."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff import scans
from medidiff.errors import ScanError
from medidiff.scans import convert, read
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Derivation, Scan

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


@pytest.fixture
def series(save_series: Callable, tmp_path: Path) -> Callable[..., Scan]:
    def make(count: int = 5, **more: object) -> Scan:
        save_series("series", count, **more)
        (case,) = find_scans([tmp_path / "series"]).cases
        return read(case)

    return make


def written(scan: Scan, path: Path, derivation: Derivation, **more: object) -> list[nib.Nifti1Image]:
    arrays = [volume.array for volume in scan.volumes]
    return [nib.load(file) for file in scans.write(scan, arrays, path, derivation, kind="nifti", **more)]


def test_an_axial_series_runs_left_anterior_superior(series, tmp_path, derivation):
    scan = series()
    (image,) = written(scan, tmp_path / "out.nii.gz", derivation)
    (volume,) = scan.volumes
    assert nib.aff2axcodes(image.affine) == ("L", "A", "S")
    assert image.shape == (4, 6, 5)
    # spacing 0.5 mm between rows, 0.75 between columns; the first pixel lies at (-10, 20, 5) in LPS
    np.testing.assert_allclose(image.affine[:3, :3], np.diag([-0.75, 0.5, 2.0]))
    np.testing.assert_allclose(image.affine[:3, 3], [10.0, -20.0 - 5 * 0.5, 5.0])
    np.testing.assert_array_equal(image.get_fdata(), volume.array[:, ::-1])
    assert image.get_data_dtype() == np.int16
    stored = np.asanyarray(image.dataobj.get_unscaled())
    np.testing.assert_array_equal(stored, volume.array[:, ::-1] + 1024)
    assert (image.dataobj.slope, image.dataobj.inter) == (1.0, -1024.0)
    header = image.header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert header["descrip"].item().decode() == derivation.short


def test_a_restored_value_is_rounded_as_in_dicom(series, tmp_path, derivation):
    scan = series()
    array = scan.volumes[0].array.copy()
    array[1, 2, 3] = 100.4
    array[2, 2, 3] = 1e9
    (file,) = scans.write(scan, [array], tmp_path / "out.nii.gz", derivation, kind="nifti")
    values = nib.load(file).get_fdata()[:, ::-1]
    assert values[1, 2, 3] == 100
    assert values[2, 2, 3] == 2**15 - 1 - 1024
    array[1:3, 2, 3] = scan.volumes[0].array[1:3, 2, 3]
    values[1:3, 2, 3] = scan.volumes[0].array[1:3, 2, 3]
    np.testing.assert_array_equal(values, array)


def test_padding_stays(series, tmp_path, derivation):
    pixels = np.arange(24, dtype=np.int16).reshape(6, 4) + 100
    pixels[0] = -2000
    scan = series(pixels=pixels, PixelPaddingValue=-2000)
    array = scan.volumes[0].array + 7
    (file,) = scans.write(scan, [array], tmp_path / "out.nii.gz", derivation, kind="nifti")
    values = nib.load(file).get_fdata()[:, ::-1, 0].T
    np.testing.assert_array_equal(values[0], -2000 - 1024)
    np.testing.assert_array_equal(values[1:], pixels[1:] - 1024 + 7)


def test_slopes_that_differ_give_physical_values(series, tmp_path, derivation):
    scan = series(modality="PT", RescaleSlope=lambda k: 1 + k / 4, RescaleIntercept=0, Units="BQML")
    (image,) = written(scan, tmp_path / "out.nii.gz", derivation)
    assert image.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.asarray(image.dataobj), scan.volumes[0].array[:, ::-1])


def test_unsigned_values_beyond_int16_stay_whole(series, tmp_path, derivation):
    pixels = np.full((6, 4), 100, dtype=np.uint16)
    pixels[3, 1] = 60000
    scan = series(pixels=pixels, modality="MR")
    (image,) = written(scan, tmp_path / "out.nii.gz", derivation)
    assert image.get_data_dtype() == np.uint16
    assert image.get_fdata()[1, 2].tolist() == [60000] * 5


def test_acquired_in_three_dimensions_lies_along_ras(series, tmp_path, derivation):
    scan = series(modality="MR", MRAcquisitionType="3D", orientation=SAGITTAL, step=(-2.0, 0, 0))
    (image,) = written(scan, tmp_path / "out.nii.gz", derivation)
    (volume,) = scan.volumes
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.shape == (5, 4, 6)
    for index in np.ndindex(volume.array.shape):  # every voxel lies where it lay
        there = np.linalg.inv(image.affine) @ volume.affine @ np.array([*index, 1])
        assert image.dataobj[tuple(np.rint(there[:3]).astype(int))] == volume.array[index]


def test_a_single_image_is_not_turned(series, tmp_path, derivation):
    scan = series(1, modality="MR", MRAcquisitionType="3D", orientation=SAGITTAL)
    (image,) = written(scan, tmp_path / "out.nii.gz", derivation)
    assert image.shape == (4, 6, 1)
    assert nib.aff2axcodes(image.affine) == ("P", "S", "R")


def test_repetitions_become_the_fourth_dimension(series, tmp_path, derivation):
    where = lambda k: (0.0, 0.0, 2.0 * (k % 3))  # noqa: E731
    scan = series(
        6,
        modality="MR",
        position=where,
        instance=lambda k: 1 + k % 3 + 3 * (1 - k // 3),  # the second half was taken first
        TemporalPositionIdentifier=lambda k: 1 + k // 3,
        RepetitionTime=2500,
    )
    assert len(scan.volumes) == 2
    (image,) = written(scan, tmp_path / "out.nii.gz", derivation)
    assert image.shape == (4, 6, 3, 2)
    assert image.header.get_zooms()[3] == 2.5
    (part,) = convert.layout(scan)
    for place, index in enumerate(part.volumes):
        np.testing.assert_array_equal(image.dataobj[..., place], scan.volumes[index].array[:, ::-1])
    first = {header.instance for header in scan.source.stacks[part.volumes[0]].images}
    assert first == {1, 2, 3}


def test_echoes_become_files_of_their_own(series, tmp_path, derivation):
    where = lambda k: (0.0, 0.0, 2.0 * (k % 3))  # noqa: E731
    times = {"EchoTime": lambda k: 5.0 + 5 * (k // 3), "EchoNumbers": lambda k: 1 + k // 3}
    scan = series(6, modality="MR", position=where, instance=lambda k: k + 1, **times)
    images = written(scan, tmp_path / "out.nii.gz", derivation)
    assert [image.shape for image in images] == [(4, 6, 3), (4, 6, 3)]
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == ["out.nii.gz", "out_2.nii.gz"]
    parts = convert.layout(scan)
    for image, part in zip(images, parts, strict=True):
        np.testing.assert_array_equal(image.get_fdata(), scan.volumes[part.volumes[0]].array[:, ::-1])
    maps = [np.full_like(volume.array, index) for index, volume in enumerate(scan.volumes)]
    files = scans.write_map(scan, maps, tmp_path / "map.nii.gz", derivation, kinds=("nifti",))
    assert [nib.load(file).get_fdata().max() for file in files] == [part.volumes[0] for part in parts]
    np.testing.assert_allclose(nib.load(files[1]).affine, images[1].affine)


def test_a_finer_grid(series, tmp_path, derivation):
    scan = series()
    (volume,) = scan.volumes
    array = np.repeat(volume.array, 2, axis=2)
    change = np.diag([1, 1, 0.5, 1.0])
    change[2, 3] = -0.25
    arrays, affines = [array], [volume.affine @ change]
    (file,) = scans.write(scan, arrays, tmp_path / "out.nii.gz", derivation, affines, kind="nifti")
    image = nib.load(file)
    np.testing.assert_array_equal(image.get_fdata(), array[:, ::-1])
    np.testing.assert_allclose(np.diag(image.affine)[:3], [-0.75, 0.5, 1.0])
    assert image.affine[2, 3] == pytest.approx(5 - 0.5)


def test_a_part_leads_back(series):
    scan = series(modality="MR", MRAcquisitionType="3D", orientation=SAGITTAL, step=(-2.0, 0, 0))
    (volume,) = scan.volumes
    (part,) = convert.layout(scan)
    (told,) = convert.told({"nifti": [{"volumes": list(part.volumes), "turn": part.turn.tolist()}]})
    back = told.back.volume(part.volume(volume))
    np.testing.assert_array_equal(back.array, volume.array)
    np.testing.assert_allclose(back.affine, volume.affine)
    assert back.slice_axis == volume.slice_axis


@pytest.mark.parametrize("damaged", [{}, {"nifti": 3}, {"nifti": [{"volumes": [0]}]}, {"nifti": [{"turn": [[0]]}]}])
def test_a_damaged_sidecar_tells_of_no_files(damaged):
    assert convert.told(damaged) == ()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"step": (0, 0.5, 2)}, "gantry tilt"),
        ({"position": lambda k: (0, 0, (0, 2, 4, 8, 10)[k])}, "a slice is missing"),
        ({"ImagePositionPatient": None, "count": 1}, "do not say where they lie"),
    ],
)
def test_what_has_no_single_affine_is_refused(series, tmp_path, derivation, more: dict, words: str):
    scan = series(**more)
    assert words in scans.no_nifti(scan)
    with pytest.raises(ScanError, match=words):
        written(scan, tmp_path / "out.nii.gz", derivation)
    assert not list(tmp_path.glob("*.nii.gz"))


def judge(folder: Path, tmp_path: Path, derivation: Derivation, *options: str) -> list[str]:
    """Convert a folder, once with dcm2niix, and give the names of the cases that are refused."""
    dcm2niix = pytest.importorskip("dcm2niix")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    command = [dcm2niix.bin, "-z", "n", "-b", "n", *options, "-f", "%s_%d", "-o", theirs, folder]
    subprocess.run(command, check=False, capture_output=True)
    others = [nib.load(path) for path in sorted(theirs.glob("*.nii"))]
    refused = []
    for number, case in enumerate(find_scans([folder]).cases):
        scan = read(case)
        if scans.no_nifti(scan):
            refused.append(scans.no_nifti(scan))
            continue
        for ours in written(scan, tmp_path / f"ours{number}.nii.gz", derivation):
            assert any(map(same(ours), others)), case.stem
    return refused


def same(ours: nib.Nifti1Image) -> Callable[[nib.Nifti1Image], bool]:
    """Equal shape, affine and voxels, up to the rounding of single precision."""

    def compare(theirs: nib.Nifti1Image) -> bool:
        if theirs.shape != ours.shape or not np.allclose(theirs.affine, ours.affine, atol=2e-4):
            return False
        a, b = (np.asarray(image.dataobj, dtype=np.float64) for image in (theirs, ours))
        return bool(np.allclose(a, b, rtol=1e-6, atol=1e-5))

    return compare


def test_the_sample_series_lies_where_dcm2niix_puts_it(sample_data, tmp_path, derivation):
    assert judge(sample_data / "dicom_mr", tmp_path, derivation) == []


# case: words of the refusals
REAL: dict[str, Sequence[str]] = {
    "ct_ge_missing_slice": ["a slice is missing"],
    "ct_lossy_j2k": [],
    "ct_philips_noext": [],
    "ct_siemens_gantry_tilt": ["14.0 degrees"],
    "ct_siemens_same_position": [],
    "ct_small_ge": [],
    "ct_with_seg_and_sr": [],
    "dicomdir_tree": ["a slice is missing"],
    "mr_canon_40slices": [],
    "mr_compressed_j2k": [],
    "mr_compressed_jpegls": [],
    "mr_duplicate_file_made": [],
    "mr_ge_oblique_dwi_4d": [],
    "mr_hitachi_oblique_japanese": [],
    "mr_implicit_vr": [],
    "mr_monochrome1_made": [],
    "mr_nonascii_names_made": [],
    "mr_overlays": [],
    "mr_philips_enhanced": [],
    "mr_philips_two_orientations": [],
    "mr_pmod_per_slice_slope": [],
    "mr_siemens_sag": [],
    "mr_siemens_xa_enhanced": [],
    "mr_small_big_endian": [],
    "pt_per_slice_slope_made": [],
    "two_series_flat": [],
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_series_lie_where_dcm2niix_puts_them(real_data, tmp_path, derivation, name: str):
    # of Philips the values that RescaleSlope gives, not those of a private slope
    options = ("-p", "n") if "philips_enhanced" in name else ()
    refused = judge(real_data / "dicom" / name, tmp_path, derivation, *options)
    assert len(refused) == len(REAL[name])
    assert all(words in why for words, why in zip(REAL[name], refused, strict=True))
