"""The report's tables, and the same figures as comma-separated values."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medidiff.evaluation.report.regions import Region
from medidiff.evaluation.report.texts import number, probability
from medidiff.evaluation.results import EvaluatedCase, Evaluation, Metric

LIMIT_COLUMNS = 5


@dataclass(frozen=True)
class SummaryCell:
    """A method's figures over all cases: how many, mean, standard deviation, least and most."""

    count: int
    mean: float
    deviation: float
    least: float
    most: float

    def __str__(self) -> str:
        """As the table shows it."""
        if self.count == 0:
            return "–"
        if self.count == 1:
            return number(self.mean)
        return f"{number(self.mean)} ± {number(self.deviation)}"

    @property
    def span(self) -> str:
        """Least to most, where there are several."""
        return f"{number(self.least)} to {number(self.most)}" if self.count > 1 else ""


@dataclass(frozen=True)
class SummaryRow:
    """A metric in a region, over all cases."""

    key: str
    metric: Metric
    region: str
    cells: Mapping[str, SummaryCell]
    best: str


def methods_shown(evaluation: Evaluation) -> tuple[str, ...]:
    """The methods of the tables: those of the evaluation, then what only the report's own figures name."""
    return tuple(dict.fromkeys([*evaluation.methods, *(figure.method for figure in evaluation.figures)]))


def summary(evaluation: Evaluation) -> list[SummaryRow]:
    """One row a metric and region, one cell a method."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for figure in evaluation.figures:
        values = found.setdefault((figure.metric, figure.region), {}).setdefault(figure.method, [])
        if math.isfinite(figure.value):
            values.append(figure.value)
    order = list(evaluation.metrics)
    rows = []
    for (key, region), methods in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        cells = {name: _cell(values) for name, values in methods.items()}
        rows.append(SummaryRow(key, evaluation.metrics[key], region, cells, _best(evaluation.metrics[key], cells)))
    return rows


def _cell(values: Sequence[float]) -> SummaryCell:
    if not values:
        return SummaryCell(0, math.nan, math.nan, math.nan, math.nan)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return SummaryCell(len(values), float(np.mean(values)), deviation, min(values), max(values))


def badness(metric: Metric, value: float) -> float:
    """Larger is worse; minus infinity when the metric is no judgement or the value is none."""
    if not math.isfinite(value) or not metric.better:
        return -math.inf
    return {"higher": -value, "lower": value, "zero": abs(value), "one": abs(value - 1)}[metric.better]


def _best(metric: Metric, cells: Mapping[str, SummaryCell]) -> str:
    """The method with the best mean, of those that are not the input or the reference; empty when none stands out.

    Means over other cases are not compared.
    """
    able = {name: cell.mean for name, cell in cells.items() if name not in ("input", "reference") and cell.count}
    if len({cells[name].count for name in able}) > 1:
        return ""
    if len(able) < 2 or not metric.better:
        return ""
    first, second = sorted(able, key=lambda name: badness(metric, able[name]))[:2]
    return "" if number(able[first]) == number(able[second]) else first


def main_metrics(evaluation: Evaluation, main: str) -> list[tuple[str, str]]:
    """Metric and region of the figures that stand beside each case: the first few that judge, then others."""
    seen: dict[str, str] = {}
    for figure in evaluation.figures:
        if figure.method == main and math.isfinite(figure.value):
            seen.setdefault(figure.metric, figure.region)
    order = [key for key in evaluation.metrics if key in seen]
    judging = [key for key in order if evaluation.metrics[key].better]
    return [(key, seen[key]) for key in (judging or order)[:LIMIT_COLUMNS]]


def value_of(evaluation: Evaluation, case: str, method: str, metric: str, region: str) -> float:
    """One figure; NaN when there is none."""
    for figure in evaluation.figures:
        if (figure.case, figure.method, figure.metric, figure.region) == (case, method, metric, region):
            return figure.value
    return math.nan


def worst_first(evaluation: Evaluation, main: str) -> list[EvaluatedCase]:
    """The cases with a guard's sentence, then the others; each the worst first by the first judging metric."""
    judged = [pair for pair in main_metrics(evaluation, main) if evaluation.metrics[pair[0]].better]

    def rank(case: EvaluatedCase) -> tuple[bool, float, str]:
        bad = -math.inf
        if judged:
            metric, region = judged[0]
            bad = badness(evaluation.metrics[metric], value_of(evaluation, case.name, main, metric, region))
        return (not case.verdicts, -bad, case.name)

    return sorted(evaluation.cases, key=rank)


def comparison_rows(evaluation: Evaluation) -> list[dict[str, str]]:
    """The comparisons as texts."""
    return [
        {
            "metric": evaluation.metrics[each.metric].title if each.metric in evaluation.metrics else each.metric,
            "region": each.region,
            "pair": f"{each.method} − {each.against}",
            "count": str(each.count),
            "difference": number(each.difference),
            "interval": f"{number(each.low)} to {number(each.high)}" if math.isfinite(each.low) else "–",
            "p": probability(each.p),
            "p_holm": probability(each.p_holm),
            "effect": number(each.effect, 3),
        }
        for each in evaluation.comparisons
    ]


def figures_csv(evaluation: Evaluation) -> str:
    """The tidy table: one row a figure."""
    rows = ([each.case, each.method, each.metric, each.region, _exact(each.value)] for each in evaluation.figures)
    return _csv(("case", "method", "metric", "region", "value"), rows)


def summary_csv(rows: Iterable[SummaryRow]) -> str:
    """The summary: one row a metric, region and method."""
    return _csv(
        ("metric", "region", "method", "count", "mean", "sd", "min", "max"),
        (
            [row.key, row.region, method, cell.count, *map(_exact, (cell.mean, cell.deviation, cell.least, cell.most))]
            for row in rows
            for method, cell in row.cells.items()
        ),
    )


def comparisons_csv(evaluation: Evaluation) -> str:
    """The comparisons: one row each."""
    head = ("metric", "region", "method", "against", "count", "difference", "low", "high", "p", "p_holm", "effect")
    return _csv(
        head,
        (
            [each.metric, each.region, each.method, each.against, each.count]
            + [_exact(value) for value in (each.difference, each.low, each.high, each.p, each.p_holm, each.effect)]
            for each in evaluation.comparisons
        ),
    )


def regions_csv(found: Iterable[tuple[str, Region]]) -> str:
    """The flagged regions: one row each."""
    return _csv(
        ("case", "reason", "i", "j", "k", "voxels", "millilitres", "peak"),
        ([name, r.reason, *r.centre, r.voxels, _exact(r.millilitres), _exact(r.peak)] for name, r in found),
    )


def link(text: str) -> str:
    """A file as a data URI that a click saves."""
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _exact(value: float) -> str:
    return repr(float(value)) if math.isfinite(value) else ""


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return stream.getvalue()
