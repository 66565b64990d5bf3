"""One case: read, restore each volume, write, and lay the sidecar beside the result."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medidiff import bundles, footprint, scans
from medidiff._version import __version__
from medidiff.config import RunConfig
from medidiff.errors import ScanError
from medidiff.runs import bids, formats, holes, paths, sidecar
from medidiff.runs.derivation import derive
from medidiff.runs.holes import Holes
from medidiff.runs.outcome import Restored, keep, untouched
from medidiff.runs.plan import PlannedCase
from medidiff.runs.reporter import Reporter
from medidiff.scans import discover, mapped, outputs

if TYPE_CHECKING:
    from medidiff.pipelines import Pipeline, Restorer
    from medidiff.scans.outputs import OutputNames
    from medidiff.scans.volume import Derivation, Kind, Scan, ScanRef

Progress = Callable[[float], None]


def restore_case(
    case: PlannedCase,
    config: RunConfig,
    restorer: Restorer,
    reporter: Reporter,
    labels: dict[str, str] | None = None,
) -> None:
    """Read a scan, restore its volumes, write it and its sidecar; on any failure nothing half done stays.

    Args:
        case: the case.
        config: the run's settings.
        restorer: the pipeline, or the chooser among several.
        reporter: hears of the progress.
        labels: as an earlier sidecar holds them, to give a DICOM result the same UIDs and dates; new ones by default.

    Raises:
        ScanError: the scan or its mask cannot be read, or the scan cannot be restored.
        PipelineError: the pipeline that suits the scan is damaged.
        OutOfMemory: it does not fit the memory.
        CannotWrite: the result cannot be written.
    """
    times = [time.perf_counter()]
    refuse_broken_link(case.ref)
    content = discover.content_hash(case.ref, lambda count: reporter.status(reading(case, count)))
    with opened(case, config, restorer) as scan:
        finish(case, config, restorer, reporter, scan, content, labels or new_labels(), times)


def refuse_broken_link(ref: ScanRef) -> None:
    """Stop at a link that leads nowhere, as in data under git-annex that were not fetched.

    Raises:
        ScanError: so it is.
    """
    if ref.path.is_symlink() and not paths.exists(ref.path):
        raise ScanError(f"{ref.path} is a broken link; fetch the file that it points to.")


def foresee(ref: ScanRef, config: RunConfig) -> None:
    """Stop where a case would fail, as far as headers and names of files tell; nothing is decoded.

    Raises:
        ScanError: the scan cannot be read, or not be restored as is asked.
        UsageError: there is no mask for it.
    """
    refuse_broken_link(ref)
    outline = scans.outline(ref, fill_gaps=config.task == "inpaint")
    refuse_irregular(outline, config)
    formats.refuse_unfit(outline, config)
    if config.task == "superres":
        for volume in outline.volumes:
            footprint.fine_shape(volume.array.shape, volume.spacing, config.restore)
    holes.foresee(outline, config)


@contextmanager
def opened(case: PlannedCase, config: RunConfig, restorer: Restorer) -> Iterator[Scan]:
    """Read a scan; into files beside the output, if the memory is not enough for what is to be done with it.

    Raises:
        ScanError: it cannot be read.
        OutOfMemory: the memory is not enough in any way.
        CannotWrite: the disk is not large enough.
    """
    if case.ref.kind != "nifti" or config.task != "denoise":
        yield scans.read(case.ref, fill_gaps=config.task == "inpaint")
        return
    needed = restorer.on_disk(scans.shape_of(case.ref), config.restore)
    if needed == 0:
        yield scans.read(case.ref)
        return
    with outputs.scratch(case.names.sidecar) as folder:
        mapped.refuse_small_disk(folder, needed)
        yield scans.read_mapped(case.ref, folder)


def finish(
    case: PlannedCase,
    config: RunConfig,
    restorer: Restorer,
    reporter: Reporter,
    scan: Scan,
    content: str,
    labels: dict[str, str],
    times: list[float],
) -> None:
    """Restore a scan that was read, and write it and its sidecar.

    Args:
        case: the case.
        config: the run's settings.
        restorer: the pipeline, or the chooser among several.
        reporter: hears of the progress.
        scan: as it was read.
        content: the hash of its bytes.
        labels: what UIDs and dates are made from.
        times: the ends of the steps so far.
    """
    refuse_irregular(scan, config)
    formats.refuse_unfit(scan, config)
    wanted = holes.find(scan, config)
    if scan.ref.kind == "nifti":
        if case.modality:
            scan = scans.with_modality(scan, case.modality)
        else:
            scan = scans.guessed(scan, wanted.of(scan), restorer.modalities)
    times.append(time.perf_counter())
    pipeline = restorer.choose(max(scan.volumes, key=lambda volume: volume.array.size))
    restored = restore_volumes(scan, wanted, config, pipeline, partial(reporter.progress, case))
    times.append(time.perf_counter())
    result = Result(case, config, scan, content, wanted, pipeline, restored, labels)
    for text in (*scan.notes, *write(result, times)):
        reporter.note(f"{case.title}: {text}")
    verdicts = (text for each in restored for text in each.verdicts)
    for text in unique((*result.warnings, *wanted.notes, *verdicts)):
        reporter.warning(f"{case.title}: {text}")


def reading(case: PlannedCase, count: int) -> str:
    """What a slow disk makes one wait for."""
    return f"reading {case.ref.path.name}, {count / 1e6:.0f} MB so far"


def new_labels() -> dict[str, str]:
    """What the UIDs and dates of a result are made from: with the same labels, the same run gives the same bytes."""
    return {"uid_entropy": uuid.uuid4().hex, "datetime": datetime.now().astimezone().isoformat(timespec="seconds")}


def refuse_irregular(scan: Scan, config: RunConfig) -> None:
    """Stop before slices would be made finer of which the neighbours are not known, or for which there is no place.

    Raises:
        ScanError: the series is not a regular volume, or new slices could not be written, with the reason.
    """
    if config.task != "superres":
        return
    reasons = unique(volume.irregular for volume in scan.volumes if volume.irregular)
    if reasons:
        gaps = all("missing" in reason for reason in reasons)
        raise ScanError(
            f"{scan.ref.path} is not a regular volume ({'; '.join(reasons)}), so its voxels cannot be made finer; "
            f"{'fill the gap with medidiff inpaint' if gaps else 'resample it to a regular grid'} first."
        )
    if any(np.linalg.matrix_rank(volume.affine) < 4 for volume in scan.volumes):
        raise ScanError(
            f"{scan.ref.path} has an affine without an inverse, so that finer voxels have no place; repair its header."
        )
    if "dicom" in config.kinds(scan.ref.kind):
        scans.check_finer(scan)


def restore_volumes(
    scan: Scan, wanted: Holes, config: RunConfig, pipeline: Pipeline, progress: Progress
) -> list[Restored]:
    """Restore the volumes of a scan one after the other.

    Raises:
        ScanError: a result is not an image of finite values.
    """
    count = len(scan.volumes)
    restored = []
    for index, (volume, hole) in enumerate(zip(scan.volumes, wanted.of(scan), strict=True)):

        def advance(done: int, total: int, index: int = index) -> None:
            progress((index + done / max(total, 1)) / count)

        if config.task == "inpaint" and hole is None:  # the hole lies in other volumes of the scan
            restored.append(untouched(volume, config))
            continue
        restoration = pipeline.restore(volume, config.restore, hole=hole, progress=advance)
        filled = 0 if hole is None else int(np.count_nonzero(hole))
        restored.append(keep(restoration, config, scan.ref, filled))
    return restored


@dataclass(frozen=True)
class Result:
    """A restored case, before it is written.

    Attributes:
        case: the case.
        config: the run's settings.
        scan: as it was read.
        content_sha256: the hash of the case's bytes.
        holes: what was filled.
        pipeline: the one that restored it.
        volumes: one for each volume of the scan.
        labels: what UIDs and dates are made from.
    """

    case: PlannedCase
    config: RunConfig
    scan: Scan
    content_sha256: str
    holes: Holes
    pipeline: Pipeline
    volumes: Sequence[Restored]
    labels: dict[str, str]

    @property
    def affines(self) -> list[NDArray[np.float64]] | None:
        """The grids of the result where they are not those of the scan."""
        return [each.affine for each in self.volumes] if self.config.task == "superres" else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the pipeline warned of."""
        return unique(text for each in self.volumes for text in each.record.get("warnings", ()))

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The formats of the result."""
        return self.config.kinds(self.scan.ref.kind)

    @property
    def in_other_words(self) -> dict[str, Any]:
        """What the sidecar says more where the format changed or the result lies in a BIDS dataset."""
        more = formats.describe(self.scan, self.config)
        return more | bids.facts(self.case.ref, self.config, self.holes.files) if self.config.bids else more

    @property
    def who(self) -> dict[str, str]:
        """The pipeline as the sidecar names it."""
        pipeline = self.pipeline
        return {
            "name": pipeline.name,
            "version": pipeline.version,
            "weights_sha256": pipeline.weights_sha256,
            "settings_sha256": bundles.read(pipeline.path).settings_sha256,
        }

    def derivation(self, *, sample: bool = False) -> Derivation:
        """The label of the image, or of the generated sample."""
        made = [each.made(volume) for each, volume in zip(self.volumes, self.scan.volumes, strict=True)]
        label = derive(self.config, self.who, made, __version__, sample=sample)
        return replace(label, extra=self.labels)


def write(result: Result, times: list[float]) -> tuple[str, ...]:
    """Write the image, what lies beside it, and the sidecar.

    Args:
        result: what to write.
        times: the ends of the steps so far.

    Returns:
        A note on what could not be written, if so.

    Raises:
        ScanError: the scan changed since it was read.
        CannotWrite: the result cannot be written.
    """
    names, derivation = result.case.names, result.derivation()
    # From here on an older sidecar no longer fits the image, so whatever happens the result does not count as done.
    means = [each.mean for each in result.volumes]
    written = write_image(result, means, names.restored, derivation)
    more: list[Path] = []
    try:
        if names.as_nifti is not None:
            more += write_image(result, means, names.as_nifti, derivation, "nifti")
        write_sample(result, more)
        notes = (*formats.notes(result.scan, result.config), *write_maps(result, more))
        write_companions(result, more)
        times.append(time.perf_counter())
        tree = describe(result, (*written, *more), notes, times)
        refuse_changed(result, tree)
        remove_older(names, (*written, *more))
        outputs.write_json_atomic(names.sidecar, tree)
    except BaseException:
        for path in (names.restored, *written, *more, names.sidecar):
            outputs.remove(path)
        raise
    return notes


def write_image(
    result: Result, arrays: Sequence[NDArray[np.float32]], path: Path, label: Derivation, kind: Kind | None = None
) -> tuple[Path, ...]:
    """Write the volumes of an image, in the first of the result's formats if no other is named."""
    kind = kind or result.kinds[0]
    return scans.write(result.scan, arrays, path, label, result.affines, result.holes.arrays, kind)


