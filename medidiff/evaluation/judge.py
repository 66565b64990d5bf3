"""All figures of one image against its reference, as rows of the tidy table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.evaluation import ct, metrics, regions, uncertainty
from medidiff.evaluation.catalogue import JUDGED
from medidiff.evaluation.results import Figure, Image
from medidiff.physics import fidelity

Mask = NDArray[np.bool_]
Row = tuple[str, str, float]  # metric, region, value

WINDOW = (-160.0, 240.0)  # HU: soft tissue
BODY = -500.0  # HU: what is denser is body
FOREGROUND_RULE = f"above 10/255 of the reference's maximum; for CT above {BODY:g} HU, holes of slices filled"


def range_rule(window: tuple[float, float] = WINDOW) -> str:
    """The data range, in words."""
    text = "the reference's maximum; for CT the window {:g} to {:g} HU, to which images are clipped, from 0"
    return text.format(*window)


@dataclass(frozen=True)
class Truth:
    """What restored images of a case are compared with, and where.

    Attributes:
        case: name of the case.
        image: the reference, (I, J, K), in the scan's units.
        spacing: voxel size in millimetres.
        units: ``HU`` or anything else.
        valid: voxels that hold measured values; ``None`` when all do.
        mask: voxels to judge in the place of the foreground; ``None`` for the rule.
        hole: what was filled; ``None`` where nothing was.
        labels: whole numbers, 0 for none; ``None`` without a label map.
        window: HU from and to, for CT.
    """

    case: str
    image: Image
    spacing: tuple[float, float, float]
    units: str = ""
    valid: Mask | None = None
    mask: Mask | None = None
    hole: Mask | None = None
    labels: NDArray[np.int64] | None = None
    window: tuple[float, float] = WINDOW

    @property
    def hounsfield(self) -> bool:
        """Whether intensities are Hounsfield units."""
        return self.units == "HU"

    @property
    def peak(self) -> float:
        """The data range: the reference's maximum, or the width of the window; 1 for an empty image."""
        if self.hounsfield:
            return self.window[1] - self.window[0]
        highest = float(self.image.max())
        return highest if highest > 0 else max(float(np.ptp(self.image)), 1.0)

    def seen(self, image: Image) -> Image:
        """An image as it is compared: clipped to the window, from 0, for CT; as it is otherwise."""
        if not self.hounsfield:
            return image
        low, high = self.window
        return np.asarray(np.clip(image, low, high) - low, dtype=np.float32)

    @property
    def regions(self) -> dict[str, Mask]:
        """Where images are compared: the hole alone, or foreground and full."""
        everywhere = np.ones(self.image.shape, dtype=np.bool_) if self.valid is None else self.valid
        if self.hole is not None:
            return {"hole": self.hole & everywhere}
        return {"foreground": self._foreground() & everywhere, "full": everywhere}

    def _foreground(self) -> Mask:
        if self.mask is not None:
            return self.mask
        if not self.hounsfield:
            return fidelity.foreground(self.image)
        body = self.image > BODY
        for k in range(body.shape[2]):
            body[:, :, k] = ndimage.binary_fill_holes(body[:, :, k])
        return body


def figures(method: str, image: Image, truth: Truth) -> list[Figure]:
    """Every figure of one image; NaN where it is too small for a metric.

    Args:
        method: who made it.
        image: in the units and on the grid of the truth.
        truth: what it should be.
    """
    rows: list[Row] = []
    places = truth.regions
    for region, inside in places.items():
        rows += _fidelity(image, truth, region, inside)
    if truth.hole is not None:
        found = metrics.brats_inpainting(image, truth.image, places["hole"]) if places["hole"].any() else {}
        rows += [(f"brats_{name}", "hole", found[name]) for name in ("ssim", "psnr", "mse") if name in found]
    else:
        rows += _whole(image, truth, places["foreground"])
    if truth.labels is not None:
        rows += _labelled(image, truth, truth.labels)
    return [Figure(truth.case, method, metric, region, value) for metric, region, value in rows]


def _fidelity(image: Image, truth: Truth, region: str, inside: Mask) -> Iterator[Row]:
    """What is measured over any region."""
    seen, reference, peak = truth.seen(image), truth.seen(truth.image), truth.peak
    yield "psnr", region, fidelity.psnr(seen, reference, inside, peak)
    yield "nrmse", region, metrics.nrmse(seen, reference, inside)
    if truth.hounsfield:
        yield "mae_hu", region, metrics.mae(image, truth.image, inside)
        yield "rmse_hu", region, metrics.rmse(image, truth.image, inside)
        yield "bias_hu", region, metrics.bias(image, truth.image, inside)
    else:
        yield "mae", region, 100 / peak * metrics.mae(seen, reference, inside)
        yield "bias", region, 100 / peak * metrics.bias(seen, reference, inside)


def _whole(image: Image, truth: Truth, foreground: Mask) -> Iterator[Row]:
    """What needs neighbourhoods or histograms."""
    seen, reference, peak = truth.seen(image), truth.seen(truth.image), truth.peak
    yield "ssim", "foreground", metrics.ssim(seen, reference, peak, foreground)
    yield "ssim", "full", metrics.ssim(seen, reference, peak)
    yield "ms_ssim", "full", metrics.ms_ssim(seen, reference, peak)
    yield "hfen", "foreground", metrics.hfen(seen, reference, foreground)
    yield "vif", "foreground", metrics.vif(seen, reference, peak, foreground)
    yield "nmi", "foreground", metrics.nmi(seen, reference, foreground)


def _labelled(image: Image, truth: Truth, labels: NDArray[np.int64]) -> Iterator[Row]:
    """What is measured of every label."""
    for name, region in regions.of(labels).items():
        inside = region if truth.valid is None else region & truth.valid
        yield "snr", name, regions.snr(image, inside)
        yield "cnr", name, regions.cnr(image, inside, regions.surroundings(region, labels))
        yield from _fidelity(image, truth, name, inside)
        if truth.hounsfield:
            yield from _sharp(image, truth, name, inside)


def _sharp(image: Image, truth: Truth, name: str, region: Mask) -> Iterator[Row]:
    """Noise texture and edge of a region of a CT."""
    spectrum = ct.noise_power(image, region, truth.spacing)
    if spectrum is not None:
        yield "nps_peak", name, spectrum.peak
        yield "nps_mean", name, spectrum.mean
    yield "mtf50", name, ct.mtf50(image, region, truth.spacing)


def uncertain(method: str, image: Image, std: Image, truth: Truth, quantile90: float) -> list[Figure]:
    """Figures of a stated standard deviation, over the foreground or the hole."""
    region, inside = next(iter(truth.regions.items()))
    if not inside.any():
        return []
    found = uncertainty.figures(image, std, truth.image, inside, truth.peak, quantile90)
    return [Figure(truth.case, method, metric, region, value) for metric, value in found.items()]


def primary(rows: Sequence[Figure]) -> list[tuple[str, str]]:
    """(metric, region) of what methods are compared by: the first region that a metric was measured over, no labels."""
    found: list[tuple[str, str]] = []
    for metric in JUDGED:
        places = {figure.region for figure in rows if figure.metric == metric}
        region = next((name for name in ("hole", "foreground", "full") if name in places), None)
        if region is not None:
            found.append((metric, region))
    return found
