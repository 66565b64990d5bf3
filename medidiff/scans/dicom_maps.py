"""Writes maps that belong to a DICOM series, such as an uncertainty, as Parametric Maps (PS3.3 A.75)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code

from medidiff.errors import CannotWrite, ScanError
from medidiff.scans import dicom_files, dicom_write
from medidiff.scans.dicom import DicomSource
from medidiff.scans.dicom_frames import Groups
from medidiff.scans.dicom_headers import quiet
from medidiff.scans.dicom_labels import (
    MANUFACTURER,
    SeriesLabels,
    contributing_equipment,
    date,
    later_number,
    new_uid,
    series_description,
    series_labels,
    suffix,
)
from medidiff.scans.dicom_stacks import LPS_TO_RAS, Stack
from medidiff.scans.outputs import atomic_file, nifti_stem
from medidiff.scans.volume import Derivation, Scan, Volume

NO_UNITS = Code("1", "UCUM", "no units")
UNITS = {
    "HU": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "BQML": Code("Bq/ml", "UCUM", "Becquerels/milliliter"),
    "GML": Code("g/ml", "UCUM", "grams/milliliter"),
    "CNTS": Code("{counts}", "UCUM", "counts"),
    "CPS": Code("{counts}/s", "UCUM", "counts per second"),
    "PROPCNTS": Code("{propcounts}", "UCUM", "proportional to counts"),
}
# Type 2 attributes of the patient and study modules, which a derived object must have though the source lost them.
EXPECTED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)


@dataclass(frozen=True)
class Quantity:
    """What a map shows.

    Attributes:
        label: LUTLabel, at most 16 characters.
        text: what the values mean.
        code: the concept (CID 7180 and the like), or None where none fits.
        relative: whether the values are shares without a unit, rather than in the units of the scan.
        steps: how far its SeriesNumber lies from that of the restored image, in steps of 10 000.
    """

    label: str
    text: str
    code: Code | None
    relative: bool
    steps: int


QUANTITIES = {
    "uncertainty": Quantity(
        "UNCERTAINTY",
        "Standard deviation of the restored value",
        Code("386136009", "SCT", "Standard deviation"),
        False,
        2,
    ),
    "supplied": Quantity("SUPPLIED", "Share of the value that the prior supplied", None, True, 3),
}


def write(
    scan: Scan,
    arrays: TypingSequence[NDArray[np.float32]],
    target: Path,
    derivation: Derivation,
    affines: TypingSequence[NDArray[np.float64]] | None = None,
    quantity: str = "uncertainty",
) -> tuple[Path, ...]:
    """Write one Parametric Map a volume, in one series of its own.

    Args:
        scan: as `dicom.read` returned it.
        arrays: one map a volume.
        target: the name of the maps; its suffix becomes ``.dcm``, and ``_2``, ``_3``, ... follow for further volumes.
        derivation: how the maps came about.
        affines: 4 x 4, RAS+, one a volume: the grids of maps that are finer than the scan.
        quantity: a key of `QUANTITIES`.

    Returns:
        The files; none for volumes that have no place in a frame of reference, nor, with a warning, for those whose
        headers are too damaged.

    Raises:
        CannotWrite: a file cannot be written.
        ScanError: a source image is gone.
    """
    source: DicomSource = scan.source
    shown = QUANTITIES[quantity]
    number = dicom_write.series_number(scan)
    labels = series_labels(derivation, f"{scan.ref.series_uid} {quantity}", number)
    labels = replace(labels, series_number=later_number(labels.series_number, shown.steps))
    stem = nifti_stem(target.name) or target.stem
    places = affines if affines is not None else [volume.affine for volume in scan.volumes]
    files: list[Path] = []
    refused: list[str] = []
    volumes = enumerate(zip(source.stacks, scan.volumes, arrays, places, strict=True), start=1)
    for number, (stack, volume, array, affine) in volumes:
        path = target.with_name(f"{stem}.dcm" if number == 1 else f"{stem}_{number}.dcm")
        with quiet():
            images = [_load(path) for path in dict.fromkeys(header.path for header in stack.images)]
            if stack.images[0].frame is not None:
                images[0] = _frames_alone(images[0], stack)
            if not all(header.has_geometry for header in stack.images) or not images[0].get("FrameOfReferenceUID"):
                continue
            try:
                made = _map(stack, volume, images, array, affine, labels, shown, number)
            except Exception as error:  # pydicom and highdicom raise many kinds on damaged values
                what, why = stack.images[0].path, type(error).__name__
                refused.append(f"{what} has header values that no Parametric Map can be made from ({why}).")
                continue
            _save(made, path)
        files.append(path)
    for text in refused[:1]:
        warnings.warn(f"{text} The NIfTI file holds the same values.", stacklevel=3)
    return tuple(files)


def _load(path: Path) -> Dataset:
    try:
        return pydicom.dcmread(path, force=True, stop_before_pixels=True)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ScanError(f"{path} cannot be read as DICOM ({type(error).__name__}); check the file.") from error


def _frames_alone(dataset: Dataset, stack: Stack) -> Dataset:
    """A multi-frame header with the frames of one stack alone, which share what highdicom wants to be shared."""
    groups = Groups(dataset)
    path, first = stack.images[0].path, stack.images[0].frame or 0
    shared = ("PixelMeasuresSequence", "PlaneOrientationSequence")
    common = {keyword: groups.of(first, keyword) for keyword in shared}
    positions = [
        groups.of(header.frame or 0, "PlanePositionSequence") for header in stack.images if header.path == path
    ]
    frames = []
    for position in positions:
        frames.append(Dataset())
        frames[-1].PlanePositionSequence = Sequence([position])
    dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    for keyword, group in common.items():
        setattr(dataset.SharedFunctionalGroupsSequence[0], keyword, Sequence([group]))
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.NumberOfFrames = len(frames)
    return dataset


def _name_frames(made: Dataset, stack: Stack) -> None:
    """Turn frame numbers among a stack's frames into those of the source file."""
    for frame in made.PerFrameFunctionalGroupsSequence:
        for step in frame.get("DerivationImageSequence", []):
            for source in step.get("SourceImageSequence", []):
                if "ReferencedFrameNumber" in source:
                    source.ReferencedFrameNumber = (stack.images[int(source.ReferencedFrameNumber) - 1].frame or 0) + 1