def write_sample(result: Result, written: list[Path]) -> None:
    """Write the generated sample, if there is one, and add its files to ``written``."""
    names, samples = result.case.names, [each.sample for each in result.volumes if each.sample is not None]
    if samples:
        label = result.derivation(sample=True)
        written += write_image(result, samples, names.sample, label)
        if names.sample_as_nifti is not None:
            written += write_image(result, samples, names.sample_as_nifti, label, "nifti")


def write_maps(result: Result, written: list[Path]) -> tuple[str, ...]:
    """Write the maps that were asked for, add their files to ``written``, and give a note when there could be none."""
    names, label, kinds = result.case.names, result.derivation(), result.kinds
    stds = [each.std for each in result.volumes if each.std is not None]
    shares = [each.supplied for each in result.volumes if each.supplied is not None]
    try:
        if stds:
            path = names.uncertainty
            written += scans.write_map(result.scan, stds, path, label, result.affines, "uncertainty", kinds)
        if shares:
            path = names.supplied
            written += scans.write_map(result.scan, shares, path, label, result.affines, "supplied", kinds)
    except ScanError as error:
        return (f"Not all maps were written: {error}",)
    return ()


def write_companions(result: Result, written: list[Path]) -> None:
    """Write what a BIDS dataset wants beside the images, and add it to ``written``."""
    if result.config.bids:
        ref, names = result.case.ref, result.case.names
        maps = {"Uncertainty": names.uncertainty, "Supplied": names.supplied, "Sample": names.sample}
        there = {word: path for word, path in maps.items() if path in written}
        bids.companions(ref, result.config, there, result.holes.files, written)
        bids.copy_gradients(ref, names)


