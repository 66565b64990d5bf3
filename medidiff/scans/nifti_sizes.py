"""What a NIfTI header says of sizes is checked before nibabel takes memory for it."""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import nibabel as nib
from nibabel.spatialimages import HeaderDataError

from medidiff.errors import ScanError
from medidiff.scans import limits

GZIP_START = b"\x1f\x8b"
DEFLATE_RATIO = 1032  # the most that deflate can pack


def check_sizes(path: Path, in_memory: bool = True) -> None:
    """Refuse what the file cannot hold, or the memory, before nibabel reads extensions and voxels.

    Only the fixed part of the header is read.

    Args:
        path: the file.
        in_memory: whether the memory must hold all voxels.

    Raises:
        ScanError: the header promises more than the file can hold, or starts the voxels at an absurd place.
        OutOfMemory: the voxels do not fit the memory.
    """
    with opened(path) as file:
        start = file.read(nib.Nifti2Header.sizeof_hdr)
        kinds: tuple[Any, ...] = (nib.Nifti1Header, nib.Nifti2Header)
        known = [kind for kind in kinds if kind.may_contain_header(start)]
        for kind in known[:1]:
            with quiet():
                header: Any = kind(start[: kind.sizeof_hdr], check=False)
            offset = float(header["vox_offset"])
            if not 0 <= offset <= limits.LARGEST_HEADER:
                raise ScanError(f"{path} is damaged: its header says that the voxels begin at byte {offset:g}.")
            _check_extensions(path, file, kind.sizeof_hdr, int(offset), header.endianness)
            sizes = [max(int(size), 1) for size in header["dim"][1 : 1 + min(max(int(header["dim"][0]), 0), 7)]]
            with suppress(HeaderDataError):  # a data type that there is not; nibabel says so
                needed = math.prod(sizes) * header.get_data_dtype().itemsize + int(offset)
                _refuse_promise(path, needed, math.prod(sizes) if in_memory else 0)


def check_end(file: IO[bytes] | gzip.GzipFile) -> None:
    """Read on behind the voxels, keeping nothing: gzip compares checksum and length only at the end of a stream.

    What follows a whole stream and is none is left alone. A stream that goes on for more than `limits.INFLATED_FREELY`
    bytes is read no further.

    Args:
        file: as `opened` gave it, the voxels read.

    Raises:
        OSError: the stream is damaged.
        EOFError: it is truncated.
    """
    if isinstance(file, gzip.GzipFile):
        try:
            for _ in range(limits.INFLATED_FREELY // limits.STEP):
                if not file.read(limits.STEP):
                    return
        except gzip.BadGzipFile as error:
            if not str(error).startswith("Not a gzipped file"):  # then something else follows a whole stream
                raise


def _check_extensions(path: Path, file: IO[bytes] | gzip.GzipFile, at: int, end: int, order: str) -> None:
    """Refuse extensions that say that they are longer than the space before the voxels: nibabel believes them.

    Args:
        path: the file, for the message.
        file: it, open.
        at: where the flag for extensions lies, just behind the header.
        end: where the voxels begin.
        order: the header's byte order, ``<`` or ``>``.
    """
    file.seek(at)
    if file.read(4)[:1] in (b"", b"\0") or end == at + 4:
        return
    at += 4
    while end < at or end - at >= 16:
        found = file.read(4)
        size = int.from_bytes(found, "little" if order == "<" else "big", signed=True)
        if not 8 <= size <= end - at:
            raise ScanError(f"{path} is damaged: a header extension is longer than the space that it has.")
        at += size
        file.seek(at)


def _refuse_promise(path: Path, needed: int, voxels: int) -> None:
    """Refuse what the file, or the memory where it must hold some voxels, cannot hold."""
    with path.open("rb") as file:
        ratio = DEFLATE_RATIO if file.read(2) == GZIP_START else 1
    if needed > ratio * path.stat().st_size:
        raise ScanError(f"{path} is truncated: its header promises {needed} bytes; copy or convert it again.")
    if voxels:
        limits.refuse_beyond_memory(path, needed + 4 * voxels)  # the voxels as stored, and as float32


@contextmanager
def quiet() -> Iterator[None]:
    """Silence nibabel, which prints the header fields that it repairs while reading."""
    logger = logging.getLogger("nibabel.global")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A file, unpacked if it is packed."""
    with path.open("rb") as raw:
        packed = raw.read(2) == GZIP_START
        raw.seek(0)
        if packed:
            with gzip.GzipFile(fileobj=raw) as file:
                yield file
        else:
            yield raw
