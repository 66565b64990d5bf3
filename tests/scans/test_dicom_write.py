"""DICOM out: what changes, what stays, what goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medidiff.errors import CannotWrite, ScanError
from medidiff.scans import read, write, write_map
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Derivation


def restore(folder: Path, out: Path, derivation: Derivation, change=lambda array: array) -> list[Dataset]:
    (case,) = find_scans([folder]).cases
    scan = read(case)
    files = write(scan, [change(volume.array) for volume in scan.volumes], out, derivation)
    return [pydicom.dcmread(file) for file in files]


def test_files_are_named_and_ordered_by_instance_number(tmp_path, save_series, derivation):
    save_series(count=12)
    out = restore(tmp_path / "series", tmp_path / "out", derivation)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{n:04d}.dcm" for n in range(1, 13)]
    assert [int(ds.InstanceNumber) for ds in out] == list(range(1, 13))
    assert [float(ds.ImagePositionPatient[2]) for ds in out] == [27.0 - 2 * n for n in range(12)]


@pytest.mark.parametrize("numbers", [lambda k: None, lambda k: 7])
def test_missing_or_equal_instance_numbers_are_replaced(tmp_path, save_series, derivation, numbers):
    save_series(count=3, instance=numbers)
    out = restore(tmp_path / "series", tmp_path / "out", derivation)
    assert [(int(ds.InstanceNumber), float(ds.ImagePositionPatient[2])) for ds in out] == [(1, 5.0), (2, 7.0), (3, 9.0)]


def test_identity_keeps_every_pixel(tmp_path, save_series, derivation):
    made = save_series(modality="PT", RescaleSlope=lambda k: 0.37 + k * 1.1, RescaleIntercept=0)
    out = restore(tmp_path / "series", tmp_path / "out", derivation)
    by_source = {ds.SourceImageSequence[0].ReferencedSOPInstanceUID: ds for ds in out}
    for source in made:
        np.testing.assert_array_equal(by_source[source.SOPInstanceUID].pixel_array, source.pixel_array)


def test_new_values_are_rounded_and_clipped_to_the_stored_bits(tmp_path, save_series, derivation):
    pixels = np.array([[0, 1, 2, 4000], [10, 20, 30, 40]], dtype=np.uint16)
    save_series(count=1, pixels=lambda k: pixels, bits=12)
    out = restore(
        tmp_path / "series", tmp_path / "out", derivation, lambda a: a + np.where(a + 1024 == 1, -50.0, 200.4)
    )
    np.testing.assert_array_equal(out[0].pixel_array, [[200, 0, 202, 4095], [210, 220, 230, 240]])
    assert (out[0].BitsStored, out[0].HighBit, out[0].RescaleIntercept) == (12, 11, -1024)


def test_padding_stays_and_no_voxel_becomes_padding(tmp_path, save_series, derivation):
    pixels = np.array([[0, 5], [0, 900]], dtype=np.uint16)
    save_series(count=2, pixels=lambda k: pixels, PixelPaddingValue=0)
    out = restore(tmp_path / "series", tmp_path / "out", derivation, lambda a: a - 20.0)
    np.testing.assert_array_equal(out[0].pixel_array, [[0, 1], [0, 880]])
    assert out[0]["PixelPaddingValue"].VR == "US"


def test_identity_of_the_new_objects(tmp_path, save_series, derivation):
    made = save_series()
    out = restore(tmp_path / "series", tmp_path / "out", derivation)
    old = {ds.SOPInstanceUID for ds in made}
    assert len({ds.SOPInstanceUID for ds in out} | old) == 10
    assert len({ds.SeriesInstanceUID for ds in out} | {made[0].SeriesInstanceUID}) == 2
    for ds in out:
        assert ds.SOPInstanceUID.startswith("2.25.")
        assert ds.SOPInstanceUID.is_valid
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert ds.SOPClassUID == made[0].SOPClassUID
        assert ds.SeriesNumber == 10003
        assert ds.SeriesDescription == "Thin slices denoised"
        assert list(ds.ImageType) == ["DERIVED", "PRIMARY", "AXIAL"]
        assert ds.InstanceCreationDate > "20250101"
        assert ds.ContentDate == ds.InstanceCreationDate
        assert ds.DerivationDescription == derivation.text
        assert ds.DerivationCodeSequence[0].CodeValue == "113087"
        (source,) = ds.SourceImageSequence
        assert source.ReferencedSOPInstanceUID in old
        assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        equipment = ds.ContributingEquipmentSequence[-1]
        assert (equipment.Manufacturer, equipment.SoftwareVersions) == ("medidiff", "0.1.0")
        assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
        assert "SyntheticData" not in ds


def test_patient_study_and_acquisition_stay(tmp_path, save_series, derivation):
    made = save_series(
        count=1, KVP=120, BurnedInAnnotation="NO", WindowCenter=40, WindowWidth=400, PatientName="Müller^Ä"
    )
    (out,) = restore(tmp_path / "series", tmp_path / "out", derivation)
    for keyword in [
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "StudyDate",
        "AcquisitionDate",
        "AcquisitionTime",
        "Manufacturer",
        "KVP",
        "Modality",
        "FrameOfReferenceUID",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "BurnedInAnnotation",
        "WindowCenter",
        "WindowWidth",
        "RescaleSlope",
        "RescaleIntercept",
        "SpecificCharacterSet",
    ]:
        assert out[keyword].value == made[0][keyword].value, keyword


def test_stale_attributes_go(tmp_path, save_series, derivation):
    item = Dataset()
    item.add_new(0x00290010, "LO", "VENDOR")
    item.CodeValue = "x"
    made = save_series(count=1, modality="MR", SmallestImagePixelValue=1, ProcedureCodeSequence=Sequence([item]))
    ds = made[0]
    ds.IconImageSequence = Sequence([Dataset()])
    ds.StorageMediaFileSetID = "DISC"
    ds.add_new(0x60000010, "US", 6)
    ds.add_new(0x50000005, "US", 1)
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", b"abcd")
    ds.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
    ds.private_block(0x0019, "SIEMENS MR HEADER").add_new(0x08, "CS", "IMAGE NUM 4")
    ds.save_as(tmp_path / "series" / "image001", enforce_file_format=True)
    (out,) = restore(tmp_path / "series", tmp_path / "out", derivation, lambda a: a + 7)
    assert not {"IconImageSequence", "StorageMediaFileSetID"} & set(out.dir())
    tags = [element.tag for element in out]
    assert not {0x6000, 0x5000, 0x0029} & {tag.group for tag in tags}
    assert [hex(tag) for tag in tags if tag.is_private] == ["0x190010", "0x19100c"]
    assert 0x00290010 not in out.ProcedureCodeSequence[0]
    assert out.SmallestImagePixelValue == out.pixel_array.min()
    assert out["SmallestImagePixelValue"].VR == "SS"
    assert "LargestImagePixelValue" not in out
    assert "RescaleSlope" not in out, "an MR image without rescale gets none"


def test_history_is_kept(tmp_path, save_series, derivation):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113072", "DCM", "Multiplanar reformatting"
    machine = Dataset()
    machine.Manufacturer = "Someone"
    save_series(
        count=1,
        ImageType=["DERIVED", "SECONDARY", "MPR", "X"],
        DerivationDescription="Reformatted",
        DerivationCodeSequence=Sequence([code]),
        ContributingEquipmentSequence=Sequence([machine]),
        LossyImageCompression="01",
        LossyImageCompressionRatio=12.5,
        SyntheticData="YES",
        SeriesDescription="x" * 64,
        TimezoneOffsetFromUTC="-1130",
    )
    derivation = replace(derivation, extra={"datetime": "2026-01-01T00:15:00+00:00"})
    (out,) = restore(tmp_path / "series", tmp_path / "out", derivation)
    assert list(out.ImageType) == ["DERIVED", "SECONDARY", "MPR", "X"]
    assert out.DerivationDescription == f"Reformatted; {derivation.text}"
    assert [item.CodeValue for item in out.DerivationCodeSequence] == ["113072", "113087"]
    assert [item.Manufacturer for item in out.ContributingEquipmentSequence] == ["Someone", "medidiff"]
    assert (out.LossyImageCompression, out.LossyImageCompressionRatio, out.SyntheticData) == ("01", 12.5, "YES")
    assert out.SeriesDescription == "x" * 55 + " denoised"
    assert (out.ContentDate, out.ContentTime[:6]) == ("20251231", "124500"), "in the time zone of the source"


def test_samples_are_marked_synthetic(tmp_path, save_series, derivation):
    save_series(count=1)
    (out,) = restore(tmp_path / "series", tmp_path / "out", replace(derivation, sample=True))
    assert out.SyntheticData == "YES"
    assert out.ContributingEquipmentSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "109100"


def test_same_entropy_and_time_give_the_same_bytes(tmp_path, save_series, derivation):
    save_series(count=2)
    fixed = replace(derivation, extra={"uid_entropy": "seed 0", "datetime": "2026-01-01T00:15:00+00:00"})
    other = replace(fixed, extra={**fixed.extra, "uid_entropy": "seed 1"})
    for name, labels in (("one", fixed), ("two", fixed), ("three", other), ("four", derivation), ("five", derivation)):
        restore(tmp_path / "series", tmp_path / name, labels)
    content = {path.name: (path / "0001.dcm").read_bytes() for path in tmp_path.iterdir() if path.name != "series"}
    assert content["one"] == content["two"]
    assert len(set(content.values())) == 4


def test_split_series_come_back_as_one(tmp_path, save_series, derivation):
    save_series("in/a", count=3)
    save_series("in/b", count=4, position=lambda k: (0, 0, (100, 105, 110, 120)[k]), orientation=(0, 1, 0, 0, 0, -1))
    out = restore(tmp_path / "in", tmp_path / "out", derivation)
    assert len(out) == 7
    assert len({ds.SeriesInstanceUID for ds in out}) == 1
    assert [int(ds.InstanceNumber) for ds in out] == list(range(1, 8))


@pytest.mark.parametrize("how", [pydicom.uid.RLELossless, pydicom.uid.JPEGLSLossless, pydicom.uid.JPEG2000Lossless])
def test_compressed_sources_are_written_plain(tmp_path, save_series, derivation, how):
    made = save_series(count=1, modality="MR", pixels=lambda k: np.arange(4096, dtype=np.uint16).reshape(64, 64))
    try:
        made[0].compress(how, generate_instance_uid=False)
    except RuntimeError as error:
        pytest.skip(f"no encoder here: {error}")
    made[0].save_as(tmp_path / "series" / "image001")
    (out,) = restore(tmp_path / "series", tmp_path / "out", derivation, lambda a: a + 1)
    np.testing.assert_array_equal(out.pixel_array, np.arange(1, 4097).reshape(64, 64))
    assert not out["PixelData"].is_undefined_length


def test_odd_bytes_and_eight_bits(tmp_path, save_series, derivation):
    save_series(count=1, modality="MR", pixels=lambda k: np.arange(15, dtype=np.uint8).reshape(3, 5))
    (out,) = restore(tmp_path / "series", tmp_path / "out", derivation, lambda a: a * 2)
    np.testing.assert_array_equal(out.pixel_array, 2 * np.arange(15).reshape(3, 5))
    assert len(out.PixelData) == 16


def test_failures_leave_nothing_behind(tmp_path, save_series, derivation):
    save_series(count=3)
    (case,) = find_scans([tmp_path / "series"]).cases
    scan = read(case)
    arrays = [volume.array for volume in scan.volumes]
    with pytest.raises(CannotWrite, match="holds the input"):
        write(scan, arrays, tmp_path / "series", derivation)
    with pytest.raises(ScanError, match="shapes"):
        write(scan, [arrays[0][:, :, :2]], tmp_path / "out", derivation)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match="cannot be written"):
        write(scan, arrays, tmp_path / "file" / "out", derivation)
    (tmp_path / "series" / "image001").unlink()
    with pytest.raises(ScanError, match="image001"):
        write(scan, arrays, tmp_path / "out", derivation)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "series"]


def test_the_input_is_never_touched(tmp_path, save_series, derivation):
    save_series(count=3)
    before = {path: path.read_bytes() for path in (tmp_path / "series").iterdir()}
    restore(tmp_path / "series", tmp_path / "out", derivation, lambda a: a + 3)
    assert {path: path.read_bytes() for path in (tmp_path / "series").iterdir()} == before


def test_maps_of_a_split_series_go_to_one_file_a_grid(tmp_path, save_series, derivation):
    save_series("in/a", count=3)
    save_series("in/b", count=2, orientation=(0, 1, 0, 0, 0, -1), step=(3, 0, 0))
    (case,) = find_scans([tmp_path / "in"]).cases
    scan = read(case)
    files = write_map(scan, [volume.array for volume in scan.volumes], tmp_path / "u.nii.gz", derivation)
    assert [file.name for file in files] == ["u.nii.gz", "u_2.nii.gz", "u.dcm", "u_2.dcm"]
    for file, volume in zip(files[:2], scan.volumes, strict=True):
        (back,) = read(find_scans([file]).cases[0]).volumes
        np.testing.assert_array_equal(back.array, volume.array)
        np.testing.assert_allclose(back.affine, volume.affine, atol=1e-5)
