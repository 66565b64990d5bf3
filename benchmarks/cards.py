"""Writes the model cards of the shipped pipelines out of their bundles and of what the benchmarks found.

    python -m benchmarks.cards              pipelines/NAME/docs/README.md of every pipeline
    python -m benchmarks.cards mr --check   exit with 1 where a card is not what the results say

Differences are paired: both methods saw the same image. Volumes of one subject are averaged first, so that intervals
are over subjects. A result that other weights reached stands apart and says whose it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import card_figures, report
from benchmarks.cases import ROOT
from medidiff.training import card

PIPELINES = ROOT / "pipelines"
Result = dict[str, Any]

SECTIONS: dict[str, tuple[str, Callable[[Result], str]]] = {
    "quality": ("Denoising, simulated noise", card_figures.denoising),
    "ct": ("Denoising of CT", card_figures.ct),
    "repeats": ("Denoising, real noise", card_figures.repeats),
    "slices": ("2-D images", card_figures.slices),
    "superres": ("Super-resolution", card_figures.superresolution),
    "inpaint": ("Inpainting", card_figures.inpainting),
    "coverage": ("Stated uncertainty", card_figures.coverage),
    "lesions": ("Small lesions", card_figures.lesions),
    "guard": ("What the guard notices", card_figures.guard),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="pipelines (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--pipelines", type=Path, default=PIPELINES)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    options = parser.parse_args(arguments)
    known = sorted(path.parent.parent.name for path in options.pipelines.glob("*/configs/metadata.json"))
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"there is no pipeline {min(unknown)}; there are {', '.join(known)}")
    stale = []
    for name in options.names or known:
        path, text = options.pipelines / name / card.CARD, write(options.pipelines / name, options.results)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not options.check:
                path.write_text(text, encoding="utf-8")
                print(f"Written: {path}")
    if stale and options.check:
        print(f"Not what the results say: the card of {', '.join(stale)}; run python -m benchmarks.cards")
    return int(bool(stale and options.check))


def write(bundle: Path, results: Path) -> str:
    """The card of a bundle with all that was measured of it, or of earlier weights of the same name."""
    metadata = json.loads((bundle / card.METADATA).read_text(encoding="utf-8"))
    version, weights = metadata["version"], metadata["medidiff"]["weights"]["sha256"]
    mine, others = [], []
    for stem, (title, render) in SECTIONS.items():
        result = load(results / f"{stem}.json")
        where = result.get("environment", {})
        if where.get("pipeline") != bundle.name:
            continue
        current = where["weights_sha256"] == weights and where["version"] == version
        section = f"### {title}\n\n{render(result)}\n\n{source(stem, where)}"
        (mine if current else others).append((section, list(missed(stem, result))))
    return card.of(bundle, measured(bundle.name, version, mine, others), failures(version, mine))


def load(path: Path) -> Result:
    """What a benchmark found; empty where it has not run."""
    found: Result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found


def source(stem: str, where: Result) -> str:
    """Which weights and which program reached the figures of a section."""
    return (
        f"Pipeline {where['pipeline']} {where['version']}, weights {where['weights_sha256'][:12]}, medidiff"
        f" {where['packages']['medidiff']}, {where['device']}; `benchmarks/results/{stem}.json`."
    )


def measured(name: str, version: str, mine: Sequence[tuple[str, list[str]]], others: Sequence[Any]) -> str:
    """All sections: those of these weights, then those of others."""
    how = (
        "On subjects that no network learned from. Behind each figure its 95 % interval: bootstrap over subjects (BCa,"
        " 10,000 resamples), volumes of one subject averaged first, – below three subjects; of shares Wilson's, which"
        " takes every try as independent. With so few subjects intervals are rough. Plus is in favour of medidiff."
    )
    parts = [f"## Measured with {name} {version}"]
    if mine:
        parts += [how, *(section for section, _ in mine)]
    else:
        parts.append("Nothing but the figures of training, below.")
    if others:
        told = (
            f"**These are not figures of {name} {version}.** Earlier weights of the same name reached them, those named"
            " below each table; the benchmark has not run again since."
        )
        parts += [f"## Measured with other weights than {name} {version}", told, *([] if mine else [how])]
        parts += [section for section, _ in others]
    return "\n\n".join(parts)


def missed(stem: str, result: Result) -> Iterator[str]:
    """Goals that a benchmark did not reach."""
    for verdict in result.get("verdicts", []):
        if verdict["met"] is False:
            yield f"- {verdict['goal']}. Found: {verdict['found']} (`{stem}`)."


def failures(version: str, mine: Sequence[tuple[str, list[str]]]) -> str:
    """Goals not reached with these weights."""
    found = [line for _, lines in mine for line in lines]
    if not found:
        return ""
    return f"Goals that {version} did not reach when it was measured:\n\n" + "\n".join(found)


if __name__ == "__main__":
    raise SystemExit(main())
