"""What medidiff looks at in a DICOM header."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.dataset import Dataset

from medidiff.scans import dicom_heads, limits
from medidiff.scans.dicom_problems import MODALITIES, Tail, problem
from medidiff.scans.dicom_values import LARGEST, number, optional, tag_of, text, texts, vector

HEAD = 1 << 16  # bytes that hold the whole header of nearly every single-frame image
PIXEL_DATA = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # the tag in little and big endian
GE_GRADIENT = (0x001910BB, 0x001910BC, 0x001910BD)
SIEMENS_GRADIENT = (0x0019100C, 0x0019100E)

GLANCE = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SeriesDescription",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "ModalityLUTSequence",
    "PerFrameFunctionalGroupsSequence",
)
KEYWORDS = (
    "SOPInstanceUID",
    "Modality",
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
    "ConcatenationUID",
    "ConcatenationFrameOffsetNumber",
)
GLANCE_TAGS = [tag_of(keyword) for keyword in GLANCE]
TAGS = [*GLANCE_TAGS, *(tag_of(key) for key in (*KEYWORDS, *GE_GRADIENT, *SIEMENS_GRADIENT))]


@dataclass(frozen=True)
class Header:
    """The facts of one image that decide where it belongs; positions in millimetres, LPS+ as in DICOM.

    An image is a file, or a frame of a multi-frame file. ``thickness`` is the step to assume for a single slice;
    ``slice_thickness`` and ``location`` are SliceThickness and SliceLocation, None where there is no sensible value;
    ``slope`` is RescaleSlope, 1 where there is none. ``frame`` counts from 0 and is None for a single-frame object.
    ``frames`` is how many the file holds, ``file_instance`` the InstanceNumber of the file. Frames of different
    ``bundle`` never form one volume. ``in_stack`` and ``indices`` are InStackPositionNumber and DimensionIndexValues;
    ``positional`` tells of each index whether it may count places.
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
    frames: int = 1
    frame: int | None = None
    bundle: str = ""
    file_instance: int | None = None
    in_stack: int | None = None
    indices: tuple[int, ...] = ()
    positional: tuple[bool, ...] = ()

    @property
    def key(self) -> tuple[Path, int]:
        """What no other image has."""
        return self.path, self.frame or 0

    @property
    def has_geometry(self) -> bool:
        """Whether the image says where it lies in the patient."""
        return self.orientation is not None and self.position is not None and self.spacing is not None


class NotDicom(ValueError):
    """A file does not start like DICOM; the text says what it is."""


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
    with quiet():
        dataset, tail = _parse(path, TAGS)
        return _header(dataset, path, tail)


@dataclass(frozen=True)
class Glance:
    """What tells to which series a file belongs, and why it is no scan; see `Header`."""

    problem: str | None
    study_uid: str
    series_uid: str
    series_number: int | None
    description: str
    modality: str


def glance(path: Path) -> Glance:
    """Read what discovery needs of one file, which is a third of the work of `load_header`; call it inside `quiet`.

    Raises:
        NotDicom: the file does not look like DICOM.
        OSError: the file cannot be opened.
        Exception: whatever pydicom raises on a damaged file.
    """
    ds, tail = _parse(path, GLANCE_TAGS)
    series_number = number(ds, "SeriesNumber")
    return Glance(
        problem=problem(ds, tail),
        study_uid=text(ds, "StudyInstanceUID"),
        series_uid=text(ds, "SeriesInstanceUID"),
        series_number=None if series_number is None else int(series_number),
        description=text(ds, "SeriesDescription"),
        modality=MODALITIES.get(text(ds, "SOPClassUID"), "OT"),
    )


