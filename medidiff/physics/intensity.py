"""Invertible intensity scaling between a scan's units and the network's.

MR and everything else that starts at zero is divided by its bright foreground level: no offset and no clipping,
because the Rician law of magnitude images is only right when zero stays zero. CT is mapped affinely from Hounsfield
units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CT_OFFSET, CT_SCALE = -1024.0, 2000.0
CT_BRIGHT = 0.6  # bright level of a normalised CT scan, usually: soft tissue and some bone
FOREGROUND_PERCENTILE = 99.5
_ENOUGH = 1_000_000  # voxels that a histogram needs


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
    from skimage.filters import threshold_otsu

    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.ones(values.shape, dtype=np.bool_)
    # a few extreme voxels would leave Otsu's histogram with everything in its first bin
    sample = values.reshape(-1)[:: max(1, values.size // _ENOUGH)]
    ceiling = float(np.percentile(sample, 99.9))
    clipped = np.minimum(sample, ceiling) if ceiling > low else values
    threshold = threshold_otsu(clipped) if float(clipped.min()) < float(clipped.max()) else low
    return np.asarray(values > threshold, dtype=np.bool_)


def bright_level(values: NDArray[np.float32]) -> float:
    """The 99.5th percentile of the foreground, which noise percentages refer to; 1 without positive values."""
    level = float(np.percentile(values[foreground(values)], FOREGROUND_PERCENTILE))
    if level <= 0:
        level = float(np.abs(values).max())
    return level if level > 0 else 1.0


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
    if modality != "CT":
        scaling = Intensity(0.0, bright_level(values))
        return scaling, scaling.apply(values)
    unit = Intensity(CT_OFFSET, CT_SCALE).apply(values)
    return Intensity(CT_OFFSET, CT_SCALE, bright_level(unit)), unit
