"""What the report itself finds in a case's images: tissue volumes, agreement with the reference, flagged regions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import MedidiffError
from medidiff.evaluation.report import regions, tissue
from medidiff.evaluation.report.regions import DOUBTFUL, SMOOTH, UNEXPECTED, Region
from medidiff.evaluation.results import EvaluatedCase, Evaluation, Figure, Image, Metric
from medidiff.physics import intensity

TISSUE_DICE, TISSUE_AGREEMENT = "tissue_dice", "tissue_agreement"
FLAGGED_CHANGE, FLAGGED_UNCERTAIN = "flagged_change", "flagged_uncertain"
_CLASS = "of the {} class of three Gaussians fitted to the foreground's intensities"
METRICS: Mapping[str, Metric] = {
    **{
        f"tissue_{name}": Metric(
            f"Volume, {name} class",
            "mL",
            "",
            f"Volume {_CLASS.format(name)}, each image with a fit of its own (begun at that of the reference, else of "
            "the restored image), all inside the foreground of that image (Otsu's threshold).",
        )
        for name in tissue.CLASSES
    },
    TISSUE_DICE: Metric(
        "Dice with the reference",
        "",
        "higher",
        "Dice coefficient of the classes in the image and in the reference, mean of the three classes.",
    ),
    TISSUE_AGREEMENT: Metric(
        "Dice with the scan",
        "",
        "",
        "Dice coefficient of the classes in the restored image and in the scan as given, mean of the three classes; "
        "1 where the restoration did not change the segmentation.",
    ),
    FLAGGED_CHANGE: Metric(
        "Flagged: unexpected change",
        "mL",
        "",
        f"Volume in which scan minus restored (over the uncertainty, where it is known), averaged with a Gaussian of "
        f"{SMOOTH:g} voxels, lies more than {UNEXPECTED:g} robust standard deviations from its median; noise averages "
        "out, structure does not. Denoising only.",
    ),
    FLAGGED_UNCERTAIN: Metric(
        "Flagged: uncertain",
        "mL",
        "",
        f"Volume in which the 90 % interval reaches more than {100 * DOUBTFUL:g} % of the bright level (99.5th "
        "percentile of the foreground) to either side.",
    ),
}


@dataclass(frozen=True)
class Pictures:
    """The images of a case, read; all of one shape (I, J, K), in the scan's units and axes.

    Attributes:
        before: the scan as given, on the grid of the result; ``None`` when there is none.
        reference: the truth; ``None`` when there is none.
        restored: method -> image, in the evaluation's order.
        uncertainty: standard deviation of each voxel, of the main method.
        supplied: share of each voxel that the prior supplied, of the main method.
        hole: what was filled.
        missing: one sentence each on images that cannot be read.
    """

    before: Image | None
    reference: Image | None
    restored: Mapping[str, Image]
    uncertainty: Image | None
    supplied: Image | None
    hole: NDArray[np.bool_] | None
    missing: tuple[str, ...] = ()

    @property
    def main(self) -> Image | None:
        """The restored image of the method that the report is about."""
        return next(iter(self.restored.values()), None)

    @property
    def residual(self) -> Image | None:
        """Scan minus restored."""
        return None if self.before is None or self.main is None else self.before - self.main


@dataclass(frozen=True)
class Study:
    """What was found in a case.

    Attributes:
        figures: rows for the tidy table.
        regions: what to look at first.
        flagged: the voxels of all flagged regions.
    """

    figures: tuple[Figure, ...]
    regions: tuple[Region, ...]
    flagged: NDArray[np.bool_] | None


def main_method(evaluation: Evaluation) -> str:
    """The method that the report is about: medidiff, else the first that is not the input."""
    if "medidiff" in evaluation.methods:
        return "medidiff"
    return next((name for name in evaluation.methods if name != "input"), "")


def read(case: EvaluatedCase, methods: tuple[str, ...], main: str) -> Pictures | None:
    """Read a case's images; those that cannot be read, or whose shape is not the main image's, are left out.

    Returns:
        The images, or ``None`` when there is no restored one.
    """
    missing: list[str] = []

    def load(role: str, method: str | None = None) -> Image | None:
        for shown in case.images:
            if shown.role == role and (method is None or shown.method in (method, "")):
                try:
                    return np.asarray(shown.load(), dtype=np.float32)
                except (MedidiffError, OSError) as error:
                    reason = str(error) if isinstance(error, MedidiffError) else f"{error.strerror}."
                    missing.append(f"{case.name}: an image ({role}) is not shown: {reason}")
        return None

    order = sorted(methods, key=lambda name: (name != main, methods.index(name)))
    restored = {name: image for name in order if (image := load("restored", name)) is not None}
    if not restored:
        return None
    shape = next(iter(restored.values())).shape

    def one(role: str, method: str | None = None) -> Image | None:
        found = load(role, method)
        return found if found is not None and found.shape == shape else None

    hole = one("hole")
    return Pictures(
        before=one("input"),
        reference=one("reference"),
        restored={name: image for name, image in restored.items() if image.shape == shape},
        uncertainty=one("uncertainty", main),
        supplied=one("supplied", main),
        hole=hole > 0 if hole is not None and hole.any() else None,
        missing=tuple(missing),
    )


def study(case: EvaluatedCase, pictures: Pictures, main: str) -> Study:
    """Segment, compare and flag.

    Args:
        case: the case.
        pictures: its images.
        main: the method that the report is about.
    """
    base = pictures.reference if pictures.reference is not None else pictures.main
    if base is None:
        return Study((), (), None)
    inside = intensity.foreground(base)
    figures = list(_tissues(case, pictures, main, base, inside))
    found: list[Region] = []
    flagged = np.zeros(base.shape, dtype=np.bool_)
    for metric, score, limit in _scores(case, pictures, inside):
        reason: regions.Reason = "change" if metric == FLAGGED_CHANGE else "uncertain"
        places, voxels = regions.regions(score, limit, reason, case.spacing)
        found += places
        flagged |= voxels
        volume = float(np.count_nonzero(voxels) * np.prod(case.spacing) / 1000)
        figures.append(Figure(case.name, main, metric, "full", volume))
    return Study(tuple(figures), tuple(found), flagged)


def _scores(
    case: EvaluatedCase, pictures: Pictures, inside: NDArray[np.bool_]
) -> Iterator[tuple[str, NDArray[np.float32], float]]:
    if pictures.residual is not None and case.task in ("denoise", ""):
        inner = ndimage.binary_erosion(inside, iterations=1) if min(inside.shape) > 4 else inside
        yield FLAGGED_CHANGE, regions.unexpected(pictures.residual, inner, pictures.uncertainty), UNEXPECTED
    if pictures.uncertainty is not None and pictures.main is not None:
        bright = intensity.bright_level(pictures.main)
        score = regions.doubtful(pictures.uncertainty, stated(case).get("quantile"), bright)
        yield FLAGGED_UNCERTAIN, score, DOUBTFUL


def stated(case: EvaluatedCase) -> Mapping[str, Any]:
    """What the sidecar says of the uncertainty map: level, quantile, calibrated, volumes, meaning."""
    volumes = (case.sidecar or {}).get("volumes") or [{}]
    return volumes[0].get("uncertainty") or {}


def _tissues(
    case: EvaluatedCase, pictures: Pictures, main: str, base: Image, inside: NDArray[np.bool_]
) -> Iterator[Figure]:
    """Volumes of the classes in every image, and how the classes agree; what was filled is left out of the fits."""
    images = {"input": pictures.before, **pictures.restored, "reference": pictures.reference}
    measured = inside if pictures.hole is None else inside & ~pictures.hole
    start = tissue.fit(base[measured])
    if start is None:
        return
    classes = {
        name: tissue.segment(image, inside, tissue.fit(image[measured], start) or start)
        for name, image in images.items()
        if image is not None
    }
    for name, labels in classes.items():
        for kind, volume in zip(tissue.CLASSES, tissue.volumes(labels, case.spacing), strict=True):
            yield Figure(case.name, name, f"tissue_{kind}", "foreground", volume)
    against = "reference" if "reference" in classes else "input" if "input" in classes else ""
    for name, labels in classes.items():
        if against == "reference" and name != against:
            yield Figure(case.name, name, TISSUE_DICE, "foreground", _mean_dice(labels, classes[against]))
        if against == "input" and name == main:
            yield Figure(case.name, name, TISSUE_AGREEMENT, "foreground", _mean_dice(labels, classes[against]))


def _mean_dice(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    found = [value for value in tissue.dice(one, other) if np.isfinite(value)]
    return float(np.mean(found)) if found else float("nan")


def is_complete(evaluation: Evaluation) -> bool:
    """Whether the report's own figures are in the evaluation already."""
    return any(name in evaluation.metrics for name in METRICS)


def with_figures(evaluation: Evaluation, figures: tuple[Figure, ...]) -> Evaluation:
    """The evaluation with figures of the report's own behind the others."""
    used = {figure.metric for figure in figures}
    metrics = {**evaluation.metrics, **{name: metric for name, metric in METRICS.items() if name in used}}
    return replace(evaluation, figures=(*evaluation.figures, *figures), metrics=metrics)
