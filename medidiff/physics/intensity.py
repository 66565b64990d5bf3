"""Invertible intensity scaling between a scan's units and the network's.

MR and everything else that starts at zero is divided by its bright foreground level: no offset and no clipping,
because the Rician law of magnitude images is only right when zero stays zero. CT is mapped affinely from Hounsfield
units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medidiff.physics import slabs
from medidiff.physics.slabs import Chunks, Slabs

CT_OFFSET, CT_SCALE = -1024.0, 2000.0
CT_BRIGHT = 0.6  # bright level of a normalised CT scan, usually: soft tissue and some bone
FOREGROUND_PERCENTILE = 99.5
_ENOUGH = 1_000_000  # voxels that a histogram needs
_BINS = 256  # of that histogram


@dataclass(frozen=True)
class Intensity:
    """``unit = (value - offset) / scale``; the record that undoes a normalisation exactly.

    Attributes:
        offset: the scan's value at zero.
        scale: the scan's units in one normalised unit.
        bright: normalised intensity of the bright foreground, which noise percentages refer to.
    """

    offset: float
    scale: float
    bright: float = 1.0

    def apply(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the scan's units to the network's."""
        return ((values - np.float32(self.offset)) / np.float32(self.scale)).astype(np.float32, copy=False)

    def undo(self, unit: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the network's units to the scan's."""
        return (unit * np.float32(self.scale) + np.float32(self.offset)).astype(np.float32, copy=False)


def foreground(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels brighter than Otsu's threshold (all of them in a constant image)."""
    return np.asarray(values > threshold_of(lambda: [values]), dtype=np.bool_)


def threshold_of(chunks: Chunks) -> float:
    """Otsu's threshold of all values of the chunks; below them all when they are equal."""
    from skimage.filters import threshold_otsu

    sizes, lows, highs = zip(*((chunk.size, chunk.min(), chunk.max()) for chunk in chunks()), strict=True)
    low, high = float(min(lows)), float(max(highs))
    if not high > low:
        return -math.inf
    # a few extreme voxels would leave Otsu's histogram with everything in its first bin
    step = max(1, sum(sizes) // _ENOUGH)
    sample = np.concatenate(slabs.every((chunk.reshape(-1) for chunk in chunks()), step))
    ceiling = float(np.percentile(sample, 99.9))
    if ceiling > low:
        clipped = np.minimum(sample, ceiling)
        if not float(clipped.min()) < float(clipped.max()):
            return low
        try:
            return float(threshold_otsu(clipped))
        except ValueError:  # float32 has no 256 steps between values that lie so close together
            return float(threshold_otsu(clipped.astype(np.float64)))
    edges = np.linspace(low, high, _BINS + 1)
    try:
        counts = sum(np.histogram(chunk, _BINS, (low, high))[0] for chunk in chunks())
    except ValueError:  # likewise
        counts = sum(np.histogram(chunk.astype(np.float64), _BINS, (low, high))[0] for chunk in chunks())
    return float(threshold_otsu(hist=(counts, (edges[:-1] + edges[1:]) / 2)))


def bright_level(values: NDArray[np.float32] | Slabs) -> float:
    """The 99.5th percentile of the foreground, which noise percentages refer to; 1 without positive values."""
    scan = slabs.of(values)
    threshold = threshold_of(scan.own)
    level = slabs.percentile(lambda: (own[own > threshold] for own in scan.own()), FOREGROUND_PERCENTILE)
    if not level > 0:
        level = max(map(abs, slabs.extent(scan.own())))
    return level if level > 0 else 1.0


def scaling_of(values: NDArray[np.float32] | Slabs, modality: str) -> Intensity:
    """How a volume without unmeasured voxels is scaled.

    Args:
        values: the volume in its own units.
        modality: DICOM code; ``CT`` is scaled from Hounsfield units, all else by its bright foreground.
    """
    if modality != "CT":
        return Intensity(0.0, bright_level(values))
    hounsfield = Intensity(CT_OFFSET, CT_SCALE)
    return Intensity(CT_OFFSET, CT_SCALE, bright_level(slabs.of(values).mapped(hounsfield.apply)))


def normalise(
    values: NDArray[np.float32], modality: str, valid: NDArray[np.bool_] | None = None
) -> tuple[Intensity, NDArray[np.float32]]:
    """Scale a volume to the network's units.

    Args:
        values: the volume in its own units.
        modality: DICOM code; ``CT`` is scaled from Hounsfield units, all else by its bright foreground.
        valid: where ``values`` is measured; elsewhere (padding) the smallest measured value is put in its place.

    Returns:
        The record that undoes the scaling, and the scaled volume.
    """
    if valid is not None and not valid.all():
        values = np.where(valid, values, values[valid].min() if valid.any() else np.float32(0))
    if modality == "CT":
        unit = Intensity(CT_OFFSET, CT_SCALE).apply(values)
        return Intensity(CT_OFFSET, CT_SCALE, bright_level(unit)), unit
    scaling = scaling_of(values, modality)
    return scaling, scaling.apply(values)
