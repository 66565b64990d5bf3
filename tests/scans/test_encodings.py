"""Every transfer syntax that the installed codecs read, and every way in which bits are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder

from medidiff.scans import read, write
from medidiff.scans.discover import find_scans

COMPRESSED = [
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    uid.RLELossless,
]


def stored_in(folder: Path, name: str) -> Dataset:
    """An image that comes with pydicom, made an MR image and put into a folder."""
    ds = pydicom.dcmread(get_testdata_file(name, download=False))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.MRImageStorage
    folder.mkdir()
    ds.save_as(folder / "a.dcm")
    return ds


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: syntax.keyword)
def test_there_is_a_codec(syntax):
    assert get_decoder(syntax).is_available


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("JPGExtended.dcm", None),  # it says so itself, without a method
        ("JPEG2000.dcm", None),
        ("JPEGLSNearLossless_16.dcm", "ISO_14495_1"),
        ("JPEGLSNearLossless_08.dcm", "ISO_14495_1"),
        ("image_dfl.dcm", ""),  # deflated, which loses nothing
    ],
)
def test_encodings_that_cannot_be_made_here(tmp_path, derivation, name, method):
    made = stored_in(tmp_path / "in", name)
    (case,) = find_scans([tmp_path / "in"]).cases
    scan = read(case)
    np.testing.assert_array_equal(scan.volumes[0].array[:, :, 0].T, made.pixel_array)
    (file,) = write(scan, [scan.volumes[0].array], tmp_path / "out", derivation)
    out = pydicom.dcmread(file)
    np.testing.assert_array_equal(out.pixel_array, made.pixel_array)
    assert out.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    assert out.get("LossyImageCompression", "00") == ("00" if method == "" else "01")
    if method:
        assert out.LossyImageCompressionMethod == method
        assert out.LossyImageCompressionRatio == pytest.approx(made.pixel_array.nbytes / len(made.PixelData), abs=0.01)


@pytest.mark.parametrize(
    "name", ["MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_RLE", "MR_small_expb"]
)
def test_encodings_agree(tmp_path, name):
    stored_in(tmp_path / "in", f"{name}.dcm")
    plain = pydicom.dcmread(get_testdata_file("MR_small.dcm", download=False))
    (case,) = find_scans([tmp_path / "in"]).cases
    np.testing.assert_array_equal(read(case).volumes[0].array[:, :, 0].T, plain.pixel_array)


@pytest.mark.parametrize(("signed", "expected"), [(0, [4095, 2047, 2048, 1]), (1, [-1, 2047, -2048, 1])])
def test_bits_beyond_those_stored_mean_nothing(tmp_path, make_image, derivation, signed, expected):
    pixels = np.array([[0x0FFF, 0x07FF, 0xF800, 0x1001]], dtype=np.uint16)  # not sign-extended, or with an old overlay
    ds = make_image((0, 0, 0), pixels, modality="MR", bits=12)
    ds.PixelRepresentation = signed
    (tmp_path / "in").mkdir()
    ds.save_as(tmp_path / "in" / "a.dcm", enforce_file_format=True)
    (case,) = find_scans([tmp_path / "in"]).cases
    scan = read(case)
    assert list(scan.volumes[0].array.ravel()) == expected
    (file,) = write(scan, [scan.volumes[0].array], tmp_path / "out", derivation)
    out = pydicom.dcmread(file)
    assert list(out.pixel_array.ravel()) == expected
    assert (out.BitsAllocated, out.BitsStored, out.HighBit, out.PixelRepresentation) == (16, 12, 11, signed)


@pytest.mark.parametrize(
    ("bits", "kind"), [(10, np.uint16), (14, np.int16), (16, np.int16), (24, np.uint32), (7, np.uint8)]
)
def test_values_are_clipped_to_the_bits(tmp_path, make_image, derivation, bits, kind):
    ds = make_image((0, 0, 0), np.full((2, 4), 5, dtype=kind), modality="MR", bits=bits)
    (tmp_path / "in").mkdir()
    ds.save_as(tmp_path / "in" / "a.dcm", enforce_file_format=True)
    (case,) = find_scans([tmp_path / "in"]).cases
    scan = read(case)
    array = np.full_like(scan.volumes[0].array, 3)
    array[0], array[1] = 1e9, -1e9
    (file,) = write(scan, [array], tmp_path / "out", derivation)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind is np.int16 else (0, (1 << bits) - 1)
    np.testing.assert_array_equal(pydicom.dcmread(file).pixel_array, [[high, low, 3, 3]] * 2)
