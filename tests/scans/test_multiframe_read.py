"""Multi-frame DICOM in: geometry, rescale and dimensions of each frame, and honesty about what is not a volume."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from medidiff.errors import ScanError
from medidiff.scans import read
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Scan
from tests.scans.enhanced import enhanced, group, noise, save, stack

SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)  # row and column direction; the normal is (0.48, -0.64, 0.6)


def scan_of(folder: Path) -> Scan:
    (case,) = find_scans([folder]).cases
    return read(case)


def test_values_and_places(tmp_path):
    pixels = noise(5)
    frames = stack(5, step=(0, 0, -2), slope=lambda k: 1 + k / 4, intercept=lambda k: -k)
    save(enhanced(frames, pixels, modality="CT"), tmp_path / "a.dcm")
    (volume,) = scan_of(tmp_path).volumes
    physical = [pixels[k] * (1 + k / 4) - k for k in range(5)]
    np.testing.assert_allclose(volume.array, np.stack(physical[::-1]).transpose(2, 1, 0), rtol=1e-6)
    assert (volume.modality, volume.units, volume.label, volume.thickness) == ("CT", "HU", "", 2.0)
    np.testing.assert_allclose(volume.affine, [[-0.75, 0, 0, 10], [0, -0.5, 0, -20], [0, 0, 2, -3], [0, 0, 0, 1]])


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("turn", [1, -1])
def test_oblique_geometry_agrees_with_highdicom(tmp_path, shared, turn):
    frames = stack(4, step=turn * 2.5 * np.array([0.48, -0.64, 0.6]), orientation=OBLIQUE, slope=lambda k: k + 0.5)
    if shared:
        for each in frames:
            del each["orientation"]
    ds = enhanced(frames, noise(4), shared=shared)
    if shared:
        ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence = group(ImageOrientationPatient=list(OBLIQUE))
    save(ds, tmp_path / "a.dcm")
    (volume,) = scan_of(tmp_path).volumes
    judge = hd.imread(tmp_path / "a.dcm").get_volume()  # slice, row, column; LPS+
    judge = judge.permute_spatial_axes([2, 1, 0])
    ours = np.diag([-1, -1, 1, 1]) @ volume.affine
    for index in ((0, 0, 0), (3, 5, 3), (1, 2, 3)):
        point = ours @ np.array([*index, 1])
        there = np.rint(np.linalg.inv(judge.affine) @ point)[:3].astype(int)
        np.testing.assert_allclose(judge.affine @ np.array([*there, 1]), point, atol=1e-6)
        np.testing.assert_allclose(judge.array[tuple(there)], volume.array[index], rtol=1e-6)


@pytest.mark.parametrize(
    "fact",
    [
        {"time": lambda k: k // 4 + 1},
        {"echo": lambda k: (4.6, 9.2, 13.8)[k // 4]},
        {"b": lambda k: (0, 500, 1000)[k // 4]},
        {"kind": lambda k: ("M", "P", "R")[k // 4]},
        {"stack": lambda k: k // 4 + 1},
        {"CardiacSynchronizationSequence": lambda k: group(NominalCardiacTriggerDelayTime=40.0 * (k // 4))},
    ],
    ids=lambda fact: next(iter(fact)),
)
def test_dimensions_become_volumes(tmp_path, fact):
    pixels = noise(12)
    frames = stack(12, number=lambda k: k % 4 + 1, **fact)
    for k, each in enumerate(frames):
        each["position"] = (0, 0, 3.0 * (k % 4))
    save(enhanced(frames, pixels), tmp_path / "a.dcm")
    scan = scan_of(tmp_path)
    assert [volume.array.shape for volume in scan.volumes] == [(4, 6, 4)] * 3
    assert len({volume.label for volume in scan.volumes}) == 3
    assert len(scan.notes) == 1
    for n, volume in enumerate(scan.volumes):
        np.testing.assert_array_equal(volume.array, pixels[4 * n : 4 * n + 4].transpose(2, 1, 0))


def test_private_dimensions_become_volumes(tmp_path):
    frames = stack(8, number=lambda k: k % 4 + 1, time=lambda k: 1)
    for k, each in enumerate(frames):
        each["position"] = (0, 0, 3.0 * (k % 4))
    ds = enhanced(frames, noise(8))
    for k, item in enumerate(ds.PerFrameFunctionalGroupsSequence):
        item.FrameContentSequence[0].DimensionIndexValues = [1, k % 4 + 1, k // 4 + 1]
    save(ds, tmp_path / "a.dcm")
    assert [volume.array.shape for volume in scan_of(tmp_path).volumes] == [(4, 6, 4)] * 2


def test_stacks_of_one_orientation_that_follow_each_other_stay_apart(tmp_path):
    frames = [*stack(3, stack=1), *stack(3, stack=2, start=(-10, 20, 11))]
    save(enhanced(frames, noise(6)), tmp_path / "a.dcm")
    assert [volume.array.shape for volume in scan_of(tmp_path).volumes] == [(4, 6, 3)] * 2


def test_orientations_are_told_apart(tmp_path):
    frames = [*stack(3), *stack(2, orientation=SAGITTAL, step=(3, 0, 0))]
    save(enhanced(frames, noise(5)), tmp_path / "a.dcm")
    scan = scan_of(tmp_path)
    assert {volume.label: volume.array.shape for volume in scan.volumes} == {"axial": (4, 6, 3), "sagittal": (4, 6, 2)}


def test_every_file_is_a_volume(tmp_path):
    pixels = noise(12)
    for n in range(3):  # against the order of the file names; each lies where the one before ends
        ds = enhanced(stack(4, start=(0, 0, 8 * n)), pixels[4 * n : 4 * n + 4], instance=3 - n)
        save(ds, tmp_path / "in" / f"{n}.dcm")
    scan = scan_of(tmp_path)
    assert [volume.label for volume in scan.volumes] == ["object=1", "object=2", "object=3"]
    for n, volume in enumerate(reversed(scan.volumes)):
        np.testing.assert_array_equal(volume.array, pixels[4 * n : 4 * n + 4].transpose(2, 1, 0))
    assert scan.notes == ("The series holds 3 multi-frame objects, each treated by itself.",)


def test_files_of_one_frame_are_stacked(tmp_path):
    pixels = noise(4)
    for k, each in enumerate(stack(4)):
        save(enhanced([each], pixels[k : k + 1], instance=k + 1), tmp_path / f"{k}.dcm")
    (volume,) = scan_of(tmp_path).volumes
    np.testing.assert_array_equal(volume.array, pixels.transpose(2, 1, 0))


def test_a_concatenation_is_one_object(tmp_path):
    pixels, frames = noise(5), stack(5)
    for n, part in enumerate((slice(0, 3), slice(3, 5))):
        more = {"ConcatenationUID": "1.2.3.4", "InConcatenationNumber": n + 1, "instance": 1}
        ds = enhanced(frames[part], pixels[part], ConcatenationFrameOffsetNumber=3 * n, **more)
        save(ds, tmp_path / f"{1 - n}.dcm")
    (volume,) = scan_of(tmp_path).volumes
    np.testing.assert_array_equal(volume.array, pixels.transpose(2, 1, 0))


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_legacy_converted_objects_are_the_classic_series(tmp_path, save_series, modality):
    more = {"CT": {}, "MR": {"EchoTime": 5}, "PT": {"Units": "BQML", "RescaleSlope": lambda k: 0.5 + k}}[modality]
    more |= {} if modality == "CT" else {"RescaleIntercept": 0}
    made = save_series("classic", modality=modality, PatientBirthDate="", PatientSex="", **more)
    for ds in made:
        ds.AccessionNumber, ds.StudyID, ds.Laterality = "", "", ""
    convert = {
        "CT": hd.legacy.LegacyConvertedEnhancedCTImage,
        "MR": hd.legacy.LegacyConvertedEnhancedMRImage,
        "PT": hd.legacy.LegacyConvertedEnhancedPETImage,
    }[modality]
    (tmp_path / "legacy").mkdir()
    converted = convert(made, hd.UID(), 7, hd.UID(), 1)
    converted.save_as(tmp_path / "legacy" / "a.dcm")
    (classic,), (legacy,) = scan_of(tmp_path / "classic").volumes, scan_of(tmp_path / "legacy").volumes
    np.testing.assert_array_equal(legacy.array, classic.array)
    np.testing.assert_allclose(legacy.affine, classic.affine)
    assert (legacy.modality, legacy.thickness) == (classic.modality, classic.thickness)


def test_units_of_enhanced_pet(tmp_path):
    unit = group(CodeValue="Bq/ml", CodingSchemeDesignator="UCUM", CodeMeaning="Becquerels/milliliter")
    mapping = group(MeasurementUnitsCodeSequence=unit)
    save(enhanced(stack(3, RealWorldValueMappingSequence=mapping), noise(3), modality="PT"), tmp_path / "a.dcm")
    assert scan_of(tmp_path).volumes[0].units == "BQML"


@pytest.mark.parametrize(
    ("step", "words"),
    [((0, 1, 2), "gantry tilt"), (lambda k: (0, 0, (0, 2, 4, 8)[k]), "missing between")],
    ids=["tilt", "gap"],
)
def test_irregular_stacks_are_never_a_volume(tmp_path, step, words):
    frames = stack(4, step=(0, 0, 2) if callable(step) else step)
    for k, each in enumerate(frames):
        each["position"] = step(k) if callable(step) else each["position"]
    save(enhanced(frames, noise(4)), tmp_path / "a.dcm")
    scan = scan_of(tmp_path)
    assert [volume.array.shape for volume in scan.volumes] == [(4, 6, 1)] * 4
    assert words in scan.notes[0]


def test_padding_is_not_valid(tmp_path):
    pixels = noise(3, kind=np.int16)
    pixels[1, 0, :2] = -2000
    save(enhanced(stack(3), pixels, modality="CT", PixelPaddingValue=-2000), tmp_path / "a.dcm")
    (volume,) = scan_of(tmp_path).volumes
    np.testing.assert_array_equal(np.argwhere(~volume.valid), [[0, 0, 1], [1, 0, 1]])


@pytest.mark.parametrize("how", [RLELossless, DeflatedExplicitVRLittleEndian])
def test_encodings_give_the_same_voxels(tmp_path, how):
    pixels = noise(3)
    ds = enhanced(stack(3), pixels)
    if how == RLELossless:
        ds.compress(how, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = how
    save(ds, tmp_path / "a.dcm")
    np.testing.assert_array_equal(scan_of(tmp_path).volumes[0].array, pixels.transpose(2, 1, 0))


def test_objects_without_functional_groups_are_left_out(tmp_path):
    ds = enhanced(stack(3), noise(3))
    del ds.PerFrameFunctionalGroupsSequence
    save(ds, tmp_path / "a.dcm")
    found = find_scans([tmp_path])
    assert found.cases == ()
    assert found.skipped[0].reason.startswith("Enhanced MR Image Storage without functional groups")


def test_frames_that_were_cut_off_are_noticed(tmp_path):
    save(enhanced(stack(3), noise(3)), tmp_path / "a.dcm")
    path = tmp_path / "a.dcm"
    path.write_bytes(path.read_bytes()[:-10])
    assert "truncated" in find_scans([tmp_path]).skipped[0].reason


def test_more_frames_than_groups_are_refused(tmp_path):
    ds = enhanced(stack(3), noise(3))
    ds.PerFrameFunctionalGroupsSequence = Sequence(list(ds.PerFrameFunctionalGroupsSequence)[:2])
    save(ds, tmp_path / "a.dcm")
    with pytest.raises(ScanError, match="3 frames, but functional groups for 2"):
        scan_of(tmp_path)


def test_classic_and_enhanced_in_one_series_are_refused(tmp_path, save_series):
    save_series(modality="MR", count=3)
    save(enhanced(stack(3), noise(3)), tmp_path / "series" / "a.dcm")
    with pytest.raises(ScanError, match="mixes Enhanced MR Image Storage and MR Image Storage"):
        scan_of(tmp_path)


def test_large_headers_are_read_to_their_end(tmp_path, save_series):
    made = save_series(count=2)
    made[0].private_block(0x0029, "VENDOR", create=True).add_new(0x10, "OB", b"\1" * 300_000)
    made[0].save_as(tmp_path / "series" / "image002", enforce_file_format=True)
    (volume,) = scan_of(tmp_path).volumes
    assert volume.array.shape == (4, 6, 2)
    assert pydicom.dcmread(tmp_path / "series" / "image002").SOPInstanceUID == made[0].SOPInstanceUID
