"""Measures what super-resolution gains over interpolation, on identical input.

    python -m benchmarks.superres                    validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.superres --volumes 2 --crop 64

A volume is made coarse by the acquisition operator and restored as a user would restore it. References hold noise of
their own, of which the part outside of the measured band no method can know: gains are also given without it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import report, volumes
from benchmarks.cases import Case, Image
from medidiff.config import RestoreOptions
from medidiff.evaluation import degrade, metrics
from medidiff.evaluation.baselines import interpolated, zero_filled
from medidiff.evaluation.ours import classical
from medidiff.physics import noise
from medidiff.physics.fidelity import foreground, psnr
from medidiff.physics.operators import Acquisition, Profile
from medidiff.pipelines import Pipeline
from medidiff.scans.volume import Volume

LINEAR, SPLINE, ZERO_FILLED = "linear", "cubic spline", "zero-filled k-space"
BASE, MEDIDIFF = "medidiff's classical base", "medidiff"
RESIDUAL = 1e-5  # of the range: the goal for the data's reproduction
FACES = 8  # voxels beside the crop's faces, where the crop itself makes k-space and interpolation worse
LEAST_LEFT = 0.1  # of an error, below which what is left without the reference's noise is not known well enough

Row = dict[str, Any]
Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """One acquisition.

    Attributes:
        name: in words.
        factor: fine voxels in a coarse one.
        profile: of a coarse voxel.
        isotropic: all axes, or slices only.
        goal: dB over the cubic spline.
    """

    name: str
    factor: int
    profile: Profile
    isotropic: bool
    goal: float


SETTINGS = (
    Setting("2x isotropic, k-space", 2, "kspace", True, 2.0),
    Setting("4x through-plane, Gaussian slices", 4, "gaussian", False, 1.5),
    Setting("6x through-plane, Gaussian slices", 6, "gaussian", False, 1.0),
)


@dataclass(frozen=True)
class Posed:
    """A reference and how it was measured.

    Attributes:
        case: where it comes from.
        truth: the reference, cut to whole coarse voxels.
        acquisition: fine to coarse.
        measured: what was measured, normalised.
        slices: axis of the thick slices; ``None`` where all axes are coarse.
    """

    case: Case
    truth: Image
    acquisition: Acquisition
    measured: Image
    slices: int | None

    @property
    def factors(self) -> tuple[float, ...]:
        """Fine voxels in a coarse one along each axis."""
        return tuple(axis.factor for axis in self.acquisition.axes)

    @property
    def volume(self) -> Volume:
        """The measured scan, with what its header would say."""
        spacing = tuple(size * factor for size, factor in zip(self.case.spacing, self.factors, strict=True))
        if self.slices is None:
            return volumes.volume_of(self.case, self.measured, spacing)
        thickness = spacing[self.slices]
        return volumes.volume_of(self.case, self.measured, spacing, slice_axis=self.slices, thickness=thickness)

    @property
    def options(self) -> dict[str, Any]:
        """The options that pose the same acquisition, with the data kept exactly."""
        refined = next(axis for axis in self.acquisition.axes if not axis.trivial)
        return {"noise": 0.0, "factor": self.factors, "profile": refined.profile}


def main(arguments: Sequence[str] | None = None) -> None:
    options = volumes.parser(__doc__, crop=96).parse_args(arguments)
    threads = report.use_threads(options.threads)
    pipeline = volumes.load(options, "superres")
    choice = volumes.choose(options)
    begin, rows = time.perf_counter(), []
    for case in choice.cases:
        for setting in SETTINGS:
            posed = pose(case, setting)
            if posed is not None:
                rows.append(measure(posed, setting, pipeline))
                print(line(rows[-1]), flush=True)
    if not rows:
        raise SystemExit("No volume is large enough.")
    volumes.publish(
        "superres",
        options,
        choice,
        pipeline,
        threads=threads,
        seconds=time.perf_counter() - begin,
        verdicts=verdicts(rows),
        document=document,
        rows=rows,
    )


def pose(case: Case, setting: Setting) -> Posed | None:
    """Measure a case coarsely; ``None`` when it is too small for it."""
    factor, slices = setting.factor, None
    factors = [factor] * 3
    if not setting.isotropic:
        slices = degrade.slice_axis(case.clean.shape, factor)
        factors = [factor if axis == slices else 1 for axis in range(3)]
    if any(f > 1 and n < degrade.FEWEST * f for n, f in zip(case.clean.shape, factors, strict=True)):
        return None
    truth, acquisition, measured = degrade.measure(case.clean, factors, setting.profile)
    return Posed(case, truth, acquisition, measured, slices)


def measure(posed: Posed, setting: Setting, pipeline: Pipeline) -> Row:
    """All methods on one measured volume."""
    shape = posed.truth.shape
    methods: dict[str, Callable[[], Image]] = {
        LINEAR: partial(interpolated, posed.measured, shape, 1),
        SPLINE: partial(interpolated, posed.measured, shape, 3),
    }
    if setting.profile == "kspace":
        methods[ZERO_FILLED] = partial(zero_filled, posed.measured, posed.acquisition)
    methods |= {
        BASE: partial(restored, posed, classical(pipeline)),
        MEDIDIFF: partial(restored, posed, pipeline),
    }
    sigma = noise.estimate(posed.truth, posed.case.law, with_map=False).sigma
    found = {}
    for name, make in methods.items():
        begin = time.perf_counter()
        image = make()
        found[name] = {**judge(image, posed, sigma), "seconds": round(time.perf_counter() - begin, 2)}
    return {
        "volume": posed.case.name,
        "subject": posed.case.subject,
        "setting": setting.name,
        "shape": list(shape),
        "slices": posed.slices,
        "reference_noise_percent": 100 * sigma,
        "ceiling": ceiling(posed, sigma),
        "methods": found,
    }


def restored(posed: Posed, pipeline: Pipeline) -> Image:
    """The product's own path, in the case's normalised intensity."""
    return posed.case.scaling.apply(pipeline.restore(posed.volume, RestoreOptions(**posed.options)).mean)


def judge(image: Image, posed: Posed, sigma: float) -> dict[str, float]:
    """Every figure of one image.

    Returns:
        ``psnr``: dB over the foreground; ``psnr_within``: the same away from the crop's faces. ``ssim``: 3-D. ``mse``:
        over the foreground; and without the part of the reference's noise that no method can know, NaN where little is
        left. ``data_residual``: see ``residual``.
    """
    inside = foreground(posed.truth)
    mse = float(np.mean(np.square(image[inside].astype(np.float64) - posed.truth[inside])))
    left = mse - unknowable(posed, sigma)
    return {
        "psnr": psnr(image, posed.truth, inside),
        "psnr_within": psnr(image, posed.truth, inside & within(inside.shape)),
        "ssim": metrics.ssim(image, posed.truth, float(posed.truth.max()), inside),
        "mse": mse,
        "mse_without_reference_noise": left if left > LEAST_LEFT * mse else float("nan"),
        "data_residual": residual(image, posed),
    }


def within(shape: Sequence[int]) -> NDArray[np.bool_]:
    """Voxels away from the faces of a crop, by at most a quarter of its edge."""
    found = np.zeros(shape, dtype=np.bool_)
    margins = [min(FACES, n // 4) for n in shape]
    found[tuple(slice(margin, n - margin) for margin, n in zip(margins, shape, strict=True))] = True
    return found


def unknowable(posed: Posed, sigma: float) -> float:
    """Variance of the reference's white noise outside of the measured band: all but 1 / (product of the factors)."""
    return sigma**2 * (1 - 1 / math.prod(posed.factors))


