"""An evaluation as files that other programs read, and as a table for a person."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.evaluation.judge import primary
from medidiff.evaluation.results import Comparison, Evaluation, Figure
from medidiff.scans.outputs import atomic_file, write_json_atomic

FIGURES, COMPARISONS, TREE = "figures.csv", "comparisons.csv", "evaluation.json"
COSTS = ("seconds", "cpu_seconds", "peak_gb")
LEFT_OUT = ("nrmse",)  # of what methods are compared by: it says what PSNR says
UNREFERENCED = ("noise_before", "noise_after", "removed", "residual_lag1", "residual_edges", "sharpness")
DIGITS = {"dB": 2, "HU": 2, "%": 2, "s": 1, "GB": 2, "sigma": 3}


def write(evaluation: Evaluation, folder: Path) -> tuple[Path, ...]:
    """Write the tidy table, the comparisons and the whole tree; return the files.

    Raises:
        CannotWrite: a file cannot be written.
    """
    files = (folder / FIGURES, folder / COMPARISONS, folder / TREE)
    _write_rows(files[0], Figure, evaluation.figures)
    _write_rows(files[1], Comparison, evaluation.comparisons)
    write_json_atomic(files[2], as_json(evaluation))
    return files


def _write_rows(path: Path, kind: type, rows: Iterable[Any]) -> None:
    """One row a record, one column a field; figures with all their digits, ``nan`` where there is none."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        names = [field.name for field in fields(kind)]
        table.writerow(names)
        table.writerows([getattr(row, name) for name in names] for row in rows)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """All but the images, as plain JSON values."""
    cases = [
        {
            "name": case.name,
            "task": case.task,
            "spacing_mm": list(case.spacing),
            "units": case.units,
            "verdicts": list(case.verdicts),
            "checks": dict(case.checks),
            "failures": dict(case.failures),
        }
        for case in evaluation.cases
    ]
    return {
        "kind": evaluation.kind,
        "title": evaluation.title,
        "methods": list(evaluation.methods),
        "settings": dict(evaluation.settings),
        "missing": list(evaluation.missing),
        "notes": list(evaluation.notes),
        "metrics": {name: asdict(metric) for name, metric in evaluation.metrics.items()},
        "cases": cases,
        "figures": [asdict(figure) for figure in evaluation.figures],
        "comparisons": [asdict(comparison) for comparison in evaluation.comparisons],
        "provenance": dict(evaluation.provenance),
    }


def summary(evaluation: Evaluation) -> str:
    """A Markdown table of means over cases, the comparisons, and what is missing."""
    parts = [_table(evaluation)]
    compared = [_sentence(evaluation, each) for each in evaluation.comparisons if each.metric == _first(evaluation)]
    parts += ["\n".join(compared)] if compared else []
    failures = [
        f"- {why}" if why.startswith(case.name) else f"- {case.name}: {why}"
        for case in evaluation.cases
        for why in dict.fromkeys(case.failures.values())
    ]
    left = [*failures, *(f"- {text}" for text in evaluation.missing)]
    return "\n\n".join([*parts, *(["\n".join(left)] if left else [])])


def _first(evaluation: Evaluation) -> str:
    """The metric whose comparisons are told: the first that was compared."""
    return next((each.metric for each in evaluation.comparisons), "")


def _table(evaluation: Evaluation) -> str:
    columns = [(metric, region) for metric, region in primary(evaluation.figures) if metric not in LEFT_OUT]
    if not columns:
        columns = [(metric, "full") for metric in UNREFERENCED if metric in evaluation.metrics]
    columns += [(metric, "full") for metric in COSTS if metric in evaluation.metrics]
    if not columns:
        return "No scan could be judged."
    head = [f"mean of {_counted(evaluation)}", *(_title(evaluation, metric, region) for metric, region in columns)]
    rows = [
        [_named(evaluation, method), *(_cell(evaluation, method, metric, region) for metric, region in columns)]
        for method in evaluation.methods
    ]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _counted(evaluation: Evaluation) -> str:
    count = len({figure.case for figure in evaluation.figures})
    return f"{count} scan" if count == 1 else f"{count} scans"


def _named(evaluation: Evaluation, method: str) -> str:
    """A method, with the number of scans that its means are of where it lacks some."""
    every = {figure.case for figure in evaluation.figures}
    own = {figure.case for figure in evaluation.figures if figure.method == method}
    return method if own == every else f"{method} ({len(own)} of {len(every)})"


def _title(evaluation: Evaluation, metric: str, region: str) -> str:
    known = evaluation.metrics[metric]
    return f"{known.title}, {known.unit}" if known.unit else known.title


def _cell(evaluation: Evaluation, method: str, metric: str, region: str) -> str:
    values = [
        figure.value
        for figure in evaluation.figures
        if (figure.method, figure.metric, figure.region) == (method, metric, region) and math.isfinite(figure.value)
    ]
    if not values:
        return "–"
    digits = DIGITS.get(evaluation.metrics[metric].unit, 4 if metric == "brats_mse" else 3)
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 and metric not in COSTS else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def _sentence(evaluation: Evaluation, each: Comparison) -> str:
    known = evaluation.metrics[each.metric]
    digits = DIGITS.get(known.unit, 3)
    unit = f" {known.unit}" if known.unit else ""
    interval = f" (95 % interval {each.low:+.{digits}f} to {each.high:+.{digits}f})" if math.isfinite(each.low) else ""
    return (
        f"- {each.method} minus {each.against}, {known.title}: {each.difference:+.{digits}f}{unit}{interval},"
        f" n = {each.count}, p = {each.p:.3g}, corrected {each.p_holm:.3g}"
    )


def failed(evaluation: Evaluation) -> tuple[int, int]:
    """How many cases lack a result of any method, and how many have none at all."""
    having = {figure.case for figure in evaluation.figures}
    some = sum(bool(case.failures) for case in evaluation.cases)
    return some, sum(case.name not in having for case in evaluation.cases)


def ordered(figures: Sequence[Figure], methods: Sequence[str]) -> tuple[Figure, ...]:
    """The rows by case, then by method in the order of the tables; of a metric's regions the order stays."""
    cases = {case: index for index, case in enumerate(dict.fromkeys(figure.case for figure in figures))}
    ranks = {method: index for index, method in enumerate(methods)}
    return tuple(sorted(figures, key=lambda figure: (cases[figure.case], ranks.get(figure.method, len(ranks)))))