def describe(result: Result, written: Sequence[Path], notes: Sequence[str], times: Sequence[float]) -> dict[str, Any]:
    """The sidecar of a result."""
    names, scan = result.case.names, result.scan
    steps = zip(("read", "restore", "write"), times, times[1:], strict=False)
    return sidecar.build(
        config=result.config,
        scan=scan,
        content_sha256=result.content_sha256,
        mask=result.holes.describe(names.sidecar.parent),
        pipeline=result.who,
        volumes=[
            sidecar.describe_volume(volume, each) for volume, each in zip(scan.volumes, result.volumes, strict=True)
        ],
        written=written,
        file=names.sidecar,
        restored=names.restored,
        notes=(*scan.notes, *notes, *result.warnings),
        labels=result.labels,
        more=result.in_other_words,
        timings={step: end - begin for step, begin, end in steps},
    )


def refuse_changed(result: Result, tree: dict[str, Any]) -> None:
    """Stop when the input is no longer what was read, so that the sidecar would tell of other bytes.

    Raises:
        ScanError: it was changed meanwhile.
    """
    ref = result.scan.ref
    if discover.combined(ref.kind, (entry["sha256"] for entry in tree["input"]["files"])) != result.content_sha256:
        raise ScanError(f"{ref.path} was changed while it was processed; run again when it is complete.")


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """The texts without repetition, in their order."""
    return tuple(dict.fromkeys(texts))


def remove_older(names: OutputNames, kept: Sequence[Path]) -> None:
    """Remove what the sidecar of an older result lists and was not made again: maps, samples, another format."""
    maps = (names.uncertainty, names.supplied, names.sample)
    beside = (names.sidecar.stem, *(path.name.removesuffix(".nii.gz") for path in maps))
    for listed in sidecar.listed(sidecar.load(names.sidecar)):
        path = names.sidecar.parent / Path(listed).parts[0]  # a file, or the folder of a series
        if path.name.startswith(beside) and not any(each == path or path in each.parents for each in kept):
            outputs.remove(path)