def _parse(path: Path, tags: Sequence[Any]) -> tuple[Dataset, Tail]:
    """Some elements of a file's header, from its first bytes if they hold all of it."""
    with limits.Bounded(path) as file:
        head, size = file.read(HEAD), file.size
        if not looks_like_dicom(head):
            raise NotDicom("empty file" if not head else "not a NIfTI or DICOM file")
        if limits.DEFLATED in head[: limits.META]:
            limits.check_deflated(path)
        with suppress(Exception):  # pydicom raises many kinds on what is damaged or cut off; the whole file is next
            found = dicom_heads.elements(head, tags)
            if found is not None:
                return found[0], Tail(size - found[1], True)
        if len(head) == size:
            return _parse_stream(io.BytesIO(head), size, tags)
        file.seek(0)
        return _parse_stream(file, size, tags)


def _parse_stream(file: BinaryIO, size: int, tags: Sequence[Any]) -> tuple[Dataset, Tail]:
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(tags))
    at = file.tell()
    return dataset, Tail(size - at, file.read(4) in PIXEL_DATA)


def _header(ds: Dataset, path: Path, tail: Tail) -> Header:
    image_type = tuple(part.strip().upper() for part in texts(ds, "ImageType"))
    series_number = number(ds, "SeriesNumber")
    instance = number(ds, "InstanceNumber")
    thickness = number(ds, "SliceThickness")
    return Header(
        path=path,
        sop_class=text(ds, "SOPClassUID"),
        sop_uid=text(ds, "SOPInstanceUID"),
        study_uid=text(ds, "StudyInstanceUID"),
        series_uid=text(ds, "SeriesInstanceUID"),
        series_number=None if series_number is None else int(series_number),
        description=text(ds, "SeriesDescription"),
        modality=MODALITIES.get(text(ds, "SOPClassUID"), "OT"),
        instance=None if instance is None else int(instance),
        shape=(int(number(ds, "Columns") or 0), int(number(ds, "Rows") or 0)),
        orientation=unit_vectors(vector(ds, "ImageOrientationPatient", 6)),
        position=vector(ds, "ImagePositionPatient", 3),
        spacing=positive(vector(ds, "PixelSpacing", 2)),
        thickness=number(ds, "SpacingBetweenSlices") or thickness or 1.0,
        slice_thickness=credible(thickness),
        location=number(ds, "SliceLocation"),
        slope=number(ds, "RescaleSlope") or 1.0,
        image_type=image_type,
        units=text(ds, "Units"),
        facts=_facts(ds),
        problem=problem(ds, tail),
        frames=int(number(ds, "NumberOfFrames") or 1),
        bundle=text(ds, "ConcatenationUID"),
        file_instance=None if instance is None else int(instance),
    )


def _facts(ds: Dataset) -> dict[str, tuple[Any, ...]]:
    """What may tell images at the same position apart, in the order in which it is tried."""
    gradient = vector(ds, "DiffusionGradientOrientation", 3) or ()
    private = tuple(text(ds, tag) for tag in (*GE_GRADIENT, *SIEMENS_GRADIENT))
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
    facts: dict[str, tuple[Any, ...]] = {"b": optional(number(ds, "DiffusionBValue"))}
    facts |= {"gradient": (*gradient, *private)}
    facts |= {name: optional(number(ds, keyword)) for name, keyword in numbers.items()}
    facts |= {"time": (text(ds, "AcquisitionDate"), text(ds, "AcquisitionTime"))}
    return facts


def unit_vectors(iop: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The orientation if its two directions are unit vectors at a right angle, as the standard wants."""
    if iop is None:
        return None
    row, column = iop[:3], iop[3:]
    lengths = [sum(part * part for part in direction) for direction in (row, column)]
    slanted = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    return iop if all(abs(length - 1) < 0.02 for length in lengths) and slanted < 0.01 else None


def positive(spacing: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """A pixel spacing that is one."""
    return spacing if spacing is not None and min(spacing) > 0 else None


def credible(thickness: float | None) -> float | None:
    """A slice thickness that is one."""
    return thickness if thickness is not None and 0 < thickness < LARGEST else None
