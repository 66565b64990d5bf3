"""Measures CT denoising by the measures of CT: error and bias in HU, noise texture and sharpness of edges.

    python -m benchmarks.ct                          validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.ct --volumes 1 --crop 48

Noise with the spectrum of a smooth kernel is added to real scans, and to a phantom of water with rods, whose noise
power spectrum and edges are known. medidiff measures the noise on the noisy image itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks import cases, report, volumes
from benchmarks.cases import Case, Image
from medidiff.evaluation import ct
from medidiff.physics import intensity, noise, tasks
from medidiff.physics.intensity import CT_OFFSET, CT_SCALE, Intensity
from medidiff.physics.texture import Texture
from medidiff.pipelines import Pipeline
from medidiff.training.validation import CT_TEXTURE, sigma_of

Row = dict[str, Any]
PERCENT = (2.0, 4.0)  # of the usual bright level: 24 and 48 HU
BODY = -500.0  # HU
CUT, BIAS, SHIFT, BLUR = 40.0, 1.0, 15.0, 5.0  # goals: percent, HU, percent, percent
NOISY, NLM, WHITE, TOLD, BASE, MEDIDIFF = (
    "noisy",
    "non-local means, sigma known",
    "classical base, noise taken as white",
    "classical base, spectrum known",
    "classical base, spectrum measured",
    "medidiff",
)
METHODS = (NOISY, NLM, WHITE, TOLD, BASE, MEDIDIFF)
RODS = {"bone": 600.0, "contrast": 250.0, "fat": -100.0}
PHANTOM = (144, 144, 48)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    threads = report.use_threads(options.threads)
    pipeline = volumes.load(options, "denoise")
    begin = time.perf_counter()
    chosen = list(scans(options))
    if not chosen:
        raise SystemExit("There is no CT volume to judge on.")
    rows = [row for case in chosen for percent in options.noise for row in measure(case, percent, pipeline)]
    physical = [row for percent in options.noise for row in phantom_rows(percent, pipeline, options.seed)]
    result = {
        "environment": report.environment(pipeline, threads),
        "data": f"{len(chosen)} CT volumes ({', '.join(case.name for case in chosen)}), central crops of at most"
        f" {options.crop} voxels an axis",
        "seed": options.seed,
        "seconds": round(time.perf_counter() - begin),
        "rows": rows,
        "phantom": physical,
        "verdicts": [vars(verdict) for verdict in verdicts(rows, physical)],
    }
    text = document(result)
    print(text)
    report.write("ct", result, text, options.results)


def parser() -> argparse.ArgumentParser:
    real = cases.real_data()
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("--manifest", type=Path, default=real / "MANIFEST.csv" if real else None)
    found.add_argument("--split", default="validation")
    found.add_argument("--volumes", type=int)
    found.add_argument("--crop", type=int, default=96)
    found.add_argument(
        "--noise", type=float, nargs="+", default=list(PERCENT), help="percent of the usual bright level"
    )
    found.add_argument("--pipeline", default="ct")
    found.add_argument("--device", default="auto")
    found.add_argument("--threads", type=int)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--results", type=Path, default=report.RESULTS)
    return found


def scans(options: argparse.Namespace) -> Iterator[Case]:
    """CT of bodies; micro-CT has other units."""
    if options.manifest is None:
        raise SystemExit("Set MEDIDIFF_REAL_DATA, or name a --manifest.")
    found = (case for case in cases.from_manifest(options.manifest, options.split, "CT", options.crop))
    for number, case in enumerate(case for case in found if max(case.spacing) > 0.2):
        if options.volumes is None or number < options.volumes:
            yield case


def restorations(noisy: Image, case: Case, sigma: float, pipeline: Pipeline) -> dict[str, Callable[[], Image]]:
    """Every method on one noisy image; images are normalised."""
    measured = noise.of_scan(noisy, "CT", 2)

    def base(level: float, texture: Texture | None) -> Image:
        image = torch.from_numpy(np.ascontiguousarray(noisy))[None]
        spacing = torch.tensor([case.spacing])
        return tasks.denoise(image, torch.full((1, 1, 1, 1), level), "gaussian", spacing, texture).base[0].numpy()

    def ours() -> Image:
        return case.scaling.apply(pipeline(volumes.volume_of(case, noisy)).mean)

    return {
        NOISY: lambda: noisy,
        NLM: lambda: nlm(noisy, sigma),
        WHITE: lambda: base(noise.estimate(noisy, "gaussian", with_map=False).sigma, None),
        TOLD: lambda: base(sigma, CT_TEXTURE),
        BASE: lambda: base(measured.sigma, measured.texture),
        MEDIDIFF: ours,
    }


def nlm(noisy: Image, sigma: float) -> Image:
    """scikit-image's non-local means in 3-D with the strength that its documentation advises."""
    from skimage.restoration import denoise_nl_means

    return np.asarray(
        denoise_nl_means(noisy, patch_size=3, patch_distance=3, h=0.8 * sigma, sigma=sigma, fast_mode=True),
        dtype=np.float32,
    )


