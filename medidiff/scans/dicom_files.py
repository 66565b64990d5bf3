"""Edits the pixels of a copied DICOM dataset and writes it as Explicit VR Little Endian."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from medidiff.errors import ScanError
from medidiff.scans import dicom_pixels
from medidiff.scans.dicom_labels import IMPLEMENTATION_UID

PIXEL_DATA = 0x7FE00010
LOSSY = {  # transfer syntax: LossyImageCompressionMethod (PS3.3 C.7.6.1.1.5)
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.93": "ISO_15444_2",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}


def decimal(value: Any) -> Any:
    """Fractions as decimal strings of at most 16 characters (VR DS)."""
    if isinstance(value, list):
        return [decimal(part) for part in value]
    return format_number_as_ds(value) if isinstance(value, float) else value


def note_lossy(dataset: Dataset) -> None:
    """A source in a lossy transfer syntax says so in its attributes too, even where the writer forgot it."""
    method = LOSSY.get(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    if method is None or dataset.get("LossyImageCompression") == "01":
        return
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(dataset.get("NumberOfFrames") or 1)
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionMethod = method
    dataset.LossyImageCompressionRatio = round(pixels * int(dataset.BitsAllocated) / 8 / len(dataset.PixelData), 2)


def stored_type(dataset: Dataset, code: dicom_pixels.Coding) -> np.dtype[Any]:
    """The numbers that the pixels are written as."""
    return np.dtype(f"<{'i' if code.signed else 'u'}{max(int(dataset.BitsAllocated), 8) // 8}")


def set_pixels(dataset: Dataset, stored: NDArray[np.integer[Any]], code: dicom_pixels.Coding) -> None:
    """Give a copied dataset new stored values, shape (rows, columns) or (frames, rows, columns), and what goes along.

    The smallest and largest value are those of the new pixels, the padding value has the sign that the standard wants.
    """
    kind = stored_type(dataset, code)
    raw = stored.astype(kind, copy=False).tobytes()
    if PIXEL_DATA in dataset:
        del dataset[PIXEL_DATA]
    dataset.add(DataElement(PIXEL_DATA, "OW", raw + b"\0" * (len(raw) % 2)))
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = kind.itemsize * 8, code.bits, code.bits - 1
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


def save(dataset: Dataset, path: Path, source: Path) -> None:
    """Write a dataset.

    Raises:
        OSError: the operating system refused.
        ScanError: an attribute of the source cannot be written.
    """
    try:
        pydicom.dcmwrite(path, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
    except OSError:
        raise
    except Exception as error:  # a source attribute that pydicom cannot write: many kinds
        raise ScanError(f"{source} has header values that cannot be written ({type(error).__name__}).") from error
