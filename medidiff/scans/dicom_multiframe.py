"""Derives multi-frame objects: a copy of a source object with new pixels, and frames that say what they were made from.

On the source's grid the frames stay what they are. On a finer grid, or where missing slices are filled, the object gets
as many frames as the result has slices: each is a copy of the nearest source frame with a place of its own in space
(pixel measures, plane position) and in the object's dimensions (PS3.3 C.7.6.16, C.7.6.17).
"""

from __future__ import annotations

from collections.abc import Sequence as TypingSequence
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from pydicom.valuerep import format_number_as_ds

from medidiff.errors import ScanError
from medidiff.scans import dicom_dimensions, dicom_files, dicom_pixels
from medidiff.scans.dicom_frames import FRAME_TYPES, PER_FRAME, Groups
from medidiff.scans.dicom_grid import Image, Place
from medidiff.scans.dicom_headers import Header
from medidiff.scans.dicom_labels import (
    CODES,
    SeriesLabels,
    code,
    derivation_text,
    derived_type,
    identify,
    new_uid,
    reference,
)
from medidiff.scans.volume import Derivation

CONVERTED = "UnassignedPerFrameConvertedAttributesSequence"
MEASURES = ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices")
STALE_IN_FRAME = ("SmallestImagePixelValue", "LargestImagePixelValue")
STALE_IN_MOVED_FRAME = ("SliceLocation", "InstanceNumber", "ImagePositionPatient")


class Renamed:
    """New UIDs for those that several objects of a series share: a UID always gets the same new one."""

    def __init__(self, derivation: Derivation) -> None:
        self._derivation = derivation
        self._known: dict[str, UID] = {}

    def __call__(self, uid: str) -> UID:
        """The new UID."""
        return self._known.setdefault(uid, new_uid(self._derivation, f"shared {uid}"))


def derived(images: TypingSequence[Image], labels: SeriesLabels, number: int, renamed: Renamed) -> Dataset:
    """Make one object of the frames of a result.

    Args:
        images: the frames in their order; their headers are frames of one source file.
        labels: what the output series has in common.
        number: the InstanceNumber of the object.
        renamed: for UIDs that the objects of the series share.

    Raises:
        ScanError: the source changed or is damaged, or the frames cannot be one object.
    """
    header = images[0].header
    dataset = dicom_pixels.load(header.path)
    frames = dicom_pixels.decode(dataset, header.path)
    same = str(dataset.get("SOPInstanceUID", "")).strip() == header.sop_uid
    if not same or frames.shape != (header.frames, *header.shape[::-1]):
        raise ScanError(f"{header.path} changed while it was processed; run again.")
    moved = any(image.place is not None for image in images)
    if moved:
        _check(images)
    elif [image.header.frame for image in images] != list(range(header.frames)):
        raise ScanError(f"{header.path} has frames that are not part of the result.")
    try:
        return _edited(dataset, frames, images, labels, number, renamed, moved)
    except ScanError:
        raise
    except Exception as error:  # pydicom raises many kinds on damaged values
        raise ScanError(f"{header.path} has header values that cannot be copied ({type(error).__name__}).") from error


def _check(images: TypingSequence[Image]) -> None:
    """Refuse frames that cannot be one object."""
    dicom_dimensions.check([(image.header, _indices(image)) for image in images])
    if len({image.values.shape for image in images}) > 1:
        raise ScanError(
            f"{images[0].header.path} holds stacks whose results differ in rows or columns, which one multi-frame "
            "object cannot; convert it to NIfTI first."
        )


