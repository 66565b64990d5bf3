"""Finds the cases in files and folders from names and headers alone."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from medidiff.errors import ScanError, UsageError
from medidiff.scans import bids, limits, links
from medidiff.scans.outputs import nifti_stem, safe_name, unique_name
from medidiff.scans.volume import Kind, ScanRef, Skipped

SERIES_NUMBER_STEP = 10_000  # between the SeriesNumbers of a source and of what is made from it
_LARGEST_SERIES_NUMBER = 2**31 - 1
PIECE = 1 << 20  # bytes read at once
READERS = 8  # files looked at in parallel
BATCH = 256  # files handed to them at once
IRREGULAR = "not a regular file"
Watch = Callable[[int], None]


def ignore(count: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class Discovery:
    """What lies in the inputs: the cases to process, and every other file with the reason why not."""

    cases: tuple[ScanRef, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class _Found:
    """A file and the input folder it was found in."""

    path: Path
    root: Path

    @property
    def relative(self) -> Path:
        return self.path.relative_to(self.root)


def find_scans(
    inputs: Sequence[Path],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    recursive: bool = True,
    watch: Watch = ignore,
) -> Discovery:
    """Find NIfTI files and DICOM series (by SeriesInstanceUID, whatever the files are called and wherever they lie).

    Args:
        inputs: files and folders.
        include: glob patterns of which a case must match one: on its path below the input, its name, its series name.
        exclude: glob patterns of which a case must match none.
        recursive: also look into the folders of a folder.
        watch: called with the number of files so far: while the folders are listed, and while files are looked at.

    Returns:
        The cases in a fixed order, with distinct output names, and the skipped files.

    Raises:
        UsageError: an input does not exist.
    """
    niftis: list[ScanRef] = []
    series: dict[str, list[tuple[_Found, _Dicom]]] = defaultdict(list)
    numbers: dict[str, set[int]] = defaultdict(set)
    skipped: list[Skipped] = []
    others: list[_Found] = []
    for found in _files(inputs, recursive, skipped):
        watch(len(niftis) + len(others))
        stem = nifti_stem(found.path.name)
        if _matches(found, exclude):
            continue
        if stem is None:
            others.append(found)
        elif include and not _matches(found, include):
            continue
        elif _is_irregular(found.path):
            skipped.append(Skipped(found.path, IRREGULAR))
        else:
            niftis.append(ScanRef("nifti", found.path, (found.path,), found.relative, stem))
    for count, (found, dicom) in enumerate(zip(others, _look_at(others), strict=True), start=len(niftis)):
        watch(count)
        if dicom.study and dicom.number is not None:
            numbers[dicom.study].add(dicom.number)
        if dicom.reason is not None:
            if not include or _matches(found, include):
                skipped.append(Skipped(found.path, dicom.reason))
        else:
            series[dicom.series or f"no uid: {found.path.parent}"].append((found, dicom))
    cases = niftis + _series_cases(series, numbers, include)
    cases.sort(key=lambda case: (case.relative.as_posix().casefold(), case.relative.as_posix(), case.path.as_posix()))
    return Discovery(tuple(case for case in _distinct(cases) if not _named(case, exclude)), tuple(skipped))


def content_hash(ref: ScanRef, watch: Watch = ignore) -> str:
    """SHA-256 over the bytes of a case, as hexadecimal text; for DICOM independent of file names and of copies.

    Args:
        ref: the case.
        watch: called with the number of bytes read so far, after each piece.

    Raises:
        ScanError: a file cannot be read.
    """
    digests, count = set(), 0
    for path in ref.files:
        try:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while piece := file.read(PIECE):
                    digest.update(piece)
                    count += len(piece)
                    watch(count)
            digests.add(digest.hexdigest())
        except OSError as error:
            raise ScanError(f"{path} cannot be read ({error.strerror or type(error).__name__}).") from error
    return combined(ref.kind, digests)


def combined(kind: Kind, digests: Iterable[str]) -> str:
    """The hash of a case's bytes out of the SHA-256 of each of its files."""
    if kind == "nifti":
        (digest,) = digests
        return digest
    return hashlib.sha256("".join(sorted(set(digests))).encode()).hexdigest()


def _files(inputs: Sequence[Path], recursive: bool, skipped: list[Skipped]) -> Iterator[_Found]:
    """Every visible file once, in a fixed order; links are followed within the inputs, loops of links are not."""
    tops = [Path(os.path.realpath(given)) for given in inputs]
    seen_files: set[Path] = set()
    seen_folders: set[tuple[int, int]] = set()
    for given in inputs:
        if not os.path.lexists(given):
            raise UsageError(f"{given} does not exist.")
        single = not given.is_dir()
        for found in [_Found(given, given.parent)] if single else _walk(given, tops, recursive, seen_folders, skipped):
            real = Path(os.path.realpath(found.path))
            if real not in seen_files:
                seen_files.add(real)
                yield found


