"""What a stated standard deviation is worth where the truth is known.

All functions take the restored mean, its standard deviation and the truth, arrays of one shape in one unit, and the
voxels that count.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medidiff.evaluation.results import Image

Mask = NDArray[np.bool_]

LEVELS = (50, 80, 90, 95)  # percent, of intervals
NORMAL_90 = float(stats.norm.ppf(0.95))  # half width of a normal 90 % interval in standard deviations
_ENOUGH = 1_000_000  # voxels that a rank correlation needs


def figures(mean: Image, std: Image, truth: Image, inside: Mask, peak: float, quantile90: float) -> dict[str, float]:
    """Every figure, by the names of `medidiff.evaluation.catalogue`.

    Args:
        mean: the restored image.
        std: its standard deviation.
        truth: the reference.
        inside: voxels that count.
        peak: the data range, of which widths are a percentage.
        quantile90: half width of the stated 90 % interval in standard deviations; the intervals of other levels are
            wider or narrower by the ratios of a normal distribution.
    """
    percent = 100 / peak
    scale = quantile90 / NORMAL_90
    found = {
        f"coverage_{level}": coverage(mean, std, truth, scale * float(stats.norm.ppf(0.5 + level / 200)), inside)
        for level in LEVELS
    }
    return found | {
        "width": percent * interval_width(std, quantile90, inside),
        "crps": percent * crps_normal(mean, np.float32(scale) * std, truth, inside),
        **ause(mean, std, truth, inside),
        "error_rank": error_rank(mean, std, truth, inside),
    }


def coverage(mean: Image, std: Image, clean: Image, quantile: float, inside: Mask) -> float:
    """Share of voxels inside whose true value lies within ``mean +- quantile std``."""
    return float((np.abs(clean - mean) <= quantile * std)[inside].mean())


def interval_width(std: Image, quantile: float, inside: Mask) -> float:
    """Mean width of the intervals ``mean +- quantile std`` inside; narrower is better at the same coverage."""
    return float(2 * quantile * std[inside].mean(dtype=np.float64))


def crps_normal(mean: Image, std: Image, clean: Image, inside: Mask) -> float:
    """Mean continuous ranked probability score of normal distributions (Gneiting and Raftery 2007, equation 5).

    In the unit of the images; abs(error) where the deviation is 0.
    """
    error = np.abs(clean[inside].astype(np.float64) - mean[inside])
    spread = std[inside].astype(np.float64)
    known = spread > 0
    z = np.divide(error, spread, out=np.zeros_like(error), where=known)
    score = spread * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    return float(np.where(known, score, error).mean())


def sparsification(error: Image, order: Image, inside: Mask, steps: int = 20) -> NDArray[np.float64]:
    """Root mean square error of what is left when the voxels of largest ``order`` are taken away, step by step.

    Returns:
        ``steps`` figures, for shares 0, 1/steps, ... taken away, over the first one (Ilg et al., ECCV 2018).
    """
    squared = np.square(error[inside].astype(np.float64))[np.argsort(order[inside], kind="stable")]
    total = np.cumsum(squared)
    kept = [max(1, round(squared.size * (1 - step / steps))) for step in range(steps)]
    curve = np.sqrt([total[count - 1] / count for count in kept])
    return np.asarray(curve / max(curve[0], 1e-30))


def ause(mean: Image, std: Image, clean: Image, inside: Mask) -> dict[str, float]:
    """Area between the sparsification curve of ``std`` and the best possible one, which orders voxels by their error.

    Returns:
        ``ause``: the area, 0 when the deviation orders voxels as abs(error) does; ``ause_random``: the area of a random
        order, which a useful deviation must be well below.
    """
    error = np.abs(clean - mean)
    best = sparsification(error, error, inside)
    random = np.random.default_rng(0).random(error.shape, dtype=np.float32)

    def area(order: Image) -> float:
        return float(np.mean(sparsification(error, order, inside) - best))

    return {"ause": area(std), "ause_random": area(random)}


def error_rank(mean: Image, std: Image, clean: Image, inside: Mask) -> float:
    """Spearman's rank correlation of abs(error) and deviation; NaN where either is constant."""
    error, spread = np.abs(clean - mean)[inside], std[inside]
    thin = max(1, error.size // _ENOUGH)
    error, spread = error[::thin], spread[::thin]
    if error.size < 2 or float(np.ptp(error)) == 0 or float(np.ptp(spread)) == 0:
        return float("nan")
    return float(stats.spearmanr(error, spread).statistic)
