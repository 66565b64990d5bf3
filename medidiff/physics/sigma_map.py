"""A map of noise that varies over a scan: measured in overlapping windows, interpolated and smoothed between them."""

from __future__ import annotations

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

_WINDOW = 16  # voxels: edge of the windows
_SMOOTHING = 8.0  # voxels
_SPREAD = 1.3  # 95th over 5th percentile above which the noise counts as spatially varying
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
        return np.asarray(np.minimum(values * self.gain, self.most), dtype=np.float32)

    def within(self, box: tuple[slice, ...]) -> SigmaMap:
        """The map of a part."""
        weights = tuple(weights[part] for weights, part in zip(self.weights, box, strict=True))
        return replace(self, weights=weights)

    def rows(self, slab: Slab) -> NDArray[np.float32]:
        """The map on a slab's own planes."""
        return self.within((slice(slab.start, slab.stop), *(slice(None),) * (len(self.weights) - 1))).whole

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
    def _steps(self) -> list[int]:
        return [_WINDOW // 2 if n >= _WINDOW else n for n in self.shape]

    @property
    def _counts(self) -> list[int]:
        steps = zip(self.shape, self._steps, strict=True)
        return [max(1, n // step - 1) if n >= _WINDOW else 1 for n, step in steps]

    def medians(self, white: NDArray[np.float32], inside: NDArray[np.bool_], slab: Slab) -> NDArray[np.float64]:
        """Sigma in the windows that start in a slab; NaN where too little of a window counts.

        Args:
            white: absolute coefficients over their expected size, of the shape of the slab's values.
            inside: which of them count.
            slab: the slab; its values reach half a window behind it.
        """
        steps, counts = self._steps, self._counts
        begin = math.ceil(slab.start / steps[0])
        rows = range(begin, min(math.ceil(slab.stop / steps[0]), counts[0]))
        local = np.full((len(rows), *counts[1:]), np.nan)
        for index in np.ndindex(*local.shape):
            place = (index[0] + begin, *index[1:])
            starts = [i * step for i, step in zip(place, steps, strict=True)]
            starts[0] -= slab.first
            sizes = [min(_WINDOW, n) for n in self.shape]
            window = tuple(slice(a, a + size) for a, size in zip(starts, sizes, strict=True))
            chosen = white[window][inside[window]]
            if chosen.size >= 0.25 * inside[window].size and chosen.size >= _FEWEST:
                local[index] = float(np.median(chosen)) / MAD_OF_NORMAL
        return local

    def fit(self, rows: Sequence[NDArray[np.float64]]) -> SigmaMap | None:
        """The map that sigma in all windows makes; ``None`` when it varies too little to be worth having."""
        local = np.concatenate(rows)
        known = np.isfinite(local)
        if known.sum() < 8:
            return None
        local = ndimage.median_filter(_fill_nearest(local, known), size=[3 if n >= 3 else 1 for n in local.shape])
        low, high = np.percentile(local[known], [5, 95])
        if high <= _SPREAD * low:
            return None
        axes = zip(self.shape, self._counts, self._steps, strict=True)
        return SigmaMap(local, tuple(_weights(n, count, step) for n, count, step in axes))


def _weights(size: int, count: int, step: int) -> NDArray[np.float64]:
    """Linear interpolation between the centres of an axis' windows, smoothed, shape (size, count)."""
    if size < _WINDOW:
        return np.ones((size, count))
    centres = (np.arange(size) - (_WINDOW / 2 - 0.5)) / step
    linear = np.clip(1 - np.abs(np.clip(centres, 0, count - 1)[:, None] - np.arange(count)), 0, None)
    return np.asarray(ndimage.gaussian_filter1d(linear, _SMOOTHING, axis=0, mode="nearest"))


def _fill_nearest(local: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(local[tuple(nearest)], dtype=np.float64)
