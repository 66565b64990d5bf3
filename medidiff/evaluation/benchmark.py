"""Methods on identical input: degrade clean scans, restore them with medidiff and its peers, judge, compare.

Results of each method on each case lie in the work folder under a key of everything that determines them; what stands
there is not made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medidiff import pipelines
from medidiff._version import __version__
from medidiff.errors import NoScanFound, OutOfMemory, ScanError, UsageError
from medidiff.evaluation import baselines, catalogue, degrade, exchange, judge, provenance, statistics, tables, worker
from medidiff.evaluation.benchmark_case import (
    MAIN,
    Posed,
    Settings,
    case_of,
    figures_of,
    given,
    judged,
    pose,
    truth_of,
)
from medidiff.evaluation.exchange import Job, Outcome
from medidiff.evaluation.results import EvaluatedCase, Evaluation, Figure
from medidiff.scans import discover, outputs
from medidiff.scans.volume import ScanRef

__all__ = ["MAIN", "Settings", "Watcher", "benchmark"]


class Watcher(Protocol):
    """Who is told how a benchmark goes on."""

    def planned(self, total: int) -> None:
        """So many results will be made or found."""

    def doing(self, case: str, method: str) -> None:
        """A method works on a case."""

    def done(self, case: str, method: str, text: str) -> None:
        """A method is done with a case; ``text`` says how."""


@dataclass
class _Found:
    """What grows while cases are done."""

    cases: list[EvaluatedCase] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    inputs: dict[str, str] = field(default_factory=dict)
    pipelines: dict[str, Any] = field(default_factory=dict)


def benchmark(scans: Sequence[Path], settings: Settings, work: Path, watcher: Watcher) -> Evaluation:
    """Compare methods on clean scans.

    Args:
        scans: files, DICOM folders and folders of nearly noise-free scans.
        settings: how.
        work: folder of intermediate results, reused when it holds them already.
        watcher: is told the progress.

    Raises:
        UsageError: a method does not exist or cannot do the task, or settings do not fit it.
        NoScanFound: there is no scan.
        PipelineError: there is no such pipeline.
        CannotWrite: the work folder cannot be written.
    """
    check(settings)
    methods, missing = chosen(settings)
    refs = discover.find_scans(scans).cases[: settings.volumes]
    if not refs:
        raise NoScanFound(f"No scan was found in {', '.join(map(str, scans))}; give NIfTI files or DICOM folders.")
    weights = sorted(info.weights_sha256 for info in pipelines.candidates(settings.pipeline, task=settings.task))
    watcher.planned(len(refs) * len(methods))
    found, taken = _Found(), set[str]()
    for ref in refs:
        name = outputs.unique_name(ref.stem, taken)
        _one(ref, name, settings, methods, weights, work, watcher, found)
    shown = _shown(methods, settings)
    figures = tables.ordered(found.figures, shown)
    return Evaluation(
        kind="benchmark",
        title=title(settings),
        methods=shown,
        cases=tuple(found.cases),
        metrics=catalogue.used(figure.metric for figure in figures),
        figures=figures,
        comparisons=statistics.compare(figures, MAIN, shown, judge.primary(figures)),
        settings=describe(settings, methods, found),
        missing=tuple(missing),
        provenance={**provenance.software(), "pipelines": found.pipelines, "inputs_sha256": found.inputs},
    )


def check(settings: Settings) -> None:
    """Stop before settings that do not fit the task.

    Raises:
        UsageError: they do not.
    """
    if settings.task == "denoise" and settings.percent <= 0:
        raise UsageError("There is no noise to remove; use --noise rician:9 or the like.")
    if not 0 <= settings.percent <= 100:
        raise UsageError(f"Noise of {settings.percent:g} percent is not between 0 and 100.")
    if len(settings.factor) not in (1, 3) or min(settings.factor) < 1 or max(settings.factor) < 2:
        raise UsageError("The factor is one whole number from 2 for slices, or three, one for each axis of the array.")
    if settings.crop is not None and settings.crop < degrade.SMALLEST:
        raise UsageError(f"A crop of {settings.crop} voxels is too small; use {degrade.SMALLEST} or more.")


def chosen(settings: Settings) -> tuple[tuple[str, ...], list[str]]:
    """The methods that can run, medidiff first, and a sentence on each that is not installed.

    Raises:
        UsageError: there is no such method, or it cannot do the task.
    """
    able, missing = [MAIN], []
    for name in dict.fromkeys(settings.against):
        if name in baselines.OWN:
            able.append(name)
            continue
        peer = baselines.find(name, settings.task)
        if peer.installed:
            able.append(name)
        else:
            missing.append(f"{name} was left out: {peer.package} is not installed ({peer.install}).")
    return tuple(dict.fromkeys(able)), missing


def _shown(methods: Sequence[str], settings: Settings) -> tuple[str, ...]:
    """Methods in the order of tables; the degraded image itself is one, where it is an image of the whole scan."""
    return (MAIN, *(() if settings.task == "inpaint" else ("input",)), *methods[1:])


def title(settings: Settings) -> str:
    """One line."""
    noise = f"{settings.percent:g} % {settings.law.capitalize()} noise" if settings.percent else ""
    if settings.task == "denoise":
        return f"Denoising of {noise}"
    coarse = f"voxels {' x '.join(map(str, settings.factor))} times as large"
    if len(settings.factor) == 1:
        coarse = f"slices {settings.factor[0]} times as thick"
    what = f"Super-resolution of {coarse}" if settings.task == "superres" else "Inpainting of tumour-shaped holes"
    return f"{what}, with {noise}" if noise else what


def describe(settings: Settings, methods: Sequence[str], found: _Found) -> dict[str, Any]:
    """How it was done, as plain JSON values."""
    tree: dict[str, Any] = {"task": settings.task, "seed": settings.seed}
    if settings.percent:
        tree["noise"] = f"{settings.law} {settings.percent:g} % of the bright level (99.5th percentile of foreground)"
        tree["noise_told"] = "to peers; medidiff estimates it"
    if settings.task == "superres":
        tree |= {"factor": list(settings.factor), "profile": settings.shape_of_voxels}
    if settings.task == "inpaint":
        tree["holes"] = "one a scan, tumour-shaped, in tissue that looks healthy"
    part = "whole scans" if settings.crop is None else f"central {settings.crop} voxels an axis at most"
    tree |= {
        "part": part,
        "data_range": judge.range_rule(),
        "foreground": judge.FOREGROUND_RULE,
        "threads": settings.threads or "all cores",
        **({"force": "scans outside of the training ranges are restored too"} if settings.force else {}),
        "memory": "of a process a method and case, imports included" if settings.alone else "not measured",
        "methods": {name: _named(name) for name in methods},
        "scans": len(found.cases),
    }
    return tree


def _named(name: str) -> str:
    if name in baselines.OWN:
        return baselines.OWN[name]
    peer = baselines.PEERS[name]
    return f"{peer.title}; {peer.package} {peer.version}" if peer.package else peer.title


def _one(
    ref: ScanRef,
    name: str,
    settings: Settings,
    methods: Sequence[str],
    weights: Sequence[str],
    work: Path,
    watcher: Watcher,
    found: _Found,
) -> None:
    """All methods on one scan."""
    try:
        posed = pose(ref, name, settings, work)
    except (ScanError, OutOfMemory) as error:
        why = provenance.discreet(str(error), [ref.path])
        for method in methods:
            watcher.done(name, method, f"failed: {why}")
        nothing = dict.fromkeys(methods, why)
        found.cases.append(EvaluatedCase(name, settings.task, (0.0, 0.0, 0.0), "", (), failures=nothing))
        return
    found.inputs[name] = posed.content
    truth = truth_of(posed)
    if posed.degraded.hole is None:
        found.figures += judged("input", given(posed.degraded), truth, posed)
    outcomes: dict[str, Outcome] = {}
    for method in methods:
        watcher.doing(name, method)
        job = job_of(method, posed, settings, weights)
        before = exchange.load_outcome(job)
        outcomes[method] = outcome = before or worker.run(job)
        if outcome.error:
            watcher.done(name, method, f"failed: {outcome.error}")
            continue
        rows = figures_of(job, outcome, truth, posed)
        found.figures += rows
        watcher.done(name, method, _told(rows, outcome, reused=before is not None))
    found.cases.append(case_of(posed, settings, outcomes))
    own = outcomes[MAIN].record.get("record")
    if own:
        found.pipelines[own["pipeline"]] = {key: own[key] for key in ("version", "weights_sha256")}


def job_of(method: str, posed: Posed, settings: Settings, weights: Sequence[str]) -> Job:
    """A method on a case, with the key of all that determines its result."""
    identity: dict[str, Any] = {
        "problem": posed.key,
        "method": method,
        "threads": settings.threads,
        "alone": settings.alone,
    }
    if method in baselines.OWN:
        identity |= {"medidiff": __version__, "weights": list(weights), "device": settings.device}
        identity |= {"force": True} if settings.force else {}
    else:
        identity |= {"title": baselines.PEERS[method].title, "version": baselines.PEERS[method].version}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    where = (settings.pipeline, settings.device, settings.threads, settings.alone)
    return Job(posed.folder, method, key, *where, settings.force)


def _told(rows: Sequence[Figure], outcome: Outcome, *, reused: bool) -> str:
    """One line on a result."""
    main = next((row for row in rows if row.metric in ("brats_psnr", "psnr")), None)
    value = f"PSNR {main.value:.2f} dB" if main is not None else "done"
    return f"{value}, {'made before' if reused else f'{outcome.seconds:.1f} s'}"