def measure(case: Case, percent: float, pipeline: Pipeline) -> list[Row]:
    """Error and bias over the body of a real scan."""
    noisy, sigma = case.noisy(percent), case.sigma(percent)
    body = case.clean > (BODY - CT_OFFSET) / CT_SCALE
    rows = []
    for name, make in restorations(noisy, case, sigma, pipeline).items():
        off = CT_SCALE * (make() - case.clean)[body].astype(np.float64)
        rows.append(
            {
                "volume": case.name,
                "subject": case.subject,
                "percent": percent,
                "method": name,
                "rmse": float(np.sqrt(np.mean(off**2))),
                "bias": float(off.mean()),
            }
        )
        print(f"{case.name[:24]:24} {percent:g} %  {name:40} {rows[-1]['rmse']:6.2f} HU", flush=True)
    return rows


def phantom() -> tuple[Case, NDArray[np.bool_], dict[str, NDArray[np.bool_]]]:
    """Water with rods across the slices: the case, where it is uniform, and each rod."""
    x, y = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in PHANTOM[:2]), indexing="ij")
    plane = np.where(np.hypot(x, y) < 66, 0.0, -1000.0)
    rods = {}
    for number, (name, value) in enumerate(RODS.items()):
        angle = 2 * np.pi * number / len(RODS)
        rods[name] = np.hypot(x - 40 * np.cos(angle), y - 40 * np.sin(angle)) < 9
        plane = np.where(rods[name], value, plane)
    plane = ndimage.gaussian_filter(plane, 0.6)  # a voxel sees its surroundings
    image = np.repeat(plane[:, :, None], PHANTOM[2], axis=2).astype(np.float32)
    scaling = Intensity(CT_OFFSET, CT_SCALE, intensity.bright_level(Intensity(CT_OFFSET, CT_SCALE).apply(image)))
    uniform = (np.abs(x) < 24) & (np.abs(y) < 24)
    for rod in rods.values():
        uniform &= ~ndimage.binary_dilation(rod, iterations=4)
    whole = {name: np.repeat(rod[:, :, None], PHANTOM[2], axis=2) for name, rod in rods.items()}
    case = Case("phantom", "phantom", "CT", (0.7, 0.7, 1.0), scaling.apply(image), scaling)
    return case, np.repeat(uniform[:, :, None], PHANTOM[2], axis=2), whole


def phantom_rows(percent: float, pipeline: Pipeline, seed: int) -> list[Row]:
    """Noise power spectrum in water, sharpness of the rods, bias of water."""
    case, uniform, rods = phantom()
    noisy = case.noisy(percent, seed)
    before = ct.noise_power(CT_SCALE * noisy, uniform, case.spacing, size=16)
    sharp = {name: ct.mtf50(CT_SCALE * case.clean, rod, case.spacing) for name, rod in rods.items()}
    rows = []
    for name, make in restorations(noisy, case, sigma_of(percent, "CT"), pipeline).items():
        image = CT_SCALE * make()
        after = ct.noise_power(image, uniform, case.spacing, size=16)
        edges = {rod: ct.mtf50(image, where, case.spacing) for rod, where in rods.items()}
        rows.append(
            {
                "percent": percent,
                "method": name,
                "noise": float(np.std((image - CT_SCALE * case.clean)[uniform])),
                "bias": float(np.mean((image - CT_SCALE * case.clean)[uniform], dtype=np.float64)),
                "shift": 100 * (after.mean / before.mean - 1) if after and before else float("nan"),
                "blur": {rod: 100 * (1 - edges[rod] / sharp[rod]) for rod in rods},
            }
        )
    return rows


def of(rows: Sequence[Row], method: str, percent: float) -> list[Row]:
    return [row for row in rows if row["method"] == method and row["percent"] == percent]