def _edited(
    dataset: Dataset,
    frames: NDArray[np.integer[Any]],
    images: TypingSequence[Image],
    labels: SeriesLabels,
    number: int,
    renamed: Renamed,
    moved: bool,
) -> Dataset:
    header, place = images[0].header, images[0].place
    dicom_files.note_lossy(dataset)
    own = dicom_pixels.coding(dataset, header)
    stored = np.empty((len(images), *images[0].values.shape), dtype=dicom_files.stored_type(dataset, own))
    slopes = []
    for n, image in enumerate(images):
        stored[n], slope = _restored(dataset, frames, image)
        slopes.append(slope)
    identify(dataset, labels, number, place.name if place and header.frames == 1 else "")
    groups = Groups(dataset)
    items = [groups.frames[image.header.frame or 0] for image in images]
    items = [deepcopy(item) for item in items] if moved else items
    for item, slope in zip(items, slopes, strict=True):
        if slope is not None:
            item.PixelValueTransformationSequence[0].RescaleSlope = slope
    if moved:
        _move(dataset, groups.shared, items, images)
        _index(dataset, items, images, renamed)
    _derive(dataset, groups.shared, items, images, labels.derivation)
    _concatenate(dataset, renamed)
    dataset[PER_FRAME].value = Sequence(items)
    dataset.NumberOfFrames = len(items)
    dataset.Rows, dataset.Columns = images[0].values.shape
    dicom_files.set_pixels(dataset, stored, own)
    dataset.file_meta = dicom_files.file_meta(dataset, labels.derivation.version)
    dataset.preamble = b"\0" * 128
    return dataset


def _restored(dataset: Dataset, frames: NDArray[np.integer[Any]], image: Image) -> tuple[NDArray[np.int64], str | None]:
    """The stored values of a frame, and its RescaleSlope where it needs another one than the source frame."""
    header, place = image.header, image.place
    source = frames[header.frame or 0].astype(np.int64)
    own = code_ = dicom_pixels.coding(dataset, header)
    if place is not None:
        source = source[np.ix_(place.rows, place.columns)]
        if place.rescale and not Groups(dataset).of(header.frame or 0, "RealWorldValueMappingSequence"):
            code_ = dicom_pixels.with_room(image.values, own)
    fresh = dicom_pixels.to_stored(image.values, source, code_)
    return fresh, None if code_.slope == own.slope else format_number_as_ds(code_.slope)


def _move(dataset: Dataset, shared: Dataset, items: TypingSequence[Dataset], images: TypingSequence[Image]) -> None:
    """Give each frame the geometry of its place; what the source left empty stays empty."""
    for item, image in zip(items, images, strict=True):
        if image.place is None:
            continue
        measures = _of_its_own(item, shared, "PixelMeasuresSequence")
        for keyword in MEASURES:
            _set(measures, keyword, image.place)
        if "ImagePositionPatient" in image.place.attributes:
            _set(_of_its_own(item, shared, "PlanePositionSequence"), "ImagePositionPatient", image.place)
        for converted in item.get(CONVERTED) or []:
            _remove(converted, STALE_IN_MOVED_FRAME)
    for keyword in ("PixelMeasuresSequence", "PlanePositionSequence"):
        if any(keyword in item for item in items):
            for item in items:
                _of_its_own(item, shared, keyword)
            _remove(shared, (keyword,))
    moved = next(image.place for image in images if image.place is not None)
    for keyword in MEASURES:
        _set(dataset, keyword, moved)
    _remove(dataset, ("RepresentativeFrameNumber",))


def _set(holder: Dataset, keyword: str, place: Place) -> None:
    if holder.get(keyword) not in (None, "") and keyword in place.attributes:
        setattr(holder, keyword, dicom_files.decimal(place.attributes[keyword]))


