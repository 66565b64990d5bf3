"""How much a file may make medidiff read: what it says of its own size is checked before memory is taken for it."""

from __future__ import annotations

import io
import json
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from medidiff.errors import OutOfMemory

LARGEST_JSON = 64 << 20  # bytes of a sidecar, a run's record or a bundle's metadata
INFLATED_FREELY = 256 << 20  # bytes that a deflated file may always become
INFLATED_TIMES = 20  # beyond that, how many times its own size
LARGEST_IMAGE = 1 << 26  # pixels of one slice: 8192 x 8192
LARGEST_HEADER = 64 << 20  # bytes before the voxels of a NIfTI file: extensions
STEP = 1 << 20
DEFLATED = b"1.2.840.10008.1.2.1.99"
META = 1024  # bytes of a DICOM file in which its transfer syntax stands
META_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"


class TooLarge(ValueError):
    """A file claims or becomes more than it may."""


class Bounded(io.FileIO):
    """A file that never makes room for more bytes than it has left, whatever a length in it says."""

    def __init__(self, path: Path) -> None:
        super().__init__(os.fspath(path), "rb")  # pydicom puts the name into its messages as text
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes; all that are left when it is negative."""
        left = max(self.size - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left)) or b""


def check_deflated(path: Path) -> None:
    """See how much a DICOM file in the deflated transfer syntax becomes, before pydicom inflates it at once.

    Raises:
        OSError: it cannot be read.
        TooLarge: far more than any scan.
    """
    with Bounded(path) as file:
        if DEFLATED not in file.read(META):
            return
        file.seek(0)
        data = file.read()
    at = data.find(META_LENGTH)  # the length of the file's meta information follows, then it, then the packed data
    if at >= 0:
        check_inflated(data[at + 12 + int.from_bytes(data[at + 8 : at + 12], "little") :])


def check_inflated(packed: bytes) -> None:
    """Inflate raw deflate data piece by piece, keeping nothing, to see how much it becomes.

    Raises:
        TooLarge: far more than any scan.
    """
    most = max(INFLATED_FREELY, INFLATED_TIMES * len(packed))
    if len(packed) * 1032 <= most:  # deflate cannot do more
        return
    inflate, found, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, packed
    while rest and not inflate.eof:
        found += len(inflate.decompress(rest, STEP))
        rest = inflate.unconsumed_tail
        if found > most:
            raise TooLarge(f"it is deflated and becomes more than {most >> 20} MB")


def refuse_beyond_memory(path: Path, needed: int) -> None:
    """Stop before memory is asked for that the machine does not have.

    Args:
        path: the file or folder, for the message.
        needed: bytes.

    Raises:
        OutOfMemory: it needs more than there is.
    """
    there = available_memory()
    if there is not None and needed > there:
        most, free = told_apart(needed, there)
        raise OutOfMemory(f"{path} needs {most} of memory to be read, and {free} are free; use a machine with more.")


def told_apart(needed: float, there: float) -> tuple[str, str]:
    """Two different numbers of bytes in GB (1e9 bytes), with the digits that it takes to see which is larger."""
    digits = next((each for each in range(1, 9) if f"{needed / 1e9:.{each}f}" != f"{there / 1e9:.{each}f}"), 9)
    return f"{needed / 1e9:.{digits}f} GB", f"{there / 1e9:.{digits}f} GB"


def available_memory() -> int | None:
    """Bytes of memory that this process can still get; ``None`` where the system does not tell.

    In a container, or in a job of a batch system, that is what their limit leaves.
    """
    known = [left for left in (_free_memory(), *_left_in_groups()) if left is not None]
    return min(known, default=None)


def _left_in_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """What the memory limits of the control groups that this process is in leave; Linux alone has such."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, kinds, name = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        top, limit, used = (
            (root, "memory.max", "memory.current")
            if kinds == ""
            else (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        inner = top / name.lstrip("/")
        for group in (inner, *(each for each in inner.parents if each.is_relative_to(top))):
            with suppress(OSError, ValueError):  # no limit is the word max, and in the older version a huge number
                most = int((group / limit).read_text(encoding="ascii"))
                counts = (group / "memory.stat").read_text(encoding="ascii")
                cache = re.search(r"^inactive_file (\d+)$", counts, re.MULTILINE)  # is given back when it is asked for
                taken = int((group / used).read_text(encoding="ascii")) - (int(cache[1]) if cache else 0)
                yield max(most - taken, 0)


def _free_memory() -> int | None:
    """Bytes of memory that the machine has free; ``None`` where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf
        return None


def read_json(path: Path) -> Any:
    """The content of a JSON file of a sensible size.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, is too large, or is nested too deeply.
    """
    if not path.is_file():  # a device or a pipe may have no end
        raise FileNotFoundError(2, "no such file", str(path))
    with path.open("rb") as file:
        data = file.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise TooLarge(f"it is larger than {LARGEST_JSON >> 20} MB")
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
