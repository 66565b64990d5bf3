"""What can be said of a restored scan without a reference: noise before and after, what was removed, sharpness."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medidiff.diffusion import consistency
from medidiff.evaluation.results import Image
from medidiff.physics import intensity, noise

STEEP = 0.9  # share of the foreground's gradients that an edge exceeds
SMOOTH = 2.0  # voxels: of the Gaussian that tells where edges are and which way they run
FEWEST = 100  # edge voxels
SLICES = 2  # the axis that slices follow one another along
NAN = float("nan")

RESIDUAL = {  # figure of `consistency.check` -> metric
    "removed_variance_ratio": "removed",
    "removed_mean": "residual_mean",
    "removed_lag1": "residual_lag1",
    "removed_coarse": "residual_coarse",
    "removed_edge_correlation": "residual_edges",
}


def noise_percent(image: Image, modality: str) -> float:
    """The noise that medidiff estimates, in percent of the bright level."""
    scaling, unit = intensity.normalise(image, modality)
    return 100 * noise.of_scan(unit, modality, SLICES, with_map=False).sigma / scaling.bright


def figures(before: Image, after: Image, modality: str) -> dict[str, float]:
    """Every figure of a scan and its restored version, by the names of `medidiff.evaluation.catalogue`.

    Args:
        before: the scan, (I, J, K).
        after: the restored scan; of what was removed, and of sharpness, nothing is said where it lies on another grid.
        modality: DICOM code.
    """
    first, last = noise_percent(before, modality), noise_percent(after, modality)
    found = {"noise_before": first, "noise_after": last, "noise_ratio": last / first if first > 0 else NAN}
    if before.shape != after.shape:
        return found
    return found | residual(before, after, modality) | {"sharpness": sharpness(before, after)}


def residual(before: Image, after: Image, modality: str) -> dict[str, float]:
    """Whether what was removed looks like noise alone: variance, mean, correlations; empty where it cannot be told."""
    scaling, unit = intensity.normalise(before, modality)
    level = noise.of_scan(unit, modality, SLICES)
    if level.sigma <= 0:
        return {}
    checks = consistency.check(unit, scaling.apply(after), level.local, level.law, level.texture)
    return {metric: float(checks[name]) for name, metric in RESIDUAL.items() if name in checks}


def sharpness(before: Image, after: Image) -> float:
    """Steepness of the restored image's edges over that of the scan's.

    Edges are the steepest tenth of the foreground after smoothing by 2 voxels; steepness is the mean slope across them,
    along the smoothed gradient, in which noise averages out.
    """
    flat = np.squeeze(after).astype(np.float64)
    if flat.ndim < 2 or min(flat.shape) < 3:
        return NAN
    scan = np.squeeze(before).astype(np.float64)
    smooth = ndimage.gaussian_filter(flat, SMOOTH)
    slope = np.stack(np.gradient(smooth))
    steep = np.sqrt(np.square(slope).sum(axis=0))
    inside = intensity.foreground(smooth.astype(np.float32))
    inside = ndimage.binary_dilation(inside, iterations=2)
    edges = inside & (steep > np.quantile(steep[inside], STEEP)) if inside.any() else inside
    if int(edges.sum()) < FEWEST:
        return NAN
    direction = (slope / np.maximum(steep, 1e-30))[:, edges]
    old, new = (float((np.stack(np.gradient(each))[:, edges] * direction).sum(axis=0).mean()) for each in (scan, flat))
    return new / old if old > 0 else NAN
