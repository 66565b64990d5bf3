from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medidiff.evaluation import statistics
from medidiff.evaluation.results import Figure


def rows(method: str, values: list[float], metric: str = "psnr") -> list[Figure]:
    return [Figure(f"case{index}", method, metric, "foreground", value) for index, value in enumerate(values)]


def test_all_better_by_hand() -> None:
    figures = [*rows("a", [31.0, 32, 33, 35, 31.5]), *rows("b", [30.0, 30, 30, 30, 30])]
    (found,) = statistics.compare(figures, "a", ["a", "b"], [("psnr", "foreground")])
    assert (found.count, found.method, found.against) == (5, "a", "b")
    assert found.difference == pytest.approx(2.5)  # of 1, 2, 3, 5, 1.5
    assert found.p == pytest.approx(2 / 2**5)  # both tails of all 32 signs
    assert found.p_holm == found.p
    assert found.effect == 1
    assert 1.3 < found.low < 2.5 < found.high < 4.5


def test_effect_is_the_difference_of_rank_sums() -> None:
    assert statistics.rank_biserial(np.array([1.0, -2, 3, 0])) == pytest.approx((1 - 2 + 3) / 6)
    assert statistics.rank_biserial(np.zeros(4)) == 0


def test_the_test_is_that_of_scipy() -> None:
    differences = np.array([0.3, -0.1, 0.4, 0.2, 0.7, -0.25, 0.6])
    assert statistics.wilcoxon(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert statistics.wilcoxon(np.zeros(3)) == 1


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([0.5, 0.9]) == [1.0, 1.0]
    assert statistics.holm([]) == []


def test_intervals_are_the_same_again_and_fall_back() -> None:
    values = np.array([0.1, 0.5, 0.2, 0.9, 0.4])
    assert statistics.interval(values) == statistics.interval(values)
    assert statistics.interval(np.full(4, 0.25)) == (0.25, 0.25)
    assert np.isnan(statistics.interval(np.array([1.0, 2.0]))).all()
    low, high = statistics.interval(np.array([1.0, 1.0, 2.0]))
    assert 1 <= low < high <= 2


def test_coverage_of_the_interval_is_about_95_percent() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(60):
        low, high = statistics.interval(rng.exponential(1, 20) - 1)
        hits += low <= 0 <= high
    assert hits >= 51  # 85 %: small skewed samples; a wrong interval covers far less


def test_pairs_without_both_figures_do_not_count() -> None:
    figures = [*rows("a", [1.0, 2.0, float("nan"), 4.0]), *rows("b", [0.0, 1.0, 2.0])]
    (found,) = statistics.compare(figures, "a", ["b", "c"], [("psnr", "foreground"), ("ssim", "foreground")])
    assert found.count == 2


def test_the_correction_counts_every_comparison() -> None:
    figures = []
    for metric in ("psnr", "ssim"):
        figures += rows("a", [1.0, 2, 3, 4, 5, 6], metric)
        figures += rows("b", [0.0] * 6, metric) + rows("c", [0.5] * 6, metric)
    found = statistics.compare(figures, "a", ["b", "c"], [("psnr", "foreground"), ("ssim", "foreground")])
    assert [each.p_holm for each in found] == pytest.approx([4 * 2 / 2**6] * 4)
