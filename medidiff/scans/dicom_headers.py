"""What medidiff looks at in a DICOM header, and why a DICOM object may not be a scan that it can restore."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

CLASSIC = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
PROJECTIONS = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.12")  # CR, DX, mammography; XA and RF
PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # the tag in little and big endian
GE_GRADIENT = (0x001910BB, 0x001910BC, 0x001910BD)
SIEMENS_GRADIENT = (0x0019100C, 0x0019100E)

KEYWORDS = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "SeriesDescription",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "InstanceNumber",
    "AcquisitionNumber",
    "AcquisitionDate",
    "AcquisitionTime",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SliceLocation",
    "RescaleSlope",
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "FlipAngle",
    "TriggerTime",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "FrameReferenceTime",
    "Units",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "ModalityLUTSequence",
)
TAGS: list[Any] = [*KEYWORDS, *GE_GRADIENT, *SIEMENS_GRADIENT]


@dataclass(frozen=True)
class Header:
    """The facts of one DICOM file that decide where it belongs; positions in millimetres, LPS+ as in DICOM.

    ``thickness`` is the step to assume for a single slice; ``slice_thickness`` and ``location`` are SliceThickness and
    SliceLocation, None where the file has no sensible value; ``slope`` is RescaleSlope, 1 where it has none.
    """

    path: Path
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    series_number: int | None
    description: str
    modality: str
    instance: int | None
    shape: tuple[int, int]
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float
    slice_thickness: float | None
    location: float | None
    slope: float
    image_type: tuple[str, ...]
    units: str
    facts: dict[str, tuple[Any, ...]]
    problem: str | None

    @property
    def has_geometry(self) -> bool:
        """Whether the image says where it lies in the patient."""
        return self.orientation is not None and self.position is not None and self.spacing is not None


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file that starts with these bytes (132 or more) may be DICOM, with or without the file header."""
    if start[128:132] == b"DICM":
        return True
    group, element = start[:2], start[2:4]
    return group in (b"\x08\x00", b"\x02\x00", b"\x00\x08", b"\x00\x02") and b"\x00" in element and len(start) >= 132


@contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom's warnings, in both of its ways: they quote values, which may be patient data."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def load_header(path: Path) -> Header:
    """Read one file's header without its pixels.

    Raises:
        OSError: the file cannot be opened.
        Exception: whatever pydicom raises on a damaged file.
    """
    with path.open("rb") as file, quiet():
        size = path.stat().st_size
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=TAGS)
        at = file.tell()
        return _header(dataset, path, size - at, file.read(4) in PIXEL_DATA)


def _header(ds: Dataset, path: Path, remaining: int, has_pixels: bool) -> Header:
    image_type = tuple(part.strip().upper() for part in _texts(ds, "ImageType"))
    number = _number(ds, "SeriesNumber")
    instance = _number(ds, "InstanceNumber")
    thickness = _number(ds, "SliceThickness")
    return Header(
        path=path,
        sop_class=_text(ds, "SOPClassUID"),
        sop_uid=_text(ds, "SOPInstanceUID"),
        study_uid=_text(ds, "StudyInstanceUID"),
        series_uid=_text(ds, "SeriesInstanceUID"),
        series_number=None if number is None else int(number),
        description=_text(ds, "SeriesDescription"),
        modality=CLASSIC.get(_text(ds, "SOPClassUID"), "OT"),
        instance=None if instance is None else int(instance),
        shape=(int(_number(ds, "Columns") or 0), int(_number(ds, "Rows") or 0)),
        orientation=_unit_vectors(_vector(ds, "ImageOrientationPatient", 6)),
        position=_vector(ds, "ImagePositionPatient", 3),
        spacing=_positive(_vector(ds, "PixelSpacing", 2)),
        thickness=_number(ds, "SpacingBetweenSlices") or thickness or 1.0,
        slice_thickness=thickness if thickness is not None and 0 < thickness < 1e9 else None,
        location=_number(ds, "SliceLocation"),
        slope=_number(ds, "RescaleSlope") or 1.0,
        image_type=image_type,
        units=_text(ds, "Units"),
        facts=_facts(ds),
        problem=_problem(ds, image_type, remaining, has_pixels),
    )


def _facts(ds: Dataset) -> dict[str, tuple[Any, ...]]:
    """What may tell images at the same position apart, in the order in which it is tried."""
    gradient = _vector(ds, "DiffusionGradientOrientation", 3) or ()
    private = tuple(_text(ds, tag) for tag in (*GE_GRADIENT, *SIEMENS_GRADIENT))
    numbers = {
        "t": "TemporalPositionIdentifier",
        "echo": "EchoNumbers",
        "TE": "EchoTime",
        "TI": "InversionTime",
        "flip": "FlipAngle",
        "trigger": "TriggerTime",
        "acquisition": "AcquisitionNumber",
        "frame time": "FrameReferenceTime",
    }
    facts: dict[str, tuple[Any, ...]] = {"b": _optional(_number(ds, "DiffusionBValue"))}
    facts |= {"gradient": (*gradient, *private)}
    facts |= {name: _optional(_number(ds, keyword)) for name, keyword in numbers.items()}
    facts |= {"time": (_text(ds, "AcquisitionDate"), _text(ds, "AcquisitionTime"))}
    return facts


