"""A map of noise that varies over a scan: measured in overlapping windows, interpolated and smoothed between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.physics.slabs import Slab
from medidiff.physics.texture import MAD_OF_NORMAL

_WINDOW, _THIN_WINDOW = 16, 8  # voxels: edge of the windows, and across scans of fewer than twice as many planes
# Coefficients in a window from which its sigma is sure, to 4 %. Where they are fewer, as in single slices, the median
# of the windows around counts, smoothed more, and nothing is extrapolated.
_SURE = 1000
_SMOOTHING, _SMOOTHING_UNSURE = 0.25, 1.0  # of the windows' distance
_ANATOMY = 1.2  # over the median of the windows around, beyond which a window shows more than noise
# 95th over 5th percentile above which the noise counts as spatially varying: in slices anatomy alone reaches 1.8
_SPREAD, _SPREAD_UNSURE = 1.3, 2.0
_REACH, _BINS = 12.0, 512  # of histograms: expected sigmas, and bins
_FEWEST = 64  # coefficients that a standard deviation is worth computing from


@dataclass(frozen=True, eq=False)
class SigmaMap:
    """Sigma at every voxel of a scan, or of a part of one; computed where it is looked at.

    Attributes:
        local: sigma in each window.
        weights: for each axis of the scan, what each window gives to each voxel, shape (voxels, windows).
        gain: what the interpolated values are multiplied by.
        most: the largest value.
    """

    local: NDArray[np.float64]
    weights: tuple[NDArray[np.float64], ...]
    gain: float = 1.0
    most: float = math.inf

    @cached_property
    def whole(self) -> NDArray[np.float32]:
        """The map at all voxels."""
        values: NDArray[Any] = self.local
        for weights in self.weights:  # the first axis becomes the last each time
            values = np.tensordot(values, weights, axes=(0, 1))
        # what lies beyond the outermost windows is extrapolated, but not to anything
        values = np.clip(values, self.local.min() / 2, 1.5 * self.local.max())
        return np.asarray(np.minimum(values * self.gain, self.most), dtype=np.float32)

    def within(self, box: tuple[slice, ...]) -> SigmaMap:
        """The map of a part."""
        weights = tuple(weights[part] for weights, part in zip(self.weights, box, strict=True))
        return replace(self, weights=weights)

    def rows(self, slab: Slab) -> NDArray[np.float32]:
        """The map on a slab's own planes."""
        return self.planes(slab.start, slab.stop)

    def planes(self, start: int, stop: int) -> NDArray[np.float32]:
        """The map on some planes along the first axis."""
        return self.within((slice(start, stop), *(slice(None),) * (len(self.weights) - 1))).whole

    def scaled(self, factor: float) -> SigmaMap:
        """The map times a factor."""
        return replace(self, gain=self.gain * factor, most=self.most * factor)

    def limited(self, most: float) -> SigmaMap:
        """The map with no value beyond ``most``."""
        return replace(self, most=min(self.most, most))


