"""Whether one method is better than another: paired tests over volumes, never over slices or voxels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medidiff.evaluation.results import Comparison, Figure

Double = NDArray[np.float64]

RESAMPLES = 10_000
FEWEST = 3  # pairs that an interval needs
NAN = float("nan")


def compare(
    figures: Iterable[Figure], method: str, others: Sequence[str], judged: Sequence[tuple[str, str]]
) -> tuple[Comparison, ...]:
    """Compare one method with each of the others on every judged figure.

    Args:
        figures: the tidy table.
        method: the first of every comparison.
        others: the second.
        judged: (metric, region) pairs, in the order of the result.

    Returns:
        A comparison for each (metric, region) and other method that share at least one case; p values are corrected
        over all of them by Holm's method.
    """
    table: dict[tuple[str, str, str], dict[str, float]] = {}
    for figure in figures:
        if np.isfinite(figure.value):
            table.setdefault((figure.metric, figure.region, figure.method), {})[figure.case] = figure.value
    found = []
    for metric, region in judged:
        mine = table.get((metric, region, method), {})
        for other in others:
            pairs = _pairs(mine, table.get((metric, region, other), {}))
            if pairs.size and other != method:
                found.append(_comparison(metric, region, method, other, pairs))
    adjusted = holm([each.p for each in found])
    return tuple(replace(each, p_holm=p) for each, p in zip(found, adjusted, strict=True))


def _pairs(mine: Mapping[str, float], theirs: Mapping[str, float]) -> Double:
    """Differences on the cases that both have."""
    return np.array([mine[case] - theirs[case] for case in mine if case in theirs])


def _comparison(metric: str, region: str, method: str, against: str, differences: Double) -> Comparison:
    low, high = interval(differences)
    return Comparison(
        metric=metric,
        region=region,
        method=method,
        against=against,
        count=int(differences.size),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=wilcoxon(differences),
        p_holm=NAN,
        effect=rank_biserial(differences),
    )


def wilcoxon(differences: Double) -> float:
    """Two-sided p of the paired signed-rank test; pairs without a difference are left out, 1 when all are so."""
    if not np.any(differences):
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties and small samples: scipy says which method it takes
        return float(stats.wilcoxon(differences, zero_method="wilcox").pvalue)


def interval(differences: Double) -> tuple[float, float]:
    """95 % interval of the mean difference: bias-corrected and accelerated bootstrap, 10000 resamples, fixed seed.

    NaN below three pairs. Where all differences are alike it is that difference; where the acceleration cannot be
    computed it is the percentile interval.
    """
    if differences.size < FEWEST:
        return NAN, NAN
    if float(np.ptp(differences)) == 0:
        return float(differences[0]), float(differences[0])
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (differences,),
                np.mean,
                n_resamples=RESAMPLES,
                method=method,
                rng=np.random.default_rng(0),
            ).confidence_interval
        if np.isfinite([found.low, found.high]).all():
            break
    return float(found.low), float(found.high)


def rank_biserial(differences: Double) -> float:
    """Matched-pairs rank-biserial correlation: (favourable - unfavourable rank sum) / total; 0 without differences."""
    changed = differences[differences != 0]
    if not changed.size:
        return 0.0
    ranks = stats.rankdata(np.abs(changed))
    return float((ranks * np.sign(changed)).sum() / ranks.sum())


def holm(values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down method (Scand J Stat 1979)."""
    order = np.argsort(values, kind="stable")
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted
