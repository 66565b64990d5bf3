"""Reads single values out of DICOM headers, damaged ones as absent.

Whole folders are read through here, so plain values are decoded in place: pydicom checks each against the standard,
which takes ten times as long.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

ASCII_ONLY = frozenset({"UI", "CS", "IS", "DS", "DA", "TM", "DT", "SH", "LO"})
LARGEST = 1e9  # a coordinate in millimetres beyond is damage


def value(ds: Dataset, key: str | int) -> Any:
    """The value of an element by keyword or tag, None where it is absent, empty or damaged; numbers may be text."""
    tag = tag_of(key)
    try:
        raw: Any = ds.get_item(tag)
        if raw is None:
            return None
        if isinstance(raw, RawDataElement) and isinstance(raw.value, bytes):
            plain = _plain(raw, tag)
            if plain is not None:
                return None if plain == "" else plain
        return ds[tag].value
    except Exception:  # pydicom raises many kinds on damaged values; the value then counts as absent
        return None


def text(ds: Dataset, key: str | int) -> str:
    """A value as text without blanks around it; several are joined by backslashes."""
    found = value(ds, key)
    if found is None:
        return ""
    return "\\".join(found) if isinstance(found, list) else str(found).strip()


def texts(ds: Dataset, key: str | int) -> list[str]:
    """The values of an element as texts."""
    found = value(ds, key)
    if found is None:
        return []
    return [found] if isinstance(found, str) else [str(part) for part in found]


def number(ds: Dataset, key: str | int) -> float | None:
    """The first value of an element as a number."""
    found = value(ds, key)
    if found is not None and not isinstance(found, str | int | float) and hasattr(found, "__getitem__"):
        found = found[0] if len(found) else None
    try:
        return None if found is None else float(found)
    except (TypeError, ValueError):
        return None


def vector(ds: Dataset, key: str | int, length: int) -> tuple[float, ...] | None:
    """The values of an element as numbers, if there are as many as wanted and all are credible."""
    found = value(ds, key)
    try:
        numbers = tuple(float(part) for part in ([found] if isinstance(found, str) else found))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == length and all(abs(part) < LARGEST for part in numbers) else None


def optional(found: float | None) -> tuple[float, ...]:
    """A number, or nothing, as a tuple."""
    return () if found is None else (found,)


@lru_cache(maxsize=4096)
def tag_of(key: str | int) -> BaseTag:
    """The tag of a keyword."""
    return Tag(key)


def _plain(raw: RawDataElement, tag: BaseTag) -> Any:
    """Text, a list of texts or a whole number, decoded in place; None where pydicom is needed."""
    encoded: Any = raw.value
    kind = raw.VR or _kind(tag)
    if kind == "US" and len(encoded) == 2:
        return int.from_bytes(encoded, "little" if raw.is_little_endian else "big")
    if kind not in ASCII_ONLY or not encoded.isascii() or b"\x1b" in encoded:
        return None
    decoded = encoded.decode("ascii").strip(" \0")
    return [part.strip(" \0") for part in decoded.split("\\")] if "\\" in decoded else decoded


@lru_cache(maxsize=4096)
def _kind(tag: BaseTag) -> str:
    """The value representation in the standard's dictionary."""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""