@dataclass(frozen=True)
class Windows:
    """Overlapping windows over a scan of a shape."""

    shape: tuple[int, ...]

    @property
    def wide(self) -> bool:
        """Whether there are enough of them for a map."""
        return sum(n >= 3 * _WINDOW for n in self.shape) >= 2

    @property
    def _edges(self) -> list[int]:
        """Of a window, along each axis; that of the scan where it is too short for several."""
        return [_WINDOW if n >= 2 * _WINDOW else _THIN_WINDOW if n >= 2 * _THIN_WINDOW else n for n in self.shape]

    @property
    def _steps(self) -> list[int]:
        return [edge // 2 if edge < n else n for n, edge in zip(self.shape, self._edges, strict=True)]

    @property
    def _counts(self) -> list[int]:
        return [n // step - 1 if step < n else 1 for n, step in zip(self.shape, self._steps, strict=True)]

    @property
    def _sure(self) -> bool:
        return math.prod(self._edges) >= _SURE

    def medians(
        self, white: NDArray[np.float32], inside: NDArray[np.bool_], slab: Slab, sigma: float
    ) -> NDArray[np.float64]:
        """Sigma in the windows that start in a slab; NaN where too little of a window counts.

        Medians come from histograms of cells, which are half a window wide: within 0.1 % of those of sorted
        values, 1 % in small windows.

        Args:
            white: absolute coefficients over their expected size, of the shape of the slab's values.
            inside: which of them count.
            slab: the slab; its values reach half a window behind it.
            sigma: about what is expected; more than ``_REACH`` times as much is not told apart.
        """
        step, counts, unit = self._steps[0], self._counts, _REACH * sigma / _BINS
        begin, end = (min(math.ceil(plane / step), counts[0]) for plane in (slab.start, slab.stop))
        wide = step < self.shape[0]  # then a window is two cells, else the only one
        cells = range(begin, end + wide) if end > begin else range(0)
        starts = (cell * step - slab.first for cell in cells)
        planes = [slice(start, start + step) for start in starts]
        found = (self._counted(white[part], inside[part], unit) for part in planes)
        pairs = (low + high for low, high in itertools.pairwise(found)) if wide else found
        sigmas = [self._middles(counted) * unit / MAD_OF_NORMAL for counted in pairs]
        return np.stack(sigmas) if sigmas else np.empty((0, *counts[1:]))

    def _counted(self, white: NDArray[np.float32], inside: NDArray[np.bool_], unit: float) -> NDArray[np.int64]:
        """Histograms of one cell along the first axis and all windows along the others, shape (*windows, _BINS)."""
        steps = self._steps[1:]
        cells = [n // step for n, step in zip(self.shape[1:], steps, strict=True)]
        part = (slice(None), *(slice(0, n * step) for n, step in zip(cells, steps, strict=True)))
        rows, columns = (np.repeat(np.arange(n), step) for n, step in zip(cells, steps, strict=True))
        place = np.broadcast_to(rows[:, None] * cells[1] + columns, white[part].shape)[inside[part]]
        bins = np.minimum(white[part][inside[part]] * np.float32(1 / unit), _BINS - 1).astype(np.int64)
        found = np.bincount(place * _BINS + bins, minlength=math.prod(cells) * _BINS).reshape(*cells, _BINS)
        for axis, (size, step) in enumerate(zip(self.shape[1:], steps, strict=True)):
            if step < size:
                found = found.take(range(1, cells[axis]), axis) + found.take(range(cells[axis] - 1), axis)
        return found

    def _middles(self, counted: NDArray[np.int64]) -> NDArray[np.float64]:
        """Medians in bins; NaN where too little was counted."""
        below = np.cumsum(counted, axis=-1)
        total = below[..., -1:]
        bins = np.argmax(below >= total / 2, axis=-1)[..., None]
        inside = np.take_along_axis(counted, bins, -1)
        middle = bins + 1 - (np.take_along_axis(below, bins, -1) - total / 2) / np.maximum(inside, 1)
        fewest = max(0.25 * math.prod(self._edges), _FEWEST)
        return np.where(total >= fewest, middle, np.nan)[..., 0]

    def fit(self, rows: Sequence[NDArray[np.float64]]) -> SigmaMap | None:
        """The map that sigma in all windows makes; ``None`` when it varies too little to be worth having."""
        local = np.concatenate(rows)
        known = np.isfinite(local)
        if known.sum() < 8:
            return None
        local = _fill_nearest(local, known)
        middle = ndimage.median_filter(local, size=[3 if n >= 3 else 1 for n in local.shape])
        low, high = np.percentile(middle[known], [5, 95])
        sure = self._sure
        if high <= (_SPREAD if sure else _SPREAD_UNSURE) * low:
            return None
        local = np.minimum(local, _ANATOMY * middle) if sure else middle
        axes = zip(self.shape, self._counts, self._steps, strict=True)
        return SigmaMap(local, tuple(_weights(n, count, step, sure) for n, count, step in axes))


def _weights(size: int, count: int, step: int, sure: bool) -> NDArray[np.float64]:
    """Linear interpolation from the centres of an axis' windows, smoothed, shape (size, count).

    Where windows are ``sure``, the faces are extrapolated.
    """
    if count == 1:
        return np.ones((size, 1))
    beyond, smoothing = (1, _SMOOTHING) if sure else (0, _SMOOTHING_UNSURE)
    centres = np.clip((np.arange(size) - (step - 0.5)) / step, -beyond, count - 1 + beyond)
    first = np.clip(np.floor(centres), 0, count - 2)[:, None]
    share, number = centres[:, None] - first, np.arange(count)
    linear = np.where(number == first, 1 - share, 0) + np.where(number == first + 1, share, 0)
    return np.asarray(ndimage.gaussian_filter1d(linear, smoothing * step, axis=0, mode="nearest"))


def _fill_nearest(local: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(local[tuple(nearest)], dtype=np.float64)