def _problem(ds: Dataset, image_type: tuple[str, ...], remaining: int, has_pixels: bool) -> str | None:
    """Why the object is not processed, or None."""
    sop_class = _text(ds, "SOPClassUID")
    colour = _text(ds, "PhotometricInterpretation")
    frames = int(_number(ds, "NumberOfFrames") or 1)
    if sop_class not in CLASSIC:
        return _class_problem(ds, sop_class)
    if (_number(ds, "SamplesPerPixel") or 1) != 1 or not colour.startswith("MONOCHROME"):
        return f"a colour image ({colour or 'several samples a pixel'}), not scan data"
    if "MOSAIC" in image_type:
        return "a Siemens mosaic (one sheet holds many slices); convert it with dcm2niix and give the NIfTI file"
    if "VFRAME" in image_type:
        return "a UIH VFRAME sheet (one sheet holds many slices); convert it with dcm2niix and give the NIfTI file"
    if "LOCALIZER" in image_type:
        return "a localizer (scout) image"
    if {"SCREEN SAVE", "SCREENSAVE"} & set(image_type):
        return "a screen capture, not scan data"
    if frames != 1:
        return f"{frames} frames in a single-frame class ({UID(sop_class).name}); convert it to single frames"
    if "ModalityLUTSequence" in ds:
        return "pixel values go through a modality lookup table, which cannot be written back"
    needed = (_number(ds, "Rows") or 0) * (_number(ds, "Columns") or 0) * (_number(ds, "BitsAllocated") or 0) / 8
    syntax = _syntax(ds)
    if syntax is not None and syntax.is_deflated:
        return None  # pydicom has inflated the file, so the place of the pixels in it is not known
    if not has_pixels or needed == 0:
        return "truncated or without pixel data"
    tag_and_length = 8 if ds.original_encoding[0] else 12  # implicit or explicit VR
    if (syntax is None or not syntax.is_compressed) and remaining < needed + tag_and_length:
        return "truncated: the pixel data are shorter than rows x columns"
    return None


def _class_problem(ds: Dataset, sop_class: str) -> str:
    media = _text(getattr(ds, "file_meta", Dataset()), "MediaStorageSOPClassUID")
    if media == "1.2.840.10008.1.3.10":
        return "a DICOMDIR (an index of a disc), not an image"
    if not sop_class:
        return "damaged or without a SOP class: not a DICOM image"
    name = UID(sop_class).name
    colour = _text(ds, "PhotometricInterpretation")
    if "Secondary Capture" in name:
        what = "a secondary capture (a picture of a screen or report)"
        return f"{what} in colour ({colour}), not scan data" if colour == "RGB" else f"{what}, not scan data"
    if "Image" in name and ("Enhanced" in name or "Legacy Converted" in name):
        return (
            f"{name} (multi-frame) is not supported in this version; convert it with dcm2niix and give the NIfTI file"
        )
    if sop_class in PROJECTIONS or sop_class.startswith(tuple(f"{root}." for root in PROJECTIONS)):
        return f"a projection image ({name}), not a CT, MR or PET slice"
    return f"{name} is not a CT, MR or PET image"


def _syntax(ds: Dataset) -> UID | None:
    text = _text(getattr(ds, "file_meta", Dataset()), "TransferSyntaxUID")
    uid = UID(text)
    return uid if text and uid.is_transfer_syntax else None


def _value(ds: Dataset, key: Any) -> Any:
    try:
        return ds[key].value if key in ds else None
    except Exception:  # pydicom raises many kinds on damaged values; the value then counts as absent
        return None


def _text(ds: Dataset, key: Any) -> str:
    value = _value(ds, key)
    return "" if value is None else str(value).strip()


def _texts(ds: Dataset, key: str) -> list[str]:
    value = _value(ds, key)
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(part) for part in value]


def _number(ds: Dataset, key: str) -> float | None:
    value = _value(ds, key)
    if value is not None and not isinstance(value, str | int | float) and hasattr(value, "__getitem__"):
        value = value[0] if len(value) else None
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


def _vector(ds: Dataset, key: str, length: int) -> tuple[float, ...] | None:
    value = _value(ds, key)
    try:
        numbers = tuple(float(part) for part in value)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == length and all(abs(number) < 1e9 for number in numbers) else None


def _unit_vectors(iop: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The orientation if its two directions are unit vectors at a right angle, as the standard wants."""
    if iop is None:
        return None
    row, column = iop[:3], iop[3:]
    lengths = [sum(part * part for part in vector) for vector in (row, column)]
    slanted = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    return iop if all(abs(length - 1) < 0.02 for length in lengths) and slanted < 0.01 else None


def _positive(spacing: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return spacing if spacing is not None and min(spacing) > 0 else None


def _optional(value: float | None) -> tuple[Any, ...]:
    return () if value is None else (value,)
