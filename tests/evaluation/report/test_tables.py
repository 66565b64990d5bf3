"""Means, orders, and the files that hold every number of the page."""

from __future__ import annotations

import csv
import io
import math
import statistics
from dataclasses import replace

import pytest

from medidiff.evaluation import report
from medidiff.evaluation import tables as short
from medidiff.evaluation.report import tables
from medidiff.evaluation.report.regions import Region
from medidiff.evaluation.results import Evaluation, Figure, Metric


def test_summary_by_hand(evaluation: Evaluation) -> None:
    row = tables.summary(evaluation)[0]
    assert (row.key, row.region, row.best) == ("psnr", "foreground", "medidiff")
    cell = row.cells["medidiff"]
    assert (cell.count, cell.least, cell.most) == (2, 25.5, 30.123456)
    assert cell.mean == pytest.approx(statistics.mean([30.123456, 25.5]))
    assert cell.deviation == pytest.approx(statistics.stdev([30.123456, 25.5]))
    assert str(cell) == "27.81 ± 3.269"


def test_figures_that_are_none_do_not_count(evaluation: Evaluation) -> None:
    figures = (*evaluation.figures, Figure("third", "medidiff", "psnr", "foreground", math.nan))
    assert tables.summary(replace(evaluation, figures=figures))[0].cells["medidiff"].count == 2


def test_means_over_other_cases_are_told_apart(evaluation: Evaluation) -> None:
    assert "nlm (" not in short.summary(evaluation)
    kept = tuple(row for row in evaluation.figures if (row.case, row.method) != ("good", "nlm"))
    lacking = replace(evaluation, figures=kept)
    row = tables.summary(lacking)[0]
    assert (row.best, row.cells["nlm"].count, row.cells["medidiff"].count) == ("", 1, 2)
    assert "| nlm (1 of 2) | 24.50 |" in short.summary(lacking)
    assert "<small>n = 1</small>" in report.render(lacking)


@pytest.mark.parametrize(
    ("better", "worse_first"),
    [("higher", [-1, 0.5, 3]), ("lower", [3, 0.5, -1]), ("zero", [3, -1, 0.5]), ("one", [-1, 2.5, 0.5])],
)
def test_what_is_worse(better: str, worse_first: list[float]) -> None:
    metric = Metric("x", "", better, "")  # type: ignore[arg-type]
    assert (
        sorted((0.5, -1, 2.5 if better == "one" else 3), key=lambda value: -tables.badness(metric, value))
        == worse_first
    )
    assert tables.badness(metric, math.nan) == -math.inf


def test_cases_with_a_sentence_come_first_then_the_worst(evaluation: Evaluation) -> None:
    assert [case.name for case in tables.worst_first(evaluation, "medidiff")] == ["bad", "good", "lost"]
    quiet = tuple(replace(case, verdicts=()) for case in evaluation.cases)
    better = tuple(
        replace(figure, value=20.0) if (figure.case, figure.method) == ("good", "medidiff") else figure
        for figure in evaluation.figures
    )
    order = tables.worst_first(replace(evaluation, cases=quiet, figures=better), "medidiff")
    assert [case.name for case in order] == ["good", "bad", "lost"]


def test_metrics_that_judge_stand_beside_the_cases(evaluation: Evaluation) -> None:
    assert tables.main_metrics(evaluation, "medidiff") == [("psnr", "foreground"), ("bias", "foreground")]
    assert tables.main_metrics(evaluation, "nobody") == []


def test_files_hold_all_digits(evaluation: Evaluation) -> None:
    rows = list(csv.DictReader(io.StringIO(tables.figures_csv(evaluation))))
    assert [float(row["value"]) for row in rows] == [figure.value for figure in evaluation.figures]
    summary = list(csv.DictReader(io.StringIO(tables.summary_csv(tables.summary(evaluation)))))
    assert float(summary[1]["mean"]) == statistics.mean([30.123456, 25.5])
    compared = next(csv.DictReader(io.StringIO(tables.comparisons_csv(evaluation))))
    assert (compared["low"], compared["high"], compared["p_holm"]) == ("0.5", "1.5", "1.0")
    region = Region("change", (1, 2, 3), 9, 0.009, 7.25)
    assert tables.regions_csv([("a,b", region)]).splitlines()[1] == '"a,b",change,1,2,3,9,0.009,7.25'
