"""What outputs are called, and how they are written so that a file is either complete or absent."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import socket
import time
import unicodedata
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from medidiff.errors import CannotWrite, UsageError
from medidiff.scans.volume import Kind, ScanRef

TEMPORARY = ".medidiff-tmp-"
LOST = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # what was written is not on the disk
DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the file system is read-only; choose another output",
}
PROBE = bytes(1 << 16)
DAY = 86400  # seconds
NIFTI_SUFFIXES = (".nii.gz", ".nii")
TASK_SUFFIX = {"denoise": "denoised", "superres": "superres", "inpaint": "inpainted"}
_WINDOWS_DEVICES = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in range(10))}


@dataclass(frozen=True)
class OutputNames:
    """Where the results of one case go.

    Attributes:
        restored: the NIfTI file, or the folder of the DICOM series.
        sidecar: the JSON record beside it.
        uncertainty: the NIfTI file of the per-voxel standard deviation.
        sample: one posterior sample, in the format of ``restored``: a NIfTI file, or the folder of a DICOM series.
        supplied: the NIfTI file of the share of each voxel that the prior supplied.
        as_nifti: the NIfTI file beside a DICOM series where both formats are asked for, else ``None``.
        sample_as_nifti: likewise of the sample.
    """

    restored: Path
    sidecar: Path
    uncertainty: Path
    sample: Path
    supplied: Path
    as_nifti: Path | None = None
    sample_as_nifti: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        """Every path that a case may write to."""
        return tuple(path for path in astuple(self) if path is not None)


def nifti_stem(name: str) -> str | None:
    """``t1w`` for ``t1w.nii.gz`` or ``t1w.nii`` in any case; ``None`` when the name is not a NIfTI file's."""
    for suffix in NIFTI_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def safe_name(text: str, limit: int = 80) -> str:
    """A name that every file system takes: letters, digits, ``. _ - +``; the rest becomes one underscore.

    Args:
        text: any text; letters of any script are kept.
        limit: the most UTF-8 bytes of the result.
    """
    text = unicodedata.normalize("NFC", text)
    kept = "".join(char if char.isalnum() or char in "._-+" else "_" for char in text)
    while "__" in kept:
        kept = kept.replace("__", "_")
    kept = kept.strip("._-").encode()[:limit].decode(errors="ignore").strip("._-")
    first = unicodedata.normalize("NFKC", kept.split(".")[0]).lower()  # com¹ is a device too
    return f"_{kept}" if first in _WINDOWS_DEVICES else kept


def unique_name(name: str, taken: set[str]) -> str:
    """``name``, or ``name-2``, ``name-3``, ... when taken (upper and lower case are equal); recorded in ``taken``."""
    candidate, number = name, 1
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name}-{number}"
    taken.add(candidate.casefold())
    return candidate


def is_file_name(output: Path) -> bool:
    """Whether the user's output names a NIfTI file rather than a folder."""
    return nifti_stem(output.name) is not None and not output.is_dir()


def output_names(ref: ScanRef, output: Path, task: str, kinds: Sequence[Kind] = ()) -> OutputNames:
    """Names of a case's results below ``output``.

    Args:
        ref: the case.
        output: the output folder, or a NIfTI file name for a single case that becomes NIfTI.
        task: ``denoise``, ``superres`` or ``inpaint``.
        kinds: the formats to write; that of the case when empty.

    Raises:
        UsageError: a file name is given for a DICOM series, or it is the input itself.
    """
    kinds = kinds or (ref.kind,)
    if not is_file_name(output):
        folder, base = output / ref.relative.parent, f"{ref.stem}_{TASK_SUFFIX[task]}"
        suffix = "" if "dicom" in kinds else ".nii.gz"
        names = _beside(folder / f"{base}{suffix}", base, suffix)
        if len(kinds) == 1:
            return names
        second = _beside(folder / f"{base}.nii.gz", base, ".nii.gz")
        return replace(names, as_nifti=second.restored, sample_as_nifti=second.sample)
    if "dicom" in kinds:
        raise UsageError(
            f"{output} is a file name, but a DICOM series needs an output folder; or ask for --format nifti."
        )
    if output.exists() and output.resolve() == ref.path.resolve():
        raise UsageError(f"{output} is the input itself; name another output file.")
    return _beside(output, str(nifti_stem(output.name)), ".nii.gz")


