"""Image quality of CT by its own measures: the noise power spectrum of a uniform region, and the sharpness of an edge.

Planes are those of the first two axes, as in a stack of transverse slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import signal

from medidiff.evaluation.results import Image

Mask = NDArray[np.bool_]
Double = NDArray[np.float64]

ROI = 32  # pixels: edge of the squares of which spectra are averaged
FEWEST_ROIS = 4
FINER = 4  # bins of an edge profile in a pixel
ROUND = 0.9  # overlap of a region with a circle (intersection over union) from which it counts as one
CONTRAST = 2.0  # standard deviations that an edge must be high
SMALLEST_RADIUS = 4.0  # pixels
NAN = float("nan")


@dataclass(frozen=True)
class Spectrum:
    """A radially averaged noise power spectrum.

    Attributes:
        frequency: cycles a millimetre, the middle of each ring.
        power: HU^2 mm^2 (or the image's unit instead of HU).
        regions: squares that were averaged.
    """

    frequency: Double
    power: Double
    regions: int

    @property
    def peak(self) -> float:
        """Frequency of the largest power."""
        return float(self.frequency[int(np.argmax(self.power))])

    @property
    def mean(self) -> float:
        """Mean frequency, weighted by power: moves less from one sample of noise to the next than the peak."""
        return float((self.frequency * self.power).sum() / self.power.sum())


def noise_power(image: Image, uniform: Mask, spacing: Sequence[float], size: int = ROI) -> Spectrum | None:
    """The noise power spectrum inside a region that is uniform but for noise (ICRU Report 87).

    Squares of ``size`` pixels that lie wholly inside are taken side by side, a second-order surface is fitted and
    subtracted, and their periodograms ``dx dy / (Nx Ny) |DFT|^2`` are averaged, then over rings of frequency.

    Args:
        image: (I, J, K).
        uniform: the region.
        spacing: of a voxel, in millimetres.
        size: edge of a square.

    Returns:
        The spectrum up to the Nyquist frequency, without frequency 0; ``None`` where fewer than four squares fit.
    """
    total, count = np.zeros((size, size)), 0
    surface = _surface(size)
    for square in _squares(image, uniform, size):
        flat = square.reshape(-1)
        residual = (flat - surface @ (np.linalg.pinv(surface) @ flat)).reshape(size, size)
        total += np.abs(np.fft.fft2(residual)) ** 2
        count += 1
    if count < FEWEST_ROIS:
        return None
    power = total / count * spacing[0] * spacing[1] / size**2
    fx, fy = (np.fft.fftfreq(size, spacing[axis]) for axis in (0, 1))
    radius = np.hypot(fx[:, None], fy[None, :])
    step = 1 / (size * max(spacing[0], spacing[1]))
    ring = np.rint(radius / step).astype(np.int64)
    rings = np.arange(1, size // 2 + 1)
    means = [float(power[ring == number].mean()) for number in rings]
    return Spectrum(np.asarray(rings * step, dtype=np.float64), np.array(means), count)


def _squares(image: Image, inside: Mask, size: int) -> Iterator[Double]:
    for k in range(image.shape[2]):
        plane = inside[:, :, k]
        if int(plane.sum()) < size**2:
            continue
        rows, columns = np.nonzero(plane)
        for i in range(int(rows.min()), int(rows.max()) - size + 2, size):
            for j in range(int(columns.min()), int(columns.max()) - size + 2, size):
                if plane[i : i + size, j : j + size].all():
                    yield image[i : i + size, j : j + size, k].astype(np.float64)


def _surface(size: int) -> Double:
    """Polynomials of second order over a square, one a column."""
    x, y = (each.reshape(-1) for each in np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij"))
    return np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=1)


def mtf50(image: Image, insert: Mask, spacing: Sequence[float]) -> float:
    """Frequency in cycles a millimetre at which the contrast of a round insert's edge is halved.

    The circular-edge method (Richard et al., Med Phys 2012): the edge profile is the mean over rings around the
    insert's centre, quarter of a pixel wide, over all slices; its derivative, windowed, is Fourier transformed.

    Args:
        image: (I, J, K).
        insert: a rod across the slices; its outline must be a circle.
        spacing: of a voxel, in millimetres.

    Returns:
        NaN where no slice shows a circle of 4 pixels radius, or the edge is lost in noise.
    """
    pixel = min(spacing[0], spacing[1])
    profiles = [_rings(image, insert, spacing, k) for k in range(image.shape[2])]
    found = [each for each in profiles if each is not None]
    if not found:
        return NAN
    radius = float(np.median([each[2] for each in found]))
    offset = np.concatenate([distance - own for distance, _, own in found])  # millimetres beyond the edge
    values = np.concatenate([values for _, values, _ in found])
    reach = min(radius, 10 * pixel)
    step = pixel / FINER
    bins = np.floor((offset + reach) / step).astype(np.int64)
    count = int(2 * reach / step)
    kept = (bins >= 0) & (bins < count)
    hits = np.bincount(bins[kept], minlength=count)
    sums = np.bincount(bins[kept], values[kept], minlength=count)
    edge = np.interp(np.arange(count), np.nonzero(hits)[0], sums[hits > 0] / hits[hits > 0])
    inner, outer = (values[kept & side] for side in (offset < -2 * pixel, offset > 2 * pixel))
    noise = float(np.sqrt((inner.var() + outer.var()) / 2))
    if abs(float(inner.mean() - outer.mean())) <= CONTRAST * noise:
        return NAN
    return half_contrast(edge, step)


def _rings(image: Image, insert: Mask, spacing: Sequence[float], k: int) -> tuple[Double, Double, float] | None:
    """Distance from the centre and value of every pixel near a slice's circle, and its radius; ``None`` without one."""
    plane = insert[:, :, k]
    area = int(plane.sum())
    radius = float(np.sqrt(area * spacing[0] * spacing[1] / np.pi))
    if radius < SMALLEST_RADIUS * min(spacing[0], spacing[1]):
        return None
    centre = [float(each.mean()) for each in np.nonzero(plane)]
    x, y = (spacing[axis] * (np.arange(plane.shape[axis]) - centre[axis]) for axis in (0, 1))
    distance = np.hypot(x[:, None], y[None, :])
    circle = distance <= radius
    if int((circle & plane).sum()) < ROUND * int((circle | plane).sum()):
        return None
    near = distance <= 2 * radius
    return distance[near], image[:, :, k][near].astype(np.float64), radius


def half_contrast(edge: Double, step: float) -> float:
    """Frequency at which the transfer function of an edge profile falls to a half; NaN where it does not.

    Args:
        edge: the profile across the edge, which lies in the middle.
        step: distance of its points.
    """
    line = np.gradient(edge) * signal.windows.tukey(len(edge), 0.5)
    points = max(4096, len(line))
    transfer = np.abs(np.fft.rfft(line, points))
    if transfer[0] <= 0:
        return NAN
    transfer = transfer / transfer[0]
    below = int(np.argmax(transfer < 0.5))
    if below == 0:
        return NAN
    frequency = np.fft.rfftfreq(points, step)
    over, under = transfer[below - 1], transfer[below]
    share = float((over - 0.5) / (over - under))
    return float(frequency[below - 1] + share * (frequency[below] - frequency[below - 1]))
