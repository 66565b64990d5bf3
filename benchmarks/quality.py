"""Measures how much better medidiff restores noisy scans than classical denoisers do, on identical input.

    python -m benchmarks.quality                 validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.quality --files a.nii.gz b.nii.gz --whole
    python -m benchmarks.quality --with-bm4d --readme

Every method but "noise estimated" is told the true sigma. Without real scans the shipped samples are used; they are
easier.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cases, methods, report
from benchmarks.cases import Case, Image
from medidiff import pipelines
from medidiff.config import ComputeOptions
from medidiff.evaluation import baselines, metrics
from medidiff.physics.fidelity import foreground_psnr
from medidiff.pipelines import Pipeline

LEVELS = (3.0, 5.0, 9.0, 15.0)
NOISY, NLM_DEFAULT, NLM = "noisy input", "DIPY NLM, its default", "DIPY NLM, best setting"
BM4D, BASE = "BM4D, Rician mean inverted", "medidiff's classical base"
KNOWN, BLIND = "medidiff, noise known", "medidiff, noise estimated"
PEERS = (NLM_DEFAULT, NLM, BM4D)
ORDER = (NOISY, *PEERS, BASE, KNOWN, BLIND)
GAIN_OVER_NLM, LARGEST_BLIND_LOSS, LARGEST_VARYING_LOSS = 1.0, 0.15, 0.3  # dB: the goals
GAIN_OVER_BM4D = {3.0: 0.5, 5.0: 0.8, 9.0: 1.2, 15.0: 1.8}  # dB at percent of noise
LARGEST_DARK_BIAS = 0.05  # sigma
VARYING = 9.0  # percent, in the root mean square, of noise that varies over the scan
HIGH = (9.0, 15.0)  # percent at which the gain over NLM is a goal
LOW = 3.0  # percent at which the input must not be made worse

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    threads = report.use_threads(options.threads)
    crop = None if options.whole else options.crop
    images = images_for(options, crop)
    if options.tune_nlm:
        print(tune_nlm(next(images), threads))
        return
    pipeline = pipelines.load(options.pipeline, compute=ComputeOptions(device=options.device, tile=options.tile))
    wanted = [name for name in ORDER if name != BM4D or options.with_bm4d]
    if not baselines.has("dipy"):
        wanted = [name for name in wanted if name not in (NLM, NLM_DEFAULT)]
        print("DIPY is not installed (pip install 'medidiff[baselines]'): no comparison with non-local means.")

    earlier = json.loads(options.peers.read_text(encoding="utf-8")) if options.peers else {}
    earlier = [*earlier.get("rows", ()), *earlier.get("varying", ())]
    begin, rows, varying = time.perf_counter(), [], []
    for case in images:
        for percent in options.noise:
            rows.append(measure(case, percent, wanted, pipeline, threads, options.seed, earlier))
            print(line(rows[-1]), flush=True)
        if VARYING in options.noise:
            varying.append(measure_varying(case, wanted, pipeline, threads, options.seed, earlier))
            print(line(varying[-1]), "(noise varies)", flush=True)
    if not rows:
        raise SystemExit(f"There is nothing to judge on: {describe(options, crop)}.")
    result = {
        "environment": report.environment(pipeline, threads),
        "data": describe(options, crop),
        "seed": options.seed,
        "nlm": str(baselines.NLM_BEST),
        "nlm_default": str(baselines.NLM_DEFAULT),
        "seconds": round(time.perf_counter() - begin),
        "verdicts": [vars(v) for v in verdicts(rows, varying)],
        "rows": rows,
        "varying": varying,
    }
    text = document(result, rows)
    print("\n" + text)
    report.write("quality", result, text, options.results)
    if options.readme:
        report.update_block(options.readme, "quality", summary(result, rows))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    real = cases.real_data()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--manifest",
        type=Path,
        default=real / "MANIFEST.csv" if real else None,
        help="CSV: file, modality, subject_id, split",
    )
    parser.add_argument("--split", default="validation")
    parser.add_argument("--modality", default="MR", help="DICOM code of the manifest's rows to take (default: MR)")
    parser.add_argument("--files", type=Path, nargs="+", help="judge on these nearly noise-free scans instead")
    parser.add_argument("--limit", type=int, help="only the first so many volumes")
    parser.add_argument(
        "--crop", type=int, default=128, help="largest edge of the central crop in voxels (default: 128)"
    )
    parser.add_argument("--whole", action="store_true", help="whole volumes")
    parser.add_argument("--noise", type=float, nargs="+", default=list(LEVELS), help="percent of the bright level")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pipeline", default="mr")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument(
        "--with-bm4d",
        action="store_true",
        help="also BM4D (minutes a volume; pip install bm4d, non-commercial licence)",
    )
    parser.add_argument(
        "--tune-nlm", action="store_true", help="compare settings of DIPY's NLM on the first volume, then stop"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="JSON",
        help="an earlier result: what it says of NLM and BM4D on the very same images is not measured again",
    )
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument(
        "--readme", type=Path, nargs="?", const=cases.ROOT / "README.md", help="also update the table in the README"
    )
    return parser.parse_args(arguments)


def images_for(options: argparse.Namespace, crop: int | None) -> Iterator[Case]:
    """The references: named files, a manifest's rows, or the shipped samples."""
    if options.files or options.manifest is None:
        paths = options.files or cases.SAMPLES
        found = (cases.load(path, crop) for path in paths)
    else:
        found = cases.from_manifest(options.manifest, options.split, options.modality, crop)
    return islice(found, options.limit)


