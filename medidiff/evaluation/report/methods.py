"""The methods paragraph, and the provenance of a case."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from medidiff.evaluation.report.study import METRICS
from medidiff.evaluation.report.texts import count, discreet, leaf, number
from medidiff.evaluation.results import EvaluatedCase, Evaluation
from medidiff.scans.records import warnings_of

DONE = {"denoise": "denoised", "superres": "super-resolved", "inpaint": "inpainted"}
DEGRADING = ("noise", "factor", "profile", "holes", "part", "seed")  # settings of a benchmark that say what was done
LIMITS = (
    "medidiff is research software, not a medical device; its images are not for diagnosis. A figure without a "
    "reference shows what changed, not whether the change is right."
)


def warnings(case: EvaluatedCase) -> tuple[str, ...]:
    """The notes and warnings of a case's sidecar, without paths and without what the guard says of the result."""
    tree = case.sidecar or {}
    notes = tree.get("notes")
    said = [notes if isinstance(notes, list) else [], *map(warnings_of, tree.get("volumes") or ())]
    found = (discreet(str(text)) for texts in said for text in texts)
    return tuple(dict.fromkeys(text for text in found if text not in case.verdicts))


def sidecars(evaluation: Evaluation) -> list[Mapping[str, Any]]:
    """The sidecars of the cases that have one."""
    return [case.sidecar for case in evaluation.cases if case.sidecar]


def records(evaluation: Evaluation) -> list[Mapping[str, Any]]:
    """What determined each restored volume, as the sidecars tell."""
    return [volume.get("record") or {} for tree in sidecars(evaluation) for volume in tree.get("volumes") or []]


def paragraph(evaluation: Evaluation) -> str:
    """What was done, for the methods section of a paper; only what the record holds."""
    return discreet(" ".join(filter(None, _sentences(evaluation))))


def _sentences(evaluation: Evaluation) -> Iterator[str]:
    yield _restoration(evaluation)
    yield _degraded(evaluation)
    yield _noise(evaluation)
    yield _sampling(evaluation)
    yield _uncertainty(evaluation)
    yield _references(evaluation)
    yield tests(evaluation)
    yield software(evaluation)


def _restoration(evaluation: Evaluation) -> str:
    scans = [case for case in evaluation.cases if case.images]
    tasks = list(dict.fromkeys(case.task for case in scans if case.task))
    done = " and ".join(DONE.get(task, task) for task in tasks) or "evaluated"
    trees = sidecars(evaluation)
    version = next((str(tree["medidiff"]) for tree in trees if "medidiff" in tree), "")
    version = version or str(evaluation.provenance.get("medidiff", ""))
    sentence = f"{count(len(scans), 'volume').capitalize()} {'was' if len(scans) == 1 else 'were'} {done} with medidiff"
    named = list(dict.fromkeys(_pipeline(tree.get("pipeline") or {}) for tree in trees if tree.get("pipeline")))
    by = f" ({'; '.join(named)})" if named else ""
    return (
        f"{sentence}{f' {version}' if version else ''}{by}, a conditional diffusion model whose first step gives the "
        "posterior mean."
    )


def _pipeline(found: Mapping[str, Any]) -> str:
    weights = str(found.get("weights_sha256", ""))
    return f"pipeline {found.get('name')} {found.get('version')}, weights SHA-256 {weights}"


def _noise(evaluation: Evaluation) -> str:
    found = [each for each in records(evaluation) if each.get("noise_percent")]
    levels = [float(each["noise_percent"]) for each in found]
    if not levels:
        return ""
    sources = {str(each.get("noise_source", "")) for each in found}
    how = "was estimated from each scan" if sources == {"estimated"} else "was given or estimated for each scan"
    laws = " and ".join(sorted({str(each["noise_law"]) for each in found if each.get("noise_law")}))
    law = f" under a {laws} law" if laws else ""
    span = f"{number(min(levels), 3)} to {number(max(levels), 3)} %, median {number(statistics.median(levels), 3)} %"
    span = f"{number(levels[0], 3)} %" if len(levels) == 1 else span
    return f"The noise level {how}{law} ({span} of the bright foreground)."


