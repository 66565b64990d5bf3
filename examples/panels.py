"""What the example pictures share: PSNR against a known truth, and a grid of slices with titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from medidiff import Restoration

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Panel:
    """One slice of a picture.

    Attributes:
        title: one line or two.
        slice: grey values; the second axis points up.
        low: what is black.
        high: what is white.
        outline: a region of which the border is drawn.
    """

    title: str
    slice: Image
    low: float
    high: float
    outline: Mask | None = None


def psnr(image: Image, truth: Image, inside: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB over the head, or over ``inside``; the peak is the truth's maximum."""
    inside = truth > 0.04 * truth.max() if inside is None else inside
    error = (image.astype(np.float64) - truth)[inside]
    return float(20 * np.log10(truth.max() / np.sqrt(np.mean(error**2))))


def print_table(title: str, images: Mapping[str, Image], truth: Image, inside: Mask) -> None:
    """Print the PSNR of each image."""
    print(title)
    for name, image in images.items():
        print(f"  {name:<36}{psnr(image, truth, inside):>7.2f} dB")


def stated(restoration: Restoration, truth: Image, inside: Mask) -> str:
    """How many voxels lie within the interval that the restoration states."""
    interval = restoration.record["interval"]
    if interval["quantile"] is None:
        return "The pipeline is not calibrated, so it states no interval."
    hit = np.abs(restoration.mean - truth)[inside] <= interval["quantile"] * restoration.std[inside]
    return f"The {100 * interval['level']:.0f} % interval holds {100 * hit.mean():.0f} % of the true values."


def draw(rows: Sequence[Sequence[Panel]], picture: Path) -> None:
    """Draw rows of panels into a PNG file."""
    mpl.use("Agg")
    wide, tall = rows[0][0].slice.shape
    size = 12 / len(rows[0]) * tall / wide + 0.4
    figure, axes = plt.subplots(
        len(rows), len(rows[0]), figsize=(12, size * len(rows)), squeeze=False, layout="constrained"
    )
    for line, panels in zip(axes, rows, strict=True):
        for axis, panel in zip(line, panels, strict=True):
            axis.imshow(panel.slice.T, cmap="gray", vmin=panel.low, vmax=panel.high, origin="lower")
            if panel.outline is not None:
                axis.contour(panel.outline.T.astype(float), levels=[0.5], colors="tab:orange", linewidths=1)
            axis.set_title(panel.title, fontsize=10)
            axis.axis("off")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    plt.close(figure)
