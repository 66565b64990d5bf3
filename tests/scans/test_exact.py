"""Inpainting: every stored value outside the hole survives, bit for bit, in every data type."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medidiff.scans import nifti, read, write
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Derivation, ScanRef

INPAINT = Derivation("inpaint", "Inpainted by medidiff.", "medidiff 0.1.0 inpaint", "0.1.0")
TYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


def save(path: Path, data: np.ndarray, slope: float, intercept: float) -> ScanRef:
    nib.save(nib.Nifti1Image(data, np.eye(4), dtype=data.dtype), path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([slope, intercept], dtype="<f4").tobytes()
    path.write_bytes(bytes(raw))
    return ScanRef("nifti", path, (path,), Path(path.name), nifti.nifti_stem(path.name) or "x")


def stored(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj.get_unscaled())


@settings(deadline=None, max_examples=60)
@given(data=st.data(), dtype=st.sampled_from(TYPES))
def test_values_outside_the_hole_are_exact(data, dtype):
    values = data.draw(hnp.arrays(np.dtype(f"<{dtype}"), (2, 3, 2)))
    scaled = st.floats(-1e6, 1e6, width=32).filter(lambda value: abs(value) > 1e-6)
    slope, intercept = data.draw(st.one_of(st.just((1.0, 0.0)), st.tuples(scaled, st.floats(-1e6, 1e6, width=32))))
    values[0, 0, 0] = 1  # one finite value at least
    hole = np.zeros(values.shape, dtype=bool)
    hole[1, 1:, :] = True
    with tempfile.TemporaryDirectory() as folder:
        scan = read(save(Path(folder) / "a.nii", values, slope, intercept))
        array = scan.volumes[0].array.copy()
        array[hole] = np.float32(data.draw(st.floats(-1e3, 1e3, width=32)))
        (out,) = write(scan, [array], Path(folder) / "b.nii", INPAINT)
        assert stored(out)[~hole].tobytes() == values[~hole].tobytes()
        before, after = nib.load(Path(folder) / "a.nii").header, nib.load(out).header
        assert after.get_slope_inter() == before.get_slope_inter()
        assert after.get_data_dtype() == before.get_data_dtype()


@pytest.mark.parametrize("holes", [False, True])
def test_nan_is_filled_where_it_is_in_the_hole(tmp_path, holes):
    data = np.ones((3, 3, 3), dtype=np.float32)
    data[0, 0, 0] = data[2, 2, 2] = np.nan
    scan = read(save(tmp_path / "a.nii", data, 1, 0))
    hole = np.zeros(data.shape, dtype=bool)
    hole[0] = True
    array = np.where(hole, np.float32(5), scan.volumes[0].array)
    (out,) = write(scan, [array], tmp_path / "b.nii", INPAINT, holes=[hole] if holes else None)
    expected = np.where(hole & (np.isfinite(data) | holes), 5, data)
    np.testing.assert_array_equal(stored(out), expected)


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint16, 12), (np.int16, 16), (np.int16, 12), (np.uint8, 8)])
@pytest.mark.parametrize("slopes", [(1.0, 1.0), (0.0137, 3.21)])
def test_dicom_pixels_outside_the_hole_are_exact(tmp_path, save_series, dtype, bits, slopes):
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if np.dtype(dtype).kind == "i" else (0, (1 << bits) - 1)
    pixels = np.random.default_rng(1).integers(low, high, (2, 16, 12), endpoint=True).astype(dtype)
    save_series(
        count=2,
        pixels=lambda k: pixels[k],
        bits=bits,
        RescaleSlope=lambda k: slopes[k],
        RescaleIntercept=-1024,
        instance=lambda k: k,
    )
    (case,) = find_scans([tmp_path / "series"]).cases
    scan = read(case)
    array = scan.volumes[0].array.copy()
    array[3:6, 4:9] = array.mean()
    out = [pydicom.dcmread(file) for file in write(scan, [array], tmp_path / "out", INPAINT)]
    for ds, old in zip(out, pixels, strict=True):
        inside = np.zeros(old.shape, dtype=bool)
        inside[4:9, 3:6] = True
        np.testing.assert_array_equal(ds.pixel_array[~inside], old[~inside])
        assert (ds.pixel_array[inside] != old[inside]).any()
        assert (ds.BitsStored, float(ds.RescaleIntercept)) == (bits, -1024)


@pytest.mark.parametrize("how", [pydicom.uid.RLELossless, pydicom.uid.JPEGLSLossless, pydicom.uid.JPEG2000Lossless])
def test_compressed_sources_too(tmp_path, save_series, how):
    pixels = np.random.default_rng(2).integers(0, 4096, (32, 32)).astype(np.uint16)
    (made,) = save_series(count=1, modality="MR", pixels=lambda k: pixels, bits=12)
    try:
        made.compress(how, generate_instance_uid=False)
    except RuntimeError as error:
        pytest.skip(f"no encoder here: {error}")
    made.save_as(tmp_path / "series" / "image001")
    (case,) = find_scans([tmp_path / "series"]).cases
    scan = read(case)
    array = scan.volumes[0].array.copy()
    array[:5] = 7
    (file,) = write(scan, [array], tmp_path / "out", INPAINT)
    expected = pixels.copy()
    expected[:, :5] = 7
    np.testing.assert_array_equal(pydicom.dcmread(file).pixel_array, expected)


def test_padding_stays_in_the_hole_too(tmp_path, save_series):
    pixels = np.array([[0, 5, 0], [0, 900, 7]], dtype=np.uint16)  # the hole is the first column
    save_series(count=1, pixels=lambda k: pixels, PixelPaddingValue=0)
    (case,) = find_scans([tmp_path / "series"]).cases
    scan = read(case)
    hole = np.zeros((3, 2, 1), dtype=bool)
    hole[0] = True
    array = np.where(hole, np.float32(-1000), scan.volumes[0].array)
    (file,) = write(scan, [array], tmp_path / "out", INPAINT, holes=[hole])
    np.testing.assert_array_equal(pydicom.dcmread(file).pixel_array, pixels)


def test_gzip_too(tmp_path):
    data = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    ref = save(tmp_path / "a.nii", data, 0.1, 3)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(ref.path.read_bytes()))
    path = tmp_path / "b.nii.gz"
    scan = read(ScanRef("nifti", path, (path,), Path(path.name), "b"))
    (out,) = write(scan, [scan.volumes[0].array], tmp_path / "c.nii.gz", INPAINT)
    np.testing.assert_array_equal(stored(out), data)