def _map(
    stack: Stack,
    volume: Volume,
    images: list[Dataset],
    array: NDArray[np.float32],
    affine: NDArray[np.float64],
    labels: SeriesLabels,
    quantity: Quantity,
    number: int,
) -> Dataset:
    import highdicom as hd

    what = quantity.label.lower()
    first, derivation = images[0], labels.derivation
    description = series_description(first, f"{suffix(derivation)} {what}")
    for keyword in EXPECTED:
        if keyword not in first:
            setattr(first, keyword, "")
    frames = np.ascontiguousarray(np.nan_to_num(array, nan=0.0).transpose(2, 1, 0), dtype=np.float32)
    low, high = float(frames.min()), float(frames.max())
    with_units = NO_UNITS if quantity.relative else UNITS.get(volume.units, NO_UNITS)
    made: Any = hd.pm.ParametricMap(
        source_images=images if stack.images[0].frame is None else images[:1],
        further_source_images=None if stack.images[0].frame is None else images[1:] or None,
        pixel_array=hd.Volume(
            frames,
            (LPS_TO_RAS @ affine)[:, [2, 1, 0, 3]],
            coordinate_system="PATIENT",
            frame_of_reference_uid=first.FrameOfReferenceUID,
        ),
        series_instance_uid=labels.series_uid,
        series_number=labels.series_number,
        sop_instance_uid=new_uid(derivation, f"{what} {stack.images[0].sop_uid}"),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=derivation.version[:64],
        device_serial_number=derivation.version[:64],
        contains_recognizable_visual_features=str(first.get("RecognizableVisualFeatures", "")) == "YES",
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping(
                lut_label=quantity.label,
                lut_explanation=quantity.text,
                unit=with_units,
                value_range=(low, high),
                slope=1.0,
                intercept=0.0,
                quantity_definition=quantity.code,
            )
        ],
        voi_lut_transformations=[
            hd.VOILUTTransformation(
                window_center=(low + high) / 2,
                window_width=max(high - low, 1e-6),
                voi_lut_function="LINEAR_EXACT",  # the only one that allows a width below 1
            )
        ],
        content_label=quantity.label,
        content_description=quantity.text,
        content_qualification="RESEARCH",
        contributing_equipment=[contributing_equipment(labels)],
        series_description=description,
    )
    if stack.images[0].frame is not None:
        _name_frames(made, stack)
    made.Laterality = str(first.get("Laterality") or "")  # type 2C, which highdicom leaves out
    made.DerivationDescription = derivation.text.encode("ascii", "replace").decode()[:1024]
    if derivation.sample or derivation.task != "denoise" or first.get("SyntheticData") == "YES":
        made.SyntheticData = "YES"
    date(made, labels.moment)
    for item in made.ContributingEquipmentSequence:
        if item.Manufacturer.startswith("Highdicom"):  # it dates itself
            item.ContributionDateTime = labels.moment
    organization = new_uid(derivation, f"{what} dimensions {stack.images[0].sop_uid}")
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    made.file_meta = dicom_files.file_meta(made, derivation.version)
    return made  # type: ignore[no-any-return]


def _save(made: Dataset, path: Path) -> None:
    with atomic_file(path) as temporary:
        try:
            pydicom.dcmwrite(temporary, made, implicit_vr=False, little_endian=True, enforce_file_format=True)
        except OSError:
            raise
        except Exception as error:  # a source attribute that pydicom cannot write: many kinds
            raise CannotWrite(f"{path} cannot be written ({type(error).__name__}).") from error