def cut(rows: Sequence[Row], method: str, percent: float) -> float:
    """Mean over volumes of the share of the noisy image's error that is gone, in percent."""
    pairs = zip(of(rows, method, percent), of(rows, NOISY, percent), strict=True)
    return float(np.mean([100 * (1 - mine["rmse"] / noisy["rmse"]) for mine, noisy in pairs]))


def verdicts(rows: Sequence[Row], physical: Sequence[Row]) -> list[report.Verdict]:
    """The goals at each strength of noise."""
    found = []
    for percent in sorted({row["percent"] for row in rows}):
        at = f" at {percent:g} % ({CT_SCALE * sigma_of(percent, 'CT'):.0f} HU)"
        less = cut(rows, MEDIDIFF, percent)
        bias = max(abs(row["bias"]) for row in of(rows, MEDIDIFF, percent))
        (seen,) = of(physical, MEDIDIFF, percent)
        blur = max(seen["blur"].values())
        pairs = zip(of(rows, MEDIDIFF, percent), of(rows, BASE, percent), strict=True)
        gain = float(np.mean([other["rmse"] - mine["rmse"] for mine, other in pairs]))
        found += [
            report.Verdict(f"no worse than the {BASE}{at}", f"{gain:+.1f} HU of RMSE in the mean", gain >= 0),
            report.Verdict(f"RMSE at least {CUT:g} % lower{at}", f"{less:.1f} % in the mean", less >= CUT),
            report.Verdict(f"mean bias within {BIAS:g} HU{at}", f"{bias:.2f} HU at worst", bias <= BIAS),
            report.Verdict(
                f"noise spectrum's mean frequency shifted by at most {SHIFT:g} %{at}",
                f"{seen['shift']:+.1f} %, of a noise that fell to {seen['noise']:.1f} HU",
                abs(seen["shift"]) <= SHIFT,
            ),
            report.Verdict(
                f"MTF50 of edges at most {BLUR:g} % lower{at}", f"{blur:.1f} % at worst", bool(blur <= BLUR)
            ),
        ]
    return found


def document(result: dict[str, Any]) -> str:
    """Everything that was found, in Markdown."""
    rows, physical, where = result["rows"], result["phantom"], result["environment"]
    levels = sorted({row["percent"] for row in rows})
    intro = (
        f"{result['data']}; pipeline {where['pipeline']} {where['version']}. Noise of the spectrum"
        f" f^{CT_TEXTURE.exponent:g} exp(-(f/{CT_TEXTURE.cutoff:g})^2) in the plane (f in Nyquist frequencies),"
        " independent between slices. Root mean square error and mean error over the body (above"
        f" {BODY:g} HU). The references have noise of their own, which counts against every method alike. medidiff"
        " and the measured base see the noisy image alone."
    )
    head = ["", *(f"RMSE at {CT_SCALE * sigma_of(p, 'CT'):.0f} HU | less, % | bias" for p in levels)]
    means = []
    for name in METHODS:
        cells = []
        for p in levels:
            chosen = of(rows, name, p)
            error, bias = (float(np.mean([row[key] for row in chosen])) for key in ("rmse", "bias"))
            cells += [f"{error:.1f}", f"{cut(rows, name, p):.1f}", f"{bias:+.2f}"]
        means.append([name, *cells])
    columns = [part.strip() for title in head for part in title.split("|")]
    each = [
        [row["volume"], f"{row['percent']:g} %", row["method"], f"{row['rmse']:.2f}", f"{row['bias']:+.2f}"]
        for row in rows
    ]
    rods = [
        [
            row["method"],
            f"{row['percent']:g} %",
            f"{row['noise']:.1f}",
            f"{row['bias']:+.2f}",
            f"{row['shift']:+.1f}",
            *(f"{row['blur'][rod]:.1f}" for rod in RODS),
        ]
        for row in physical
    ]
    parts = [
        "# CT denoising",
        intro,
        report.table(columns, means),
        report.goals(result["verdicts"]),
        "## Phantom: water with rods",
        (
            "Standard deviation and bias of water in HU, shift of the mean frequency of its noise power spectrum, and"
            " how much lower MTF50 of each rod's edge is than without noise, in percent."
        ),
        report.table(["", "noise", "left", "bias", "shift, %", *(f"{rod}, %" for rod in RODS)], rods),
        "## Every volume",
        report.table(["volume", "noise", "", "RMSE, HU", "bias, HU"], each),
        volumes.made_with(result),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
