"""Reads one DICOM series into volumes in physical units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from medidiff.errors import OutOfMemory, ScanError
from medidiff.scans import dicom_pixels
from medidiff.scans.dicom_frames import images_of
from medidiff.scans.dicom_headers import Header, load_header, quiet
from medidiff.scans.dicom_stacks import Stack, stacks
from medidiff.scans.volume import Scan, ScanRef, Volume

ARBITRARY_UNITS = "a.u."


@dataclass(frozen=True)
class DicomSource:
    """Undo record of a DICOM series: the source image of every slice of every volume."""

    stacks: tuple[Stack, ...]

    @property
    def images(self) -> list[Header]:
        """Every source image, volume after volume."""
        return [header for stack in self.stacks for header in stack.images]


def read(ref: ScanRef, fill_gaps: bool = False) -> Scan:
    """Decode a series: images sorted by position, rescaled slice by slice, split into regular volumes.

    Args:
        ref: a case of kind ``dicom``.
        fill_gaps: give a stack that lacks slices as one volume on the full grid; `Volume.missing` says which.

    Returns:
        The volumes; padded pixels are not ``valid`` and hold the smallest valid value. Images that are not on a regular
        grid come as volumes of one slice, and a note says why.

    Raises:
        ScanError: an image cannot be read or decoded.
        OutOfMemory: the series does not fit the memory.
    """
    headers, notes = _headers(ref)
    found, more = stacks(headers, fill_gaps)
    try:
        overlays: set[Path] = set()
        with quiet():
            reader = dicom_pixels.Reader()
            volumes = tuple(_volume(stack, reader, overlays) for stack in found)
    except MemoryError as error:
        raise OutOfMemory(f"{ref.path} does not fit the memory; process fewer series at a time.") from error
    if overlays:
        more = (*more, f"Overlays drawn on {len(overlays)} of the files are left out of the result.")
    return Scan(ref, volumes, DicomSource(found), (*notes, *more))


def outline(ref: ScanRef, fill_gaps: bool = False) -> Scan:
    """A series as `read` gives it, but without voxels: only headers are read, and the arrays hold zeros.

    Args:
        ref: as for `read`.
        fill_gaps: as for `read`.

    Raises:
        ScanError: an image cannot be read.
    """
    headers, notes = _headers(ref)
    found, more = stacks(headers, fill_gaps)
    return Scan(ref, tuple(map(_hollow, found)), DicomSource(found), (*notes, *more))


def _headers(ref: ScanRef) -> tuple[list[Header], list[str]]:
    """The series' images without duplicates, frame by frame, and a note on those left out."""
    unique: dict[str, Header] = {}
    double = 0
    for path in sorted(ref.files):
        try:
            header = load_header(path)
        except Exception as error:  # pydicom raises many kinds on damaged files
            raise ScanError(f"{path} cannot be read as DICOM ({type(error).__name__}); check the file.") from error
        if header.problem is not None:
            raise ScanError(f"{path} cannot be restored: {header.problem}.")
        known = unique.get(header.sop_uid)
        if known is not None and (known.position, known.instance) != (header.position, header.instance):
            raise ScanError(f"{path} and {known.path.name} differ but share a SOPInstanceUID; repair the series first.")
        double += known is not None
        unique.setdefault(header.sop_uid or str(path), header)
    if not unique:
        raise ScanError(f"{ref.path} holds no image of the series.")
    kinds = {header.sop_class for header in unique.values()}
    if len(kinds) > 1:
        names = " and ".join(sorted(UID(kind).name for kind in kinds))
        raise ScanError(f"{ref.path} mixes {names} in one series; separate them.")
    plural = "s are" if double > 1 else " is"
    notes = [f"{double} image{plural} present more than once (same SOPInstanceUID) and used once."] if double else []
    files = sorted(unique.values(), key=lambda header: (header.instance is None, header.instance or 0, header.path))
    return [image for header in files for image in images_of(header)], notes


def _volume(stack: Stack, reader: dicom_pixels.Reader, overlays: set[Path]) -> Volume:
    """Decode a stack; files that carry overlay planes (groups 60xx) are added to ``overlays``."""
    hollow = _hollow(stack)
    array = np.zeros(hollow.array.shape, dtype=np.float32, order="F")
    invalid = {k: np.ones(array.shape[:2], dtype=np.bool_) for k in _empty(stack)}
    for k, header in zip(stack.indices, stack.images, strict=True):
        dataset, stored = reader.read(header)
        if any(0x6000 <= tag.group <= 0x60FF for tag in dataset.keys()):  # noqa: SIM118 (iterating decodes)
            overlays.add(header.path)
        code = dicom_pixels.coding(dataset, header)
        array[:, :, k] = dicom_pixels.to_physical(stored, code).T
        data = dicom_pixels.measured(stored, code)
        if not data.all():
            invalid[k] = ~data.T
    return replace(hollow, array=array, valid=_fill(array, invalid))


def _hollow(stack: Stack) -> Volume:
    """The volume of a stack without its voxels: zeros, which take no memory."""
    first, empty = stack.images[0], _empty(stack)
    array = np.broadcast_to(np.float32(0), (*first.shape, stack.depth))
    missing = np.zeros(array.shape, dtype=np.bool_) if empty else None
    if missing is not None:
        missing[:, :, empty] = True
    return Volume(
        array=array,
        affine=stack.affine,
        modality=first.modality,
        units=_units(first),
        label=stack.label,
        slice_axis=2,
        thickness=_thickness(stack),
        missing=missing,
        irregular=stack.irregular,
    )


def _empty(stack: Stack) -> list[int]:
    """The places along the last axis of which the series lacks the slice."""
    return sorted(set(range(stack.depth)) - set(stack.indices))


def _thickness(stack: Stack) -> float | None:
    """SliceThickness, when all images agree on it to one percent."""
    given = [header.slice_thickness for header in stack.images]
    known = [value for value in given if value is not None]
    return known[0] if len(known) == len(given) and max(known) <= 1.01 * min(known) else None


def _fill(array: NDArray[np.float32], invalid: dict[int, NDArray[np.bool_]]) -> NDArray[np.bool_] | None:
    """Give padded voxels the smallest valid value, so that no false edge surrounds the field of view."""
    if not invalid:
        return None
    valid = np.ones(array.shape, dtype=np.bool_, order="F")
    for k, mask in invalid.items():
        valid[:, :, k] = ~mask
    array[~valid] = array[valid].min() if valid.any() else 0.0
    return valid


def _units(header: Header) -> str:
    if header.modality == "CT":
        return "HU"
    return header.units or ARBITRARY_UNITS if header.modality == "PT" else ARBITRARY_UNITS