def ceiling(posed: Posed, sigma: float) -> float:
    """PSNR in dB of a method that knows everything but the reference's noise outside of the measured band."""
    return float(10 * np.log10(float(posed.truth.max()) ** 2 / max(unknowable(posed, sigma), 1e-20)))


def residual(image: Image, posed: Posed) -> float:
    """Largest ``|A x - y|`` over the range of y."""
    again = posed.acquisition.forward(torch.from_numpy(image)[None].double())[0].numpy()
    return float(np.abs(again - posed.measured).max() / max(float(np.ptp(posed.measured)), 1e-20))


def gains(rows: Sequence[Row], setting: str, method: str = MEDIDIFF, key: str = "psnr") -> Figures:
    """PSNR differences to the cubic spline in dB, one a volume."""
    mine = [row["methods"] for row in rows if row["setting"] == setting]
    return np.array([row[method][key] - row[SPLINE][key] for row in mine])


def clean_gains(rows: Sequence[Row], setting: str, method: str = MEDIDIFF) -> Figures:
    """The same of errors without the reference's noise; volumes on which it cannot be told are left out."""
    key = "mse_without_reference_noise"
    mine = [row["methods"] for row in rows if row["setting"] == setting]
    found = np.array([10 * np.log10(row[SPLINE][key] / row[method][key]) for row in mine])
    return found[np.isfinite(found)]


def verdicts(rows: Sequence[Row]) -> list[report.Verdict]:
    """The goals: dB over the cubic spline, and data that are reproduced."""
    found = []
    for setting in SETTINGS:
        gain = gains(rows, setting.name)
        if gain.size:
            text = f"{gain.mean():+.2f} dB in the mean of {gain.size} volumes, {gain.min():+.2f} dB at worst"
            goal = f"at least {setting.goal:+.1f} dB over the cubic spline, {setting.name}"
            found.append(report.Verdict(goal, text, bool(gain.mean() >= setting.goal)))
    worst = max(row["methods"][MEDIDIFF]["data_residual"] for row in rows)
    goal = f"the data are reproduced to {RESIDUAL:g} of their range"
    return [*found, report.Verdict(goal, f"{worst:.1e} at worst", worst <= RESIDUAL)]


