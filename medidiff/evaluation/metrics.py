"""How far a restored image is from its reference.

All functions take arrays of one shape, (I, J, K) with one voxel along the last axis for a 2-D image, in one unit. Where
an image is too small for a metric the figure is NaN. `medidiff.evaluation.catalogue` says what each figure means.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage import metrics as library

from medidiff.diffusion import consistency
from medidiff.evaluation.results import Image
from medidiff.physics.fidelity import foreground, psnr
from medidiff.physics.rician import Law

Mask = NDArray[np.bool_]
Double = NDArray[np.float64]

NAN = float("nan")
SSIM_WINDOW = 11  # voxels that a Gaussian window of 1.5 voxels spans in every implementation
SSIM_SIGMA = 1.5
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of MS-SSIM (Wang, Simoncelli and Bovik 2003)
HFEN_SIGMA = 1.5
NMI_BINS = 100
VIF_EDGE = 41  # pixels that four scales of VIF need
VIF_NOISE = 2.0  # variance of the eye's noise, for images from 0 to 255
SHARE = 0.1  # of a slice that must be inside for it to count
DARK = 1.5  # sigma below which the Rician bias is largest
FEWEST = 1000  # voxels that a mean error of dark voxels is worth computing from
_TINY = 1e-10


def windowed_axes(shape: Sequence[int], least: int) -> tuple[int, ...] | None:
    """The axes over which a window of ``least`` voxels slides.

    All axes if the image is long enough along each; two of them, slice by slice, if it is too short along one; ``None``
    if it is too short along more.
    """
    enough = tuple(axis for axis, size in enumerate(shape) if size >= least)
    return enough if len(enough) >= 2 and len(enough) >= len(shape) - 1 else None


def ssim(restored: Image, reference: Image, peak: float, inside: Mask | None = None) -> float:
    """Mean structural similarity (Wang et al. 2004), in 3-D, or slice by slice where the image is thin.

    Args:
        restored: the image.
        reference: what it should be.
        peak: the data range.
        inside: voxels to average over; ``None`` for all that are half a window away from the faces.
    """
    axes = windowed_axes(reference.shape, SSIM_WINDOW)
    if axes is None or (inside is not None and not inside.any()):
        return NAN
    similarity = _ssim_map(restored, reference, peak, axes)
    if inside is None:
        return float(similarity[_within(reference.shape, axes)].mean(dtype=np.float64))
    return float(similarity[inside].mean(dtype=np.float64))


def _ssim_map(restored: Image, reference: Image, peak: float, axes: Sequence[int]) -> Double:
    """Structural similarity at every voxel, by scikit-image."""
    how: dict[str, Any] = {"gaussian_weights": True, "sigma": SSIM_SIGMA, "use_sample_covariance": False, "full": True}
    if len(axes) == reference.ndim:
        return np.asarray(library.structural_similarity(reference, restored, data_range=peak, **how)[1])
    (across,) = set(range(reference.ndim)) - set(axes)
    pairs = zip(np.moveaxis(reference, across, 0), np.moveaxis(restored, across, 0), strict=True)
    maps = [library.structural_similarity(one, other, data_range=peak, **how)[1] for one, other in pairs]
    return np.stack(maps, axis=across)


def _within(shape: Sequence[int], axes: Sequence[int]) -> tuple[slice, ...]:
    """The part of an image where the windows lie inside of it."""
    reach = SSIM_WINDOW // 2
    return tuple(slice(reach, size - reach) if axis in axes else slice(None) for axis, size in enumerate(shape))


def ms_ssim(restored: Image, reference: Image, peak: float) -> float:
    """Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003) of the whole image.

    As many of the five scales are used as leave the window's 11 voxels along the shortest axis, two at least; their
    weights are made to add up to as much as all five. An image that is thin along one axis is judged slice by slice.
    """
    axes = windowed_axes(reference.shape, 2 * SSIM_WINDOW)
    if axes is None:
        return NAN
    count = min(len(SCALES), 1 + int(np.log2(min(reference.shape[axis] for axis in axes) / SSIM_WINDOW)))
    weights = np.array(SCALES[:count]) * (sum(SCALES) / sum(SCALES[:count]))
    across = set(range(reference.ndim)) - set(axes)
    if not across:
        return _ms_ssim(restored.astype(np.float64), reference.astype(np.float64), peak, weights)
    (axis,) = across
    pairs = zip(np.moveaxis(restored, axis, 0), np.moveaxis(reference, axis, 0), strict=True)
    found = [_ms_ssim(one.astype(np.float64), other.astype(np.float64), peak, weights) for one, other in pairs]
    return float(np.mean(found))


def _ms_ssim(restored: Double, reference: Double, peak: float, weights: Double) -> float:
    figures = []
    for scale in range(len(weights)):
        similarity, structure = _ssim_and_structure(restored, reference, peak)
        chosen = similarity if scale == len(weights) - 1 else structure
        figures.append(max(0.0, float(chosen[_within(chosen.shape, range(chosen.ndim))].mean())))
        restored, reference = _halved(restored), _halved(reference)
    return float(np.prod(np.array(figures) ** weights))


def _ssim_and_structure(restored: Double, reference: Double, peak: float) -> tuple[Double, Double]:
    """SSIM and its contrast-structure part at every voxel; images are mirrored at their faces."""
    line = np.exp(-np.square(np.arange(SSIM_WINDOW) - SSIM_WINDOW // 2) / (2 * SSIM_SIGMA**2))
    mean = partial(_filtered, line=line / line.sum(), axes=range(restored.ndim))
    one, two = mean(restored), mean(reference)
    variance = mean(restored**2) - one**2 + mean(reference**2) - two**2
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    structure = (2 * (mean(restored * reference) - one * two) + c2) / (np.maximum(variance, 0) + c2)
    return (2 * one * two + c1) / (one**2 + two**2 + c1) * structure, structure


def _filtered(image: Double, line: Double, axes: Sequence[int]) -> Double:
    """Filtered by a line along each axis."""
    for axis in axes:
        image = ndimage.correlate1d(image, line, axis, mode="mirror")
    return image


def _valid(image: Double, line: Double, axes: Sequence[int]) -> Double:
    """The same, where the filter lies inside of the image."""
    reach, image = len(line) // 2, _filtered(image, line, axes)
    return image[tuple(slice(reach, n - reach) if axis in axes else slice(None) for axis, n in enumerate(image.shape))]


def _halved(image: Double) -> Double:
    """Means over two voxels along each axis; an odd last one is left out."""
    for axis in range(image.ndim):
        even = np.moveaxis(image, axis, 0)[: image.shape[axis] // 2 * 2]
        image = np.moveaxis((even[::2] + even[1::2]) / 2, 0, axis)
    return image


def nrmse(restored: Image, reference: Image, inside: Mask) -> float:
    """Root mean square error over the reference's range, both inside (scikit-image, ``min-max``)."""
    if not inside.any() or float(np.ptp(reference[inside])) == 0:
        return NAN
    truth, image = reference[inside].astype(np.float64), restored[inside].astype(np.float64)
    return float(library.normalized_root_mse(truth, image, normalization="min-max"))


