"""How strong the noise is, measured on the noisy scan itself.

The finest diagonal wavelet band of the foreground holds almost no anatomy; its median absolute deviation gives the
standard deviation (Donoho and Johnstone 1994). In magnitude MR images the fluctuation of dim voxels is smaller than
sigma (0.65 sigma where there is no signal), so each coefficient is compared with the fluctuation its local signal
should have, iterated to a fixed point (Koay and Basser, J Magn Reson 2006; Coupe et al., Med Image Anal 2010). Where
the noise is so low that anatomy rules even this band, which its correlation tells, the quietest blocks decide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.physics.intensity import foreground
from medidiff.physics.rician import Law, rician_mean, rician_variance
from medidiff.physics.texture import MAD_OF_NORMAL, Texture, blocks, measure

_DB2_HIGH = np.array([-0.12940952, -0.22414387, 0.83651630, -0.48296291])
_WINDOW = 16  # voxels: edge of the blocks of the noise map
_MAP_SMOOTHING = 8.0  # voxels
_SPREAD_OF_A_MAP = 1.3  # 95th over 5th percentile above which the noise counts as spatially varying
_WHITE = (
    0.1  # excess correlation above which anatomy, not noise, rules the band, and a map of it would be one of anatomy
)
_LEVEL_WINDOW = 5  # voxels: edge of the window of the local mean
_ENOUGH = 400_000  # coefficients that give sigma to 0.2 %
_BLOCK, _FEWEST_BLOCKS, _ENOUGH_BLOCKS = 8, 20, 1000  # voxels an edge; blocks that a percentile needs
_MIDDLE = 160  # voxels: edge of the part of the scan that correlations are measured on
_FEWEST = 64  # coefficients that a standard deviation is worth computing from


@dataclass(frozen=True)
class NoiseEstimate:
    """What is known about a scan's noise, in the units of the array it was measured on.

    Attributes:
        sigma: standard deviation (of the complex parts for the Rician law); the foreground's median of ``map`` where
            there is one.
        map: the same for each voxel when the noise varies over the scan, else ``None``.
        law: ``rician`` for magnitude MR, ``gaussian`` otherwise.
        correlation: lag-1 correlation of the high-pass band minus that of white noise; above 0.1 it means that the
            noise is low beside the finest anatomy, or that the scan was interpolated, so that ``sigma`` is only an
            order of size.
        source: ``estimated`` or ``given``.
        texture: the noise's spectrum; ``None`` where it is taken as white.
    """

    sigma: float
    map: NDArray[np.float32] | None
    law: Law
    correlation: float
    source: Literal["estimated", "given"]
    texture: Texture | None = None

    @property
    def local(self) -> NDArray[np.float32]:
        """Sigma at every voxel: the map, or a single figure that broadcasts."""
        return np.asarray(self.sigma if self.map is None else self.map, np.float32)


def law_of(values: NDArray[np.float32], modality: str) -> Law:
    """Magnitude images (MR without negative values) are Rician; CT, PET and signed images are treated as Gaussian."""
    return "rician" if modality == "MR" and float(values.min()) >= 0 else "gaussian"


def of_scan(
    values: NDArray[np.float32],
    modality: str,
    slices: int | None,
    *,
    sigma: float | None = None,
    with_map: bool = True,
) -> NoiseEstimate:
    """The noise of a scan: white in MR and other modalities, with a texture of its own in CT.

    Args:
        values: shape (I, J, K), any units.
        modality: DICOM code.
        slices: the axis along which slices follow one another; ``None`` when all are alike.
        sigma: standard deviation where it is known, in the units of ``values``.
        with_map: also look for spatial variation.
    """
    law = law_of(values, modality)
    if sigma == 0 or (sigma is not None and modality != "CT"):
        return NoiseEstimate(float(sigma), None, law, 0.0, "given")
    found = estimate(values, law, with_map=with_map and sigma is None)
    if modality == "CT":
        found = _with_texture(found, values, slices)
    return found if sigma is None else NoiseEstimate(float(sigma), None, law, 0.0, "given", found.texture)


def seen(values: NDArray[np.float32], level: NoiseEstimate) -> float:
    """Sigma that a scan itself shows, under the law and the kind of texture of ``level``."""
    found = estimate(values, level.law, with_map=False)
    return (found if level.texture is None else _with_texture(found, values, level.texture.axis)).sigma


def _with_texture(found: NoiseEstimate, values: NDArray[np.float32], slices: int | None) -> NoiseEstimate:
    """An estimate of white noise corrected for what the finest band shows of noise of another spectrum."""
    measured = measure(values, foreground(_level(values)) & fluctuating(values), slices)
    if measured is None or found.sigma == 0:
        return found
    texture, sigma = measured
    local = None if found.map is None else np.asarray(found.map * (sigma / found.sigma), dtype=np.float32)
    return replace(found, sigma=sigma, map=local, correlation=0.0, texture=texture)


def limited(level: NoiseEstimate, most: float) -> NoiseEstimate:
    """An estimate of at most ``most``: what lies beyond is more likely texture than noise, and stays in the image."""
    if level.sigma <= most:
        return level
    return replace(level, sigma=most, map=None if level.map is None else np.minimum(level.map, np.float32(most)))


def estimate(values: NDArray[np.float32], law: Law, *, with_map: bool = True) -> NoiseEstimate:
    """Measure the noise of a scan.

    Args:
        values: shape (I, J, K), any units.
        law: ``rician`` or ``gaussian``.
        with_map: also look for spatial variation (needs at least 48 voxels along two axes).
    """
    band = _diagonal_band(values)
    # chosen on a smooth copy: a threshold on the noisy values would prefer voxels whose noise is large
    smooth = _level(values)
    varying = fluctuating(values)
    inside = foreground(smooth) & varying
    if inside.sum() < _FEWEST:
        inside = varying
    if inside.sum() < _FEWEST:
        return NoiseEstimate(0.0, None, law, 0.0, "estimated")
    level = smooth if law == "rician" else None
    thin = max(1, int(inside.sum()) // _ENOUGH)
    sigma = _sigma(band[inside][::thin], None if level is None else level[inside][::thin])
    correlation = _excess_correlation(band, inside)
    # where anatomy rules the band, only the quietest blocks tell of noise
    anatomy = float(np.clip((correlation - 0.5 * _WHITE) / _WHITE, 0, 1))
    if anatomy > 0 and sigma > 0:
        quiet = _quiet_sigma(np.asarray(np.abs(band) / _fluctuation(level, sigma), dtype=np.float32), inside)
        sigma = sigma if quiet is None else (1 - anatomy) * sigma + anatomy * min(quiet, sigma)
    sigma_map = None
    wide = sum(n >= 3 * _WINDOW for n in values.shape) >= 2
    if with_map and wide and sigma > 0 and correlation < _WHITE:
        sigma_map = _sigma_map(band, inside, level, sigma)
    if sigma_map is not None:
        sigma = float(np.median(sigma_map[inside]))
    return NoiseEstimate(sigma, sigma_map, law, correlation, "estimated")


def _level(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The local mean."""
    size = [_LEVEL_WINDOW if n > 1 else 1 for n in values.shape]
    return np.asarray(ndimage.uniform_filter(values, size, mode="nearest"))