def line(row: Row) -> str:
    """One row for a person who waits."""
    figures = "  ".join(f"{name} {found['psnr']:.2f}" for name, found in row["methods"].items())
    return f"{row['volume'][:24]:24} {row['setting'][:16]:16}  {figures}"


def mean_table(rows: Sequence[Row]) -> str:
    """PSNR and SSIM, methods by settings, mean over volumes."""
    settings = [setting.name for setting in SETTINGS if any(row["setting"] == setting.name for row in rows)]
    body = []
    for name in (LINEAR, SPLINE, ZERO_FILLED, BASE, MEDIDIFF):
        cells = []
        for setting in settings:
            mine = [row["methods"][name] for row in rows if row["setting"] == setting and name in row["methods"]]
            psnr_, ssim = (float(np.mean([one[key] for one in mine])) if mine else math.nan for key in ("psnr", "ssim"))
            cells.append(f"{report.figure(psnr_)} / {report.figure(ssim, 3)}")
        body.append([name, *cells])
    counts = [
        f"{np.mean([row['ceiling'] for row in rows if row['setting'] == setting]):.2f} / –" for setting in settings
    ]
    return report.table(["PSNR in dB / SSIM", *settings], [*body, ["all but the reference's noise known", *counts]])


def gain_table(rows: Sequence[Row]) -> str:
    """Gains over the cubic spline, raw and without the reference's noise."""
    body = []
    for setting in SETTINGS:
        for name in (BASE, MEDIDIFF):
            raw, clean = gains(rows, setting.name, name), clean_gains(rows, setting.name, name)
            if raw.size:
                body.append(
                    [
                        f"{setting.name}: {name}",
                        report.figure(float(raw.mean()), sign=True),
                        report.figure(float(np.median(raw)), sign=True),
                        f"{raw.min():+.2f} to {raw.max():+.2f}",
                        report.figure(float(gains(rows, setting.name, name, "psnr_within").mean()), sign=True),
                        report.figure(float(clean.mean()) if clean.size else math.nan, sign=True),
                        f"{clean.size} of {raw.size}",
                    ]
                )
    head = [
        "gain over the cubic spline, dB",
        "mean",
        "median",
        "range",
        "away from faces",
        "without reference noise",
        "volumes",
    ]
    return report.table(head, body)


def volume_table(rows: Sequence[Row], setting: str) -> str:
    """PSNR of every volume."""
    mine = [row for row in rows if row["setting"] == setting]
    names = list(mine[0]["methods"])
    body = [
        [
            row["volume"],
            *(report.figure(row["methods"][name]["psnr"]) for name in names),
            report.figure(row["methods"][MEDIDIFF]["psnr"] - row["methods"][SPLINE]["psnr"], sign=True),
            report.figure(row["ceiling"]),
            f"{row['methods'][MEDIDIFF]['data_residual']:.0e}",
            report.figure(row["reference_noise_percent"]),
        ]
        for row in mine
    ]
    head = ["volume", *names, "gain over spline", "ceiling", "data residual", "reference noise, %"]
    return report.table(head, body)


def document(result: dict[str, Any], listing: str) -> str:
    """Everything that was found, in Markdown."""
    rows = result["rows"]
    where = result["environment"]
    judged = (
        f"{result['data']}; pipeline {where['pipeline']} {where['version']}. All methods get the same coarse volume;"
        " PSNR over the foreground, its peak the reference's maximum; SSIM in 3-D. Slices are thick along the last axis"
        " that is long enough. k-space belongs to the crop, as if it were the whole field of view."
    )
    corrected = (
        "The reference's noise is taken as white with the standard deviation that medidiff estimates; a share of"
        " 1 - 1/(product of the factors) of its variance lies outside of what was measured and counts against every"
        f" method alike. Volumes on which less than {100 * LEAST_LEFT:g} % of an error is left without it are left out"
        f" of that column. Away from faces: {FACES} voxels, because a crop's k-space wraps around its faces."
    )
    parts = [
        "# Super-resolution",
        judged,
        mean_table(rows),
        report.goals(result["verdicts"]),
        "## Gains",
        corrected,
        gain_table(rows),
    ]
    for setting in SETTINGS:
        if any(row["setting"] == setting.name for row in rows):
            parts += [f"## PSNR of every volume, dB: {setting.name}", volume_table(rows, setting.name)]
    return "\n\n".join([*parts, volumes.closing(result, listing)])


if __name__ == "__main__":
    main()
