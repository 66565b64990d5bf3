"""One case: read, restore each volume, write, and lay the sidecar beside the result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medidiff import scans
from medidiff._version import __version__
from medidiff.config import RunConfig
from medidiff.errors import CannotWrite, ScanError
from medidiff.runs import paths, sidecar
from medidiff.runs.derivation import derive
from medidiff.runs.plan import PlannedCase
from medidiff.runs.reporter import Reporter
from medidiff.scans import discover, outputs

if TYPE_CHECKING:
    from medidiff.pipelines import Pipeline
    from medidiff.scans.outputs import OutputNames
    from medidiff.scans.volume import Derivation, Scan

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Restored:
    """What is kept of a volume's restoration until the scan is written: a long 4-D scan has many."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32] | None
    record: dict[str, Any]
    checks: dict[str, Any]


def restore_case(case: PlannedCase, config: RunConfig, pipeline: Pipeline, reporter: Reporter) -> None:
    """Read a scan, restore its volumes, write it and its sidecar; on any failure nothing half done stays.

    Raises:
        ScanError: the scan cannot be read or restored.
        OutOfMemory: it does not fit the memory.
        CannotWrite: the result cannot be written.
    """
    names = case.names
    times = [time.perf_counter()]
    if case.ref.path.is_symlink() and not paths.exists(case.ref.path):
        raise ScanError(f"{case.ref.path} is a broken link; fetch the file that it points to.")
    content = discover.content_hash(case.ref)
    scan = scans.read(case.ref)
    times.append(time.perf_counter())
    restorations = restore_volumes(scan, config, pipeline, partial(reporter.progress, case))
    warnings = unique(text for each in restorations for text in each.record.get("warnings", ()))
    times.append(time.perf_counter())
    who = {"name": pipeline.name, "version": pipeline.version, "weights_sha256": pipeline.weights_sha256}
    derivation = derive(config, who, [each.record for each in restorations], __version__)
    # From here on an older sidecar no longer fits the image, so whatever happens the result does not count as done.
    written = scans.write(scan, [each.mean for each in restorations], names.restored, derivation)
    more: tuple[Path, ...] = ()
    try:
        more, notes = write_uncertainty(scan, restorations, names.uncertainty, derivation)
        times.append(time.perf_counter())
        steps = zip(("read", "restore", "write"), times, times[1:], strict=False)
        tree = sidecar.build(
            config=config,
            scan=scan,
            content_sha256=content,
            pipeline=who,
            volumes=[
                sidecar.describe_volume(volume, each.record, each.checks)
                for volume, each in zip(scan.volumes, restorations, strict=True)
            ],
            written=(*written, *more),
            file=names.sidecar,
            restored=names.restored,
            notes=(*scan.notes, *notes, *warnings),
            timings={step: end - begin for step, begin, end in steps},
        )
        remove_older_maps(names, more)
        outputs.write_json_atomic(names.sidecar, tree)
    except BaseException:
        for path in (names.restored, *more, names.sidecar):
            remove(path)
        raise
    for text in (*scan.notes, *notes):
        reporter.note(text)
    for text in warnings:
        reporter.warning(text)


def restore_volumes(scan: Scan, config: RunConfig, pipeline: Pipeline, progress: Progress) -> list[Restored]:
    """Restore the volumes of a scan one after the other.

    Raises:
        ScanError: a result is not an image of finite values.
    """
    count = len(scan.volumes)
    restorations = []
    for index, volume in enumerate(scan.volumes):

        def advance(done: int, total: int, index: int = index) -> None:
            progress((index + done / max(total, 1)) / count)

        restoration = pipeline.restore(volume, config.restore, progress=advance)
        if restoration.mean.shape != volume.array.shape or not np.isfinite(restoration.mean).all():
            raise ScanError(f"The result for {scan.ref.path} is not an image of finite values; nothing was written.")
        std = restoration.std if config.restore.samples else None
        restorations.append(Restored(restoration.mean, std, restoration.record, restoration.checks))
    return restorations


def write_uncertainty(
    scan: Scan, restorations: Sequence[Restored], path: Path, derivation: Derivation
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Write the standard deviation of each voxel when posterior samples were asked for.

    Returns:
        The files written, and a note when there could be none.
    """
    maps = [each.std for each in restorations if each.std is not None]
    if not maps:
        return (), ()
    try:
        return scans.write_map(scan, maps, path, derivation), ()
    except ScanError as error:
        return (), (f"No uncertainty map was written: {error}",)


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts without repetition, in their order."""
    return tuple(dict.fromkeys(texts))


def remove_older_maps(names: OutputNames, kept: Sequence[Path]) -> None:
    """Remove the uncertainty maps that the sidecar of an older result lists and that were not made again."""
    tree = sidecar.load(names.sidecar)
    stem = names.uncertainty.name.removesuffix(".nii.gz")
    for listed in sidecar.listed(tree):
        path = names.uncertainty.with_name(Path(listed).name)
        if path.name.startswith(stem) and path not in kept:
            remove(path)


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