def fluctuating(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a voxel differs from a neighbour along an axis; masked and padded regions have no fluctuation at all."""
    varying = np.zeros(values.shape, dtype=np.bool_)
    for axis in range(values.ndim):
        low = (*(slice(None),) * axis, slice(None, -1))
        high = (*(slice(None),) * axis, slice(1, None))
        step = values[low] != values[high]
        varying[low] |= step
        varying[high] |= step
    return varying


def _diagonal_band(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Undecimated finest diagonal band over the axes of four voxels or more; white noise keeps its strength."""
    band = values
    for axis in range(values.ndim):
        if values.shape[axis] >= len(_DB2_HIGH):
            band = ndimage.convolve1d(band, _DB2_HIGH.astype(np.float32), axis=axis, mode="mirror")
    return band


def fine_fluctuation(values: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Standard deviation of the finest diagonal band inside: that of white noise, if there is nothing else in it."""
    return _mad(_diagonal_band(values)[inside])


def _mad(values: NDArray[np.float32]) -> float:
    return float(np.median(np.abs(values))) / MAD_OF_NORMAL


@cache
def _fluctuation_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measured local mean (in sigma) -> standard deviation of the magnitude (in sigma)."""
    nu = np.linspace(0, 12, 4096)
    return rician_mean(nu), np.sqrt(rician_variance(nu))


def _sigma(band: NDArray[np.float32], level: NDArray[np.float32] | None) -> float:
    """Sigma of the coefficients; ``level`` is the local mean of the magnitude, ``None`` for Gaussian noise."""
    sigma = _mad(band)
    if level is None or sigma == 0:
        return sigma
    for _ in range(50):
        update = _mad(band / _fluctuation(level, sigma))
        if abs(update - sigma) < 1e-4 * sigma:
            break
        sigma = update
    return update


def _fluctuation(level: NDArray[np.float32] | None, sigma: float) -> NDArray[np.float32]:
    """Standard deviation of the measured values in units of sigma, for their local mean; 1 for Gaussian noise."""
    if level is None:
        return np.ones((), np.float32)
    return np.asarray(np.interp(level / sigma, *_fluctuation_table()), dtype=np.float32)


def _quiet_sigma(white: NDArray[np.float32], inside: NDArray[np.bool_]) -> float | None:
    """Sigma where there is least anatomy: the 10th percentile of small blocks that lie inside the foreground.

    ``None`` when there are too few such blocks.
    """
    edges = [min(_BLOCK, n) for n in white.shape]
    cut = blocks(white, edges)
    within = blocks(inside, edges)
    chosen = np.flatnonzero(within.mean(axis=1) >= 0.75)
    if len(chosen) < _FEWEST_BLOCKS:
        return None
    chosen = chosen[:: max(1, len(chosen) // _ENOUGH_BLOCKS)]
    medians = np.nanmedian(np.where(within[chosen], cut[chosen], np.nan), axis=1)
    return float(np.percentile(medians, 10)) / MAD_OF_NORMAL


def _sigma_map(
    band: NDArray[np.float32], inside: NDArray[np.bool_], level: NDArray[np.float32] | None, sigma: float
) -> NDArray[np.float32] | None:
    """Sigma in overlapping blocks, smoothed to a map; ``None`` when it varies too little to be worth having."""
    white = np.abs(band) / _fluctuation(level, sigma)
    half = [_WINDOW // 2 if n >= _WINDOW else n for n in band.shape]
    counts = [max(1, n // h - 1) if n >= _WINDOW else 1 for n, h in zip(band.shape, half, strict=True)]
    local = np.full(counts, np.nan)
    for index in np.ndindex(*counts):
        block = tuple(
            slice(i * h, i * h + (_WINDOW if n >= _WINDOW else n))
            for i, h, n in zip(index, half, band.shape, strict=True)
        )
        chosen = white[block][inside[block]]
        if chosen.size >= chosen.dtype.type(0.25) * inside[block].size and chosen.size >= _FEWEST:
            local[index] = float(np.median(chosen)) / MAD_OF_NORMAL
    known = np.isfinite(local)
    if known.sum() < 8:
        return None
    local = ndimage.median_filter(_fill_nearest(local, known), size=[3 if n >= 3 else 1 for n in local.shape])
    low, high = np.percentile(local[known], [5, 95])
    if high <= _SPREAD_OF_A_MAP * low:
        return None
    centres = [
        (np.arange(n) - (_WINDOW / 2 - 0.5 if n >= _WINDOW else 0)) / h for n, h in zip(band.shape, half, strict=True)
    ]
    grid = np.meshgrid(*centres, indexing="ij", sparse=False)
    full = ndimage.map_coordinates(local, grid, order=1, mode="nearest")
    smooth = ndimage.gaussian_filter(full, [_MAP_SMOOTHING if n >= _WINDOW else 0 for n in band.shape], mode="nearest")
    return np.asarray(smooth, dtype=np.float32)


def _fill_nearest(local: NDArray[np.float64], known: NDArray[np.bool_]) -> NDArray[np.float64]:
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(local[tuple(nearest)], dtype=np.float64)


def _excess_correlation(band: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Largest lag-1 correlation of the band along an axis, less what the filter itself gives to white noise."""
    white = float(np.correlate(_DB2_HIGH, _DB2_HIGH, "full")[len(_DB2_HIGH)])
    part = middle(band.shape)
    band, inside = band[part], inside[part]
    bound = 6 * _mad(band[inside]) if inside.any() else 0.0
    limited = np.where(inside, np.clip(band, -bound, bound), np.float32(0))
    axes = [axis for axis, n in enumerate(band.shape) if n >= 2 * len(_DB2_HIGH)]
    found = [lag1(limited, inside, axis, _FEWEST) for axis in axes]
    return max([0.0, *(value - white for value in found if value is not None)])


def middle(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The middle of a scan, large enough to measure correlations on; it costs a second at most."""
    edges = [min(n, _MIDDLE) for n in shape]
    return tuple(slice((n - edge) // 2, (n + edge) // 2) for n, edge in zip(shape, edges, strict=True))


def lag1(centred: NDArray[np.float32], inside: NDArray[np.bool_], axis: int, fewest: int = 1) -> float | None:
    """Correlation of neighbours along an axis, both inside.

    Args:
        centred: values of mean zero inside and zero outside.
        inside: which voxels count.
        axis: along which.
        fewest: pairs that it takes.

    Returns:
        The correlation; ``None`` where there are too few pairs to tell, or no variation.
    """
    low, high = ((*(slice(None),) * axis, side) for side in (slice(None, -1), slice(1, None)))
    pairs = int((inside[low] & inside[high]).sum())
    power = float(np.vdot(centred, centred)) / max(int(inside.sum()), 1)
    if pairs < fewest or power == 0:
        return None
    return float(np.vdot(centred[low], centred[high])) / pairs / power