def rmse(restored: Image, reference: Image, inside: Mask) -> float:
    """Root mean square error."""
    return float(np.sqrt(_mean(np.square(restored.astype(np.float64) - reference), inside)))


def mae(restored: Image, reference: Image, inside: Mask) -> float:
    """Mean absolute error."""
    return _mean(np.abs(restored.astype(np.float64) - reference), inside)


def bias(restored: Image, reference: Image, inside: Mask) -> float:
    """Mean error."""
    return _mean(restored.astype(np.float64) - reference, inside)


def hfen(restored: Image, reference: Image, inside: Mask) -> float:
    """High-frequency error norm (Ravishankar and Bresler 2011), with a Laplacian of Gaussian of 1.5 voxels in 3-D."""
    sigma = [HFEN_SIGMA if n > 1 else 0.0 for n in reference.shape]
    if not inside.any() or not any(sigma):
        return NAN
    truth, image = (_laplacian(each.astype(np.float64), sigma)[inside] for each in (reference, restored))
    norm = float(np.linalg.norm(truth))
    return float(np.linalg.norm(image - truth)) / norm if norm > 0 else NAN


def _laplacian(image: Double, sigma: Sequence[float]) -> Double:
    """Laplacian of Gaussian over the axes that have more than one voxel."""
    flat = np.squeeze(image, tuple(axis for axis, width in enumerate(sigma) if width == 0))
    return np.asarray(ndimage.gaussian_laplace(flat, HFEN_SIGMA)).reshape(image.shape)


def nmi(restored: Image, reference: Image, inside: Mask) -> float:
    """Normalised mutual information (Studholme et al. 1999), 1 to 2, of 100 x 100 bins (scikit-image)."""
    if not inside.any() or float(np.ptp(reference[inside])) == 0 or float(np.ptp(restored[inside])) == 0:
        return NAN
    return float(library.normalized_mutual_information(reference[inside], restored[inside], bins=NMI_BINS))


def vif(restored: Image, reference: Image, peak: float, inside: Mask) -> float:
    """Visual information fidelity in the pixel domain (Sheikh and Bovik 2006), mean over slices across the last axis.

    Slices count that lie inside to a tenth; they must be 41 pixels wide and high.
    """
    if min(reference.shape[:2]) < VIF_EDGE:
        return NAN
    scale = 255 / peak
    chosen = np.nonzero(inside.mean(axis=(0, 1)) >= SHARE)[0]
    found = [
        _vif(restored[:, :, k].astype(np.float64) * scale, reference[:, :, k].astype(np.float64) * scale)
        for k in chosen.tolist()
    ]
    return float(np.mean(found)) if found else NAN


