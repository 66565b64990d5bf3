"""Figures of the regions that a label map names: a lesion against what surrounds it, a tissue's mean and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.evaluation.results import Image

Mask = NDArray[np.bool_]

SHELL = 3  # voxels around a region that are its surroundings
FEWEST = 8  # voxels of a region or its surroundings that a deviation is worth computing from
NAN = float("nan")


def snr(image: Image, region: Mask) -> float:
    """Mean over standard deviation of a region's voxels."""
    values = image[region].astype(np.float64)
    deviation = float(values.std(ddof=1)) if values.size >= FEWEST else 0.0
    return float(values.mean()) / deviation if deviation > 0 else NAN


def cnr(image: Image, region: Mask, around: Mask) -> float:
    """Contrast of a region with its surroundings over the noise of both: ``|m1 - m2| / sqrt((s1^2 + s2^2) / 2)``."""
    inner, outer = image[region].astype(np.float64), image[around].astype(np.float64)
    if min(inner.size, outer.size) < FEWEST:
        return NAN
    noise = float(np.sqrt((inner.var(ddof=1) + outer.var(ddof=1)) / 2))
    return float(abs(inner.mean() - outer.mean())) / noise if noise > 0 else NAN


def surroundings(region: Mask, labels: NDArray[np.int64]) -> Mask:
    """The voxels within ``SHELL`` of a region that no label claims; where there are too few, those of other labels."""
    cross = ndimage.generate_binary_structure(region.ndim, 1)
    shell = ndimage.binary_dilation(region, cross, iterations=SHELL) & ~region
    free = shell & (labels == 0)
    return np.asarray(free if int(free.sum()) >= FEWEST else shell, dtype=np.bool_)


def of(labels: NDArray[np.int64]) -> dict[str, Mask]:
    """Name -> region of every label but 0, in the order of the labels."""
    return {f"label {value}": labels == value for value in np.unique(labels).tolist() if value != 0}
