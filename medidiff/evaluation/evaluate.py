"""Restored scans against references, or without any: figures, comparisons with the scans as they were, the cases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medidiff.errors import MedidiffError, NoScanFound, OutOfMemory, ScanError, UsageError
from medidiff.evaluation import catalogue, judge, pairing, provenance, statistics, tables
from medidiff.evaluation.benchmark import MAIN, Watcher
from medidiff.evaluation.evaluate_case import Options, case_of, figures_of
from medidiff.evaluation.pairing import Pair
from medidiff.evaluation.results import EvaluatedCase, Evaluation, Figure
from medidiff.scans import discover

__all__ = ["Options", "evaluate"]


def evaluate(
    restored: Path, reference: Path | None, before: Path | None, options: Options, watcher: Watcher
) -> Evaluation:
    """Judge restored scans.

    Args:
        restored: a scan, a folder of scans, or the folder of a run.
        reference: what they should be, likewise; ``None`` to say what can be said without.
        before: the scans as they were, likewise; ``None`` to look where sidecars say they lay.
        options: how.
        watcher: is told the progress.

    Raises:
        UsageError: a path does not exist.
        NoScanFound: there is no restored scan, no reference, or none that belong together.
    """
    pairs, missing = pairing.find(restored, reference, before)
    if not pairs:
        raise NoScanFound(
            f"No reference fits: {' '.join(missing)} Call references like the scans before they were restored."
        )
    method = MAIN if any(pair.sidecar for pair in pairs) else "restored"
    watcher.planned(len(pairs))
    cases, figures = [], list[Figure]()
    for pair in distinct(pairs):
        watcher.doing(pair.name, method)
        try:
            rows = list(figures_of(pair, method, options))
            cases.append(case_of(pair, method, options))
        except (ScanError, UsageError, OutOfMemory) as error:
            refs = (pair.restored, pair.reference, pair.input)
            why = provenance.discreet(str(error), [ref.path for ref in refs if ref is not None])
            cases.append(EvaluatedCase(pair.name, pair.task, (0.0, 0.0, 0.0), "", (), failures={method: why}))
            watcher.done(pair.name, method, f"failed: {why}")
            continue
        figures += rows
        watcher.done(pair.name, method, _told(rows, method))
    methods = (method, "input") if any(row.method == "input" for row in figures) else (method,)
    ordered = tables.ordered(figures, methods)
    with_reference = reference is not None
    hashes = dict(_hashes(pairs))
    return Evaluation(
        kind="evaluate",
        title="Restored scans against their references" if with_reference else "Restored scans, without references",
        methods=methods,
        cases=tuple(cases),
        metrics=catalogue.used(figure.metric for figure in ordered),
        figures=ordered,
        comparisons=statistics.compare(ordered, method, methods, judge.primary(ordered)),
        settings=describe(options, pairs, with_reference=with_reference),
        missing=tuple(missing),
        provenance={**provenance.software(), "inputs_sha256": hashes},
        notes=tuple(
            f"The reference of {pair.name} is the scan that was restored: these figures say how much was changed,"
            " not how good it is."
            for pair in distinct(pairs)
            if is_own_reference(pair, hashes.get(pair.name, {}), figures)
        ),
    )


def is_own_reference(pair: Pair, hashes: Mapping[str, str], figures: Iterable[Figure]) -> bool:
    """Whether a scan is compared with what it was made from: by the bytes, or by the voxels where they were compared.

    What was filled was not seen, so there the scan itself may well be the reference.
    """
    figures = [row for row in figures if row.case == pair.name]
    if pair.reference is None or pair.task == "inpaint" or not figures:
        return False
    before = (pair.sidecar.get("input") or {}).get("content_sha256"), hashes.get("input")
    errors = (row for row in figures if row.metric in ("mae", "mae_hu"))
    same_voxels = any((row.method, row.region, row.value) == ("input", "full", 0) for row in errors)
    return same_voxels or hashes.get("reference") in {*before} - {None}


def distinct(pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Pairs with names that tell them apart: those of subfolders get the folder's."""
    taken = [pair.name for pair in pairs]
    seen: dict[str, int] = {}
    for pair in pairs:
        name = pair.name
        folder = pair.restored.relative.parent.as_posix()
        if taken.count(name) > 1 and folder != ".":
            name = f"{folder}/{name}"
        seen[name] = seen.get(name, 0) + 1
        yield replace(pair, name=name if seen[name] == 1 else f"{name}-{seen[name]}")


def _told(rows: Iterable[Figure], method: str) -> str:
    """One line on a pair."""
    for metric in ("brats_psnr", "psnr", "noise_ratio"):
        row = next((row for row in rows if row.metric == metric and row.method == method), None)
        if row is not None:
            known = catalogue.METRICS[metric]
            return f"{known.title} {row.value:.2f} {known.unit}".rstrip()
    return "done"


def describe(options: Options, pairs: Sequence[Pair], *, with_reference: bool) -> dict[str, Any]:
    """How it was done, as plain JSON values."""
    tree: dict[str, Any] = {"scans": len(pairs), "tasks": sorted({pair.task for pair in pairs if pair.task})}
    if not with_reference:
        return tree
    return tree | {
        "data_range": judge.range_rule(options.window),
        "foreground": judge.FOREGROUND_RULE if options.mask is None else "the given mask",
        "geometry": "references resampled where they differ" if options.resample else "equal",
        "labels": "none" if options.labels is None else options.labels.name,
    }


def _hashes(pairs: Sequence[Pair]) -> Iterator[tuple[str, dict[str, str]]]:
    for pair in distinct(pairs):
        refs = {"restored": pair.restored, "reference": pair.reference, "input": pair.input}
        try:
            yield pair.name, {what: discover.content_hash(ref) for what, ref in refs.items() if ref is not None}
        except MedidiffError:
            continue
