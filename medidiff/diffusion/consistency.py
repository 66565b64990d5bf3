"""What the restoration took away, compared with what noise alone would look like."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.physics import intensity, noise
from medidiff.physics.rician import Law, rician_mean, rician_variance

_FEWEST = 512


def check(
    measured: NDArray[np.float32], mean: NDArray[np.float32], sigma: NDArray[np.float32], law: Law
) -> dict[str, Any]:
    """Figures of the removed part ``q = y - E[y | x]`` in the foreground of the scan's middle, in sigma.

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
    part = noise.middle(mean.shape)
    measured, mean = measured[part], mean[part]
    sigma = sigma[part] if sigma.ndim else sigma
    inside = intensity.foreground(ndimage.uniform_filter(mean, [3 if n > 1 else 1 for n in mean.shape]))
    if int(inside.sum()) < _FEWEST:
        return {}
    removed = (measured - mean) / sigma
    if law == "rician":
        ratio = mean / sigma
        table = np.linspace(0, 40, 4096)
        expected = np.where(ratio < 40, np.interp(ratio, table, rician_mean(table)), ratio)
        removed = (measured / sigma - expected) / np.sqrt(np.interp(ratio, table, rician_variance(table)))
    q = removed[inside].astype(np.float64)
    centred = np.where(inside, removed - q.mean(), 0.0).astype(np.float32)
    gradient = ndimage.gaussian_gradient_magnitude(mean, [1.0 if n > 1 else 1e-3 for n in mean.shape])[inside]
    lags = [noise.lag1(centred, inside, axis) or 0.0 for axis in range(mean.ndim)]
    return {
        "removed_variance_ratio": round(float(q.var()), 4),
        "removed_mean": round(float(q.mean()), 4),
        "removed_lag1": round(float(max(lags, key=abs)), 4),
        "removed_edge_correlation": round(_correlation(np.abs(q), gradient), 4),
    }


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    if float(a.std()) == 0 or float(b.std()) == 0:
        return 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()))
