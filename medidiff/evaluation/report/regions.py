"""Places of an image that a reader should look at first: unexpected changes, and large uncertainty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.evaluation.results import Image

Reason = Literal["change", "uncertain"]

SMOOTH = 1.5  # voxels: standard deviation of the Gaussian over which changes are averaged
UNEXPECTED = 6.0  # robust standard deviations of the averaged change in the foreground
DOUBTFUL = 0.20  # half width of the interval, as a share of the bright level
SMALLEST = 8  # voxels
MOST = 5  # regions that are listed for each reason
NORMAL_90 = 1.645  # half width of a 90 % interval in standard deviations, for a normal law


@dataclass(frozen=True)
class Region:
    """Connected voxels that were flagged.

    Attributes:
        reason: ``change`` or ``uncertain``.
        centre: voxel index of its strongest voxel, in the order of the scan's own axes, from 0.
        voxels: how many.
        millilitres: its volume.
        peak: the largest score: robust standard deviations for ``change``, share of the bright level for ``uncertain``.
    """

    reason: Reason
    centre: tuple[int, int, int]
    voxels: int
    millilitres: float
    peak: float


def unexpected(residual: Image, inside: NDArray[np.bool_], scale: Image | None = None) -> NDArray[np.float32]:
    """How far each voxel's neighbourhood changed together, in robust standard deviations over the foreground.

    Noise averages out over a neighbourhood, structure does not. The residual is divided by the uncertainty, where there
    is a map of it, averaged with a Gaussian of 1.5 voxels, and divided by 1.4826 times its median absolute deviation.

    Args:
        residual: scan minus restored, shape (I, J, K).
        inside: the foreground, same shape.
        scale: standard deviation of each voxel.

    Returns:
        The score, 0 outside of the foreground.
    """
    if not inside.any():
        return np.zeros(residual.shape, dtype=np.float32)
    relative = residual
    if scale is not None:
        floor = max(0.25 * float(np.median(scale[inside])), 1e-12)
        relative = residual / np.maximum(scale, np.float32(floor))
    width = [SMOOTH if n > 4 else 0.0 for n in residual.shape]
    share = ndimage.gaussian_filter(inside.astype(np.float32), width)
    mean = ndimage.gaussian_filter(np.where(inside, relative, np.float32(0)), width) / np.maximum(share, 1e-3)
    values = mean[inside]
    centre = float(np.median(values))
    spread = 1.4826 * float(np.median(np.abs(values - centre)))
    if spread <= 0:
        return np.zeros(residual.shape, dtype=np.float32)
    return np.where(inside, np.abs(mean - centre) / spread, 0).astype(np.float32)


def doubtful(deviation: Image, quantile: float | None, bright: float) -> NDArray[np.float32]:
    """Half width of the 90 % interval of each voxel as a share of the bright level.

    Args:
        deviation: the uncertainty map, shape (I, J, K).
        quantile: half width in standard deviations from the calibration; the normal law's where there is none.
        bright: the bright level, same unit as the map.
    """
    return np.asarray(deviation * np.float32((quantile or NORMAL_90) / max(bright, 1e-12)), dtype=np.float32)


def regions(
    score: NDArray[np.float32], limit: float, reason: Reason, spacing: tuple[float, float, float]
) -> tuple[tuple[Region, ...], NDArray[np.bool_]]:
    """Connected voxels (by faces) with a score above a limit, the strongest first.

    Args:
        score: shape (I, J, K).
        limit: above it a voxel is flagged.
        reason: what the score means.
        spacing: voxel size in millimetres.

    Returns:
        At most 5 regions, and the flagged voxels of all regions that are large enough (8 voxels; 4 in an image).
    """
    labels, count = ndimage.label(score > limit)
    empty = np.zeros(score.shape, dtype=np.bool_)
    if not count:
        return (), empty
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    large = sizes >= (SMALLEST if min(score.shape) > 1 else SMALLEST // 2)
    large[0] = False
    kept = np.flatnonzero(large)
    if not kept.size:
        return (), empty
    peaks = np.atleast_1d(ndimage.maximum(score, labels, kept))
    places = ndimage.maximum_position(score, labels, kept)
    voxel = float(np.prod(spacing)) / 1000
    order = np.argsort(-peaks, kind="stable")[:MOST]
    found = []
    for index in order:
        i, j, k = (int(place) for place in places[index])
        size = int(sizes[kept[index]])
        found.append(Region(reason, (i, j, k), size, size * voxel, float(peaks[index])))
    return tuple(found), np.asarray(large[labels], dtype=np.bool_)
