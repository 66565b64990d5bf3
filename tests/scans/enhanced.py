"""A maker of small multi-frame DICOM objects, so that the tests need no files."""

from __future__ import annotations

from collections.abc import Sequence as TypingSequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, generate_uid

from tests.scans.conftest import AXIAL, image

ENHANCED = {
    "CT": ("1.2.840.10008.5.1.4.1.1.2.1", "CTImageFrameTypeSequence"),
    "MR": ("1.2.840.10008.5.1.4.1.1.4.1", "MRImageFrameTypeSequence"),
    "PT": ("1.2.840.10008.5.1.4.1.1.130", "PETFrameTypeSequence"),
}
DIMENSIONS = ("StackID", "InStackPositionNumber", "TemporalPositionIndex")
STALE_AT_TOP = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope")


def group(**values: Any) -> Sequence:
    """A functional group: a sequence of one item."""
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Sequence([item])


def frame(position: TypingSequence[float], **more: Any) -> dict[str, Any]:
    """A frame for `enhanced`.

    Args:
        position: ImagePositionPatient.
        more: ``stack``, ``number`` (in the stack), ``time``, ``slope``, ``intercept``, ``orientation``, ``kind`` (the
            third value of FrameType), ``echo``, ``b``; and functional groups by keyword.
    """
    return {"position": position, **more}


def enhanced(
    frames: TypingSequence[dict[str, Any]],
    pixels: np.ndarray,
    *,
    modality: str = "MR",
    dimensions: TypingSequence[str] | None = DIMENSIONS,
    shared: bool = True,
    spacing: TypingSequence[float] = (0.5, 0.75),
    thickness: float = 2.0,
    **more: Any,
) -> Dataset:
    """One multi-frame object.

    Args:
        frames: as `frame` makes them.
        pixels: shape (frames, rows, columns).
        modality: ``CT``, ``MR`` or ``PT``.
        dimensions: keywords of what the frames are indexed by; None for no dimensions.
        shared: whether pixel measures and orientation are those of all frames or of each.
        spacing: PixelSpacing.
        thickness: SliceThickness.
        more: attributes by keyword.
    """
    ds = image((0, 0, 0), pixels[0], modality=modality, **more)
    for keyword in (*STALE_AT_TOP, "RescaleIntercept"):
        if keyword in ds:
            delattr(ds, keyword)
    ds.SOPClassUID, types = ENHANCED[modality]
    ds.file_meta.MediaStorageSOPClassUID = UID(ds.SOPClassUID)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.ContentQualification = "PRODUCT"
    ds.NumberOfFrames = len(frames)
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    common, items = Dataset(), []
    for given in frames:
        items.append(_item(given, types, dimensions))
        holder = common if shared else items[-1]
        holder.PixelMeasuresSequence = group(PixelSpacing=list(spacing), SliceThickness=thickness)
        if "orientation" in given:
            items[-1].PlaneOrientationSequence = group(ImageOrientationPatient=list(given["orientation"]))
        else:
            holder.PlaneOrientationSequence = group(ImageOrientationPatient=list(AXIAL))
    ds.SharedFunctionalGroupsSequence = Sequence([common])
    ds.PerFrameFunctionalGroupsSequence = Sequence(items)
    if dimensions is not None:
        _dimensions(ds, dimensions)
    return ds


def _item(given: dict[str, Any], types: str, dimensions: TypingSequence[str] | None) -> Dataset:
    item = Dataset()
    kind = given.get("kind", "VOLUME")
    setattr(item, types, group(FrameType=["ORIGINAL", "PRIMARY", kind, "NONE"]))
    content = Dataset()
    content.StackID = str(given.get("stack", 1))
    content.InStackPositionNumber = given.get("number", 1)
    content.TemporalPositionIndex = given.get("time", 1)
    content.FrameAcquisitionDateTime = f"202001020304{given.get('number', 1):02d}"
    if dimensions is not None:
        content.DimensionIndexValues = [int(getattr(content, keyword)) for keyword in dimensions]
    item.FrameContentSequence = Sequence([content])
    item.PlanePositionSequence = group(ImagePositionPatient=[float(value) for value in given["position"]])
    rescale = {"RescaleSlope": given.get("slope", 1), "RescaleIntercept": given.get("intercept", 0)}
    item.PixelValueTransformationSequence = group(**rescale, RescaleType="US")
    if "echo" in given:
        item.MREchoSequence = group(EffectiveEchoTime=float(given["echo"]))
    if "b" in given:
        item.MRDiffusionSequence = group(DiffusionBValue=float(given["b"]), DiffusionDirectionality="ISOTROPIC")
    for keyword, value in given.items():
        if keyword[0].isupper():
            setattr(item, keyword, value)
    return item


def _dimensions(ds: Dataset, dimensions: TypingSequence[str]) -> None:
    organization = generate_uid()
    ds.DimensionOrganizationSequence = group(DimensionOrganizationUID=organization)
    ds.DimensionIndexSequence = Sequence([])
    for keyword in dimensions:
        ds.DimensionIndexSequence += group(
            DimensionOrganizationUID=organization,
            DimensionIndexPointer=Tag(keyword),
            FunctionalGroupPointer=Tag("FrameContentSequence"),
        )


def stack(
    count: int,
    *,
    start: TypingSequence[float] = (-10.0, 20.0, 5.0),
    step: TypingSequence[float] = (0, 0, 2),
    **more: Any,
) -> list[dict[str, Any]]:
    """The frames of one stack; values of ``more`` that are functions are called with the index."""
    return [
        frame(
            tuple(np.array(start) + k * np.array(step)),
            **{"number": k + 1} | {key: value(k) if callable(value) else value for key, value in more.items()},
        )
        for k in range(count)
    ]


def noise(count: int, shape: tuple[int, int] = (6, 4), kind: type = np.uint16, seed: int = 0) -> np.ndarray:
    """Pixels of ``count`` frames."""
    return np.random.default_rng(seed).integers(100, 3000, (count, *shape)).astype(kind)


def save(ds: Dataset, path: Path) -> Dataset:
    """Write an object, and give it back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return ds
