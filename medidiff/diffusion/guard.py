"""Sentences about a restoration that does not look right, and about a scan that is none of what was learnt.

The limits were set on training volumes, so that hardly any sound result is called unsound; ``python -m
benchmarks.guard`` judges them on other subjects, together with planted failures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.physics import slabs
from medidiff.physics.slabs import Slabs
from medidiff.physics.statistics import looked_at, statistics

# By noise percent, limits that at most one in a hundred sound results on training volumes is beyond. Below 1.5 % the
# finest anatomy is as strong as the noise, so that little can be said; then only gross blur is.
LARGEST_COARSE = ((1.49, 2.0), (1.5, 0.7))  # `removed_coarse`; sound: at most 0.66, spoilt by a filter: at least 0.77
LARGEST_EDGE_CORRELATION = ((1.49, 0.25), (1.5, 0.1))
LARGEST_BIAS = 0.25  # sigma
# least `removed_variance_ratio`: the less noise, the more it is like fine anatomy, and the more of it stays
LEAST_REMOVED = ((0.5, 0.01), (1.5, 0.04), (2.0, 0.05), (3.0, 0.2), (5.0, 0.32), (9.0, 0.5), (15.0, 0.65))
MOST_LEFT = ((1.49, 1e6), (1.5, 2.0), (2.0, 1.4), (3.0, 1.0), (5.0, 0.5), (9.0, 0.35), (15.0, 0.3))  # `noise_left`
LARGEST_DISAGREEMENT = 2.0  # noise given by hand over noise measured, either way

EXACT = 1e-5  # largest `data_residual` where measured data had to be kept, in the range of the scan
SOFT_RESIDUAL = (0.02, 1.3)  # `data_residual_variance_ratio`; a fit takes up some of the noise
LARGEST_SOFT_BIAS, LARGEST_SOFT_LAG = 0.1, 0.3

LARGEST_JUMP = 2.2  # `hole_border_jump`
LARGEST_BESIDE = 0.025  # `hole_beside_constant`
LARGEST_HOLE = 0.2  # share of the scan

UNUSUAL, REFUSED = 4.0, 8.0  # standard deviations of the training volumes
FAR = 2.0  # times the trained range, beyond which a scan is refused
NEGATIVE = 0.05  # share of values below -5 % of the bright level that no magnitude image has
NEAR = 1.25  # times the trained range, within which nothing is said
_MEANING = {
    "coherence": ("neighbouring voxels are too little alike", "neighbouring voxels are too much alike"),
    "dark": ("its dark parts are too dark", "its dark parts are too bright"),
    "middle": ("its middle parts are too dark", "its middle parts are too bright"),
    "bright": ("its bright parts are too dark", "its bright parts are too bright"),
    "contrast": ("its contrast is too low", "its contrast is too high"),
    "skewness": ("its histogram is skewed too little", "its histogram is skewed too much"),
    "highlight": ("its brightest spots are too dark", "its brightest spots are too bright"),
    "share": ("the object takes too small a share of its box", "the object takes too large a share of its box"),
}


@dataclass(frozen=True)
class RangeFindings:
    """How a scan compares with what a pipeline was trained on.

    Attributes:
        warnings: sentences on what lies outside.
        refusal: why the scan should not be restored unless the user insists; ``None`` when it may be.
        figures: what was compared, and the distance of each statistic in standard deviations (``z_...``).
    """

    warnings: tuple[str, ...]
    refusal: str | None
    figures: dict[str, float]


def denoise(
    figures: Mapping[str, float], noise_percent: float, *, strength: float = 1.0, measured_percent: float | None = None
) -> tuple[str, ...]:
    """Judge what a denoiser removed.

    Args:
        figures: of `medidiff.diffusion.consistency.check` for the image that the user gets.
        noise_percent: the noise that was assumed, in percent of the bright level.
        strength: share of the restored image in what the user gets; the rest is the scan.
        measured_percent: the noise measured on the scan when ``noise_percent`` was given by hand, else ``None``.
    """
    return tuple(_denoise(figures, noise_percent, strength, measured_percent))


def _denoise(
    figures: Mapping[str, float], noise_percent: float, strength: float, measured_percent: float | None
) -> Iterable[str]:
    off = measured_percent is not None and _apart(noise_percent, measured_percent) > LARGEST_DISAGREEMENT
    if off:
        yield (
            f"Wrong noise level: {noise_percent:.3g} % was given, but the scan shows {measured_percent:.3g} %;"
            " leave the level to medidiff unless it was measured otherwise."
        )
    if not figures or strength <= 0:
        return
    power = strength**2
    ratio, coarse = figures["removed_variance_ratio"], figures["removed_coarse"]
    found = []
    enough = ratio > 0.1 * power  # the correlations of next to nothing mean nothing
    if coarse > power * _limit(LARGEST_COARSE, noise_percent):
        found.append("neighbouring voxels changed together")
    if enough and figures["removed_edge_correlation"] > _limit(LARGEST_EDGE_CORRELATION, noise_percent):
        found.append("edges changed most")
    if abs(figures["removed_mean"]) > LARGEST_BIAS:
        found.append("the mean brightness changed")
    if found:
        yield f"Structure removed: what was taken away is not noise alone ({', '.join(found)}); compare with the scan."
    if ratio < power * _limit(LEAST_REMOVED, noise_percent):
        yield (
            f"Under-denoised: of the variance that {noise_percent:.3g} % noise has, only {100 * ratio:.3g} % was"
            " removed; the image still holds noise, or the scan held less."
        )
    elif figures["noise_left"] > 1 - strength + _limit(MOST_LEFT, noise_percent):
        yield (
            f"Under-denoised: the image still fluctuates like {figures['noise_left'] * noise_percent:.3g} % noise;"
            " the scan may hold more noise than was assumed."
        )


def superres(figures: Mapping[str, float], *, exact: bool) -> tuple[str, ...]:
    """Judge whether a refined image still says what the scan says.

    Args:
        figures: of `medidiff.diffusion.consistency.reproduced`.
        exact: whether the data had to be kept exactly (no noise was allowed for).
    """
    if not figures:
        return ()
    residual = figures["data_residual"]
    if exact:
        if residual <= EXACT:
            return ()
        sentence = (
            f"Data not kept: measured again, the image differs from the scan by {100 * residual:.2g} % of its range"
            f" (at most {100 * EXACT:.1g} % is rounding)."
        )
        return (sentence,)
    low, high = SOFT_RESIDUAL
    ratio = figures["data_residual_variance_ratio"]
    if ratio > high or abs(figures["data_residual_mean"]) > LARGEST_SOFT_BIAS:
        sentence = (
            f"Data not kept: measured again, the image differs from the scan by {math.sqrt(ratio):.2g} times the noise"
            f" that was assumed, {figures['data_residual_mean']:+.2g} in the mean."
        )
        return (sentence,)
    if figures["data_residual_lag1"] > LARGEST_SOFT_LAG:
        return ("Structure removed: the difference between image and scan is not noise; assume less noise.",)
    if ratio < low:
        return ("Under-denoised: the image still holds the scan's noise; the scan may hold less noise than assumed.",)
    return ()


def inpaint(figures: Mapping[str, float]) -> tuple[str, ...]:
    """Judge a filled hole by figures of `medidiff.diffusion.consistency.filled`."""
    found = []
    if figures.get("changed_outside", 0) > 0:
        found.append(f"{figures['changed_outside']:.0f} voxels outside of the hole changed; none should.")
    if figures.get("hole_share", 0) > LARGEST_HOLE:
        found.append(
            f"The hole takes {100 * figures['hole_share']:.3g} % of the scan; most of what fills it is imagined."
        )
    if figures.get("hole_beside_constant", 0) > LARGEST_BESIDE:
        found.append("The mask may be shifted: voxels beside the hole are constant, as the artefact is.")
    if figures.get("hole_border_jump", 0) > LARGEST_JUMP:
        found.append(
            f"The mask may be shifted: at the hole's border the image steps {figures['hole_border_jump']:.2g} times as"
            " far as beside it."
        )
    return tuple(found)


def range_check(
    values_unit: NDArray[np.float32] | Slabs,
    spacing: Sequence[float],
    modality: str,
    noise_percent: float | None,
    trained_on: Mapping[str, Any],
    modalities: Sequence[str] = ("MR",),
) -> RangeFindings:
    """Compare a scan with what a pipeline was trained on; what the description leaves out is not judged.

    A scan is refused when its modality has negative values that the trained modalities cannot have (CT for MR), when
    voxel size or noise lie beyond twice the trained range, or when a statistic of its intensities lies 8 standard
    deviations or more from the training volumes.

    Args:
        values_unit: the normalised scan, shape (I, J, K); in memory, or in slabs.
        spacing: voxel size in millimetres.
        modality: DICOM code.
        noise_percent: its noise in percent of the bright level; ``None`` when not known.
        trained_on: ``noise_percent``, ``spacing_mm``, ``anisotropy`` as [least, most], and ``intensity`` as
            {statistic: [mean, standard deviation]} of `medidiff.physics.statistics`.
        modalities: what the pipeline was trained on; empty when not known.
    """
    scan = slabs.of(values_unit)
    negative = sum(int(np.count_nonzero(own < -0.05)) for own in scan.own()) / scan.size
    figures: dict[str, float] = {"negative_share": round(negative, 6)}
    warnings: list[str] = []
    refusals: list[str] = []
    if modalities and modality not in modalities:
        sentence = f"the pipeline was trained on {', '.join(modalities)} scans, not on {modality}"
        (refusals if modality == "CT" or negative > NEGATIVE else warnings).append(sentence)
    elif "CT" not in modalities and negative > NEGATIVE:
        sentence = f"{100 * negative:.3g} % of its values are negative, which no magnitude image has"
        refusals.append(f"{sentence} (if they are Hounsfield units, name a pipeline for CT)")
    bands = [("anisotropy", max(spacing) / min(spacing), "the ratio of its voxel edges is {:.3g}")]
    edges = dict.fromkeys((min(spacing), max(spacing)))
    bands += [("spacing_mm", size, "its voxels measure {:.3g} mm") for size in edges]
    if noise_percent is not None:
        bands.append(("noise_percent", noise_percent, "its noise is {:.3g} %"))
    for name, value, words in bands:
        figures[f"{name}_most" if name == "spacing_mm" and value == max(spacing) else name] = round(value, 4)
        if name in trained_on:
            _band(name, value, words.format(value), trained_on[name], warnings, refusals)
    unusual = _intensity(scan.part(looked_at(scan.shape)), noise_percent, trained_on.get("intensity", {}), figures)
    if unusual:
        (refusals if abs(unusual[1]) > REFUSED else warnings).append(unusual[0])
    reasons = "; ".join(dict.fromkeys(refusals))
    refusal = f"The scan is unlike what the pipeline was trained on: {reasons}." if reasons else None
    sentences = (f"The scan may be outside of what was learnt: {text}." for text in dict.fromkeys(warnings))
    return RangeFindings(tuple(sentences), refusal, figures)


def _band(
    name: str, value: float, words: str, limits: Sequence[float], warnings: list[str], refusals: list[str]
) -> None:
    """Compare one figure with a trained range; less noise than trained is no reason for alarm."""
    low, high = float(limits[0]), float(limits[1])
    below = value < low / NEAR and name != "noise_percent"
    if not below and value <= high * NEAR:
        return
    far = value < low / FAR if below else value > high * FAR
    (refusals if far else warnings).append(f"{words} (trained: {low:.3g} to {high:.3g})")


def _intensity(
    unit: NDArray[np.float32],
    noise_percent: float | None,
    trained: Mapping[str, Sequence[float]],
    figures: dict[str, float],
) -> tuple[str, float] | None:
    """The statistic that lies farthest from the training volumes: a sentence and its z, if beyond `UNUSUAL`."""
    worst = ("", 0.0)
    for name, value in statistics(unit, (noise_percent or 0.0) / 100).items():
        if name not in trained:
            continue
        mean, deviation = trained[name]
        z = (value - mean) / max(deviation, 1e-6)
        figures[f"z_{name}"] = round(z, 2)
        if abs(z) > abs(worst[1]):
            worst = (name, z)
    name, z = worst
    if abs(z) <= UNUSUAL:
        return None
    if name == "coherence" and z < -REFUSED:
        return "it looks like noise alone", z
    words = _MEANING.get(name, (f"its {name} is too small", f"its {name} is too large"))[int(z > 0)]
    return f"{words} ({abs(z):.1f} standard deviations from the training scans)", z


def _limit(table: Sequence[tuple[float, float]], percent: float) -> float:
    levels, limits = zip(*table, strict=True)
    return float(np.interp(percent, levels, limits))


def _apart(a: float, b: float) -> float:
    """Ratio of two positive figures, the larger over the smaller; infinite when one of them is zero."""
    low, high = min(a, b), max(a, b)
    return high / low if low > 0 else math.inf if high > 0 else 1.0
