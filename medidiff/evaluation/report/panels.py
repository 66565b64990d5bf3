"""Which images of a case are shown, how their values become colours, and what to look for in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

import matplotlib
import numpy as np
from numpy.typing import NDArray

from medidiff.evaluation.report.study import Pictures
from medidiff.evaluation.results import EvaluatedCase, Image
from medidiff.physics import intensity

Scale = Literal["grey", "signed", "heat", "share"]

COLOURS: dict[Scale, str] = {"grey": "gray", "signed": "berlin", "heat": "inferno", "share": "cividis"}
_STOPS = 17
# Value in HU -> stored byte: soft tissue gets more of the 256 steps than air and bone.
_HU = ((-1024.0, 0.0), (-200.0, 56.0), (300.0, 206.0), (2000.0, 255.0))
TASK_BEFORE = {
    "superres": "The scan, brought onto the finer grid by cubic splines.",
    "inpaint": "The scan as it was given; the hole is outlined.",
}
TASK_RESTORED = {
    "denoise": "Look for edges that became soft, for texture that looks painted, and for anything that the scan does "
    "not show.",
    "superres": "Look for ringing and steps along the refined axis, and for detail that the scan does not hint at.",
    "inpaint": "Look at the outlined hole: lines that cross its border should go on. What is inside is plausible, "
    "not measured.",
}
TASK_RESIDUAL = {
    "denoise": "Should look like noise; in the air of MR scans of one sign, which is its mean. Edges, folds or shapes "
    "mean that anatomy was removed.",
    "superres": "What interpolation alone would have missed: thin lines along edges are expected, broad patches are "
    "not.",
    "inpaint": "Zero outside of the hole, where the measured values are kept.",
}


@dataclass(frozen=True)
class Panel:
    """One column of a case's pictures.

    Attributes:
        key: short name, unique in the case.
        title: above the picture.
        caption: below it: what to look for.
        scale: grey (linked window and level), signed (linked range around 0), heat (0 to a maximum), share (0 to 1).
        image: shape (I, J, K).
        method: who made it, for the pictures of further methods; empty for the main ones.
    """

    key: str
    title: str
    caption: str
    scale: Scale
    image: Image
    method: str = ""


@dataclass(frozen=True)
class Ranges:
    """How bytes stand for values in a case's pictures; one for all panels of a scale.

    Attributes:
        values: the value of each of the 256 bytes of grey panels.
        level: centre of the window at first.
        window: its width at first.
        signed: the bytes of signed panels run from minus this to plus this.
        signed_shown: the range at first.
        heat: the bytes of heat panels run from 0 to this.
        heat_shown: the range at first.
    """

    values: NDArray[np.float64]
    level: float
    window: float
    signed: float
    signed_shown: float
    heat: float
    heat_shown: float

    def quantise(self, image: Image, scale: Scale) -> NDArray[np.uint8]:
        """Values to bytes."""
        if scale == "grey":
            return np.asarray(np.interp(image, self.values, np.arange(256)).round(), dtype=np.uint8)
        if scale == "signed":
            unit = image / np.float32(2 * self.signed) + np.float32(0.5)
        else:
            unit = image / np.float32(self.heat if scale == "heat" else 1.0)
        return np.asarray(np.clip(unit * 255, 0, 255).round(), dtype=np.uint8)


def panels(case: EvaluatedCase, pictures: Pictures, main: str) -> Iterator[Panel]:
    """The pictures of a case: those of the main method, then two of each further method."""
    task, image = case.task, pictures.main
    if image is None:
        return
    if pictures.before is not None:
        yield Panel("before", "Before", TASK_BEFORE.get(task, "The scan as it was given."), "grey", pictures.before)
    title = "Restored" if main in ("medidiff", "") else f"Restored ({main})"
    yield Panel("restored", title, TASK_RESTORED.get(task, "Compare it with the scan."), "grey", image)
    if pictures.reference is not None:
        words = "The truth, as far as it is known; it has noise of its own."
        yield Panel("reference", "Reference", words, "grey", pictures.reference)
        words = "Restored minus reference. Double lines along edges are blur or shift; one colour over an area is bias."
        yield Panel("difference", "Difference to reference", words, "signed", image - pictures.reference)
    if pictures.residual is not None:
        words = f"Before minus restored. {TASK_RESIDUAL.get(task, 'What was taken away.')}"
        yield Panel("residual", "Residual", words, "signed", pictures.residual)
    if pictures.uncertainty is not None:
        words = "Standard deviation of each voxel. Do not rely on detail where it is bright."
        yield Panel("uncertainty", "Uncertainty", words, "heat", pictures.uncertainty)
    if pictures.supplied is not None:
        words = "Share of each voxel, 0 to 1, that came from its surroundings and the prior, not from its own value."
        yield Panel("supplied", "Supplied by the prior", words, "share", pictures.supplied)
    yield from _others(pictures, main)


def _others(pictures: Pictures, main: str) -> Iterator[Panel]:
    for number, (name, image) in enumerate(pictures.restored.items()):
        if name == main or number == 0:
            continue
        yield Panel(f"restored{number}", name, "", "grey", image, name)
        if pictures.reference is not None:
            error = image - pictures.reference
            yield Panel(f"difference{number}", f"{name}: difference to reference", "", "signed", error, name)
        elif pictures.before is not None:
            removed = pictures.before - image
            yield Panel(f"residual{number}", f"{name}: residual", "", "signed", removed, name)


def ranges(case: EvaluatedCase, pictures: Pictures) -> Ranges:
    """One set of ranges for all panels of a case."""
    base = pictures.reference if pictures.reference is not None else pictures.main
    if base is None:
        raise ValueError("a case without a restored image has no ranges")
    inside = intensity.foreground(base)
    if case.units == "HU":
        bytes_, stops = np.arange(256.0), tuple(zip(*_HU, strict=True))
        values, level, window = np.interp(bytes_, stops[1], stops[0]), 40.0, 400.0
    else:
        values, level, window = _window([image for image in (pictures.before, base) if image is not None], inside)
    signed = [np.abs(image[inside]) for image in (pictures.residual, _difference(pictures)) if image is not None]
    if pictures.hole is not None:
        signed = [np.abs(image[pictures.hole]) for image in (_difference(pictures),) if image is not None] or signed
    shown = max((_percentile(each, 99.5) for each in signed), default=0.0) or float(np.ptp(values)) / 10
    heat = 0.0 if pictures.uncertainty is None else _percentile(pictures.uncertainty, 99.9)
    heat = heat or 1.0
    return Ranges(values, level, window, 2 * shown, shown, 1.5 * heat, heat)


def _difference(pictures: Pictures) -> Image | None:
    return None if pictures.reference is None or pictures.main is None else pictures.main - pictures.reference


def _percentile(values: NDArray[np.float32], percent: float) -> float:
    return float(np.percentile(values, percent)) if values.size else 0.0


def _window(images: list[Image], inside: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float, float]:
    """Bytes, level and window of images in arbitrary units: from the darkest to a little above the brightest."""
    low = min(_percentile(image, 0.5) for image in images)
    high = max(_percentile(image[inside], 99.9) for image in images)
    high = high if high > low else low + 1
    shown = _percentile(images[-1][inside], 99.5)
    shown = shown if shown > low else high
    top = max(high, shown)
    return np.linspace(low, top, 256), (low + shown) / 2, shown - low


@cache
def colours(scale: Scale) -> tuple[str, ...]:
    """A colour map as 17 colours from its low to its high end, ``#rrggbb``."""
    found = matplotlib.colormaps[COLOURS[scale]](np.linspace(0, 1, _STOPS))
    return tuple(str(matplotlib.colors.to_hex(colour)) for colour in found)
