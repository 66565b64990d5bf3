"""Figures of a restoration beside its scan; `medidiff.diffusion.guard` makes sentences of them.

For denoising: what was taken away, compared with what noise alone would look like. For super-resolution: how far the
restored image, measured again, is from the scan. For inpainting: what changed outside of the hole, and whether image
and hole fit at its border.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.physics import intensity, noise
from medidiff.physics.rician import Law, look_up, rician_mean, rician_variance
from medidiff.physics.texture import Texture

_FEWEST = 512
_FAR, _STEP = 40.0, 1 / 128  # sigma: of tables
_COARSE = 3  # voxels
_STEEP = 0.2  # share of the foreground, that with the steepest gradients, where a lack of structure shows
_SHELL = 3  # voxels: how far beside a hole its surroundings go
_PREVALENT = 0.1  # share of a hole, or of its shell, that one value takes before it counts as an artefact's


def check(
    measured: NDArray[np.float32],
    mean: NDArray[np.float32],
    sigma: NDArray[np.float32],
    law: Law,
    texture: Texture | None = None,
) -> dict[str, Any]:
    """Figures of the removed part ``q = y - E[y | x]`` in the foreground of the scan's middle, in sigma.

    Args:
        measured: y, normalised, shape (I, J, K).
        mean: the restored x, same shape.
        sigma: noise standard deviation, broadcastable.
        law: how y scatters around x.
        texture: spectrum of the noise; ``None`` for white. Correlations are those beyond what it gives.

    Returns:
        ``removed_variance_ratio``: variance of q over that of the noise; 1 when all noise and nothing else was
        removed, less when the restored image keeps noise. ``removed_mean``: mean of q in sigma; 0 without bias.
        ``removed_lag1``: largest lag-1 correlation of q; 0 for noise, more when structure was removed.
        ``removed_coarse``: variance of q's means over 3 voxels an axis in the fifth of the foreground where x's
        gradient is steepest, over what noise of sigma gives. A shrinker keeps most of what is coarse there, noise with
        it: well below 1, however much it removes from flat regions; more when structure was removed.
        ``removed_edge_correlation``: correlation of abs(q) with the gradient of x; 0 when no edge was touched.
        ``noise_left``: fluctuation of x's finest diagonal band in sigma; it holds anatomy where sigma is small. Empty
        when the foreground is too small to tell.
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
        nu = np.arange(0, _FAR + _STEP, _STEP, dtype=np.float64)
        expected, spread = (np.asarray(table, np.float32) for table in (rician_mean(nu), np.sqrt(rician_variance(nu))))
        expected = np.where(ratio < _FAR, look_up(ratio, 0, _STEP, expected), ratio)
        removed = (measured / sigma - expected) / look_up(ratio, 0, _STEP, spread)
    q = removed[inside].astype(np.float64)
    centred = np.where(inside, removed - q.mean(), 0.0).astype(np.float32)
    gradient = ndimage.gaussian_gradient_magnitude(mean, [1.0 if n > 1 else 1e-3 for n in mean.shape])
    expected_lags = [0.0] * mean.ndim if texture is None else texture.lag1(mean.ndim)
    lags = [(noise.lag1(centred, inside, axis) or 0.0) - lag for axis, lag in enumerate(expected_lags)]
    coarse = 1.0 if texture is None else texture.coarse(mean.shape, _COARSE)
    return {
        "removed_variance_ratio": round(float(q.var()), 4),
        "removed_mean": round(float(q.mean()), 4),
        "removed_lag1": round(float(max(lags, key=abs)), 4),
        "removed_coarse": round(_coarse_power(centred, inside, gradient) / coarse, 4),
        "removed_edge_correlation": round(_correlation(np.abs(q), gradient[inside]), 4),
        "noise_left": round(noise.fine_fluctuation(mean / sigma, inside), 4),
    }


def reproduced(
    measured: NDArray[np.float32],
    predicted: NDArray[np.float32],
    sigma: float | NDArray[np.float32] = 0.0,
    seen: NDArray[np.bool_] | None = None,
) -> dict[str, float]:
    """How far the restored image, measured again, is from the scan.

    Args:
        measured: y, any unit, shape (I, J, K).
        predicted: A(x), same unit and shape.
        sigma: standard deviation of the noise that was allowed for; 0 where the data had to be kept exactly.
        seen: which voxels of y were measured (not in a hole, not padding); ``None`` for all.

    Returns:
        ``data_residual``: largest abs(A x - y) over the range of y. With sigma > 0 also the residual's variance, mean
        and largest lag-1 correlation in units of sigma, as in `check`: ``data_residual_variance_ratio``,
        ``data_residual_mean``, ``data_residual_lag1``. Empty when nothing was measured.
    """
    inside = np.ones(measured.shape, dtype=np.bool_) if seen is None else seen
    if not inside.any():
        return {}
    values = measured[inside].astype(np.float64)
    off = np.where(inside, measured.astype(np.float64) - predicted, 0.0)
    span = float(values.max() - values.min()) or float(np.abs(values).max()) or 1.0
    found = {"data_residual": float(np.abs(off).max()) / span}
    if np.all(np.asarray(sigma) <= 0):
        return found
    q = off / sigma
    mean = float(q[inside].mean())
    centred = np.where(inside, q - mean, 0.0).astype(np.float32)
    lags = [noise.lag1(centred, inside, axis) or 0.0 for axis in range(q.ndim)]
    return found | {
        "data_residual_variance_ratio": round(float(q[inside].var()), 4),
        "data_residual_mean": round(mean, 4),
        "data_residual_lag1": round(float(max(lags, key=abs)), 4),
    }


