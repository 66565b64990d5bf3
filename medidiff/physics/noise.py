"""How strong the noise is, measured on the noisy scan itself.

The finest diagonal wavelet band of the foreground holds almost no anatomy; its median absolute deviation gives the
standard deviation (Donoho and Johnstone 1994). In magnitude MR images the fluctuation of dim voxels is smaller than
sigma (0.65 sigma where there is no signal), so each coefficient is compared with the fluctuation its local signal
should have, iterated to a fixed point (Koay and Basser, J Magn Reson 2006; Coupe et al., Med Image Anal 2010).

Where the noise is so low that anatomy shows even in this band, which its correlation tells, the bands beside it (low
along one axis, high along the others) tell how much of it is anatomy: that has several times as much power in them,
white noise as much. So over small blocks the power of the diagonal band is a line in theirs, and what is left of it
where they hold no more than noise is noise. Interpolated noise looks like anatomy to this; it is told by a correlation
that no anatomy reaches, and then the quietest blocks decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.physics import slabs
from medidiff.physics.intensity import threshold_of
from medidiff.physics.rician import RAYLEIGH_MEAN, Law, look_up, rician_mean, rician_variance
from medidiff.physics.sigma_map import SigmaMap, Windows
from medidiff.physics.slabs import Slab, Slabs
from medidiff.physics.texture import MAD_OF_NORMAL, Part, Texture, blocks, measure

_DB2_HIGH = np.array([-0.12940952, -0.22414387, 0.83651630, -0.48296291])
_DB2_LOW = np.array([0.48296291, 0.83651630, 0.22414387, -0.12940952])
_WHITE = (
    0.1  # excess correlation above which anatomy, not noise, rules the band, and a map of it would be one of anatomy
)
# excess correlation from which, and beyond which, there is anatomy in the band. Noise alone stays below 0.02; 9 % noise
# on training volumes of 2 to 4 mm gives 0.03 to 0.1, and 8 % too high a figure if nothing is done
_ANATOMY = (0.02, 0.06)
# the same for interpolation: training volumes of 2 to 4 mm reach 0.39 without noise, zero-filled noise begins at 0.5
_INTERPOLATED = (0.4, 0.5)
_CELL, _FEWEST_CELLS = 4, 100  # voxels an edge of the blocks whose powers are compared; in a slice there are too few
_CALM = 0.3  # share of the blocks, those with least anatomy, that are compared
# power of anatomy in the finest band over that in those beside it: training volumes of 2 to 4 mm have 0.25 to 0.55.
# What is usual, and by how much it differs, count where there is little anatomy to fit
_SLOPE, _STEEPEST = (0.4, 0.1), 0.6
_LEAST_SHARE = 0.35  # of the quietest blocks' figure: what the line leaves is not known better than that
_CLEAR = 2.0  # sigma that the local mean of a magnitude is above where there is more than air, whose mean is 1.25
_LEVEL_WINDOW = 5  # voxels: edge of the window of the local mean
_ENOUGH = 400_000  # coefficients that give sigma to 0.2 %
_BLOCK, _FEWEST_BLOCKS, _ENOUGH_BLOCKS = 8, 20, 1000  # voxels an edge; blocks that a percentile needs
# percentile of blocks, and what it is of sigma in white noise, by chance alone, in volumes. Blocks of a slice hold an
# eighth: more chance and more anatomy. There, too, this restores training slices better than 0.95 or 1 (by 0.03 dB)
_QUIETEST, _BY_CHANCE = 10, 0.907
_MIDDLE = 160  # voxels: edge of the part of the scan that correlations are measured on
_STEP = 1 / 256  # of a table, sigma
_RIM = 5  # voxels that the rim of what lies still is reached through
STILL_REACH = _RIM + 2  # voxels around one that tell whether it does
_FEWEST = 64  # coefficients that a standard deviation is worth computing from


@dataclass(frozen=True)
class NoiseEstimate:
    """What is known about a scan's noise, in the units of the array it was measured on.

    Attributes:
        sigma: standard deviation (of the complex parts for the Rician law); the foreground's median of ``field`` where
            there is one.
        field: the same for each voxel when the noise varies over the scan, else ``None``.
        law: ``rician`` for magnitude MR, ``gaussian`` otherwise.
        correlation: lag-1 correlation of the high-pass band minus that of white noise; above 0.1 it means that the
            noise is low beside the finest anatomy, or that the scan was interpolated, so that ``sigma`` is only an
            order of size.
        source: ``estimated`` or ``given``.
        texture: the noise's spectrum; ``None`` where it is taken as white.
    """

    sigma: float
    field: SigmaMap | None
    law: Law
    correlation: float
    source: Literal["estimated", "given"]
    texture: Texture | None = None

    @property
    def correlated(self) -> bool:
        """Whether it was measured on a scan whose neighbouring voxels are more alike than anatomy makes them."""
        return self.source == "estimated" and self.texture is None and self.correlation > _INTERPOLATED[0]

    @property
    def map(self) -> NDArray[np.float32] | None:
        """Sigma at every voxel, or ``None``."""
        return None if self.field is None else self.field.whole

    @property
    def local(self) -> NDArray[np.float32]:
        """Sigma at every voxel: the map, or a single figure that broadcasts."""
        return np.asarray(self.sigma if self.field is None else self.field.whole, np.float32)

    def within(self, box: tuple[slice, ...]) -> NoiseEstimate:
        """The same for a part of the scan."""
        return self if self.field is None else replace(self, field=self.field.within(box))


def law_of(values: NDArray[np.float32] | Slabs, modality: str) -> Law:
    """Magnitude images (MR without negative values) are Rician; CT, PET and signed images are treated as Gaussian."""
    return "rician" if modality == "MR" and slabs.extent(slabs.of(values).own())[0] >= 0 else "gaussian"


def of_scan(
    values: NDArray[np.float32] | Slabs,
    modality: str,
    slices: int | None,
    *,
    sigma: float | None = None,
    with_map: bool = True,
) -> NoiseEstimate:
    """The noise of a scan: white in MR and other modalities, with a texture of its own in CT.

    Args:
        values: shape (I, J, K), any units; in memory, or in slabs.
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


