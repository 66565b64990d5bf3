"""What the restoration took away, compared with what noise alone would look like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.physics import intensity
from medidiff.physics.rician import Law, rician_mean, rician_variance

_FEWEST = 512


def check(
    measured: NDArray[np.float32], mean: NDArray[np.float32], sigma: NDArray[np.float32], law: Law
) -> dict[str, Any]:
    """Figures of the removed part ``q = y - E[y | x]`` in the foreground, in units of the noise it should be.

    Args:
        measured: y, normalised, shape (I, J, K).
        mean: the restored x, same shape.
        sigma: noise standard deviation, broadcastable.
        law: how y scatters around x.

    Returns:
        ``removed_variance_ratio``: variance of q over that of the noise; 1 when all noise and nothing else was
        removed, less when the restored image keeps noise. ``removed_mean``: mean of q in sigma; 0 without bias.
        ``removed_lag1``: largest lag-1 correlation of q; 0 for white noise, more when structure was removed.
        ``removed_edge_correlation``: correlation of abs(q) with the gradient of x; 0 when no edge was touched.
        Empty when the foreground is too small to tell.
    """
    inside = intensity.foreground(ndimage.uniform_filter(mean, [3 if n > 1 else 1 for n in mean.shape]))
    if int(inside.sum()) < _FEWEST:
        return {}
    ratio = (mean / sigma).astype(np.float64) if law == "rician" else None
    if ratio is None:
        removed = (measured - mean) / sigma
    else:
        table = np.linspace(0, 40, 8192)
        expected = np.where(ratio < 40, np.interp(ratio, table, rician_mean(table)), ratio)
        removed = (measured / sigma - expected) / np.sqrt(np.interp(ratio, table, rician_variance(table)))
    q = removed[inside].astype(np.float64)
    gradient = ndimage.gaussian_gradient_magnitude(mean, [1.0 if n > 1 else 1e-3 for n in mean.shape])[inside]
    return {
        "removed_variance_ratio": round(float(q.var()), 4),
        "removed_mean": round(float(q.mean()), 4),
        "removed_lag1": round(max(_lag1(removed, inside, axis) for axis in range(mean.ndim)), 4),
        "removed_edge_correlation": round(_correlation(np.abs(q), gradient), 4),
    }


def _lag1(values: NDArray[np.floating[Any]], inside: NDArray[np.bool_], axis: int) -> float:
    n = values.shape[axis]
    if n < 2:
        return 0.0
    low, high = ((*(slice(None),) * axis, s) for s in (slice(None, -1), slice(1, None)))
    both = inside[low] & inside[high]
    return _correlation(values[low][both], values[high][both])


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    if a.size < 2 or float(a.std()) == 0 or float(b.std()) == 0:
        return 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()))
