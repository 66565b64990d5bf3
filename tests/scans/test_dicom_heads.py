"""Headers read in haste are those that pydicom reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from medidiff.scans import dicom_headers, dicom_heads
from tests.scans.enhanced import enhanced, noise, save, stack

QUICK = ("explicit", "implicit", "rle", "enhanced")


def written(folder: Path, how: str, make_image) -> Path:
    """One file in an encoding."""
    more = {"SeriesDescription": "Schädel", "EchoTime": 4.6, "modality": "MR", "AcquisitionMatrix": [0, 4, 6, 0]}
    ds = make_image((1, 2, 3), np.arange(24, dtype=np.int16).reshape(6, 4), **more)
    path = folder / "a.dcm"
    if how == "enhanced":
        ds = enhanced(stack(3), noise(3))
    elif how == "rle":
        ds.compress(RLELossless, generate_instance_uid=False)
    elif how == "implicit":
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    elif how == "deflated":
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    elif how == "big endian":
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        ds.PixelData = ds.pixel_array.astype(">i2").tobytes()
        pydicom.dcmwrite(path, ds, implicit_vr=False, little_endian=False)
        return path
    elif how == "long":
        ds.private_block(0x0029, "VENDOR", create=True).add_new(0x10, "OB", b"\1" * 300_000)
    save(ds, path)
    if how == "no header":
        raw = path.read_bytes()
        path.write_bytes(raw[raw.index(b"\x08\x00\x05\x00CS") :])
    elif how == "unknown syntax":  # and implicit
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        save(ds, path)
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2\0", b"1.2.840.10008.1.2."))
    return path


@pytest.mark.parametrize("how", [*QUICK, "deflated", "big endian", "no header", "long", "unknown syntax"])
def test_both_ways_agree(tmp_path, monkeypatch, make_image, how):
    path = written(tmp_path, how, make_image)
    with dicom_headers.quiet():
        head = path.read_bytes()[: dicom_headers.HEAD]
        assert (dicom_heads.elements(head, dicom_headers.TAGS) is not None) == (how in QUICK)
        quick = dicom_headers.load_header(path), dicom_headers.glance(path)
        monkeypatch.setattr(dicom_heads, "elements", lambda head, tags: None)
        assert quick == (dicom_headers.load_header(path), dicom_headers.glance(path))
    assert quick[0].description == ("Thin slices" if how == "enhanced" else "Schädel")
    assert quick[0].problem is None