def _sampling(evaluation: Evaluation) -> str:
    found = records(evaluation)
    if not found:
        return ""
    samples = sorted({int(each.get("samples") or 0) for each in found})
    strengths = sorted({float(each.get("strength", 1.0)) for each in found})
    seeds = ", ".join(sorted({str(each.get("seed", 0)) for each in found}))
    mirrored = " over the scan's mirror images" if any(each.get("flips") for each in found) else ""
    text = f"The posterior mean was taken{mirrored}, without samples"
    if samples != [0]:
        steps = ", ".join(sorted({str(each.get("steps")) for each in found}))
        drawn = " or ".join(map(str, samples))
        spread = f"{drawn} posterior samples of {steps} steps gave the spread (seed {seeds})"
        text = f"The posterior mean was taken{mirrored}; {spread}"
    kept = "" if strengths == [1.0] else f"; strength {', '.join(number(each) for each in strengths)}"
    gains = [100 * float(each.get("network_gain", 1.0)) for each in found]
    low, high = number(min(gains), 3), number(max(gains), 3)
    share = low if low == high else f"{low} to {high}"
    followed = "" if min(gains) == 100 else f"; {share} % of the network's correction of the classical base was kept"
    return f"{text}{kept}{followed}."


def _uncertainty(evaluation: Evaluation) -> str:
    meanings = dict.fromkeys(
        str(volume["uncertainty"]["meaning"])
        for tree in sidecars(evaluation)
        for volume in tree.get("volumes") or []
        if (volume.get("uncertainty") or {}).get("meaning")
    )
    return " ".join(f"Uncertainty: {meaning}." for meaning in meanings)


def _degraded(evaluation: Evaluation) -> str:
    """What a benchmark did to the clean scans."""
    if evaluation.kind != "benchmark":
        return ""
    settings = evaluation.settings
    how = "; ".join(f"{name}: {leaf(settings[name])}" for name in DEGRADING if settings.get(name) not in (None, ""))
    peers = [name for name in evaluation.methods if name != "input"]
    return f"Clean scans were degraded first ({how}); each method ({', '.join(peers)}) was given the same images."


def _references(evaluation: Evaluation) -> str:
    if not any(shown.role == "reference" for case in evaluation.cases for shown in case.images):
        return "No reference was available; figures compare each scan with its restored image."
    compared = {each.metric for each in evaluation.comparisons} or {
        key for key, metric in evaluation.metrics.items() if metric.better and key not in METRICS
    }
    titles = dict.fromkeys(metric.title for key, metric in evaluation.metrics.items() if key in compared)
    stated = "; ".join(
        f"{words}: {evaluation.settings[name]}"
        for name, words in (("data_range", "data range"), ("foreground", "foreground"))
        if isinstance(evaluation.settings.get(name), str)
    )
    return f"Restored images were compared with references by {', '.join(titles)}{f' ({stated})' if stated else ''}."


def tests(evaluation: Evaluation) -> str:
    """How methods were compared; empty when they were not."""
    if not evaluation.comparisons:
        return ""
    counts = [each.count for each in evaluation.comparisons]
    n = f"n = {counts[0]}" if len(set(counts)) == 1 else f"n = {min(counts)} to {max(counts)}"
    return (
        f"Methods were compared on the same volumes ({n}; the volume is the unit) with the two-sided Wilcoxon "
        "signed-rank test, corrected for all comparisons after Holm; intervals are 95 % BCa bootstrap intervals of the "
        "mean difference, and the effect size is the matched-pairs rank-biserial correlation."
    )


def software(evaluation: Evaluation) -> str:
    """Packages, platform and device."""
    packages: Mapping[str, Any] = evaluation.provenance.get("packages") or {}
    platform: Mapping[str, Any] = evaluation.provenance.get("platform") or {}
    for tree in sidecars(evaluation):
        packages = packages or tree.get("packages") or {}
        platform = platform or tree.get("platform") or {}
    named = [f"{name} {packages[name]}" for name in ("python", "torch", "monai", "numpy") if name in packages]
    where = " ".join(str(platform[key]) for key in ("system", "machine") if key in platform)
    devices = ", ".join(sorted({str(each["device"]) for each in records(evaluation) if each.get("device")}))
    tail = "; ".join(filter(None, [", ".join(named), where, devices and f"computed on {devices}"]))
    return f"Software: {tail}." if tail else ""


def provenance(case: EvaluatedCase) -> list[tuple[str, str]]:
    """Every hash of a case: what it was made from, by what, and what came out."""
    tree = case.sidecar
    if not tree:
        return []
    return [(discreet(name), value) for name, value in _hashes(tree) if value]


def _hashes(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    source, mask, pipeline = (tree.get(key) or {} for key in ("input", "mask", "pipeline"))
    yield "input, all bytes", str(source.get("content_sha256", ""))
    yield from _files("input file", source.get("files") or ())
    yield "mask", str(mask.get("sha256") or "")
    yield (
        f"weights of pipeline {pipeline.get('name')} {pipeline.get('version')}",
        str(pipeline.get("weights_sha256", "")),
    )
    yield from _files("output", tree.get("outputs") or ())


def _files(what: str, listed: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for each in listed:
        yield f"{what} {str(each.get('path')).replace(chr(92), '/')}", str(each.get("sha256", ""))