def seen(values: NDArray[np.float32] | Slabs, level: NoiseEstimate) -> float:
    """Sigma that a scan itself shows, under the law and the kind of texture of ``level``."""
    found = estimate(values, level.law, with_map=False)
    return (found if level.texture is None else _with_texture(found, values, level.texture.axis)).sigma


def _with_texture(found: NoiseEstimate, values: NDArray[np.float32] | Slabs, slices: int | None) -> NoiseEstimate:
    """An estimate of white noise corrected for what the finest band shows of noise of another spectrum."""
    parts = _parts(slabs.of(values))
    threshold = _threshold(parts)

    def within() -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        return ((part.slab.own, (part.level > threshold)[part.own] & part.varying[part.own]) for part in parts())

    measured = measure(slabs.of(values).shape, within, slices)
    if measured is None or found.sigma == 0:
        return found
    texture, sigma = measured
    field = None if found.field is None else found.field.scaled(sigma / found.sigma)
    return replace(found, sigma=sigma, field=field, correlation=0.0, texture=texture)


def limited(level: NoiseEstimate, most: float) -> NoiseEstimate:
    """An estimate of at most ``most``: what lies beyond is more likely texture than noise, and stays in the image."""
    if level.sigma <= most:
        return level
    return replace(level, sigma=most, field=None if level.field is None else level.field.limited(most))


