"""DICOM in: order, geometry, rescale, padding, and honesty about what is not a volume."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from medidiff.errors import ScanError
from medidiff.scans import read, write
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Scan

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)  # row and column direction; the normal is (0.48, -0.64, 0.6)
NORMAL = np.array([0.48, -0.64, 0.6])


def scan_of(folder: Path) -> Scan:
    (case,) = find_scans([folder]).cases
    return read(case)


def values(ds) -> np.ndarray:
    return (ds.pixel_array * float(ds.get("RescaleSlope", 1)) + float(ds.get("RescaleIntercept", 0))).T


def test_slices_are_ordered_by_position(tmp_path, save_series):
    made = save_series(count=6)
    (volume,) = scan_of(tmp_path).volumes
    np.testing.assert_array_equal(volume.array, np.stack([values(ds) for ds in made], axis=-1))
    assert volume.array.dtype == np.float32
    assert (volume.modality, volume.units, volume.label, volume.valid) == ("CT", "HU", "", None)
    np.testing.assert_allclose(
        volume.affine, [[-0.75, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 2, 5], [0, 0, 0, 1]], err_msg="RAS+, columns first"
    )
    assert volume.spacing == (0.75, 0.5, 2.0)


@pytest.mark.parametrize("step", [tuple(2.5 * NORMAL), tuple(-2.5 * NORMAL)])
def test_oblique_geometry_agrees_with_highdicom(tmp_path, save_series, step):
    made = save_series(count=4, orientation=OBLIQUE, step=step)
    (volume,) = scan_of(tmp_path).volumes
    judge = highdicom.get_volume_from_series(made)  # slice, row, column; LPS+
    judge = judge.permute_spatial_axes([2, 1, 0])
    ours = np.diag([-1, -1, 1, 1]) @ volume.affine
    for index in ((0, 0, 0), (3, 5, 3), (1, 2, 3)):
        point = ours @ np.array([*index, 1])
        there = np.rint(np.linalg.inv(judge.affine) @ point)[:3].astype(int)
        np.testing.assert_allclose(judge.affine @ np.array([*there, 1]), point, atol=1e-6)
        assert judge.array[tuple(there)] == volume.array[index]


def test_every_slice_has_its_own_rescale(tmp_path, save_series):
    made = save_series(modality="PT", Units="BQML", RescaleSlope=lambda k: 0.5 + k, RescaleIntercept=0)
    (volume,) = scan_of(tmp_path).volumes
    np.testing.assert_allclose(volume.array, np.stack([values(ds) for ds in made], axis=-1), rtol=1e-7)
    assert (volume.modality, volume.units) == ("PT", "BQML")


def test_padding_is_not_valid(tmp_path, save_series):
    padded = np.arange(100, 124, dtype=np.int16).reshape(6, 4)
    padded[0, :2] = -2000
    padded[5, 3] = -1990
    save_series(
        count=3,
        pixels=lambda k: padded if k == 1 else np.abs(padded),
        PixelPaddingValue=-2000,
        PixelPaddingRangeLimit=-1990,
    )
    (volume,) = scan_of(tmp_path).volumes
    np.testing.assert_array_equal(np.argwhere(~volume.valid), [[0, 0, 1], [1, 0, 1], [3, 5, 1]])
    assert set(volume.array[~volume.valid]) == {volume.array[volume.valid].min()}


@pytest.mark.parametrize(
    ("bits", "dtype"), [(12, np.uint16), (12, np.int16), (16, np.uint16), (8, np.uint8), (10, np.int16)]
)
def test_bit_depths_and_signs(tmp_path, save_series, bits, dtype):
    low = -(1 << bits - 1) if np.dtype(dtype).kind == "i" else 0
    pixels = np.linspace(low, low + (1 << bits) - 1, 24).astype(dtype).reshape(6, 4)
    save_series(count=2, pixels=lambda k: pixels, bits=bits, modality="MR")
    (volume,) = scan_of(tmp_path).volumes
    np.testing.assert_array_equal(volume.array[:, :, 0], pixels.T)


@pytest.mark.parametrize("how", ["implicit", "big endian", "no header", "rle"])
def test_encodings_give_the_same_voxels(tmp_path, save_series, how):
    made = save_series(count=3)
    expected = np.stack([values(ds) for ds in made], axis=-1)
    for path in (tmp_path / "series").iterdir():
        ds = pydicom.dcmread(path)
        if how == "rle":
            ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
            ds.save_as(path)
        elif how == "no header":
            raw = path.read_bytes()
            path.write_bytes(raw[raw.index(b"\x08\x00\x05\x00CS") :])
        elif how == "implicit":
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            ds.save_as(path, implicit_vr=True, little_endian=True)
        else:
            ds.PixelData = ds.pixel_array.astype(">i2").tobytes()
            ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            ds["PixelData"].VR = "OW"
            pydicom.dcmwrite(path, ds, implicit_vr=False, little_endian=False)
    np.testing.assert_array_equal(scan_of(tmp_path).volumes[0].array, expected)


def test_a_duplicate_counts_once(tmp_path, save_series):
    save_series(count=3)
    shutil.copy(tmp_path / "series" / "image001", tmp_path / "copy.dcm")
    scan = scan_of(tmp_path)
    assert scan.volumes[0].array.shape == (4, 6, 3)
    assert "more than once" in scan.notes[0]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"position": lambda k: (0, 0, (0, 5, 10, 20)[k])}, r"missing between 10\.00 and 20\.00 mm"),
        ({"position": lambda k: (0, 0, (0, 5, 10.9, 15)[k])}, r"uneven between 5\.00 and 10\.90 mm"),
        ({"step": (0, 1, 2)}, r"26\.6 degrees .*gantry tilt"),
        ({"position": lambda k: (0, (0, 0.3, 0, 0)[k], 5 * k)}, "not on a line"),
        ({"position": lambda k: (0, 0, (0, 5, 5, 10)[k])}, r"2 images lie at the same position \(5\.00 mm\)"),
    ],
)
def test_irregular_stacks_are_never_a_volume(tmp_path, save_series, more, words):
    made = save_series(count=4, **more)
    scan = scan_of(tmp_path)
    assert [volume.array.shape for volume in scan.volumes] == [(4, 6, 1)] * 4
    assert len({volume.label for volume in scan.volumes}) == 4
    (note,) = scan.notes
    assert note.endswith("each of 4 images is treated as 2-D.")
    assert re.search(words, note)
    for volume, ds in zip(scan.volumes, made, strict=True):
        np.testing.assert_allclose(volume.affine[:3, 3], np.array(ds.ImagePositionPatient) * [-1, -1, 1])


@pytest.mark.parametrize(
    "fact",
    [
        {"TemporalPositionIdentifier": lambda k: k % 3 + 1},
        {"AcquisitionNumber": lambda k: k % 3 + 1},
        {"TriggerTime": lambda k: k % 3 * 40.0},
        {"EchoTime": lambda k: (4.6, 9.2, 13.8)[k % 3]},
        {"DiffusionBValue": lambda k: (0.0, 500.0, 1000.0)[k % 3]},
        {"DiffusionGradientOrientation": lambda k: np.eye(3)[k % 3].tolist()},
        {"ImageType": lambda k: ["ORIGINAL", "PRIMARY", "MPR"[k % 3]]},
        {"AcquisitionTime": lambda k: f"1200{k % 3:02d}"},
        {"instance": lambda k: k + 1},
    ],
    ids=lambda fact: next(iter(fact)),
)
def test_repeated_positions_become_volumes(tmp_path, save_series, fact):
    made = save_series(count=12, modality="MR", position=lambda k: (0, 0, k // 3 * 4.0), **fact)
    scan = scan_of(tmp_path)
    assert [volume.array.shape for volume in scan.volumes] == [(4, 6, 4)] * 3
    assert len({volume.label for volume in scan.volumes}) == 3
    assert len(scan.notes) == 1
    expected = [np.stack([values(ds) for ds in made[n::3]], axis=-1) for n in range(3)]
    for volume in scan.volumes:
        assert sum(np.array_equal(volume.array, array) for array in expected) == 1


def test_orientations_of_one_series_are_told_apart(tmp_path, save_series):
    save_series("a", count=3)
    save_series("b", count=2, orientation=SAGITTAL, step=(3, 0, 0))
    scan = scan_of(tmp_path)
    shapes = {volume.label: volume.array.shape for volume in scan.volumes}
    assert shapes == {"axial": (4, 6, 3), "sagittal": (4, 6, 2)}
    assert "axial (3 images)" in scan.notes[0]
    assert "sagittal (2 images)" in scan.notes[0]


def test_one_image_is_a_2d_volume(tmp_path, save_series):
    save_series(count=1, SpacingBetweenSlices=3.5)
    (volume,) = scan_of(tmp_path).volumes
    assert volume.array.shape == (4, 6, 1)
    assert volume.spacing == (0.75, 0.5, 3.5)


@pytest.mark.parametrize("missing", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_images_without_geometry_are_2d(tmp_path, save_series, missing):
    save_series(count=3, **{missing: None})
    scan = scan_of(tmp_path)
    assert [volume.array.shape for volume in scan.volumes] == [(4, 6, 1)] * 3
    assert "without a position in space" in scan.notes[0]


def test_different_images_with_one_uid_are_refused(tmp_path, save_series):
    save_series(count=3, SOPInstanceUID="1.2.3.4")
    with pytest.raises(ScanError, match="share a SOPInstanceUID"):
        scan_of(tmp_path)


def test_unusual_bits_are_refused(tmp_path, save_series):
    made = save_series(count=1, bits=12)
    made[0].HighBit = 15
    made[0].save_as(tmp_path / "series" / "image001")
    with pytest.raises(ScanError, match="HighBit"):
        scan_of(tmp_path)


def test_varying_echo_time_alone_does_not_split_a_volume(tmp_path, save_series):
    save_series(count=4, modality="MR", EchoTime=lambda k: 100 + 0.3 * k)
    assert [volume.array.shape for volume in scan_of(tmp_path).volumes] == [(4, 6, 4)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_crash(tmp_path, save_series, derivation, data):
    folder = tmp_path / "series"
    if not folder.exists():
        save_series(count=3, SmallestImagePixelValue=5, PixelPaddingValue=7, WindowCenter=40)
    path = folder / "image002"
    good = path.read_bytes()
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(128, len(good) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(damaged[: data.draw(st.integers(200, len(good)))]) if data.draw(st.booleans()) else damaged)
    try:
        for case in find_scans([folder]).cases:
            scan = read(case)
            write(scan, [volume.array + 1 for volume in scan.volumes], tmp_path / "out", derivation)
    except ScanError as error:
        assert "\n" not in str(error)  # noqa: PT017
    finally:
        path.write_bytes(good)


def test_damaged_pixels_name_the_file(tmp_path, save_series):
    save_series(count=2)
    path = tmp_path / "series" / "image002"
    ds = pydicom.dcmread(path)
    ds.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    ds.save_as(path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ScanError, match="image002 has pixel data that cannot be decoded"):
        scan_of(tmp_path)


def test_messages_hold_no_patient_data(tmp_path, save_series):
    save_series(count=4, position=lambda k: (0, 0, (0, 5, 10, 20)[k]))
    (tmp_path / "bad.dcm").write_bytes((tmp_path / "series" / "image001").read_bytes()[:600])
    text = " ".join((*scan_of(tmp_path).notes, *(skipped.reason for skipped in find_scans([tmp_path]).skipped)))
    assert not [word for word in ("Doe", "12345", "20200102") if word in text]


def test_pydicom_says_nothing(tmp_path, save_series, derivation, caplog, recwarn):
    save_series(count=2, StudyTime="Doe at noon")
    caplog.clear()
    recwarn.clear()
    scan = scan_of(tmp_path)
    write(scan, [volume.array + 1 for volume in scan.volumes], tmp_path / "out", derivation)
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]
    assert not [warning for warning in recwarn if "Doe" in str(warning.message)]