def describe(options: argparse.Namespace, crop: int | None) -> str:
    """What was judged on, in words."""
    part = "whole volumes" if crop is None else f"central crops of at most {crop} voxels an axis"
    if options.files:
        return f"named files, {part}"
    if options.manifest is None:
        return f"the shipped samples (phantom, averaged brain: easier than single scans), {part}"
    return f"{options.modality} volumes of the {options.split} subjects, {part}"


def measure(
    case: Case,
    percent: float,
    wanted: Sequence[str],
    pipeline: Pipeline,
    threads: int,
    seed: int,
    earlier: Sequence[Row] = (),
) -> Row:
    """All methods on one noisy image; peers not again, whose figures on this very image are in ``earlier``."""
    return judged(case, case.noisy(percent, seed), percent, wanted, pipeline, threads, earlier)


def measure_varying(
    case: Case, wanted: Sequence[str], pipeline: Pipeline, threads: int, seed: int, earlier: Sequence[Row] = ()
) -> Row:
    """The same where the noise varies; who must be told of noise is told its root mean square."""
    noisy = case.noisy(VARYING, seed, cases.parallel_imaging(case.clean.shape))
    names = [name for name in wanted if name in (NOISY, BM4D, BLIND)]
    return judged(case, noisy, VARYING, names, pipeline, threads, earlier)


def judged(
    case: Case,
    noisy: Image,
    percent: float,
    wanted: Sequence[str],
    pipeline: Pipeline,
    threads: int,
    earlier: Sequence[Row],
) -> Row:
    """What methods make of a noisy image."""
    sigma = case.sigma(percent)
    row: Row = {
        "volume": case.name,
        "subject": case.subject,
        "shape": list(case.clean.shape),
        "law": case.law,
        "noise": percent,
        "methods": {},
    }
    had = {}
    if earlier:
        had = peers_of(row, metrics.denoised(noisy, case.clean, noisy, sigma, case.law), earlier)
    missing = [name for name in wanted if name not in had]
    for name, restored, seconds, extra in restorations(case, noisy, sigma, missing, pipeline, threads):
        figures = metrics.denoised(restored, case.clean, noisy, sigma, case.law)
        row["methods"][name] = {**figures, "seconds": round(seconds, 2), **extra}
    row["methods"] = {name: had[name] if name in had else row["methods"][name] for name in wanted}
    return row