def filled(measured: NDArray[np.float32], restored: NDArray[np.float32], hole: NDArray[np.bool_]) -> dict[str, float]:
    """What inpainting did outside of the hole, and how well the hole's border fits.

    Args:
        measured: the scan in its own units, shape (I, J, K).
        restored: the inpainted scan, same units and shape.
        hole: True where voxels were restored.

    Returns:
        ``changed_outside``: voxels outside the hole whose value is not exactly the scan's; must be 0. ``hole_share``:
        share of the scan. ``hole_border_jump``: mean step from the hole to its neighbours over the mean step
        between neighbours just beside it; about 1 where the hole fits. ``hole_beside_constant``: share of the voxels
        beside the hole that still hold the artefact's constant value. The last two are left out when the hole
        has no neighbours.
    """
    found: dict[str, float] = {
        "changed_outside": int(np.count_nonzero((measured != restored) & ~hole)),
        "hole_share": round(float(hole.mean()), 6),
    }
    box = _around(hole, _SHELL + 1)
    if box is None:
        return found
    inner = hole[box]
    cross = ndimage.generate_binary_structure(inner.ndim, 1)
    shell = ndimage.binary_dilation(inner, cross, iterations=_SHELL) & ~inner
    if not shell.any():
        return found
    beside = ndimage.binary_dilation(inner, cross) & ~inner
    jump = _steps(restored[box], inner, beside) / max(_steps(restored[box], shell, shell), 1e-12)
    leftover = _leftover(measured, hole, box, shell)
    return found | {
        "hole_border_jump": round(min(jump, 1e6), 4),
        "hole_beside_constant": round(float(leftover[beside].mean()), 4),
    }


def _around(hole: NDArray[np.bool_], margin: int) -> tuple[slice, ...] | None:
    """The box of a hole and ``margin`` voxels more; ``None`` without a hole."""
    spans = ndimage.find_objects(hole.astype(np.uint8))
    if not spans:
        return None
    return tuple(slice(max(0, span.start - margin), span.stop + margin) for span in spans[0])


def _steps(image: NDArray[np.float32], first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Mean abs difference of neighbours of which one is in ``first`` and the other in ``second``; 0 without any."""
    total, count = 0.0, 0
    for axis in range(image.ndim):
        low, high = ((*(slice(None),) * axis, side) for side in (slice(None, -1), slice(1, None)))
        pairs = (first[low] & second[high]) | (second[low] & first[high])
        total += float(np.abs(image[high].astype(np.float64) - image[low])[pairs].sum())
        count += int(pairs.sum())
    return total / count if count else 0.0


def _leftover(
    measured: NDArray[np.float32], hole: NDArray[np.bool_], box: tuple[slice, ...], shell: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Voxels near the hole, in its box, that hold the artefact's value and are no part of a large constant region.

    A region that is larger than the hole, or reaches a face of the scan that the hole does not reach, is background
    and not what a mask missed.
    """
    value = _artefact(measured[box], hole[box], shell)
    if value is None:
        return np.zeros(shell.shape, dtype=np.bool_)
    labels, _ = ndimage.label((measured == value) & ~hole)
    near = np.unique(labels[box][shell])
    sizes = np.bincount(labels.reshape(-1))
    background: set[int] = set()
    for axis, index in ((axis, index) for axis in range(hole.ndim) for index in (0, -1) if hole.shape[axis] > 1):
        if not hole.take(index, axis).any():
            background |= set(np.unique(labels.take(index, axis)).tolist())
    small = [k for k in near.tolist() if k and sizes[k] <= int(hole.sum()) and k not in background]
    return np.isin(labels[box], small)


def _artefact(measured: NDArray[np.float32], hole: NDArray[np.bool_], shell: NDArray[np.bool_]) -> np.float32 | None:
    """The value that one tenth or more of the hole, or of its shell, shares exactly; ``None`` in real tissue."""
    for part in (hole, shell):
        values, counts = np.unique(measured[part], return_counts=True)
        if counts.max() >= max(_PREVALENT * int(part.sum()), 8):
            return np.float32(values[int(np.argmax(counts))])
    return None


def _coarse_power(centred: NDArray[np.float32], inside: NDArray[np.bool_], gradient: NDArray[np.float32]) -> float:
    """Variance of means over 3 voxels an axis where ``gradient`` is steepest, in units of that of white noise."""
    size = [_COARSE if n >= _COARSE else 1 for n in centred.shape]
    whole = ndimage.minimum_filter(inside, size)
    if int(whole.sum()) < _FEWEST:
        whole = inside
    slopes = gradient[whole]
    count = max(_FEWEST, int(_STEEP * len(slopes)))
    steep = np.argpartition(slopes, len(slopes) - count)[len(slopes) - count :]
    means = ndimage.uniform_filter(centred, size)[whole][steep]
    return float(means.var(dtype=np.float64)) * float(np.prod(size))


def _correlation(a: NDArray[Any], b: NDArray[Any]) -> float:
    if float(a.std()) == 0 or float(b.std()) == 0:
        return 0.0
    return float(np.mean((a - a.mean()) * (b - b.mean())) / (a.std() * b.std()))