def estimate(values: NDArray[np.float32] | Slabs, law: Law, *, with_map: bool = True) -> NoiseEstimate:
    """Measure the noise of a scan.

    Args:
        values: shape (I, J, K), any units; in memory, or in slabs.
        law: ``rician`` or ``gaussian``.
        with_map: also look for spatial variation (needs at least 48 voxels along two axes).
    """
    scan = slabs.of(values)
    parts = _parts(scan)
    # chosen on a smooth copy: a threshold on the noisy values would prefer voxels whose noise is large
    threshold = _threshold(parts)

    def chosen(part: _Part) -> NDArray[np.bool_]:
        return (part.level > threshold) & part.varying

    count = sum(int(chosen(part)[part.own].sum()) for part in parts())
    if count < _FEWEST:

        def chosen(part: _Part) -> NDArray[np.bool_]:
            return part.varying

        count = sum(int(part.varying[part.own].sum()) for part in parts())
    if count < _FEWEST:
        return NoiseEstimate(0.0, None, law, 0.0, "estimated")
    thin = max(1, count // _ENOUGH)
    band = np.concatenate(slabs.every((part.band[part.own][chosen(part)[part.own]] for part in parts()), thin))
    level = None
    if law == "rician":
        level = np.concatenate(slabs.every((part.level[part.own][chosen(part)[part.own]] for part in parts()), thin))
    seen = _sigma(band, level)

    known = _Level(law, seen)
    correlation = _excess_correlation(*_middle(scan.shape, parts, chosen))
    if with_map and seen > 0 and correlation < _WHITE:
        known = _varying(known, scan.shape, parts, chosen)
    sigma, some = seen, _ramp(correlation, _ANATOMY)
    if some > 0 and seen > 0:
        much = _ramp(correlation, (0.5 * _WHITE, 1.5 * _WHITE))
        quiet = _quiet_sigma(scan.shape, lambda: ((known.white(p), chosen(p)[p.own]) for p in parts()))
        quiet = seen if quiet is None else min(quiet, seen)
        powers = ((known.white(p), known.beside(p), chosen(p)[p.own]) for p in parts())
        alone = _without_anatomy(scan.shape, powers)
        sigma += much * (quiet - seen)
        if alone is not None:
            line = seen + some * (float(np.clip(alone, _LEAST_SHARE * quiet, quiet)) - seen)
            sigma = line + _ramp(correlation, _INTERPOLATED) * (quiet - line)
    field = None if known.field is None else known.field.scaled(sigma / seen)
    if field is not None:
        sigma = slabs.percentile(lambda: (field.rows(p.slab)[chosen(p)[p.own]] for p in parts()), 50)
    return NoiseEstimate(sigma, field, law, correlation, "estimated")


@dataclass(frozen=True)
class _Part:
    """A slab with what the estimate looks at, each of the shape of its values."""

    slab: Slab
    shape: tuple[int, ...]

    @property
    def own(self) -> slice:
        """The slab's own planes."""
        return self.slab.inside

    @cached_property
    def level(self) -> NDArray[np.float32]:
        """The local mean."""
        size = [_LEVEL_WINDOW if n > 1 else 1 for n in self.shape]
        return np.asarray(ndimage.uniform_filter(self.slab.values, size, mode="nearest"))

    @cached_property
    def band(self) -> NDArray[np.float32]:
        """The finest diagonal band."""
        return _diagonal_band(self.slab.values, self.shape)

    def beside(self) -> NDArray[np.float32]:
        """Mean power of the bands that are low along one axis and diagonal along the others; looked at only once."""
        axes = _filtered(self.shape)
        power = np.zeros_like(self.slab.values)
        for low in axes:
            band = _diagonal_band(self.slab.values, self.shape, low)
            power += np.square(band, out=band) / np.float32(len(axes))
        return power

    @cached_property
    def varying(self) -> NDArray[np.bool_]:
        """Where a voxel differs from a neighbour."""
        return fluctuating(self.slab.values)


@dataclass(frozen=True)
class _Level:
    """What is known of the noise while it is measured.

    Attributes:
        law: ``rician`` or ``gaussian``.
        sigma: what the finest band shows, anatomy included.
        field: the same at each voxel, of noise that varies.
    """

    law: Law
    sigma: float
    field: SigmaMap | None = None

    def fluctuations(self, part: _Part, planes: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sigma at some planes of a part, over ``sigma``, and what the values fluctuate by, over sigma there."""
        share = np.ones((), np.float32)
        if self.field is not None:
            first, last, _ = planes.indices(len(part.slab.values))
            share = self.field.planes(part.slab.first + first, part.slab.first + last) / np.float32(self.sigma)
        level = part.level[planes] if self.law == "rician" else None
        return share, _fluctuation(level, share * np.float32(self.sigma))

    def white(self, part: _Part) -> NDArray[np.float32]:
        """Absolute coefficients of a slab's own planes, as if the noise were the same everywhere."""
        share, fluctuation = self.fluctuations(part, part.own)
        return np.asarray(np.abs(part.band[part.own]) / (share * fluctuation), np.float32)

    def beside(self, part: _Part) -> NDArray[np.float32]:
        """The power of the bands beside the finest one, likewise."""
        share, fluctuation = self.fluctuations(part, part.own)
        return np.asarray(part.beside()[part.own] / np.square(share * fluctuation), np.float32)


def _varying(
    known: _Level,
    shape: tuple[int, ...],
    parts: Callable[[], Iterator[_Part]],
    chosen: Callable[[_Part], NDArray[np.bool_]],
) -> _Level:
    """The noise with a map, where it varies over the scan.

    Of magnitudes all counts that is brighter than air can be: what is chosen leaves windows out that show little of it.
    How much magnitudes fluctuate depends on the sigma there, which the second round knows.
    """
    windows = Windows(shape)
    if not windows.wide:
        return known

    def medians(part: _Part) -> NDArray[np.float64]:
        inside = chosen(part)
        if known.law == "rician":
            inside = inside | (part.level > _CLEAR * known.sigma) & part.varying
        white = np.asarray(np.abs(part.band) / known.fluctuations(part, slice(None))[1], np.float32)
        return windows.medians(white, inside, part.slab, known.sigma)

    for _ in range(2):
        field = windows.fit([medians(part) for part in parts()])
        known = replace(known, field=field)
        if field is None:
            break
    return known


def _parts(scan: Slabs) -> Callable[[], Iterator[_Part]]:
    """The scan's slabs, as often as one likes: kept when there is but one, read anew when there are more."""
    kept = [_Part(slab, scan.shape) for slab in scan] if scan.whole else None
    return lambda: iter(kept) if kept is not None else (_Part(slab, scan.shape) for slab in scan)


def _threshold(parts: Callable[[], Iterator[_Part]]) -> float:
    """Otsu's threshold of the local mean."""
    return threshold_of(lambda: (part.level[part.own] for part in parts()))


def _middle(
    shape: tuple[int, ...], parts: Callable[[], Iterator[_Part]], chosen: Callable[[_Part], NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The finest band in the scan's middle, and which of it counts."""
    rows, *rest = middle(shape)
    bands, within = [], []
    for part in parts():
        slab = part.slab
        start, stop = max(slab.start, rows.start), min(slab.stop, rows.stop)
        if start < stop:
            place = (slice(start - slab.first, stop - slab.first), *rest)
            bands.append(part.band[place])
            within.append(chosen(part)[place])
    return np.concatenate(bands), np.concatenate(within)


def fluctuating(values: NDArray[np.float32] | NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where a voxel differs from a neighbour along an axis; masked and padded regions have no fluctuation at all."""
    varying = np.zeros(values.shape, dtype=np.bool_)
    for axis in range(values.ndim):
        low = (*(slice(None),) * axis, slice(None, -1))
        high = (*(slice(None),) * axis, slice(1, None))
        step = values[low] != values[high]
        varying[low] |= step
        varying[high] |= step
    return varying


def still(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where nothing fluctuates: voxels that equal all their neighbours, and to its rim what a mask set to one value.

    The rim is reached from voxels whose neighbours all equal theirs too: few levels of grey are not so by chance.
    """
    alike = ~fluctuating(values)
    found = alike & ~fluctuating(alike)
    if not found.any():
        return alike
    edges = []
    for axis in range(values.ndim):
        low = (*(slice(None),) * axis, slice(None, -1))
        high = (*(slice(None),) * axis, slice(1, None))
        edges.append((low, high, values[low] == values[high]))
    for _ in range(_RIM):
        for low, high, equal in edges:
            found[high] |= found[low] & equal
            found[low] |= found[high] & equal
    return found | alike


def _filtered(shape: tuple[int, ...]) -> list[int]:
    """The axes that are long enough for the wavelets."""
    return [axis for axis, size in enumerate(shape) if size >= len(_DB2_HIGH)]


def _diagonal_band(values: NDArray[np.float32], shape: tuple[int, ...], low: int | None = None) -> NDArray[np.float32]:
    """Undecimated finest diagonal band over the axes of four voxels or more; white noise keeps its strength.

    Args:
        values: the scan, or a part of one.
        shape: of the scan.
        low: the axis, if any, along which the low-pass filter takes the place of the high-pass one.
    """
    band = values
    for axis in _filtered(shape):
        filters = _DB2_LOW if axis == low else _DB2_HIGH
        band = ndimage.convolve1d(band, filters.astype(np.float32), axis=axis, mode="mirror")
    return band


def _ramp(value: float, ends: tuple[float, float]) -> float:
    """0 before the first end, 1 beyond the second."""
    return float(np.clip((value - ends[0]) / (ends[1] - ends[0]), 0, 1))


def fine_fluctuation(values: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Standard deviation of the finest diagonal band inside: that of white noise, if there is nothing else in it."""
    return _mad(_diagonal_band(values, values.shape)[inside])


def _mad(values: NDArray[np.float32]) -> float:
    return float(np.median(np.abs(values))) / MAD_OF_NORMAL


@cache
def _fluctuation_table() -> NDArray[np.float32]:
    """Standard deviation of the magnitude (in sigma) for local means from ``RAYLEIGH_MEAN`` in steps of ``_STEP``."""
    nu = np.linspace(0, 12, 4096)
    means = np.arange(RAYLEIGH_MEAN, 12, _STEP)
    return np.asarray(np.interp(means, rician_mean(nu), np.sqrt(rician_variance(nu))), dtype=np.float32)


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


def _fluctuation(level: NDArray[np.float32] | None, sigma: float | NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of the measured values in units of sigma, for their local mean; 1 for Gaussian noise."""
    if level is None:
        return np.ones((), np.float32)
    levels = np.asarray(level / np.asarray(sigma, np.float32), np.float32)
    return look_up(levels, RAYLEIGH_MEAN, _STEP, _fluctuation_table())


def _quiet_sigma(shape: tuple[int, ...], parts: Callable[[], Iterator[Part]]) -> float | None:
    """Sigma where there is least anatomy: a low percentile of small blocks that lie inside the foreground.

    Args:
        shape: of the scan.
        parts: absolute coefficients over their expected size, and which of them count.

    Returns:
        ``None`` when there are too few such blocks.
    """
    edges = [min(_BLOCK, n) for n in shape]

    def within() -> Iterator[NDArray[np.float32]]:
        for white, inside in parts():
            counts = blocks(inside, edges)
            most = counts.mean(axis=1) >= 0.75
            yield np.where(counts[most], blocks(white, edges)[most], np.float32(np.nan))

    count = sum(map(len, within()))
    if count < _FEWEST_BLOCKS:
        return None
    chosen = np.concatenate(slabs.every(within(), max(1, count // _ENOUGH_BLOCKS)))
    return float(np.percentile(np.nanmedian(chosen, axis=1), _QUIETEST)) / MAD_OF_NORMAL / _BY_CHANCE


def _without_anatomy(
    shape: tuple[int, ...],
    parts: Iterable[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]],
) -> float | None:
    """Sigma that the finest band shows where the bands beside it hold no more than the same noise.

    ``finest = sigma^2 + slope (beside - sigma^2)`` is fitted, in relative errors, to the blocks with least power
    beside, so that contours do not count.

    Args:
        shape: of the scan.
        parts: absolute coefficients of the finest band and power of those beside it, both over the fluctuation that is
            expected, and which of them count.

    Returns:
        ``None`` when there are too few blocks to tell, as in a slice.
    """
    if len(_filtered(shape)) < len(shape):
        return None
    edges = [_CELL] * len(shape)
    finest, beside = [np.empty(0)], [np.empty(0)]
    for white, around, inside in parts:
        full = blocks(inside, edges).all(axis=1)
        finest.append(np.square(blocks(white, edges)[full]).mean(axis=1, dtype=np.float64))
        beside.append(blocks(around, edges)[full].mean(axis=1, dtype=np.float64))
    y, x = np.concatenate(finest), np.concatenate(beside)
    y, x = y[x > 0], x[x > 0]
    if len(x) < _FEWEST_CELLS:
        return None
    unit = float(np.median(x))  # so that the fit does not depend on the scan's units
    x, y = x / unit, y / unit
    quiet = x <= np.quantile(x, _CALM)
    ratio, inverse = y[quiet] / x[quiet], 1 / x[quiet]  # of powers, whose relative errors are alike
    lines = np.stack([np.ones_like(inverse), inverse], axis=1)
    error = float(np.std(ratio - lines @ np.linalg.lstsq(lines, ratio)[0]))
    usual, deviation = _SLOPE
    known = error / deviation
    slope = np.linalg.lstsq(np.vstack([lines, [known, 0]]), np.append(ratio, known * usual))[0][0]
    slope = float(np.clip(slope, 0, _STEEPEST))
    rest = float(np.vdot(inverse, ratio - slope) / np.vdot(inverse, inverse))
    return float(np.sqrt(unit * max(rest, 0.0) / (1 - slope)))


def _excess_correlation(band: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    """Largest lag-1 correlation of the band along an axis, less what the filter itself gives to white noise."""
    white = float(np.correlate(_DB2_HIGH, _DB2_HIGH, "full")[len(_DB2_HIGH)])
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
