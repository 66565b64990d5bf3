"""Why a DICOM object may not be a scan that medidiff can restore."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID

from medidiff.scans import limits
from medidiff.scans.dicom_values import number, text, texts

CLASSIC = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
ENHANCED = {  # multi-frame: enhanced, and legacy converted enhanced
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
}
MODALITIES = CLASSIC | ENHANCED
PROJECTIONS = ("1.2.840.10008.5.1.4.1.1.1", "1.2.840.10008.5.1.4.1.1.12")  # CR, DX, mammography; XA and RF
MOST_FRAMES = 1 << 20


@dataclass(frozen=True)
class Tail:
    """What follows a header in its file: how many bytes, and whether they are pixel data."""

    remaining: int
    has_pixels: bool


def problem(ds: Dataset, tail: Tail) -> str | None:
    """Why the object is not processed, or None."""
    sop_class = text(ds, "SOPClassUID")
    if sop_class not in MODALITIES:
        return _class_problem(ds, sop_class)
    return _kind_problem(ds) or _frames_problem(ds, sop_class) or _pixel_problem(ds, tail)


def _kind_problem(ds: Dataset) -> str | None:
    colour = text(ds, "PhotometricInterpretation")
    image_type = {part.strip().upper() for part in texts(ds, "ImageType")}
    if (number(ds, "SamplesPerPixel") or 1) != 1 or not colour.startswith("MONOCHROME"):
        return f"a colour image ({colour or 'several samples a pixel'}), not scan data"
    if "MOSAIC" in image_type:
        return "a Siemens mosaic (one sheet holds many slices); convert it with dcm2niix and give the NIfTI file"
    if "VFRAME" in image_type:
        return "a UIH VFRAME sheet (one sheet holds many slices); convert it with dcm2niix and give the NIfTI file"
    if "LOCALIZER" in image_type:
        return "a localizer (scout) image"
    if {"SCREEN SAVE", "SCREENSAVE"} & image_type:
        return "a screen capture, not scan data"
    if "ModalityLUTSequence" in ds:
        return "pixel values go through a modality lookup table, which cannot be written back"
    return None


def _frames_problem(ds: Dataset, sop_class: str) -> str | None:
    frames, name = number(ds, "NumberOfFrames") or 1, UID(sop_class).name
    if sop_class in CLASSIC:
        if frames == 1:
            return None
        return f"{frames:g} frames in a single-frame class ({name}); convert it to single frames"
    if not 1 <= frames < MOST_FRAMES:
        return f"damaged: {name} of {frames:g} frames"
    if "PerFrameFunctionalGroupsSequence" not in ds:
        return f"{name} without functional groups, so its frames have no place in space and no values in known units"
    return None


def _pixel_problem(ds: Dataset, tail: Tail) -> str | None:
    frames = number(ds, "NumberOfFrames") or 1
    needed = (number(ds, "Rows") or 0) * (number(ds, "Columns") or 0) * (number(ds, "BitsAllocated") or 0) / 8 * frames
    syntax = _syntax(ds)
    if syntax is not None and syntax.is_deflated:
        return None  # pydicom has inflated the file, so the place of the pixels in it is not known
    if (number(ds, "Rows") or 0) * (number(ds, "Columns") or 0) > limits.LARGEST_IMAGE:
        return f"damaged: an image of {number(ds, 'Columns'):g} x {number(ds, 'Rows'):g} pixels"
    if not tail.has_pixels or needed == 0:
        return "truncated or without pixel data"
    tag_and_length = 8 if syntax is None or ds.original_encoding[0] else 12  # implicit or explicit VR
    if (syntax is None or not syntax.is_compressed) and tail.remaining < needed + tag_and_length:
        return "truncated: the pixel data are shorter than rows x columns"
    return None


def _class_problem(ds: Dataset, sop_class: str) -> str:
    media = text(getattr(ds, "file_meta", Dataset()), "MediaStorageSOPClassUID")
    if media == "1.2.840.10008.1.3.10":
        return "a DICOMDIR (an index of a disc), not an image"
    if not sop_class:
        return "damaged or without a SOP class: not a DICOM image"
    name = UID(sop_class).name
    colour = text(ds, "PhotometricInterpretation")
    if "Secondary Capture" in name:
        what = "a secondary capture (a picture of a screen or report)"
        return f"{what} in colour ({colour}), not scan data" if colour == "RGB" else f"{what}, not scan data"
    if sop_class in PROJECTIONS or sop_class.startswith(tuple(f"{root}." for root in PROJECTIONS)):
        return f"a projection image ({name}), not a CT, MR or PET slice"
    return f"{name} is not a CT, MR or PET image"


def _syntax(ds: Dataset) -> UID | None:
    uid = UID(text(getattr(ds, "file_meta", Dataset()), "TransferSyntaxUID"))
    return uid if uid and uid.is_transfer_syntax else None
