"""A downstream check: three classes of intensity in the foreground, their volumes, and how far two images agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_multiotsu

from medidiff.evaluation.results import Image

CLASSES = ("dark", "middle", "bright")
_BINS = 256
_ROUNDS = 200
_SETTLED = 1e-6  # change of the log-likelihood a voxel at which the fit stops


@dataclass(frozen=True)
class Mixture:
    """Three Gaussians that share a histogram, in the order of their means.

    Attributes:
        means: shape (3,), in the units of the image.
        deviations: standard deviations, shape (3,).
        weights: shares of the voxels, shape (3,); their sum is 1.
    """

    means: NDArray[np.float64]
    deviations: NDArray[np.float64]
    weights: NDArray[np.float64]

    def densities(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted density of each class at each value, shape (3, N)."""
        z = (values[None] - self.means[:, None]) / self.deviations[:, None]
        scale = self.weights / (self.deviations * np.sqrt(2 * np.pi))
        return np.asarray(scale[:, None] * np.exp(-0.5 * z**2))


def fit(values: NDArray[np.float32], start: Mixture | None = None) -> Mixture | None:
    """Fit the mixture by expectation and maximisation on a histogram of 256 bins; the same values give the same fit.

    The ends of the histogram are the 0.5th and 99.5th percentiles; the fit begins at Otsu's three classes.

    Args:
        values: intensities of the foreground, shape (N,).
        start: where to begin, in the place of Otsu's classes: the fit of a similar image, so that the classes of both
            mean the same.

    Returns:
        The mixture, or ``None`` when there are fewer than three different values.

    Source:
        Dempster, Laird and Rubin, J. R. Stat. Soc. B 39 (1977).
    """
    if values.size == 0:
        return None
    low, high = (float(each) for each in np.percentile(values, (0.5, 99.5)))
    if not low < high:
        return None
    counts, edges = np.histogram(np.clip(values, low, high), _BINS, (low, high))
    share, centres = counts / counts.sum(), (edges[1:] + edges[:-1]) / 2
    narrowest = float(edges[1] - edges[0])
    mixture = start or _otsu(share, centres, narrowest)
    if mixture is None:
        return None
    before = -np.inf
    for _ in range(_ROUNDS):
        density = mixture.densities(centres)
        total = density.sum(axis=0) + 1e-300
        likelihood = float(share @ np.log(total))
        if likelihood - before < _SETTLED:
            break
        before = likelihood
        mixture = _moments(density / total * share, centres, narrowest)
    order = np.argsort(mixture.means, kind="stable")
    return Mixture(mixture.means[order], mixture.deviations[order], mixture.weights[order])


def _otsu(share: NDArray[np.float64], centres: NDArray[np.float64], narrowest: float) -> Mixture | None:
    """The classes that Otsu's two thresholds make of a histogram; ``None`` when it has fewer than three values."""
    if np.count_nonzero(share) < len(CLASSES):
        return None
    limits = threshold_multiotsu(hist=(share, centres), classes=len(CLASSES))
    belongs = np.stack([share * (np.digitize(centres, limits, right=True) == label) for label in range(len(CLASSES))])
    return _moments(belongs, centres, narrowest)


def _moments(belongs: NDArray[np.float64], centres: NDArray[np.float64], narrowest: float) -> Mixture:
    """The mixture of which each bin belongs to the classes by given shares, shape (3, bins)."""
    weights = np.maximum(belongs.sum(axis=1), 1e-12)
    means = belongs @ centres / weights
    spread = np.sum(belongs * (centres[None] - means[:, None]) ** 2, axis=1) / weights
    return Mixture(means, np.maximum(np.sqrt(spread), narrowest), weights / weights.sum())


def segment(image: Image, inside: NDArray[np.bool_], mixture: Mixture) -> NDArray[np.uint8]:
    """The most likely class of each voxel: 1 dark, 2 middle, 3 bright, 0 outside of the foreground.

    Between the means of neighbouring classes the voxel goes to the likelier one; below the first mean and above the
    last it stays with that class, so that a wide class does not take the far end of a narrow one.

    Args:
        image: any unit, shape (I, J, K).
        inside: the foreground, same shape.
        mixture: the classes.
    """
    grid = np.linspace(mixture.means[0], mixture.means[2], 2048)
    density = mixture.densities(grid)
    first = _crossing(grid, density[1] > density[0], mixture.means[:2])
    second = _crossing(grid, density[2] > density[1], mixture.means[1:])
    classes = 1 + (image > first).astype(np.uint8) + (image > second).astype(np.uint8)
    return np.where(inside, classes, np.uint8(0)).astype(np.uint8)


def _crossing(grid: NDArray[np.float64], higher: NDArray[np.bool_], between: NDArray[np.float64]) -> float:
    """Where the higher class takes over between two means; halfway when one covers the other."""
    part = (grid >= between[0]) & (grid <= between[1])
    taken = grid[part & higher]
    kept = grid[part & ~higher]
    return float(taken[0]) if taken.size and kept.size else float(between.mean())


def volumes(classes: NDArray[np.uint8], spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    """Volume of each class in millilitres."""
    voxel = float(np.prod(spacing)) / 1000
    dark, middle, bright = (float(np.count_nonzero(classes == label) * voxel) for label in (1, 2, 3))
    return dark, middle, bright


def dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Dice coefficient of each class: twice the voxels that agree over the voxels of both; NaN for an empty class."""
    found = []
    for label in (1, 2, 3):
        a, b = one == label, other == label
        both = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
        found.append(2 * int(np.count_nonzero(a & b)) / both if both else float("nan"))
    return found[0], found[1], found[2]