def _beside(restored: Path, base: str, suffix: str) -> OutputNames:
    """The names that go with a restored image; ``suffix`` is that of images in the scan's own format."""
    return OutputNames(
        restored=restored,
        sidecar=restored.with_name(f"{base}.json"),
        uncertainty=restored.with_name(f"{base}_uncertainty.nii.gz"),
        sample=restored.with_name(f"{base}_sample{suffix}"),
        supplied=restored.with_name(f"{base}_supplied.nii.gz"),
    )


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary file name in the same folder that becomes ``path`` on success and vanishes on any error.

    Raises:
        CannotWrite: the operating system refused.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a new, empty temporary folder that becomes ``path`` on success, in the place of an older one.

    Raises:
        CannotWrite: the operating system refused.
    """
    temporary, older = _temporary(path), _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        _sync(temporary)
        if path.exists():
            path.replace(older)
        try:
            temporary.replace(path)
        except BaseException:
            if older.exists():
                older.replace(path)
            raise
        _sync(path.parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        for left in (temporary, older):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with suppress(OSError):
                    left.unlink(missing_ok=True)


@contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A new folder beside ``path`` for what is needed for a while; a killed run's is removed by the next one.

    Raises:
        CannotWrite: it cannot be made.
    """
    temporary = _temporary(path)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json_atomic(path: Path, data: Any) -> None:
    """Write ``data`` as JSON (UTF-8, two spaces); NaN and infinity become null, paths become text.

    Raises:
        CannotWrite: the operating system refused.
    """
    text = json.dumps(_plain(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(folder: Path) -> None:
    """Make the output folder and try a file in it, before any work is done.

    Raises:
        CannotWrite: the folder cannot be made or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise CannotWrite(f"{folder} is a file; choose a folder with -o.")
    probe = _temporary(folder / "probe")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(PROBE)
        _sync(probe)
    except OSError as error:
        raise _cannot_write(folder, error) from error
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> tuple[Path, ...]:
    """Remove temporary files and folders below ``folder`` whose process on this machine has ended.

    Returns:
        What was removed; leftovers of running processes stay, and those of other machines for a day.
    """
    removed = []
    for left in entries(folder, f"{TEMPORARY}*", below=True):
        host, _, rest = left.name.removeprefix(TEMPORARY).partition("-")
        pid = rest.partition("-")[0]
        if not pid.isdigit() or (_alive(int(pid)) if host == _host() else not _untouched(left)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink(missing_ok=True)
        removed.append(left)
    return tuple(removed)


def remove_temporaries(path: Path) -> None:
    """Remove every temporary file or folder of one output, whoever began it; only for who holds its lock."""
    for left in entries(path.parent, f"{TEMPORARY}*-{safe_name(path.name)}"):
        remove(left)


def entries(folder: Path, pattern: str, *, below: bool = False) -> list[Path]:
    """What lies in a folder under a name that fits, in a fixed order.

    `Path.glob` and `Path.rglob` raise when another run removes a folder while they look into it; here it is empty.

    Args:
        folder: where to look; it need not exist.
        pattern: as of a shell.
        below: look into its folders, too.
    """
    found: list[Path] = []
    for base, folders, files in os.walk(folder):
        found += [Path(base) / name for name in (*folders, *files) if fnmatchcase(name, pattern)]
        if not below:
            break
    return sorted(found)


def remove(path: Path) -> None:
    """Remove a file or a folder of medidiff's own, if it is there.

    Raises:
        CannotWrite: it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CannotWrite(f"{path} cannot be replaced ({error.strerror}); check its permissions.") from error


def _temporary(path: Path) -> Path:
    token = uuid.uuid4().hex[:8]
    return path.with_name(f"{TEMPORARY}{_host()}-{os.getpid()}-{token}-{safe_name(path.name)}")


def _untouched(path: Path) -> bool:
    """Whether a file, or what lies in a folder, is older than a day."""
    try:
        latest = (
            max(each.lstat().st_mtime for each in (path, *path.iterdir())) if path.is_dir() else path.stat().st_mtime
        )
    except OSError:
        return False
    return time.time() - latest > DAY


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill with signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync(path: Path) -> None:
    """Ask for the bytes to reach the disk; a file system that cannot is no reason to fail, bytes that are lost are.

    Raises:
        OSError: the disk is full, or failed.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in LOST:
            raise


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    if error.errno in DISK_ERRORS:
        full = CannotWrite(f"{path} cannot be written: {DISK_ERRORS[error.errno]}.")
        full.everywhere = True
        return full
    return CannotWrite(f"{path} cannot be written ({error.strerror or type(error).__name__}); choose another output.")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item())
    return value
