"""Writes restored volumes as one derived DICOM series of the source's SOP class.

Each output image is a source image with edited labels and new pixels, so everything that medidiff does not know about
stays as the scanner wrote it. On the source's grid it names the one source image at its own place; with a 3-D pipeline
its neighbours gave context, which the derivation text says. On a finer grid it copies the nearest source image, has a
geometry of its own and names every image of its volume. Files are Explicit VR Little Endian, uncompressed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from medidiff.errors import CannotWrite, ScanError
from medidiff.scans import dicom_grid, dicom_pixels
from medidiff.scans.dicom import DicomSource
from medidiff.scans.dicom_grid import Image, Place
from medidiff.scans.dicom_headers import quiet
from medidiff.scans.dicom_labels import IMPLEMENTATION_UID, SeriesLabels, relabel, series_labels
from medidiff.scans.discover import SERIES_NUMBER_STEP
from medidiff.scans.outputs import atomic_folder
from medidiff.scans.regrid import regrid
from medidiff.scans.volume import Derivation, Scan

PIXEL_DATA = 0x7FE00010
ALWAYS_SET = ("Rows", "Columns", "ImagePositionPatient", "PixelSpacing")
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 93, 203)}


def write(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    folder: Path,
    derivation: Derivation,
    affines: Sequence[NDArray[np.float64]] | None = None,
) -> tuple[Path, ...]:
    """Write one file an image into ``folder``, which appears complete or not at all.

    Args:
        scan: as `dicom.read` returned it.
        arrays: one array a volume, physical units; of the volume's shape unless ``affines`` are given. A slice that the
            series lacks (`Volume.missing`) becomes a new image.
        folder: the folder of the new series; an older one is replaced.
        derivation: how the result came about.
        affines: 4 x 4, RAS+, one a volume: the grids of arrays that are finer than the scan. A slice takes the
            attributes of the nearest source slice.

    Returns:
        The files, in order of InstanceNumber.

    Raises:
        CannotWrite: the folder cannot be written.
        ScanError: a source image is gone, or the arrays do not fit the scan.
    """
    if any(path.resolve().is_relative_to(folder.resolve()) for path in scan.ref.files):
        raise CannotWrite(f"{folder} holds the input itself; choose another output folder.")
    images = _images(scan, arrays, affines)
    ordered = sorted(image.number for image in images)
    files = {number: f"{rank:04d}.dcm" for rank, number in enumerate(ordered, start=1)}
    labels = series_labels(derivation, scan.ref.series_uid, series_number(scan))
    with atomic_folder(folder) as temporary, quiet():
        for image in images:
            _save(_derived(image, labels), temporary / files[image.number], image.header.path)
    return tuple(folder / files[number] for number in ordered)


def _images(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    affines: Sequence[NDArray[np.float64]] | None,
) -> list[Image]:
    source: DicomSource = scan.source
    if affines is not None:
        triples = zip(scan.volumes, arrays, affines, strict=True)
        grids = [regrid(volume, array.shape, affine) for volume, array, affine in triples]
        return dicom_grid.new_grid(source.stacks, arrays, affines, grids)
    expected = [volume.array.shape for volume in scan.volumes]
    given = [array.shape for array in arrays]
    if expected != given:
        raise ScanError(f"{scan.ref.stem}: the restored arrays have shapes {given}, the scan has {expected}.")
    return dicom_grid.own_grid(source.stacks, arrays)


def series_number(scan: Scan) -> int:
    """The SeriesNumber of the restored series."""
    source: DicomSource = scan.source
    return scan.ref.output_series_number or max(source.images[0].series_number or 0, 0) + SERIES_NUMBER_STEP


def _derived(image: Image, labels: SeriesLabels) -> Dataset:
    header, place = image.header, image.place
    dataset = dicom_pixels.load(header.path)
    stored = dicom_pixels.decode(dataset, header.path)
    code = own_code = dicom_pixels.coding(dataset, header.path)
    if stored.shape != (header.shape[1], header.shape[0]):
        raise ScanError(f"{header.path} changed while it was processed; run again.")
    if place is not None:
        stored = stored[np.ix_(place.rows, place.columns)]
        if place.rescale and "RealWorldValueMappingSequence" not in dataset:
            code = dicom_pixels.with_room(image.values, code)
    fresh = dicom_pixels.to_stored(image.values, stored, code)
    try:
        unchanged = str(dataset.get("SOPInstanceUID", "")).strip() == header.sop_uid
        _note_lossy(dataset)
        if place is None:
            relabel(dataset, labels, image.number)
        else:
            sources = [(source.sop_class, source.sop_uid) for source in place.sources]
            relabel(dataset, labels, image.number, sources, place.name)
            _move(dataset, place)
        if code.slope != own_code.slope:
            dataset.RescaleSlope = format_number_as_ds(code.slope)
        _set_pixels(dataset, fresh, code)
        dataset.file_meta = file_meta(dataset, labels.derivation.version)
    except Exception as error:  # pydicom raises many kinds on damaged values
        raise ScanError(f"{header.path} has header values that cannot be copied ({type(error).__name__}).") from error
    if not unchanged:
        raise ScanError(f"{header.path} changed while it was processed; run again.")
    dataset.preamble = b"\0" * 128
    return dataset


def _move(dataset: Dataset, place: Place) -> None:
    """Give a copied dataset the geometry of its new place; what the source left empty stays empty."""
    for keyword, value in place.attributes.items():
        if keyword in ALWAYS_SET or dataset.get(keyword) not in (None, ""):
            setattr(dataset, keyword, _decimal(value))


def _decimal(value: Any) -> Any:
    """Fractions as decimal strings of at most 16 characters (VR DS)."""
    if isinstance(value, list):
        return [_decimal(part) for part in value]
    return format_number_as_ds(value) if isinstance(value, float) else value


def _note_lossy(dataset: Dataset) -> None:
    """A source in a lossy transfer syntax says so in its attributes too, even where the writer forgot it."""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if syntax in LOSSY and dataset.get("LossyImageCompression") != "01":
        dataset.LossyImageCompression = "01"


def _set_pixels(dataset: Dataset, stored: NDArray[np.int64], code: dicom_pixels.Coding) -> None:
    allocated = max(int(dataset.BitsAllocated), 8)
    raw = stored.astype(np.dtype(f"<{'i' if code.signed else 'u'}{allocated // 8}")).tobytes()
    if PIXEL_DATA in dataset:
        del dataset[PIXEL_DATA]
    dataset.add(DataElement(PIXEL_DATA, "OW", raw + b"\0" * (len(raw) % 2)))
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, code.bits, code.bits - 1
    extremes = {"SmallestImagePixelValue": int(stored.min()), "LargestImagePixelValue": int(stored.max())}
    for keyword, value in extremes.items():
        if keyword in dataset:
            _set_signed(dataset, keyword, value, code.signed)
    if code.padding is not None:
        for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
            if keyword in dataset:
                _set_signed(dataset, keyword, dicom_pixels.padding_value(dataset, keyword), code.signed)


def _set_signed(dataset: Dataset, keyword: str, value: int, signed: bool) -> None:
    """Set an element whose VR is US or SS as PixelRepresentation says; a value beyond 16 bits leaves it out."""
    element: Any = dataset[keyword]
    del dataset[keyword]
    if (-0x8000 <= value <= 0x7FFF) if signed else (0 <= value <= 0xFFFF):
        dataset.add(DataElement(element.tag, "SS" if signed else "US", value))


def file_meta(dataset: Dataset, version: str) -> FileMetaDataset:
    """The header of the file that holds a dataset."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(dataset.SOPClassUID))
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = re.sub(r"[^A-Z0-9._]", "_", f"MEDIDIFF_{version}".upper())[:16]
    return meta


def _save(dataset: Dataset, path: Path, source: Path) -> None:
    try:
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # a source attribute that pydicom cannot write: many kinds
        raise ScanError(f"{source} has header values that cannot be written ({type(error).__name__}).") from error
