"""How far an image is from its reference, by the convention of the MRI denoising literature; numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FOREGROUND = 10 / 255  # of the reference's maximum: the convention of the MRI denoising literature
BEST_PSNR = 200.0  # dB: that of equal images


def foreground(reference: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Voxels above 10/255 of the reference's maximum."""
    return np.asarray(reference > FOREGROUND * float(reference.max()), dtype=np.bool_)


def psnr(
    restored: NDArray[np.float32],
    reference: NDArray[np.float32],
    inside: NDArray[np.bool_],
    peak: float | None = None,
) -> float:
    """PSNR in dB over the voxels ``inside``, at most 200; NaN when there are none.

    Args:
        restored: any shape and unit.
        reference: same shape and unit.
        inside: which voxels count.
        peak: the data range; the reference's maximum by default.
    """
    if not inside.any():
        return float("nan")
    error = float(np.mean(np.square(restored[inside].astype(np.float64) - reference[inside])))
    power = (float(reference.max()) if peak is None else peak) ** 2
    return float(10 * np.log10(power / error)) if error > power * 10 ** (-BEST_PSNR / 10) else BEST_PSNR


def foreground_psnr(restored: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """PSNR in dB over the reference's foreground."""
    return psnr(restored, reference, foreground(reference))
