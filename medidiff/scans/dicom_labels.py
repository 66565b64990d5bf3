"""Turns a copy of a source image's attributes into those of a derived image (PS3.3 C.7.6.1 and C.12.1).

What describes the patient, the study, the acquisition and the geometry stays; what identifies or describes the old
pixels changes or goes.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence as TypingSequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

from highdicom import ContributingEquipment
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID

from medidiff.scans.discover import SERIES_NUMBER_STEP
from medidiff.scans.volume import Derivation

MANUFACTURER = "medidiff"
IMPLEMENTATION_UID = UID("2.25.177902830773837197042906145332145052860")
CODES = {
    "denoise": ("113087", "Smoothing"),
    "superres": ("113085", "Spatial resampling"),
    "inpaint": ("113077", "Volume editing"),
}
DESCRIPTION_SUFFIX = {"denoise": "denoised", "superres": "super-resolved", "inpaint": "inpainted"}
SOURCE_IMAGES = Tag("SourceImageSequence")
SOURCE_PURPOSE = ("121322", "Source image for image processing operation")

STALE = (
    "LengthToEnd",
    "IconImageSequence",
    "DigitalSignaturesSequence",
    "MACParametersSequence",
    "EncryptedAttributesSequence",
    "HistogramSequence",
    "StorageMediaFileSetID",
    "StorageMediaFileSetUID",
    "PixelDataProviderURL",
    "AlternateRepresentationSequence",
    "ReferencedInstanceSequence",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "DataSetTrailingPadding",
    "InstanceCreatorUID",
    "SOPInstanceStatus",
    "SOPAuthorizationDateTime",
    "SOPAuthorizationComment",
    "AuthorizationEquipmentCertificationNumber",
    "InstanceOriginStatus",
)

# Private elements (creator: element numbers) that describe the acquisition and not the pixels: b-values, diffusion
# gradients, and the factors of Philips' stored values, which stay as they are.
ACQUISITION_FACTS: dict[str, frozenset[int]] = {
    "SIEMENS MR HEADER": frozenset({0x0A, 0x0C, 0x0D, 0x0E, 0x27, 0x28, 0x29}),
    "GEMS_ACQU_01": frozenset({0xBB, 0xBC, 0xBD, 0xBE}),
    "GEMS_PARM_01": frozenset({0x39}),
    "Philips Imaging DD 001": frozenset({0x03, 0x04}),
    "Philips MR Imaging DD 001": frozenset({0xB0, 0xB1, 0xB2}),
}


@dataclass(frozen=True)
class SeriesLabels:
    """What all images of one output series share."""

    derivation: Derivation
    series_uid: UID
    series_number: int
    moment: datetime


def series_labels(derivation: Derivation, source_series_uid: str, series_number: int) -> SeriesLabels:
    """Decide the labels of an output series.

    ``derivation.extra`` may hold ``uid_entropy`` (UIDs become a function of it, of the source and of the derivation)
    and ``datetime`` (ISO 8601, the time of creation); with both, the same run gives the same bytes.
    """
    given = derivation.extra.get("datetime")
    moment = datetime.fromisoformat(given) if given else datetime.now().astimezone()
    moment = moment if moment.tzinfo else moment.astimezone()
    number = later_number(series_number, 1) if derivation.sample else series_number
    return SeriesLabels(derivation, new_uid(derivation, f"series {source_series_uid}"), number, moment)


def later_number(series_number: int, steps: int) -> int:
    """A SeriesNumber for a further output of the case, ``steps`` times 10 000 above that of the restored image."""
    number = series_number + steps * SERIES_NUMBER_STEP
    return number if number < 2**31 else number % SERIES_NUMBER_STEP + steps * SERIES_NUMBER_STEP


def new_uid(derivation: Derivation, source: str) -> UID:
    """A UID under the UUID root (PS3.5 B.2): random, or derived by SHA-256 when ``uid_entropy`` is given."""
    entropy = derivation.extra.get("uid_entropy")
    if not entropy:
        return UID(f"2.25.{uuid.uuid4().int}")
    text = "\n".join((entropy, source, derivation.task, derivation.text, derivation.version, str(derivation.sample)))
    return UID(f"2.25.{uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4).int}")


def relabel(
    dataset: Dataset,
    labels: SeriesLabels,
    instance_number: int,
    sources: TypingSequence[tuple[str, str]] | None = None,
    place: str = "",
) -> None:
    """Edit one copied single-frame dataset in place; pixels and geometry are not touched.

    Args:
        dataset: the copy.
        labels: what the output series has in common.
        instance_number: the new InstanceNumber.
        sources: SOP class and instance UID of each source image; the copied image alone when not given.
        place: tells images that are copies of one source apart.
    """
    used = sources or [(str(dataset.SOPClassUID), str(dataset.get("SOPInstanceUID", "")))]
    identify(dataset, labels, instance_number, place)
    _derivation(dataset, labels.derivation)
    dataset[SOURCE_IMAGES] = _encoded(used)


def identify(dataset: Dataset, labels: SeriesLabels, instance_number: int, place: str = "") -> None:
    """Give a copied dataset the identity of a derived one and drop what describes the old pixels; see `relabel`."""
    derivation = labels.derivation
    _drop(dataset)
    dataset.SOPInstanceUID = new_uid(derivation, f"image {dataset.get('SOPInstanceUID', '')} {place}".strip())
    dataset.SeriesInstanceUID = labels.series_uid
    dataset.SeriesNumber = labels.series_number
    dataset.SeriesDescription = series_description(dataset, suffix(derivation))
    dataset.InstanceNumber = instance_number
    dataset.ImageType = derived_type(dataset.get("ImageType"))
    date(dataset, labels.moment)
    equipment = list(dataset.get("ContributingEquipmentSequence") or [])
    dataset.ContributingEquipmentSequence = Sequence([*equipment, contributing_equipment(labels)])
    if derivation.sample or derivation.task != "denoise":
        dataset.SyntheticData = "YES"
    if "ContentQualification" in dataset:
        dataset.ContentQualification = "RESEARCH"


def _drop(dataset: Dataset) -> None:
    for keyword in STALE:
        if keyword in dataset:
            delattr(dataset, keyword)
    for tag in list(dataset.keys()):
        overlay_or_curve = tag.group % 2 == 0 and (0x6000 <= tag.group <= 0x60FF or 0x5000 <= tag.group <= 0x50FF)
        if overlay_or_curve or (tag.is_private and not _is_acquisition_fact(dataset, tag.group, tag.element)):
            del dataset[tag]
    for tag in list(dataset.keys()):
        if not tag.is_private and _is_sequence(tag):
            for item in dataset[tag].value or []:
                _drop_private(item)


def _is_acquisition_fact(dataset: Dataset, group: int, element: int) -> bool:
    """Whether a private element, or the creator of its block, is kept."""
    if element < 0x100:  # a creator stays when any element of its block does
        facts = _facts(dataset, group, element)
        return any((group, element << 8 | fact) in dataset for fact in facts)
    return element & 0xFF in _facts(dataset, group, element >> 8)


def _facts(dataset: Dataset, group: int, block: int) -> frozenset[int]:
    creator = dataset[group, block].value if (group, block) in dataset else ""
    return ACQUISITION_FACTS.get(str(creator).strip(), frozenset())


def _is_sequence(tag: int) -> bool:
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _drop_private(item: Dataset) -> None:
    for tag in list(item.keys()):
        if tag.is_private:
            if not _is_acquisition_fact(item, tag.group, tag.element):
                del item[tag]
        elif _is_sequence(tag):
            for inner in item[tag].value or []:
                _drop_private(inner)


def suffix(derivation: Derivation) -> str:
    """What a SeriesDescription says of the task."""
    return DESCRIPTION_SUFFIX[derivation.task] + (" sample" if derivation.sample else "")


def series_description(dataset: Dataset, suffix: str) -> str:
    """The source's SeriesDescription with the task's name, at most 64 characters (VR LO)."""
    try:
        source = str(dataset.get("SeriesDescription") or "").strip()
    except Exception:  # text that does not fit its character set
        source = ""
    return f"{source[: 64 - len(suffix) - 1].rstrip()} {suffix}".strip()


def derived_type(value: Any) -> list[str]:
    """ImageType or FrameType of a derived image, from that of its source."""
    parts = [value] if isinstance(value, str) else [str(part) for part in value or []]
    second = parts[1].strip() if len(parts) > 1 else ""
    return ["DERIVED", second if second in ("PRIMARY", "SECONDARY") else "PRIMARY", *parts[2:]]


def date(dataset: Dataset, moment: datetime) -> None:
    """Creation and content date and time, in the time zone that the dataset declares."""
    local = moment.astimezone(_zone(str(dataset.get("TimezoneOffsetFromUTC") or "")) or moment.tzinfo)
    for kind in ("InstanceCreation", "Content"):
        setattr(dataset, f"{kind}Date", local.strftime("%Y%m%d"))
        setattr(dataset, f"{kind}Time", local.strftime("%H%M%S.%f"))


def _zone(offset: str) -> timezone | None:
    offset = offset.strip()
    if len(offset) != 5 or offset[0] not in "+-" or not offset[1:].isdigit():
        return None
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)) if minutes < 1440 else None


def _derivation(dataset: Dataset, derivation: Derivation) -> None:
    """Append this step to what the source says of its own derivation (text of VR ST, at most 1024 characters)."""
    text = derivation_text(derivation)
    earlier = str(dataset.get("DerivationDescription") or "").strip()
    room = 1024 - len(text) - 2
    dataset.DerivationDescription = f"{earlier[:room]}; {text}" if earlier and room > 0 else text
    steps = [item for item in dataset.get("DerivationCodeSequence") or [] if item.get("CodeValue")]
    dataset.DerivationCodeSequence = Sequence([*steps, code(*CODES[derivation.task])])


def derivation_text(derivation: Derivation) -> str:
    """DerivationDescription."""
    return derivation.text.encode("ascii", "replace").decode()[:1024]


def _encoded(sources: TypingSequence[tuple[str, str]]) -> RawDataElement:
    """SourceImageSequence in Explicit VR Little Endian, from references encoded once.

    A fine slice names all images of its volume, so a large series holds their product of references; building and
    encoding each anew would take longer than everything else that writing does.
    """
    value = b"".join(_encoded_reference(*source) for source in sources)
    return RawDataElement(SOURCE_IMAGES, "SQ", len(value), value, 0, False, True)


@lru_cache(maxsize=4096)
def _encoded_reference(sop_class: str, sop_uid: str) -> bytes:
    holder = Dataset()
    holder.SourceImageSequence = Sequence([reference(sop_class, sop_uid)])
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = False, True
    write_dataset(file, holder)
    return file.getvalue()[12:]  # less the tag, VR and length of the sequence


def reference(sop_class: str, sop_uid: str) -> Dataset:
    """An item of SourceImageSequence."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class
    item.ReferencedSOPInstanceUID = sop_uid
    item.PurposeOfReferenceCodeSequence = Sequence([code(*SOURCE_PURPOSE)])
    return item


def code(value: str, meaning: str) -> Dataset:
    """A coded concept of the standard's own scheme."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def contributing_equipment(labels: SeriesLabels) -> ContributingEquipment:
    """Medidiff as the equipment that processed, or for inpainting and samples synthesized, the image (C.12.1.1.9)."""
    from pydicom.sr.codedict import codes

    synthetic = labels.derivation.sample or labels.derivation.task == "inpaint"
    purpose = codes.DCM.SynthesizingEquipment if synthetic else codes.DCM.ProcessingEquipment
    return ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=purpose,
        manufacturer_model_name=MANUFACTURER,
        software_versions=labels.derivation.version[:64],
        contribution_datetime=labels.moment,
        contribution_description=DESCRIPTION_SUFFIX[labels.derivation.task],
    )