def _of_its_own(item: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame, copied from that of all frames where the frame has none."""
    if keyword not in item:
        setattr(item, keyword, Sequence([deepcopy(group) for group in shared.get(keyword) or [Dataset()]]))
    return item[keyword].value[0]  # type: ignore[no-any-return]


def _remove(holder: Dataset, keywords: TypingSequence[str]) -> None:
    for keyword in keywords:
        if keyword in holder:
            delattr(holder, keyword)


def _index(dataset: Dataset, items: TypingSequence[Dataset], images: TypingSequence[Image], renamed: Renamed) -> None:
    """Number the frames anew along the dimensions that run with the slices."""
    for item, image in zip(items, images, strict=True):
        content = _of_its_own(item, Dataset(), "FrameContentSequence")
        if image.header.in_stack is not None:
            content.InStackPositionNumber = dicom_dimensions.in_stack(image.stack, image.index, image.depth)
        if image.header.indices:
            content.DimensionIndexValues = list(_indices(image))
    for holder in (*dataset.get("DimensionOrganizationSequence", []), *dataset.get("DimensionIndexSequence", [])):
        if holder.get("DimensionOrganizationUID"):
            holder.DimensionOrganizationUID = renamed(str(holder.DimensionOrganizationUID))


def _indices(image: Image) -> tuple[int, ...]:
    return dicom_dimensions.indices(image.header, image.stack, image.index, image.depth)


def _derive(
    dataset: Dataset,
    shared: Dataset,
    items: TypingSequence[Dataset],
    images: TypingSequence[Image],
    derivation: Derivation,
) -> None:
    """Say in every frame that it is derived, how, and from which frames of which objects."""
    earlier = list(shared.get("DerivationImageSequence") or [])
    _remove(shared, ("DerivationImageSequence",))
    for holder in (shared, *items):
        for keyword in FRAME_TYPES:
            for group in holder.get(keyword) or []:
                group.FrameType = derived_type(group.get("FrameType"))
        for converted in holder.get(CONVERTED) or []:
            _remove(converted, STALE_IN_FRAME)
    for item, image in zip(items, images, strict=True):
        step = Dataset()
        step.DerivationDescription = derivation_text(derivation)
        step.DerivationCodeSequence = Sequence([code(*CODES[derivation.task])])
        step.SourceImageSequence = Sequence(_references(image))
        before = [deepcopy(each) for each in item.get("DerivationImageSequence") or earlier]
        item.DerivationImageSequence = Sequence([*before, step])
    _evidence(dataset, images)


def _references(image: Image) -> list[Dataset]:
    """The source frames of a frame, one item an object, the nearest object first; no frame numbers stand for all."""
    frames: dict[str, list[int]] = {}
    objects: dict[str, Header] = {}
    for header in image.place.sources if image.place else (image.header,):
        objects.setdefault(header.sop_uid, header)
        frames.setdefault(header.sop_uid, []).append((header.frame or 0) + 1)
    items = []
    for uid, header in objects.items():
        items.append(reference(header.sop_class, uid))
        if header.frames == 1 or len(frames[uid]) < header.frames:
            items[-1].ReferencedFrameNumber = frames[uid] if len(frames[uid]) > 1 else frames[uid][0]
    return items


def _evidence(dataset: Dataset, images: TypingSequence[Image]) -> None:
    """Add the source objects to SourceImageEvidenceSequence, which lists all that the frames name."""
    sources = {header.sop_uid: header for image in images for header in (image.place.sources if image.place else ())}
    sources |= {image.header.sop_uid: image.header for image in images if image.place is None}
    first = images[0].header
    series = Dataset()
    series.SeriesInstanceUID = first.series_uid
    series.ReferencedSOPSequence = Sequence([])
    for header in sources.values():
        item = reference(header.sop_class, header.sop_uid)
        del item.PurposeOfReferenceCodeSequence
        series.ReferencedSOPSequence.append(item)
    study = Dataset()
    study.StudyInstanceUID = first.study_uid
    study.ReferencedSeriesSequence = Sequence([series])
    known = list(dataset.get("SourceImageEvidenceSequence") or [])
    for item in known:
        if str(item.get("StudyInstanceUID", "")) == first.study_uid:
            item.ReferencedSeriesSequence = Sequence([*(item.get("ReferencedSeriesSequence") or []), series])
            return
    dataset.SourceImageEvidenceSequence = Sequence([*known, study])


def _concatenate(dataset: Dataset, renamed: Renamed) -> None:
    """Give a concatenation, and the object that it was cut from, identities of their own."""
    for keyword in ("ConcatenationUID", "SOPInstanceUIDOfConcatenationSource"):
        if dataset.get(keyword):
            setattr(dataset, keyword, renamed(str(dataset[keyword].value)))