def peers_of(row: Row, noisy: dict[str, float], earlier: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Figures of peers in a row of an earlier result, whose noisy image gives the same figures to six digits."""
    for other in earlier:
        if all(other[key] == row[key] for key in ("volume", "shape", "law", "noise")):
            figures = other["methods"][NOISY]
            pairs = [(figures[key], value) for key, value in noisy.items()]
            if all(one == two or (one and two and math.isclose(one, two, rel_tol=1e-6)) for one, two in pairs):
                return {name: found for name, found in other["methods"].items() if name in PEERS}
    return {}


def restorations(
    case: Case, noisy: Image, sigma: float, wanted: Sequence[str], pipeline: Pipeline, threads: int
) -> Iterator[tuple[str, Image, float, dict[str, float]]]:
    """(method, its image, its time, what else it tells) in the order of ``wanted``."""
    simple = {
        NOISY: lambda: noisy,
        NLM_DEFAULT: partial(baselines.NLM_DEFAULT, noisy, sigma, case.law, threads),
        NLM: partial(baselines.NLM_BEST, noisy, sigma, case.law, threads),
        BM4D: partial(baselines.bm4d, noisy, sigma, case.law),
        BASE: partial(baselines.classical_base, noisy, sigma, case.law),
    }
    for name in wanted:
        begin, extra = time.perf_counter(), {}
        if name in simple:
            restored = simple[name]()
        else:
            restored, restoration = methods.medidiff(pipeline, noisy, case, sigma if name == KNOWN else None)
            extra["sigma_ratio"] = restoration.record["noise_sigma"] / (sigma * case.scaling.scale)
        yield name, restored, time.perf_counter() - begin, extra


def tune_nlm(case: Case, threads: int) -> str:
    """PSNR of settings of DIPY's NLM on the middle 64 voxels of one image."""
    small = Case(case.name, case.subject, case.modality, case.spacing, cases.central(case.clean, 64), case.scaling)
    rows = []
    for setting in methods.NLM_CANDIDATES:
        begin = time.perf_counter()
        figures = [
            foreground_psnr(setting(small.noisy(p), small.sigma(p), small.law, threads), small.clean) for p in LEVELS
        ]
        seconds = (time.perf_counter() - begin) / len(LEVELS)
        rows.append(
            [
                setting,
                *(report.figure(f) for f in figures),
                report.figure(float(np.mean(figures))),
                report.figure(seconds, 1),
            ]
        )
    return report.table([f"DIPY NLM on {case.name}, PSNR in dB", *(f"{p:g} %" for p in LEVELS), "mean", "s"], rows)


def value(row: Row, method: str, metric: str = "psnr") -> float:
    """One figure of a row; NaN when the method was not run."""
    return float(row["methods"].get(method, {}).get(metric, float("nan")))


def gains(rows: Sequence[Row], percent: float, method: str, over: str) -> np.ndarray:
    """PSNR differences of two methods at a noise level, one a volume."""
    return np.array([value(row, method) - value(row, over) for row in rows if row["noise"] == percent])


def verdicts(rows: Sequence[Row], varying: Sequence[Row] = ()) -> list[report.Verdict]:
    """The goals: how much better than NLM and BM4D, never worse than the input, blind as good as told, without bias."""
    levels = sorted({row["noise"] for row in rows})
    found = [over_nlm(rows, level, name) for level in levels if level in HIGH for name in (NLM_DEFAULT, NLM)]
    if LOW in levels:
        worst = min(float(gains(rows, LOW, name, NOISY).min()) for name in (KNOWN, BLIND))
        found.append(
            report.Verdict(f"no volume below its input at {LOW:g} %", f"smallest gain {worst:+.2f} dB", worst >= 0)
        )
    for percent in levels:
        loss = gains(rows, percent, KNOWN, BLIND)
        goal = f"noise estimated within {LARGEST_BLIND_LOSS} dB of noise known at {percent:g} %"
        found.append(
            report.Verdict(
                goal,
                f"loss {loss.mean():.2f} dB in the mean, {loss.max():.2f} dB at worst",
                bool(loss.mean() <= LARGEST_BLIND_LOSS),
            )
        )
    if varying:
        found.append(steady(rows, varying))
    found += [over_bm4d(rows, percent) for percent in levels]
    for percent in levels:
        bias = mean_of([value(row, BLIND, "dark_bias") for row in rows if row["noise"] == percent])
        goal = f"bias where it is dark below {LARGEST_DARK_BIAS} sigma at {percent:g} %"
        found.append(
            report.Verdict(goal, f"{bias:+.2f} sigma in the mean", bool(abs(bias) < LARGEST_DARK_BIAS))
            if math.isfinite(bias)
            else report.Verdict(goal, "nothing is dark", None)
        )
    return found


def steady(rows: Sequence[Row], varying: Sequence[Row]) -> report.Verdict:
    """What is lost where the noise is not the same everywhere, against as much noise that is."""
    even = {(row["subject"], row["volume"]): value(row, BLIND) for row in rows if row["noise"] == VARYING}
    loss = np.array([even[row["subject"], row["volume"]] - value(row, BLIND) for row in varying])
    return report.Verdict(
        f"noise that varies threefold over the scan loses less than {LARGEST_VARYING_LOSS} dB at {VARYING:g} %",
        f"loss {loss.mean():.2f} dB in the mean, {loss.max():.2f} dB at worst",
        bool(loss.mean() < LARGEST_VARYING_LOSS),
    )


def over_bm4d(rows: Sequence[Row], percent: float) -> report.Verdict:
    """The gain over BM4D where both are told the true noise."""
    least = GAIN_OVER_BM4D.get(percent, 0.0)
    goal = f"at least {least} dB over BM4D at {percent:g} %"
    gain = gains(rows, percent, KNOWN, BM4D)
    if not np.isfinite(gain).all():
        return report.Verdict(goal, "BM4D was not run", None)
    return report.Verdict(
        goal, f"{gain.mean():+.2f} dB in the mean, {gain.min():+.2f} dB at worst", bool(gain.mean() >= least)
    )


def over_nlm(rows: Sequence[Row], percent: float, nlm: str) -> report.Verdict:
    """The gain over NLM of medidiff as users run it: noise estimated, while NLM is told the true sigma."""
    goal = f"at least {GAIN_OVER_NLM} dB over {nlm}, at {percent:g} %"
    gain = gains(rows, percent, BLIND, nlm)
    if not np.isfinite(gain).all():
        return report.Verdict(goal, "DIPY is not installed", None)
    reached = int((gain >= GAIN_OVER_NLM).sum())
    text = (
        f"{gain.mean():+.2f} dB in the mean, {gain.min():+.2f} dB at worst, reached on {reached} of {gain.size} volumes"
    )
    return report.Verdict(goal, text, bool(gain.mean() >= GAIN_OVER_NLM))


def line(row: Row) -> str:
    """One row for a person who waits."""
    figures = "  ".join(
        f"{name.split(',')[0] if name not in (KNOWN, BLIND) else name[10:]} {value(row, name):.2f}"
        for name in row["methods"]
    )
    return f"{row['volume'][:28]:28} {row['noise']:>4g} %  {figures}"


def mean_table(rows: Sequence[Row], metric: str, digits: int) -> str:
    """Methods by noise levels, mean over volumes."""
    levels, names = sorted({row["noise"] for row in rows}), list(rows[0]["methods"])
    body = []
    for name in names:
        values = [[value(row, name, metric) for row in rows if row["noise"] == level] for level in levels]
        body.append([name, *(report.figure(mean_of(v), digits, sign=metric == "dark_bias") for v in values)])
    return report.table(["", *(f"{level:g} %" for level in levels)], body)


def mean_of(values: Sequence[float]) -> float:
    """Mean of what could be measured."""
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def volume_table(rows: Sequence[Row]) -> str:
    """PSNR of every volume and what medidiff gains over NLM and its input."""
    names = list(rows[0]["methods"])
    body = [
        [
            f"{row['volume']} ({row['noise']:g} %)",
            *(report.figure(value(row, name)) for name in names),
            report.figure(value(row, BLIND) - value(row, NLM), sign=True),
            report.figure(value(row, BLIND) - value(row, NOISY), sign=True),
            report.figure(value(row, BLIND, "sigma_ratio")),
        ]
        for row in sorted(rows, key=lambda row: (row["noise"], row["volume"]))
    ]
    return report.table(["volume", *names, "gain over NLM", "gain over input", "estimated / true sigma"], body)


def summary(result: dict[str, Any], rows: Sequence[Row]) -> str:
    """The block for the README: one table and how it came about."""
    levels = sorted({row["noise"] for row in rows})
    body = []
    for name in rows[0]["methods"]:
        cells = []
        for level in levels:
            chosen = [row for row in rows if row["noise"] == level]
            psnr, ssim = (mean_of([value(row, name, metric) for row in chosen]) for metric in ("psnr", "ssim"))
            cells.append(f"{report.figure(psnr)} / {report.figure(ssim, 3)}")
        body.append([name, *cells])
    volumes, subjects = len({row["volume"] for row in rows}), len({row["subject"] for row in rows})
    where = result["environment"]
    law = " and ".join(sorted({row["law"].capitalize() for row in rows}))
    return f"""{report.table(["PSNR in dB / SSIM", *(f"{level:g} % noise" for level in levels)], body)}

Mean over {volumes} volumes of {subjects} subjects ({result["data"]}); pipeline {where["pipeline"]} {where["version"]}.
{law} noise in percent of the bright level (99.5th percentile of the foreground); PSNR over the foreground with the
reference's maximum as peak, SSIM in 3-D. All methods see the same images and are told the true noise, except the last
row. DIPY's NLM: {result["nlm"]}."""


def document(result: dict[str, Any], rows: Sequence[Row]) -> str:
    """Everything that was found, in Markdown."""
    parts = [
        "# Quality",
        summary(result, rows),
        "## Goals",
        "\n".join(str(verdict) for verdict in verdicts(rows, result["varying"])),
        *varying_part(result["varying"]),
        "## Bias where the image is dark (mean error in sigma where the reference is below 1.5 sigma)",
        mean_table(rows, "dark_bias", 3),
        "## Variance of what was removed, over that of the noise (1: all noise and nothing else)",
        mean_table(rows, "removed", 3),
        "## PSNR of every volume, dB",
        volume_table(rows),
        "The references hold noise of their own (up to 3 %), which counts against every method, most at low noise.",
        made_with(result),
    ]
    return "\n\n".join(parts)


def varying_part(rows: Sequence[Row]) -> list[str]:
    """Where the noise varies over the scan."""
    if not rows:
        return []
    return [
        f"## Noise that varies, PSNR in dB (once amid the faces to three times in the middle, {VARYING:g} % in all)",
        mean_table(rows, "psnr", 2),
        "BM4D is told the root mean square of the noise, medidiff nothing.",
    ]


def made_with(result: dict[str, Any]) -> str:
    """What the figures depend on, in one sentence."""
    where = result["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    return (
        f"Weights {where['weights_sha256'][:12]}, {where['device']}, {where['threads']} threads, "
        f"seed {result['seed']}, {result['seconds']} s; {packages}."
    )


if __name__ == "__main__":
    main()
