"""How far a restored image is from its reference."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity

from benchmarks.cases import Image
from medidiff.diffusion import consistency
from medidiff.physics.rician import Law
from medidiff.training.validation import FOREGROUND, foreground_psnr

SSIM_WINDOW = 11  # voxels that skimage's Gaussian window of sigma 1.5 spans
DARK = 1.5  # sigma below which the Rician bias is largest


def all_of(restored: Image, clean: Image, noisy: Image, sigma: float, law: Law) -> dict[str, float]:
    """Every metric of one restored image.

    Returns:
        ``psnr``: dB over the foreground (reference above 10/255 of its maximum, which is the peak). ``ssim``: 3-D,
        Gaussian window, mean over the foreground; NaN when the image is thinner than the window. ``dark_bias``: mean
        error in sigma where the reference is below 1.5 sigma; NaN when fewer than 1000 voxels are. ``removed``:
        variance of what was removed over that of the noise, 1 when all of it went and nothing else.
    """
    checks = consistency.check(noisy, restored, np.asarray(sigma, np.float32), law)
    return {
        "psnr": foreground_psnr(restored, clean),
        "ssim": ssim(restored, clean),
        "dark_bias": dark_bias(restored, clean, sigma),
        "removed": float(checks.get("removed_variance_ratio", float("nan"))),
    }


def ssim(restored: Image, clean: Image) -> float:
    """Structural similarity in 3-D (Wang et al. 2004: Gaussian window of 1.5 voxels), mean over the foreground."""
    if min(clean.shape) < SSIM_WINDOW:
        return float("nan")
    peak = float(clean.max())
    _, similarity = structural_similarity(
        clean, restored, data_range=peak, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    return float(similarity[clean > FOREGROUND * peak].mean(dtype=np.float64))


def dark_bias(restored: Image, clean: Image, sigma: float) -> float:
    """Mean error, in sigma, of voxels whose true value is below ``DARK`` sigma."""
    dark = clean < DARK * sigma
    return float((restored - clean)[dark].mean(dtype=np.float64) / sigma) if dark.sum() >= 1000 else float("nan")
