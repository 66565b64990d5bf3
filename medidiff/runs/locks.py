"""Which run has which case in hand: locks of the operating system, which a killed process cannot keep.

They lie in a hidden folder of the output folder, which goes when the last run ends. While a case is worked on, a note
beside its lock names the files that it writes, so that the next run can remove what a killed one left of them. Where
the file system has no locks everything goes on without them; `supported` tells, so that the user can be told.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from medidiff.runs import paths, sidecar
from medidiff.scans import outputs
from medidiff.scans.outputs import OutputNames

PLACE = ".medidiff-run"
DONE = ".done"  # of the marks of cases that workers finished
PATIENCE = 60.0  # seconds to wait for another run to write down a case; it takes milliseconds
NO_LOCKS = "The file system of {folder} has no locks; let one run at a time write there."


@contextmanager
def held(file: Path, wait: float = 0.0) -> Iterator[bool]:
    """Hold a lock, which vanishes with its file at the end.

    Args:
        file: the lock's file; its folder is made.
        wait: seconds to wait for another holder.

    Yields:
        Whether it is held; also ``True`` where the file system has no locks.
    """
    lock = FileLock(file, fallback_to_soft=False, thread_local=False, poll_interval=0.02)
    mine = True
    try:
        acquire(lock, wait)
    except Timeout:
        mine = False
    except OSError:  # no locks here
        pass
    try:
        yield mine
    finally:
        if mine:
            let_go(lock)


def let_go(lock: FileLock) -> None:
    """Give a lock back, and remove its file while it is held, so that nobody takes a lock on a file that is gone."""
    file = Path(lock.lock_file)
    with suppress(OSError):
        file.unlink(missing_ok=True)
    with suppress(OSError):
        lock.release()
    with suppress(OSError):
        file.parent.rmdir()  # only the last one out finds it empty


def acquire(lock: FileLock, wait: float) -> None:
    """Take a lock; its folder may go at any moment, when another run ends.

    Raises:
        Timeout: somebody else holds it.
        OSError: the file system has no locks, or cannot be written.
    """
    for _ in range(100):
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=wait)
        except FileNotFoundError:
            continue
        return
    raise OSError("the folder of locks does not stay")


def supported(folder: Path) -> bool:
    """Whether an output folder takes locks."""
    lock = FileLock(folder / PLACE / f"probe-{os.getpid()}.lock", fallback_to_soft=False, thread_local=False)
    try:
        acquire(lock, PATIENCE)
    except OSError:
        return False
    finally:
        let_go(lock)
    return True


def is_held(file: Path) -> bool:
    """Whether somebody holds a lock; no for one of which the file is gone."""
    if not file.exists():
        return False
    with held(file) as mine:
        return not mine


@contextmanager
def in_hand(folder: Path, names: OutputNames) -> Iterator[bool]:
    """Take a case in hand, and note what it is about to write.

    Args:
        folder: the output folder.
        names: the outputs of the case.

    Yields:
        Whether it is ours; ``False`` when another run has it in hand.
    """
    note = note_of(folder, names)
    with held(note.with_suffix(".lock")) as mine:
        if not mine:
            yield False
            return
        files = [path.relative_to(folder).as_posix() for path in names.all]
        tree = {"sidecar": names.sidecar.relative_to(folder).as_posix(), "files": files}
        with suppress(OSError):  # a disk that is full will be told of when the result is written
            note.write_text(json.dumps(tree), encoding="utf-8")
        try:
            yield True
        finally:
            with suppress(OSError):
                note.unlink(missing_ok=True)


def key(folder: Path, names: OutputNames) -> str:
    """What tells a case apart in its output folder: its sidecar, which results in any format share."""
    return names.sidecar.relative_to(folder).as_posix()


def note_of(folder: Path, names: OutputNames) -> Path:
    """Where the run that has a case in hand notes what it is about to write."""
    name = hashlib.sha256(os.fsencode(key(folder, names))).hexdigest()[:16]
    return folder / PLACE / f"case-{name}.json"


def recover(folder: Path) -> None:
    """Remove what killed runs left of the cases that they had in hand; what a sidecar vouches for stays."""
    for note in outputs.entries(folder / PLACE, "case-*.json"):
        with held(note.with_suffix(".lock")) as dead:
            if dead and note.exists():
                clear(folder, note)
                with suppress(OSError):
                    note.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what killed runs left in the hidden folder, unless another run is at work; for the end of a run."""
    recover(folder)
    left = outputs.entries(folder / PLACE, "*")
    for file in left:
        if file.suffix == ".lock":
            with held(file) as dead:
                if not dead:
                    return
    for file in left:
        if file.suffix in (".jsonl", ".spare", DONE):
            with suppress(OSError):
                file.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / PLACE).rmdir()


def clear(folder: Path, note: Path) -> None:
    """Remove the half-written outputs of one case, and its temporary files."""
    try:
        tree = json.loads(note.read_text(encoding="utf-8"))
        named = [folder / str(each) for each in tree["files"]]
        beside = folder / str(tree["sidecar"])
    except (OSError, ValueError, KeyError, TypeError):  # killed while the note was written: nothing was written yet
        return
    found = sidecar.load(beside)
    whole = found is not None and sidecar.is_ours(found) and not sidecar.damaged(found, beside.parent)
    kept = {Path(listed).parts[0] for listed in sidecar.listed(found)} | {beside.name} if whole else set()
    for path in named:
        if folder.resolve() not in path.resolve().parents:
            continue
        outputs.remove_temporaries(path)
        for each in (path, *further(path)):
            if each.name not in kept and paths.exists(each):
                outputs.remove(each)


def further(path: Path) -> list[Path]:
    """What else is written with a map: ``NAME.dcm``, and on more grids ``NAME_2.nii.gz``, ``NAME_2.dcm``, ..."""
    stem = outputs.nifti_stem(path.name) or ""
    if not stem.endswith(("_uncertainty", "_supplied")) or not path.parent.is_dir():
        return []
    pattern = re.compile(rf"{re.escape(stem)}(_\d+)?\.(nii\.gz|dcm)")
    return [each for each in path.parent.iterdir() if each != path and pattern.fullmatch(each.name)]
