"""The frames of multi-frame objects, each with the geometry and the facts of its functional groups (PS3.3 C.7.6.16).

Nothing is copied into single-frame objects: a frame is a `Header` with the index of the frame in its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from medidiff.errors import ScanError
from medidiff.scans import limits
from medidiff.scans.dicom_headers import Header, credible, positive, quiet, unit_vectors
from medidiff.scans.dicom_problems import ENHANCED
from medidiff.scans.dicom_values import number, optional, tag_of, text, texts, vector

SHARED = "SharedFunctionalGroupsSequence"
PER_FRAME = "PerFrameFunctionalGroupsSequence"
POSITIONAL = tuple(tag_of(key) for key in ("InStackPositionNumber", "ImagePositionPatient", "SliceLocation"))
FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")
UNITS = {"Bq/ml": "BQML", "g/ml": "GML", "g/ml{SUVbw}": "GML", "{counts}": "CNTS", "{counts}/s": "CPS"}

# What may tell frames at one position apart, in the order in which it is tried: functional group and attribute.
FACTS = {
    "t": ("FrameContentSequence", "TemporalPositionIndex"),
    "TE": ("MREchoSequence", "EffectiveEchoTime"),
    "TI": ("MRModifierSequence", "InversionTimes"),
    "flip": ("MRTimingAndRelatedParametersSequence", "FlipAngle"),
    "trigger": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "acquisition": ("FrameContentSequence", "FrameAcquisitionNumber"),
}


class Groups:
    """The functional groups of a multi-frame object: those of one frame, or else those that all frames share."""

    def __init__(self, dataset: Dataset) -> None:
        shared = dataset.get(SHARED) or [Dataset()]
        self.shared: Dataset = shared[0]
        self.frames: Sequence[Dataset] = dataset.get(PER_FRAME) or []

    def of(self, frame: int, keyword: str) -> Dataset:
        """The first item of a group of a frame; an empty dataset where there is none."""
        for holder in (self.frames[frame], self.shared):
            items = holder.get(keyword)
            if items:
                return items[0]  # type: ignore[no-any-return]
        return Dataset()


def images_of(header: Header) -> list[Header]:
    """The images of a file: itself, or the frames of a multi-frame object.

    Raises:
        ScanError: the functional groups are damaged.
    """
    if header.sop_class not in ENHANCED:
        return [header]
    try:
        with quiet(), limits.Bounded(header.path) as file:
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            groups = Groups(dataset)
            count = len(groups.frames)
            frames = [_frame(header, dataset, groups, index) for index in range(count)]
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ScanError(f"{header.path} has damaged functional groups ({type(error).__name__}).") from error
    if count != header.frames:
        raise ScanError(
            f"{header.path} has {header.frames} frames, but functional groups for {count}; repair it first."
        )
    return frames


def _frame(header: Header, dataset: Dataset, groups: Groups, index: int) -> Header:
    measures = groups.of(index, "PixelMeasuresSequence")
    thickness = number(measures, "SliceThickness")
    frame_type = next((found for keyword in FRAME_TYPES if (found := groups.of(index, keyword))), Dataset())
    flavour = [part.strip().upper() for part in texts(frame_type, "FrameType")] or list(header.image_type)
    component = text(frame_type, "ComplexImageComponent")
    offset = int(number(dataset, "ConcatenationFrameOffsetNumber") or 0)
    content = groups.of(index, "FrameContentSequence")
    in_stack = number(content, "InStackPositionNumber")
    alone = header.frames == 1
    return replace(
        header,
        orientation=unit_vectors(vector(groups.of(index, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)),
        position=vector(groups.of(index, "PlanePositionSequence"), "ImagePositionPatient", 3),
        spacing=positive(vector(measures, "PixelSpacing", 2)),
        thickness=number(measures, "SpacingBetweenSlices") or thickness or 1.0,
        slice_thickness=credible(thickness),
        location=None,
        slope=number(groups.of(index, "PixelValueTransformationSequence"), "RescaleSlope") or 1.0,
        image_type=(*flavour, component) if component not in ("", *flavour) else tuple(flavour),
        units=header.units or _units(groups, index),
        facts=_facts(dataset, groups, index),
        frame=index,
        instance=header.instance if alone and not offset else offset + index + 1,
        bundle=header.bundle or ("" if alone else header.sop_uid),
        in_stack=None if in_stack is None else int(in_stack),
        indices=indices(content),
        positional=_positional(dataset, len(indices(content))),
    )


def _facts(dataset: Dataset, groups: Groups, index: int) -> dict[str, tuple[Any, ...]]:
    diffusion = groups.of(index, "MRDiffusionSequence")
    directions = diffusion.get("DiffusionGradientDirectionSequence") or [Dataset()]
    gradient = vector(directions[0], "DiffusionGradientOrientation", 3) or ()
    content = groups.of(index, "FrameContentSequence")
    own = indices(content)
    others = tuple(value for value, place in zip(own, _positional(dataset, len(own)), strict=True) if not place)
    facts: dict[str, tuple[Any, ...]] = {"b": optional(number(diffusion, "DiffusionBValue"))}
    facts |= {"gradient": (*gradient, text(diffusion, "DiffusionDirectionality"))}
    facts |= {name: optional(number(groups.of(index, group), key)) for name, (group, key) in FACTS.items()}
    facts |= {"frame time": (text(content, "FrameReferenceDateTime"),)}
    facts |= {"time": (text(content, "FrameAcquisitionDateTime"),), "dimension": others}
    return facts | {"echo": (), "stack": (text(content, "StackID"),)}


def _positional(dataset: Dataset, count: int) -> tuple[bool, ...]:
    """Which of an object's dimensions are places in space; all may be, where it does not say what they are."""
    pointers = [item.get("DimensionIndexPointer") for item in dataset.get("DimensionIndexSequence") or []]
    return tuple(pointer in POSITIONAL for pointer in pointers) if len(pointers) == count else (True,) * count


def indices(content: Dataset) -> tuple[int, ...]:
    """DimensionIndexValues of a FrameContentSequence item."""
    found = content.get("DimensionIndexValues")
    if found is None:
        return ()
    return tuple(int(part) for part in found) if hasattr(found, "__iter__") else (int(found),)


def _units(groups: Groups, index: int) -> str:
    codes = groups.of(index, "RealWorldValueMappingSequence").get("MeasurementUnitsCodeSequence") or [Dataset()]
    return UNITS.get(text(codes[0], "CodeValue"), "")
