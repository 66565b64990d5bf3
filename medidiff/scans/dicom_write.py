"""Writes restored volumes as one derived DICOM series of the source's SOP class, on the source's grid.

Each output image is its source image with edited labels and new pixels, so everything that medidiff does not know about
stays as the scanner wrote it. It names the one source image at its own place; with a 3-D pipeline its neighbours gave
context, which the derivation text says. Files are Explicit VR Little Endian, uncompressed.
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

from medidiff.errors import CannotWrite, ScanError
from medidiff.scans import dicom_pixels
from medidiff.scans.dicom import DicomSource
from medidiff.scans.dicom_headers import Header, quiet
from medidiff.scans.dicom_labels import IMPLEMENTATION_UID, SeriesLabels, relabel, series_labels
from medidiff.scans.discover import SERIES_NUMBER_STEP
from medidiff.scans.outputs import atomic_folder
from medidiff.scans.volume import Derivation, Scan

PIXEL_DATA = 0x7FE00010
LOSSY = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81, 91, 93, 203)}


def write(scan: Scan, arrays: Sequence[NDArray[np.float32]], folder: Path, derivation: Derivation) -> tuple[Path, ...]:
    """Write one file an image into ``folder``, which appears complete or not at all.

    Args:
        scan: as `dicom.read` returned it.
        arrays: one array a volume, same shape, physical units.
        folder: the folder of the new series; an older one is replaced.
        derivation: how the result came about.

    Returns:
        The files, in order of InstanceNumber.

    Raises:
        CannotWrite: the folder cannot be written.
        ScanError: a source image is gone, or the arrays do not fit the scan.
    """
    source: DicomSource = scan.source
    _check_shapes(scan, arrays)
    if any(path.resolve().is_relative_to(folder.resolve()) for path in scan.ref.files):
        raise CannotWrite(f"{folder} holds the input itself; choose another output folder.")
    headers = source.images
    numbers = _instance_numbers(headers)
    files = {number: f"{rank:04d}.dcm" for rank, number in enumerate(sorted(numbers), start=1)}
    labels = series_labels(derivation, scan.ref.series_uid, _series_number(scan, headers))
    slices = (array[:, :, k] for array in arrays for k in range(array.shape[2]))
    with atomic_folder(folder) as temporary, quiet():
        for header, number, values in zip(headers, numbers, slices, strict=True):
            image = _derived(header, np.asarray(values, dtype=np.float32).T, labels, number)
            _save(image, temporary / files[number], header.path)
    return tuple(folder / files[number] for number in sorted(numbers))


def _check_shapes(scan: Scan, arrays: Sequence[NDArray[np.float32]]) -> None:
    expected = [volume.array.shape for volume in scan.volumes]
    given = [array.shape for array in arrays]
    if expected != given:
        raise ScanError(f"{scan.ref.stem}: the restored arrays have shapes {given}, the scan has {expected}.")


def _instance_numbers(headers: Sequence[Header]) -> list[int]:
    """The source's InstanceNumbers where they are complete and unique, else 1, 2, 3, ..."""
    given = [header.instance for header in headers if header.instance is not None]
    return given if len(set(given)) == len(headers) else list(range(1, len(headers) + 1))


def _series_number(scan: Scan, headers: Sequence[Header]) -> int:
    return scan.ref.output_series_number or max(headers[0].series_number or 0, 0) + SERIES_NUMBER_STEP


def _derived(header: Header, values: NDArray[np.float32], labels: SeriesLabels, number: int) -> Dataset:
    dataset = dicom_pixels.load(header.path)
    stored = dicom_pixels.decode(dataset, header.path)
    code = dicom_pixels.coding(dataset, header.path)
    if stored.shape != values.shape:
        raise ScanError(f"{header.path} changed while it was processed; run again.")
    fresh = dicom_pixels.to_stored(values, stored, code)
    try:
        unchanged = str(dataset.get("SOPInstanceUID", "")).strip() == header.sop_uid
        _note_lossy(dataset)
        relabel(dataset, labels, number)
        _set_pixels(dataset, fresh, code)
        dataset.file_meta = _file_meta(dataset, labels.derivation.version)
    except Exception as error:  # pydicom raises many kinds on damaged values
        raise ScanError(f"{header.path} has header values that cannot be copied ({type(error).__name__}).") from error
    if not unchanged:
        raise ScanError(f"{header.path} changed while it was processed; run again.")
    dataset.preamble = b"\0" * 128
    return dataset


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


def _file_meta(dataset: Dataset, version: str) -> FileMetaDataset:
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
