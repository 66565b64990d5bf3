"""Stored DICOM pixel values and the physical values that they stand for (PS3.3 C.7.6.3, C.11.1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from medidiff.errors import ScanError
from medidiff.scans import limits
from medidiff.scans.dicom_frames import Groups
from medidiff.scans.dicom_headers import Header


@dataclass(frozen=True)
class Coding:
    """How one image's pixel values are stored.

    Attributes:
        slope: RescaleSlope (1 when absent).
        intercept: RescaleIntercept (0 when absent).
        bits: BitsStored.
        signed: whether stored values are two's complement.
        padding: lowest and highest stored value that means "no data", or None.
    """

    slope: float
    intercept: float
    bits: int
    signed: bool
    padding: tuple[int, int] | None

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest value that the stored bits can hold."""
        return (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)


def load(path: Path) -> Dataset:
    """Read a whole DICOM file.

    Raises:
        ScanError: it cannot be read.
    """
    try:
        limits.check_deflated(path)
        with limits.Bounded(path) as file:
            return pydicom.dcmread(file, force=True)
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise ScanError(f"{path} cannot be read as DICOM ({type(error).__name__}); check the file.") from error


class Reader:
    """Reads images; the frames of one file are decoded once, as long as they are asked for in a row."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._dataset = Dataset()
        self._frames: NDArray[np.integer[Any]] = np.zeros((0, 0, 0), dtype=np.int16)

    def read(self, header: Header) -> tuple[Dataset, NDArray[np.int64]]:
        """The file of an image and the image's stored values, shape (rows, columns); both are for reading only.

        Raises:
            ScanError: the file cannot be read or decoded, or is not what its header said.
        """
        if self._path != header.path:
            self._path = None
            self._dataset = load(header.path)
            self._frames = decode(self._dataset, header.path)
            self._path = header.path
        if self._frames.shape != (header.frames, *header.shape[::-1]):
            raise ScanError(f"{header.path} has pixel data of another size than its header says; check the file.")
        return self._dataset, self._frames[header.frame or 0].astype(np.int64)


def is_panic(error: BaseException) -> bool:
    """Whether a decoder that is written in Rust gave up on damaged data, which is no `Exception` in Python."""
    return type(error).__name__ == "PanicException"


def decode(dataset: Dataset, path: Path) -> NDArray[np.integer[Any]]:
    """Stored values of a grey-scale object, shape (frames, rows, columns).

    Raises:
        ScanError: the pixel data are damaged, or no decoder for their compression is installed.
    """
    try:
        if "TransferSyntaxUID" not in dataset.file_meta:  # no file header: the encoding that pydicom found
            dataset.file_meta.TransferSyntaxUID = _found_syntax(dataset)
        pixels = np.asarray(dataset.pixel_array)
        aligned = int(dataset.HighBit) + 1 == int(dataset.BitsStored)
    except BaseException as error:  # decoders raise many kinds
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        syntax = getattr(dataset.file_meta.get("TransferSyntaxUID", None), "name", "unknown transfer syntax")
        raise ScanError(f"{path} has pixel data that cannot be decoded ({syntax}); check the file.") from error
    if not aligned:
        raise ScanError(f"{path} stores its pixels in unusual bits (HighBit is not BitsStored - 1); convert it first.")
    if pixels.ndim == 2:
        pixels = pixels[np.newaxis]
    if pixels.ndim != 3 or not np.issubdtype(pixels.dtype, np.integer):
        raise ScanError(f"{path} does not hold grey-scale images of whole numbers; it cannot be restored.")
    return pixels


def coding(dataset: Dataset, header: Header) -> Coding:
    """How an image's values are stored; absent or zero slopes count as 1.

    Args:
        dataset: the image's file.
        header: the image.

    Raises:
        ScanError: the attributes that say so are damaged.
    """
    return codings(dataset, header.path, None if header.frame is None else [header.frame])[0]


def codings(dataset: Dataset, path: Path, frames: Iterable[int] | None = None) -> list[Coding]:
    """How the values of frames are stored; of every frame, or of a single-frame object, when none are named.

    Raises:
        ScanError: the attributes that say so are damaged.
    """
    try:
        groups = Groups(dataset)
        wanted = range(len(groups.frames)) if frames is None else frames
        found = [_coding(dataset, groups.of(frame, "PixelValueTransformationSequence")) for frame in wanted]
        return found or [_coding(dataset, dataset)]
    except Exception as error:  # pydicom raises many kinds on damaged values
        raise ScanError(f"{path} has damaged pixel attributes ({type(error).__name__}); check the file.") from error


def _coding(dataset: Dataset, rescale: Dataset) -> Coding:
    signed = bool(int(dataset.get("PixelRepresentation", 0) or 0))
    bits = int(dataset.get("BitsStored", 0) or dataset.get("BitsAllocated", 16))
    return Coding(
        slope=_number(rescale, "RescaleSlope") or 1.0,
        intercept=_number(rescale, "RescaleIntercept") or 0.0,
        bits=bits,
        signed=signed,
        padding=_padding(dataset),
    )


def to_physical(stored: NDArray[np.int64], code: Coding) -> NDArray[np.float32]:
    """Apply slope and intercept."""
    return (stored * code.slope + code.intercept).astype(np.float32)


def measured(stored: NDArray[np.int64], code: Coding) -> NDArray[np.bool_]:
    """True where the image holds data, False on padding (PixelPaddingValue, PixelPaddingRangeLimit)."""
    if code.padding is None:
        return np.ones(stored.shape, dtype=np.bool_)
    low, high = code.padding
    return np.asarray((stored < low) | (stored > high), dtype=np.bool_)


def to_stored(values: NDArray[np.float32], source: NDArray[np.int64], code: Coding) -> NDArray[np.int64]:
    """Restored physical values as stored values: rounded and clipped, with padding and unchanged pixels as they were.

    Args:
        values: restored image in physical units.
        source: the image's own stored values.
        code: how they are stored.
    """
    low, high = _limits(code)
    fresh = np.rint((values.astype(np.float64) - code.intercept) / code.slope)
    fresh = np.clip(np.nan_to_num(fresh, nan=0.0), low, high).astype(np.int64)
    keep = (values == to_physical(source, code)) | ~measured(source, code)
    fresh = np.where(keep, source, fresh)
    return np.asarray(fresh, dtype=np.int64)


def with_room(values: NDArray[np.float32], code: Coding) -> Coding:
    """The coding itself, or with a larger slope when the values need one to fit the stored bits."""
    low, high = _limits(code)
    needed = (float(values.max()) - code.intercept) / high
    if low < 0:
        needed = max(needed, (float(values.min()) - code.intercept) / low)
    if not np.isfinite(needed) or not 0 < code.slope < needed:
        return code
    return replace(code, slope=float(format_number_as_ds(needed * (1 + 1e-9))))


def _limits(code: Coding) -> tuple[int, int]:
    """Limits of the stored values of pixels that hold data: a restored pixel must not turn into padding."""
    low, high = code.limits
    return (low, high) if code.padding is None else _beside(code.padding, low, high)


def _beside(padding: tuple[int, int], low: int, high: int) -> tuple[int, int]:
    """Limits that leave out padding at either end of the range; padding in the middle is left alone."""
    if padding[0] <= low <= padding[1]:
        low = min(padding[1] + 1, high)
    if padding[0] <= high <= padding[1]:
        high = max(padding[0] - 1, low)
    return low, high


def padding_value(dataset: Dataset, keyword: str) -> int:
    """PixelPaddingValue or its range limit with the sign that PixelRepresentation asks for, which some writers miss."""
    value = int(_number(dataset, keyword) or 0)
    bits = int(dataset.get("BitsAllocated", 16))
    if int(dataset.get("PixelRepresentation", 0) or 0):
        return value - (1 << bits) if value >= 1 << bits - 1 else value
    return value + (1 << bits) if value < 0 else value


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    if _number(dataset, "PixelPaddingValue") is None:
        return None
    keywords = ("PixelPaddingValue", "PixelPaddingRangeLimit")
    values = [padding_value(dataset, keyword) for keyword in keywords if _number(dataset, keyword) is not None]
    return min(values), max(values)


def _number(dataset: Dataset, keyword: str) -> float | None:
    try:
        value = dataset.get(keyword)
        number = None if value is None or value == "" else float(value)
    except Exception:  # pydicom raises many kinds on damaged values; the value then counts as absent
        return None
    return number if number is not None and np.isfinite(number) else None


def _found_syntax(dataset: Dataset) -> pydicom.uid.UID:
    implicit, little = dataset.original_encoding
    if not little:
        return pydicom.uid.ExplicitVRBigEndian
    return pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