def _walk(
    root: Path, tops: Sequence[Path], recursive: bool, seen: set[tuple[int, int]], skipped: list[Skipped]
) -> Iterator[_Found]:
    def refused(error: OSError) -> None:
        skipped.append(Skipped(Path(error.filename), f"the folder cannot be read ({error.strerror})"))

    def leaves(path: Path) -> bool:
        out = path.is_symlink() and path.exists() and links.leads_out(path, tops)
        if out:
            skipped.append(Skipped(path, links.REASON))
        return out

    datasets: dict[Path, Path | None] = {}  # of BIDS, that each folder lies in
    for base, folders, files in os.walk(root, followlinks=True, onerror=refused):
        status = Path(base).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        place = Path(base)
        dataset = datasets[place] = place if bids.DESCRIPTION in files else datasets.get(place.parent)
        if dataset == place:
            skipped += [Skipped(place / name, bids.OTHER) for name in folders if not name.startswith("sub-")]
            folders[:] = [name for name in folders if name.startswith("sub-")]
        folders[:] = [name for name in folders if not leaves(place / name)]
        for name in sorted(files):
            why = None if dataset is None else bids.left_out((place / name).relative_to(dataset))
            if why:
                skipped.append(Skipped(place / name, why))
            elif why is None and not name.startswith(".") and not leaves(place / name):
                yield _Found(place / name, root)


def _is_irregular(path: Path) -> bool:
    """Whether something is there that is no file: who reads a pipe waits for its writer."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:  # the case will fail by itself, with a reason
        return False


def _matches(found: _Found, patterns: Sequence[str]) -> bool:
    names = [found.path.name, *(folder.as_posix() for folder in (found.relative, *found.relative.parents))]
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


@dataclass(frozen=True)
class _Dicom:
    """What discovery keeps of a file that is not NIfTI; ``reason`` tells why it is no scan."""

    reason: str | None
    study: str = ""
    series: str = ""
    number: int | None = None
    name: str = ""


def _look_at(found: Sequence[_Found]) -> Iterator[_Dicom]:
    """Look at files, several at once: a slow disk answers more questions at a time than one."""
    if not found:
        return
    from medidiff.scans.dicom_headers import quiet

    with quiet(), ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(found), BATCH):
            yield from pool.map(_look, [each.path for each in found[start : start + BATCH]])


def _look(path: Path) -> _Dicom:
    from medidiff.scans import dicom_headers

    if not path.is_file():
        return _Dicom("a broken link" if path.is_symlink() and not path.exists() else IRREGULAR)
    try:
        header = dicom_headers.glance(path)
    except dicom_headers.NotDicom as error:
        return _Dicom(str(error))
    except limits.TooLarge as error:
        return _Dicom(f"refused: {error}")
    except OSError as error:
        return _Dicom(f"cannot be read ({error.strerror or type(error).__name__})")
    except Exception as error:  # pydicom raises many kinds on damaged files
        return _Dicom(f"damaged: not readable as DICOM ({type(error).__name__})")
    parts = [str(header.series_number) if header.series_number is not None else "", safe_name(header.description)]
    parts[1] = parts[1] or header.modality
    name = "_".join(part for part in parts if part)
    return _Dicom(header.problem, header.study_uid, header.series_uid, header.series_number, name)


def _series_cases(
    series: dict[str, list[tuple[_Found, _Dicom]]],
    numbers: dict[str, set[int]],
    include: Sequence[str],
) -> list[ScanRef]:
    cases = []
    for uid in sorted(series):
        members = series[uid]
        first = members[0][1]
        stem = safe_name(first.name, 120) or "series"
        by_name = any(fnmatch(stem, pattern) for pattern in include)
        if include and not by_name and not any(_matches(found, include) for found, _ in members):
            continue
        folder = Path(os.path.commonpath([found.path.parent.absolute() for found, _ in members]))
        root = members[0][0].root
        inside = folder.is_relative_to(root.absolute())
        relative = (folder.relative_to(root.absolute()) if inside else Path()) / stem
        path = root / relative.parent if inside else folder
        files = tuple(found.path for found, _ in members)
        cases.append(
            ScanRef("dicom", path, files, relative, stem, first.series, _unused(first.number, numbers[first.study]))
        )
    return cases


def _named(case: ScanRef, patterns: Sequence[str]) -> bool:
    """Whether a series' name, or where it would go below the output, matches; files are judged as they are found."""
    names = (case.stem, (case.relative.parent / case.stem).as_posix())
    return case.kind == "dicom" and any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _unused(number: int | None, taken: set[int]) -> int:
    """A SeriesNumber that no series of the study has: the source's plus 10000, so that it is easy to tell; recorded."""
    candidate = max(number or 0, 0) + SERIES_NUMBER_STEP
    if candidate > _LARGEST_SERIES_NUMBER:
        candidate = SERIES_NUMBER_STEP
    while candidate in taken:
        candidate += 1
    taken.add(candidate)
    return candidate


def _distinct(cases: Sequence[ScanRef]) -> Iterator[ScanRef]:
    """Give cases that would write to the same place different names (``t1``, ``t1-2``)."""
    taken: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        folder = case.relative.parent.as_posix().casefold()
        yield replace(case, stem=unique_name(case.stem, taken[folder]))
