"""How far a restored image is from its reference."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics.regression import compute_ssim_and_cs
from numpy.typing import NDArray
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


def brats_inpainting(restored: Image, truth: Image, hole: NDArray[np.bool_]) -> dict[str, float]:
    """The metric of the BraTS local-synthesis challenge (its 2023 evaluation code).

    Both images are zeroed outside of the hole and divided by the truth's maximum inside. SSIM is the 3-D map of the
    zeroed images (Gaussian window of 1.5 voxels, 11 wide, data range the larger of both images'), averaged inside the
    hole; it is computed with MONAI and equals that of torchmetrics 1.9, which the challenge uses, to 1e-5.

    Args:
        restored: the filled image, (I, J, K).
        truth: what was in the hole.
        hole: boolean, not empty.

    Returns:
        ``mse`` inside; ``psnr``: 10 log10(range^2 / MSE) in dB, range that of the truth inside; ``ssim``.
    """
    peak = float(truth[hole].max())
    pair = [np.where(hole, image, np.float32(0)) / np.float32(peak) for image in (restored, truth)]
    inside = [image[hole].astype(np.float64) for image in pair]
    mse = float(np.mean(np.square(inside[0] - inside[1])))
    span = float(np.ptp(inside[1]))
    return {
        "mse": mse,
        "psnr": float(10 * np.log10(max(span, 1e-10) ** 2 / max(mse, 1e-20))),
        "ssim": _mean_ssim(pair[0], pair[1], hole),
    }


def _mean_ssim(restored: Image, truth: Image, hole: NDArray[np.bool_]) -> float:
    """Mean inside a hole of the SSIM map of images that are 0 outside of it."""
    reach = SSIM_WINDOW // 2
    data_range = max(float(np.ptp(restored)), float(np.ptp(truth)))
    spans = [(int(hit.min()), int(hit.max()) + 1) for hit in np.nonzero(hole)]
    near = tuple(slice(max(0, low - reach), high + reach) for low, high in spans)
    images = [torch.from_numpy(np.pad(image[near], reach, mode="reflect"))[None, None] for image in (restored, truth)]
    similarity, _ = compute_ssim_and_cs(*images, 3, (SSIM_WINDOW,) * 3, (1.5,) * 3, data_range)
    return float(similarity[0, 0].numpy()[hole[near]].mean(dtype=np.float64))


def coverage(mean: Image, std: Image, clean: Image, quantile: float, inside: NDArray[np.bool_]) -> float:
    """Share of voxels inside whose true value lies within ``mean +- quantile std``."""
    return float((np.abs(clean - mean) <= quantile * std)[inside].mean())


def interval_width(std: Image, quantile: float, inside: NDArray[np.bool_]) -> float:
    """Mean width of the intervals ``mean +- quantile std`` inside; narrower is better at the same coverage."""
    return float(2 * quantile * std[inside].mean(dtype=np.float64))


def sparsification(error: Image, order: Image, inside: NDArray[np.bool_], steps: int = 20) -> NDArray[np.float64]:
    """Root mean square error of what is left when the voxels of largest ``order`` are taken away, step by step.

    Returns:
        ``steps`` figures, for shares 0, 1/steps, ... taken away, over the first one (Ilg et al., ECCV 2018).
    """
    squared = np.square(error[inside].astype(np.float64))[np.argsort(order[inside], kind="stable")]
    total = np.cumsum(squared)
    kept = [max(1, round(squared.size * (1 - step / steps))) for step in range(steps)]
    curve = np.sqrt([total[count - 1] / count for count in kept])
    return curve / max(curve[0], 1e-30)


def ause(mean: Image, std: Image, clean: Image, inside: NDArray[np.bool_]) -> dict[str, float]:
    """Area between the sparsification curve of ``std`` and the best possible one, which orders voxels by their error.

    Returns:
        ``ause``: the area, 0 when the deviation orders voxels as abs(error) does; ``ause_random``: the area of a random
        order, which a useful deviation must be well below.
    """
    error = np.abs(clean - mean)
    best = sparsification(error, error, inside)
    random = np.random.default_rng(0).random(error.shape, dtype=np.float32)

    def area(order: Image) -> float:
        return float(np.mean(sparsification(error, order, inside) - best))

    return {"ause": area(std), "ause_random": area(random)}