def _vif(restored: Double, reference: Double) -> float:
    kept = total = 0.0
    for scale in range(4):
        size = 2 ** (4 - scale) + 1
        line = np.exp(-np.square(np.arange(size) - size // 2) / (2 * (size / 5) ** 2))
        mean = partial(_valid, line=line / line.sum(), axes=(0, 1))
        if scale > 0:
            restored, reference = mean(restored)[::2, ::2], mean(reference)[::2, ::2]
        one, two = mean(restored), mean(reference)
        noisy = np.maximum(mean(restored**2) - one**2, 0)
        clean = np.maximum(mean(reference**2) - two**2, 0)
        gain = (mean(restored * reference) - one * two) / (clean + _TINY)
        lost = noisy - gain * (gain * (clean + _TINY))
        flat, empty = clean < _TINY, noisy < _TINY
        lost = np.where(flat | (gain < 0), noisy, lost)
        gain = np.where(flat | empty | (gain < 0), 0, gain)
        lost = np.maximum(np.where(empty, 0, lost), _TINY)
        clean = np.where(flat, 0, clean)
        kept += float(np.log10(1 + gain**2 * clean / (lost + VIF_NOISE)).sum())
        total += float(np.log10(1 + clean / VIF_NOISE).sum())
    return kept / total if total > 0 else NAN


def denoised(restored: Image, clean: Image, noisy: Image, sigma: float, law: Law) -> dict[str, float]:
    """Figures of an image from which noise of known sigma was taken.

    Returns:
        ``psnr``: dB over the foreground, the peak is the reference's maximum. ``ssim``: over the foreground.
        ``dark_bias``: mean error in sigma where the reference is below 1.5 sigma; NaN when fewer than 1000 voxels are.
        ``removed``: variance of what was removed over that of the noise, 1 when all of it went and nothing else.
    """
    inside = foreground(clean)
    checks = consistency.check(noisy, restored, np.asarray(sigma, np.float32), law)
    return {
        "psnr": psnr(restored, clean, inside),
        "ssim": ssim(restored, clean, float(clean.max()), inside),
        "dark_bias": dark_bias(restored, clean, sigma),
        "removed": float(checks.get("removed_variance_ratio", NAN)),
    }


def dark_bias(restored: Image, clean: Image, sigma: float) -> float:
    """Mean error, in sigma, of voxels whose true value is below ``DARK`` sigma."""
    dark = clean < DARK * sigma
    return float((restored - clean)[dark].mean(dtype=np.float64) / sigma) if dark.sum() >= FEWEST else NAN


def brats_inpainting(restored: Image, truth: Image, hole: Mask) -> dict[str, float]:
    """The metric of the BraTS local-synthesis challenge (its 2023 evaluation code).

    Both images are zeroed outside of the hole and divided by the truth's maximum inside. SSIM is the 3-D map of the
    zeroed images (Gaussian window of 1.5 voxels, 11 wide, data range the larger of both images'), averaged inside the
    hole, as torchmetrics has it, which the challenge uses.

    Args:
        restored: the filled image, (I, J, K).
        truth: what was in the hole.
        hole: boolean, not empty.

    Returns:
        ``mse`` inside; ``psnr``: 10 log10(range^2 / MSE) in dB, range that of the truth inside; ``ssim``. All NaN
        where the truth is nowhere above 0.
    """
    peak = float(truth[hole].max())
    if peak <= 0:
        return dict.fromkeys(("mse", "psnr", "ssim"), NAN)
    pair = [np.where(hole, image, np.float32(0)).astype(np.float64) / peak for image in (restored, truth)]
    mse = float(np.mean(np.square(pair[0][hole] - pair[1][hole])))
    span = float(np.ptp(pair[1][hole]))
    return {
        "mse": mse,
        "psnr": float(10 * np.log10(max(span, 1e-10) ** 2 / max(mse, 1e-20))),
        "ssim": _mean_ssim(pair[0], pair[1], hole),
    }


def _mean_ssim(restored: Double, truth: Double, hole: Mask) -> float:
    """Mean inside a hole of the SSIM map of images that are 0 outside of it; NaN where the scan is thin."""
    reach = SSIM_WINDOW // 2
    if min(hole.shape) <= reach:  # the faces are mirrored by half a window
        return NAN
    data_range = max(float(np.ptp(restored)), float(np.ptp(truth)))
    spans = [(int(hit.min()), int(hit.max()) + 1) for hit in np.nonzero(hole)]
    near = tuple(slice(max(0, low - reach), high + reach) for low, high in spans)
    similarity, _ = _ssim_and_structure(restored[near], truth[near], data_range)
    return float(similarity[hole[near]].mean())


def _mean(values: Double, inside: Mask) -> float:
    return float(values[inside].mean()) if inside.any() else NAN
