"""Results finer than the scan: what the headers say, where the voxels lie, what is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from medidiff.errors import ScanError
from medidiff.scans import nifti, read, write, write_map
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Derivation, Scan, ScanRef

SFORM = nib.affines.from_matvec(np.array([[0.9, -0.1, 0.3], [0.15, 1.1, -0.2], [-0.25, 0.2, 2.9]]), [-31.0, 12.5, 7.0])
QFORM = nib.affines.from_matvec(np.diag([-1.0, 1.2, 3.0]), [5.0, 6.0, 7.0])


@pytest.fixture
def superres() -> Derivation:
    return Derivation("superres", "Super-resolved by medidiff.", "medidiff 0.1.0 superres", "0.1.0")


def finer(affine: np.ndarray, factors: tuple[float, float, float]) -> np.ndarray:
    """The affine of a grid with the same outer faces."""
    scale = 1 / np.array(factors)
    change = np.diag([*scale, 1.0])
    change[:3, 3] = (scale - 1) / 2
    return affine @ change


def repeat(array: np.ndarray, factors: tuple[int, int, int]) -> np.ndarray:
    for axis, factor in enumerate(factors):
        array = np.repeat(array, factor, axis=axis)
    return array


def ref_of(path: Path) -> ScanRef:
    return ScanRef("nifti", path, (path,), Path(path.name), nifti.nifti_stem(path.name) or "x")


def save(path: Path, data: np.ndarray, *, sform: int = 2, qform: int = 1, slices: bool = False) -> Scan:
    image = nib.Nifti1Image(data, SFORM, dtype=data.dtype)
    image.set_sform(SFORM, code=sform)
    image.set_qform(QFORM, code=qform)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.5  # TR
    if slices:
        image.header.set_dim_info(freq=0, phase=1, slice=2)
        image.header["slice_code"], image.header["slice_end"], image.header["slice_duration"] = 1, 2, 0.1
    nib.save(image, path)
    return read(ref_of(path))


def test_nifti_header_follows(tmp_path, superres):
    data = np.random.default_rng(0).integers(0, 999, (5, 7, 3)).astype(np.int16)
    scan = save(tmp_path / "a.nii.gz", data, slices=True)
    (volume,) = scan.volumes
    assert (volume.slice_axis, volume.thickness) == (2, None)
    (out,) = write(
        scan, [repeat(volume.array, (1, 2, 3))], tmp_path / "b.nii.gz", superres, [finer(volume.affine, (1, 2, 3))]
    )
    image = nib.load(out)
    assert image.shape == (5, 14, 9)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj.get_unscaled()), repeat(data, (1, 2, 3)))
    header = image.header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (2, 1)
    np.testing.assert_allclose(image.get_sform(), finer(SFORM, (1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), finer(QFORM, (1, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(header["pixdim"][1:5], [1.0, 0.6, 1.0, 2.5], rtol=1e-6)
    assert header.get_xyzt_units() == ("mm", "sec")
    assert header.get_data_dtype() == np.int16
    assert header.get_dim_info() == (0, 1, 2)
    assert [float(header[name]) for name in ("slice_code", "slice_start", "slice_end", "slice_duration")] == [0] * 4
    assert bytes(header["descrip"]).startswith(b"medidiff 0.1.0 superres")
    (again,) = read(ref_of(out)).volumes
    np.testing.assert_allclose(again.affine, finer(volume.affine, (1, 2, 3)), atol=1e-5)


def test_slice_times_stay_with_their_slices(tmp_path, superres):
    scan = save(tmp_path / "a.nii", np.ones((4, 4, 3), dtype=np.int16), slices=True)
    array = repeat(scan.volumes[0].array, (2, 2, 1))
    (out,) = write(scan, [array], tmp_path / "b.nii", superres, [finer(scan.volumes[0].affine, (2, 2, 1))])
    header = nib.load(out).header
    assert (int(header["slice_code"]), int(header["slice_end"]), int(header["sform_code"])) == (1, 2, 2)


@pytest.mark.parametrize(("sform", "qform"), [(0, 0), (0, 1), (1, 0)])
def test_every_pair_of_codes(tmp_path, superres, sform, qform):
    scan = save(tmp_path / "a.nii", np.zeros((4, 5, 6), dtype=np.float32), sform=sform, qform=qform)
    (volume,) = scan.volumes
    target = finer(volume.affine, (1.5, 1, 2))
    target = nib.affines.from_matvec(target[:3, :3], target[:3, 3])
    array = np.zeros((6, 5, 12), dtype=np.float32)
    (out,) = write(scan, [array], tmp_path / "b.nii", superres, [target])
    image = nib.load(out)
    np.testing.assert_allclose(image.affine, target, atol=1e-5)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (sform, qform)


def test_scaling_stays_and_values_are_clipped(tmp_path, superres):
    scan = save(tmp_path / "a.nii", np.array([[[10, 20, 30]]], dtype=np.uint8))
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = np.array([0.5, -10], dtype="<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    scan = read(ref_of(tmp_path / "a.nii"))
    array = np.array([[[-5.0, -2.3, 0.1, 2.6, 500, -500]]], dtype=np.float32)
    (out,) = write(scan, [array], tmp_path / "b.nii", superres, [finer(scan.volumes[0].affine, (1, 1, 2))])
    image = nib.load(out)
    assert (image.dataobj.slope, image.dataobj.inter) == (0.5, -10)
    np.testing.assert_array_equal(image.dataobj.get_unscaled(), [[[10, 15, 20, 25, 255, 0]]])


def test_nan_stays_where_the_nearest_voxel_is(tmp_path, superres):
    data = np.ones((2, 2, 2), dtype=np.float32)
    data[1, 0, 1] = np.nan
    scan = save(tmp_path / "a.nii", data)
    array = np.full((4, 4, 4), 3, dtype=np.float32)
    affine = finer(scan.volumes[0].affine, (2, 2, 2))
    (out,) = write(scan, [array], tmp_path / "b.nii", superres, [affine])
    expected = np.where(np.isnan(repeat(data, (2, 2, 2))), np.nan, 3)
    np.testing.assert_array_equal(np.asanyarray(nib.load(out).dataobj), expected)
    (out,) = write(scan, [array], tmp_path / "c.nii", superres, [affine], [np.isnan(data)])
    np.testing.assert_array_equal(np.asanyarray(nib.load(out).dataobj), array)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3, 2), (4, 5, 1, 3), (3, 3, 3, 1, 2)])
def test_volumes_of_every_dimension(tmp_path, superres, shape):
    data = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    scan = save(tmp_path / "a.nii.gz", data)
    factors = (2, 3, 1)
    arrays = [repeat(volume.array, factors) for volume in scan.volumes]
    affines = [finer(volume.affine, factors) for volume in scan.volumes]
    (out,) = write(scan, arrays, tmp_path / "b.nii.gz", superres, affines)
    image = nib.load(out)
    assert image.shape == (shape[0] * 2, shape[1] * 3, *shape[2:])
    np.testing.assert_array_equal(image.get_fdata(), repeat(data, factors[: min(len(shape), 3)]))
    (unc,) = write_map(scan, [array / 10 for array in arrays], tmp_path / "u.nii.gz", superres, affines)
    image = nib.load(unc)
    np.testing.assert_allclose(image.get_fdata(), repeat(data, factors[: min(len(shape), 3)]) / 10, rtol=1e-6)
    np.testing.assert_allclose(image.affine, affines[0], atol=1e-5)


def test_more_voxels_than_nifti_can_count_are_refused(tmp_path, superres):
    scan = save(tmp_path / "a.nii", np.zeros((1, 2, 2), dtype=np.uint8))
    array = np.zeros((40000, 2, 2), dtype=np.float32)
    with pytest.raises(ScanError, match="more than the format"):
        write(scan, [array], tmp_path / "b.nii", superres, [finer(scan.volumes[0].affine, (40000, 1, 1))])


def test_volumes_of_one_file_share_a_grid(tmp_path, superres):
    scan = save(tmp_path / "a.nii.gz", np.zeros((4, 5, 3, 2), dtype=np.int16))
    first = scan.volumes[0].affine
    arrays = [np.zeros((4, 5, 6), dtype=np.float32)] * 2
    with pytest.raises(ScanError, match="do not share one grid"):
        write(scan, arrays, tmp_path / "b.nii.gz", superres, [finer(first, (1, 1, 2)), first])
    with pytest.raises(ScanError, match="does not fit"):
        write(scan, arrays, tmp_path / "b.nii.gz", superres)


# ------------------------------------------------------------------------------------------------------------- DICOM


def read_series(folder: Path) -> Scan:
    (case,) = find_scans([folder]).cases
    return read(case)


def test_dicom_geometry_follows(tmp_path, save_series, superres):
    oblique = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
    normal = np.cross(oblique[:3], oblique[3:])
    made = save_series(
        count=3,
        orientation=oblique,
        step=3 * normal,
        SliceLocation=lambda k: 50 - 3 * k,
        SpacingBetweenSlices=3.0,
        KVP=lambda k: 100 + k,
    )
    scan = read_series(tmp_path / "series")
    (volume,) = scan.volumes
    assert (volume.slice_axis, volume.thickness, volume.irregular, volume.missing) == (2, 2.0, "", None)
    factors = (2, 1, 3)
    files = write(scan, [repeat(volume.array, factors)], tmp_path / "out", superres, [finer(volume.affine, factors)])
    out = [pydicom.dcmread(file) for file in files]
    assert [int(ds.InstanceNumber) for ds in out] == list(range(1, 10))
    by_instance = {int(ds.InstanceNumber): ds for ds in made}  # 3, 2, 1 along the normal
    column = np.array(oblique[:3])
    for number, ds in enumerate(out, start=1):
        k = 9 - number  # the source's numbers fall along the normal, so do the new ones
        source = by_instance[3 - k // 3]
        origin = np.array([-10.0, 20, 5]) + normal * (k - 1) - column * 0.75 / 4
        np.testing.assert_allclose(np.array(ds.ImagePositionPatient, dtype=float), origin, atol=1e-6)
        assert [float(value) for value in ds.ImageOrientationPatient] == list(oblique)
        assert (ds.Rows, ds.Columns, list(ds.PixelSpacing)) == (6, 8, [0.5, 0.375])
        assert (ds.SliceThickness, ds.SpacingBetweenSlices) == (1.0, 1.0)
        assert float(ds.SliceLocation) == pytest.approx(50 - (k - 1))
        assert (ds.KVP, ds.FrameOfReferenceUID) == (source.KVP, source.FrameOfReferenceUID)
        np.testing.assert_array_equal(ds.pixel_array, np.repeat(source.pixel_array, 2, axis=1))
        names = [item.ReferencedSOPInstanceUID for item in ds.SourceImageSequence]
        assert names[0] == source.SOPInstanceUID
        assert sorted(names) == sorted(each.SOPInstanceUID for each in made)
        assert {item.PurposeOfReferenceCodeSequence[0].CodeValue for item in ds.SourceImageSequence} == {"121322"}
        assert (ds.DerivationCodeSequence[0].CodeValue, ds.SyntheticData) == ("113085", "YES")
        assert ds.SeriesDescription == "Thin slices super-resolved"
    assert len({ds.SOPInstanceUID for ds in out}) == 9
    (back,) = read_series(tmp_path / "out").volumes
    np.testing.assert_allclose(back.affine, finer(volume.affine, factors), atol=1e-6)
    np.testing.assert_array_equal(back.array, repeat(volume.array, factors))


def test_thickness_never_grows_and_what_was_empty_stays_so(tmp_path, save_series, superres):
    save_series("gaps", count=2, step=(0, 0, 8), SliceThickness=1.5)
    save_series("none", count=2, SliceThickness=None, series="1.2.3")
    for name, expected in (("gaps", 1.5), ("none", None)):
        scan = read_series(tmp_path / name)
        (volume,) = scan.volumes
        assert volume.thickness == expected
        affine = finer(volume.affine, (1, 1, 2))
        files = write(scan, [repeat(volume.array, (1, 1, 2))], tmp_path / f"{name}_out", superres, [affine])
        ds = pydicom.dcmread(files[0])
        assert ds.get("SliceThickness") == expected
        assert "SpacingBetweenSlices" not in ds


def test_pet_counts_its_slices_and_keeps_a_slope_while_the_values_fit(tmp_path, save_series, superres):
    pixels = np.array([[0, 100], [200, 32000]], dtype=np.int16)
    save_series(
        count=2,
        modality="PT",
        pixels=lambda k: pixels,
        RescaleSlope=lambda k: (0.5, 2.0)[k],
        RescaleIntercept=0,
        Units="BQML",
        NumberOfSlices=2,
        ImageIndex=lambda k: k + 1,
        instance=lambda k: k + 1,
    )
    scan = read_series(tmp_path / "series")
    (volume,) = scan.volumes
    array = np.stack([volume.array[:, :, 0], volume.array.mean(axis=2), *np.moveaxis(volume.array, 2, 0)], axis=2)
    array = array[:, :, [0, 1, 2, 3]].astype(np.float32)
    affine = finer(volume.affine, (1, 1, 2))
    out = [pydicom.dcmread(file) for file in write(scan, [array], tmp_path / "out", superres, [affine])]
    assert [(ds.NumberOfSlices, ds.ImageIndex, ds.InstanceNumber) for ds in out] == [(4, n, n) for n in range(1, 5)]
    assert [float(ds.RescaleSlope) for ds in out] == pytest.approx([0.5, 40000 / 32767, 2.0, 2.0], rel=1e-6)
    assert all(ds.RescaleIntercept == 0 for ds in out)
    for k, ds in enumerate(out):
        slope = float(ds.RescaleSlope)
        np.testing.assert_allclose(ds.pixel_array.T * slope, array[:, :, k], atol=slope / 2)


def test_a_slope_that_all_slices_share_stays_and_values_are_clipped(tmp_path, save_series, superres):
    save_series(count=2, pixels=lambda k: np.array([[0, 4095]], dtype=np.uint16), bits=12)
    scan = read_series(tmp_path / "series")
    (volume,) = scan.volumes
    array = repeat(volume.array, (1, 1, 2)) + np.float32(100)
    affine = finer(volume.affine, (1, 1, 2))
    out = [pydicom.dcmread(file) for file in write(scan, [array], tmp_path / "out", superres, [affine])]
    assert {(ds.BitsStored, float(ds.RescaleSlope)) for ds in out} == {(12, 1.0)}
    np.testing.assert_array_equal(out[0].pixel_array, [[100, 4095]])


def test_padding_of_the_nearest_pixel_stays(tmp_path, save_series, superres):
    pixels = np.array([[0, 5], [0, 900]], dtype=np.uint16)
    save_series(count=2, pixels=lambda k: pixels, PixelPaddingValue=0)
    scan = read_series(tmp_path / "series")
    array = np.full((4, 4, 2), -2000, dtype=np.float32)
    affine = finer(scan.volumes[0].affine, (2, 2, 1))
    out = pydicom.dcmread(write(scan, [array], tmp_path / "out", superres, [affine])[0])
    np.testing.assert_array_equal(out.pixel_array, [[0, 0, 1, 1]] * 4)


def test_every_volume_of_a_series_goes_to_its_own_grid(tmp_path, save_series, superres):
    save_series("in/a", count=3, TemporalPositionIdentifier=1, modality="MR")
    save_series("in/b", count=3, TemporalPositionIdentifier=2, modality="MR")
    save_series("in/c", count=2, orientation=(0, 1, 0, 0, 0, -1), step=(3, 0, 0), modality="MR")
    scan = read_series(tmp_path / "in")
    factors = [(1, 1, 2) if volume.array.shape[2] == 3 else (2, 2, 3) for volume in scan.volumes]
    assert len(factors) == 3
    arrays = [repeat(volume.array, each) for volume, each in zip(scan.volumes, factors, strict=True)]
    affines = [finer(volume.affine, each) for volume, each in zip(scan.volumes, factors, strict=True)]
    files = write(scan, arrays, tmp_path / "out", superres, affines)
    out = [pydicom.dcmread(file) for file in files]
    assert [int(ds.InstanceNumber) for ds in out] == list(range(1, 19))
    assert len({ds.SOPInstanceUID for ds in out}) == 18
    assert {len(ds.SourceImageSequence) for ds in out} == {2, 3}
    back = read_series(tmp_path / "out")
    for volume, array, affine in zip(back.volumes, arrays, affines, strict=True):
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


def test_a_sample_is_a_series_of_its_own(tmp_path, save_series, superres):
    save_series(count=2)
    scan = read_series(tmp_path / "series")
    affine = finer(scan.volumes[0].affine, (1, 1, 2))
    array = repeat(scan.volumes[0].array, (1, 1, 2))
    mean = pydicom.dcmread(write(scan, [array], tmp_path / "mean", superres, [affine])[0])
    sample = pydicom.dcmread(write(scan, [array], tmp_path / "one", replace(superres, sample=True), [affine])[0])
    assert (mean.SeriesNumber, sample.SeriesNumber) == (10003, 20003)
    assert mean.SeriesInstanceUID != sample.SeriesInstanceUID
    assert sample.SeriesDescription == "Thin slices super-resolved sample"
    purposes = [ds.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0] for ds in (mean, sample)]
    assert [purpose.CodeValue for purpose in purposes] == ["109102", "109100"]
