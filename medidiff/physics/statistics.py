"""A handful of figures that tell one kind of image from another; numpy and scipy alone.

They describe a normalised scan by its object: what stands out of air and noise. The noise is told, so that a noisy scan
gives nearly the figures of a clean one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

OBJECT = 0.15  # of the bright level: the least that counts as object
NOISE_FLOOR = 2.0  # sigma: a mean over 27 voxels of pure Rician noise lies below (1.25 + 4 * 0.13 sigma)
FEWEST = 256  # voxels of object that figures are worth computing from
LARGEST = 160  # voxels: edge of the middle that is looked at
SMALLEST_CORRELATION = 1e-3


def statistics(unit: NDArray[np.float32], sigma: float = 0.0) -> dict[str, float]:
    """Describe a normalised scan.

    Args:
        unit: the scan in normalised intensity (bright level near 1), shape (I, J, K).
        sigma: its noise in the same unit; 0 when it is clean or the noise is not known.

    Returns:
        ``dark``, ``middle``, ``bright``: 10th, 50th and 90th percentile of the object over its 99.5th; ``contrast``:
        log of interquartile range over median; ``skewness`` of the object; ``highlight``: log of the 99.99th over the
        99.5th percentile; ``share`` of the object in its bounding box; ``coherence``: log of the second largest
        correlation of neighbours along an axis, far below zero for pure noise. Without an object only
        ``coherence``.
    """
    unit = unit[looked_at(unit.shape)]
    smooth = ndimage.uniform_filter(unit, [3 if n > 2 else 1 for n in unit.shape], mode="nearest")
    found = {"coherence": _coherence(unit)}
    inside = smooth > max(OBJECT, NOISE_FLOOR * sigma)
    if int(inside.sum()) < FEWEST:
        return found
    values = smooth[inside].astype(np.float64)
    top = float(np.percentile(values, 99.5))
    low, first, middle, third, high = np.percentile(values, [10, 25, 50, 75, 90])
    deviation = float(values.std())
    if deviation <= 1e-6 * top:  # a constant image is like no other, and there is nothing in it to restore
        return found
    return found | {
        "dark": float(low) / top,
        "middle": float(middle) / top,
        "bright": float(high) / top,
        "contrast": float(np.log((third - first) / middle + 1e-3)),
        "skewness": float(np.mean((values - values.mean()) ** 3)) / deviation**3,
        "highlight": float(np.log(np.percentile(values, 99.99) / top)),
        "share": float(inside[_box(inside)].mean()),
    }


def looked_at(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The part of a scan that is looked at."""
    return tuple(slice((n - min(n, LARGEST)) // 2, (n + min(n, LARGEST)) // 2) for n in shape)


def _box(inside: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The bounding box, less the 1 % of voxels that lie outermost on either side of an axis."""
    spans = []
    for axis in range(inside.ndim):
        count = np.cumsum(inside.sum(axis=tuple(a for a in range(inside.ndim) if a != axis)))
        spans.append(slice(*(int(np.searchsorted(count, f * count[-1])) for f in (0.01, 0.99))))
    return tuple(slice(span.start, max(span.stop, span.start) + 1) for span in spans)


def _coherence(unit: NDArray[np.float32]) -> float:
    """Log of the second largest lag-1 correlation over the axes (the largest of a single slice's two is too kind)."""
    centred = unit - unit.mean(dtype=np.float64)
    power = float(np.mean(np.square(centred), dtype=np.float64))
    lags = sorted(_lag(centred, axis) for axis in range(unit.ndim) if unit.shape[axis] > 2)
    if power == 0 or not lags:
        return 0.0
    return float(np.log(max(lags[-2:][0] / power, SMALLEST_CORRELATION)))


def _lag(centred: NDArray[Any], axis: int) -> float:
    low, high = ((*(slice(None),) * axis, side) for side in (slice(None, -1), slice(1, None)))
    return float(np.mean(centred[low] * centred[high], dtype=np.float64))
