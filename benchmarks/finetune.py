"""Fine-tuning on five noisy scans of an unseen kind, without clean ones: ``python -m benchmarks.finetune``.

Noise is added to scans whose originals only judge. ``medidiff finetune`` gets the noisy files and nothing else,
is told their noise (or estimates it, with ``--estimate``), and is compared with the pipeline that it began with: on
these five scans, and on a sixth of the same kind. One MR volume in all tasks tells what was forgotten.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import cases, report
from benchmarks.report import Verdict
from medidiff import bundles, pipelines
from medidiff.cli import main as medidiff
from medidiff.config import ComputeOptions
from medidiff.physics import intensity
from medidiff.physics.fidelity import foreground_psnr
from medidiff.pipelines import Pipeline
from medidiff.training import pack, validation
from medidiff.training.finetune import Settings
from medidiff.training.objective import predict_mean

Image = NDArray[np.float32]
GOAL, MINUTES = 0.3, 10.0
LEARNED = 5
MEMORY = "t1w_sag_anon.nii.gz"  # what was forgotten is told by this scan


@dataclass(frozen=True)
class Scan:
    """One clean scan, in the units of its file."""

    name: str
    clean: Image
    affine: NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """Six scans of a kind, the first five to learn from."""

    what: str
    law: str
    scans: Callable[[Path], list[Scan]]


def read(path: Path) -> Scan:
    image = nib.load(path)
    return Scan(path.name.removesuffix(".nii.gz"), image.get_fdata(dtype=np.float32), image.affine)


def bone(folder: Path) -> list[Scan]:
    """Six slabs of one specimen, two slices apart."""
    whole = read(folder / "microct_bone_ciclope.nii.gz")
    starts = range(0, 6 * 17, 17)
    return [Scan(f"slab {k + 1}", whole.clean[:, :, s : s + 15], whole.affine) for k, s in enumerate(starts)]


def cells(folder: Path) -> list[Scan]:
    """Six parts of one section."""
    whole = read(folder / "fluor_cells_a.nii.gz")
    corners = [(i, j) for i in range(3) for j in range(2)]
    return [
        Scan(f"part {k + 1}", whole.clean[58 * i : 58 * i + 58, 88 * j : 88 * j + 88], whole.affine)
        for k, (i, j) in enumerate(corners)
    ]


def body(folder: Path) -> list[Scan]:
    """CT of six bodies, as different as they are."""
    names = ["ct_chest_abdomen", "ct_lung_elastix", "ct_spleen_msd", "ct_head_ge", "cta_chest_ts", "ct_abdomen_ts"]
    return [middle(read(folder / f"{name}.nii.gz"), (96, 96, 48)) for name in names]


def middle(scan: Scan, edges: tuple[int, int, int]) -> Scan:
    window = tuple(
        slice((n - min(n, edge)) // 2, (n + min(n, edge)) // 2) for n, edge in zip(scan.clean.shape, edges, strict=True)
    )
    return Scan(scan.name, np.ascontiguousarray(scan.clean[window]), scan.affine)


KINDS = {
    "bone": Kind("micro-CT of trabecular bone, six slabs of a specimen", "gaussian", bone),
    "bone-rician": Kind("the same with Rician noise", "rician", bone),
    "cells": Kind("fluorescence microscopy of labelled cells, six parts of a section", "gaussian", cells),
    "ct": Kind("CT of a trunk, lung, spleen, head and chest; the sixth is an abdomen", "gaussian", body),
}


def add_noise(scan: Scan, percent: float, law: str, seed: int) -> Image:
    """Noise of ``percent`` of the bright level, in the scan's units."""
    scaling, _ = intensity.normalise(scan.clean, modality_of(scan))
    sigma = percent / 100 * scaling.bright * scaling.scale
    rng = np.random.default_rng([seed, round(100 * percent)])
    real, imaginary = (sigma * rng.standard_normal(scan.clean.shape) for _ in range(2))
    noisy = scan.clean + real if law == "gaussian" else np.hypot(scan.clean + real, imaginary)
    return np.asarray(noisy, dtype=np.float32)


def percent_of(image: Image, scan: Scan) -> float:
    """The noise that was added, in percent of the noisy scan's own bright level, which is what a user would give."""
    scaling, _ = intensity.normalise(image, modality_of(scan))
    return 100 * float(np.std(image - scan.clean)) / (scaling.bright * scaling.scale)


def modality_of(scan: Scan) -> str:
    """What a reader takes the file for."""
    return "CT" if float(scan.clean.min()) < -500 else "MR"


def quality(restored: Image, scan: Scan) -> float:
    """PSNR in dB over the foreground; intensities count from the darkest voxel."""
    low = np.float32(min(float(scan.clean.min()), 0.0))
    return foreground_psnr(restored - low, scan.clean - low)


def judge(
    path: Path, scans: list[Scan], noisy: list[Image], levels: list[float] | list[str], threads: int
) -> list[float]:
    """PSNR of every scan, restored by a pipeline."""
    pipeline = pipelines.load(path, compute=ComputeOptions(device="cpu", threads=threads))
    return [
        quality(pipeline((image, scan.affine), noise=level, force=True).mean, scan)
        for scan, image, level in zip(scans, noisy, levels, strict=True)
    ]


def forgotten(base: Path, tuned: Path, volume: Path) -> dict[str, float]:
    """What an MR scan loses in each setting, in dB of PSNR."""
    _, unit = intensity.normalise(read(volume).clean, "MR")
    unit = unit[tuple(slice(n // 2 - 32, n // 2 + 32) for n in unit.shape)]
    levels, ceiling = pack.quantise(unit, "MR")
    one = pack.Pack((pack.Entry("one", "one", "validation", "MR", (1.0, 1.0, 1.0), ceiling, 0.0, {}),), (levels,))
    found = []
    for path in (base, tuned):
        network = bundles.read(path).network()
        with torch.inference_mode():
            table = validation.evaluate(
                one, lambda problem, network=network: predict_mean(network, problem), torch.device("cpu")
            )
        found.append({setting: figures["network"] for setting, figures in table.items()})
    return {setting: round(found[1][setting] - value, 3) for setting, value in found[0].items()}


def run(name: str, options: argparse.Namespace, folder: Path, base: Path, threads: int) -> dict[str, Any]:
    """Fine-tune on one kind; everything that was found."""
    kind = KINDS[name]
    scans = kind.scans(folder)
    noisy = [add_noise(scan, options.noise, kind.law, options.seed + index) for index, scan in enumerate(scans)]
    levels = [percent_of(image, scan) for image, scan in zip(noisy, scans, strict=True)]
    told = "auto" if options.estimate else f"{np.mean(levels[:LEARNED]):.3f}"
    with tempfile.TemporaryDirectory() as home:
        tuned, files = Path(home) / "tuned", []
        for index, (scan, image) in enumerate(zip(scans[:LEARNED], noisy, strict=False)):
            files.append(str(Path(home) / f"{index}.nii.gz"))
            nib.save(nib.Nifti1Image(image, scan.affine), files[-1])
        command = ["finetune", *files, "-p", str(base), "-o", str(tuned), "--minutes", str(options.minutes)]
        command += ["--noise", told, "--learning-rate", str(options.learning_rate)]
        wall, processor = time.monotonic(), time.process_time()
        code = medidiff([*command, "--threads", str(threads), "--device", "cpu", "--seed", str(options.seed)])
        if code:
            raise SystemExit(code)
        wall, processor = time.monotonic() - wall, time.process_time() - processor
        asked = ["auto"] * len(scans) if options.estimate else levels
        before, after = (judge(path, scans, noisy, asked, threads) for path in (base, tuned))
        settings = json.loads((tuned / "configs/metadata.json").read_text(encoding="utf-8"))["medidiff"]
        lost = forgotten(base, tuned, folder / MEMORY)
    rows = [
        {"scan": scan.name, "noisy": quality(image, scan), "before": old, "after": new, "gain": new - old}
        for scan, image, old, new in zip(scans, noisy, before, after, strict=True)
    ]
    return {
        "kind": name,
        "what": kind.what,
        "law": kind.law,
        "rows": rows,
        "gain": float(np.mean([row["gain"] for row in rows[:LEARNED]])),
        "gain_unseen": rows[-1]["gain"],
        "story": settings.get("finetuned", [None])[-1],
        "wall_seconds": round(wall),
        "processor_seconds": round(processor),
        "forgotten": lost,
    }


def verdict(found: dict[str, Any]) -> Verdict:
    """Whether a kind reaches the goal."""
    minutes = found["processor_seconds"] / 60
    return Verdict(
        f"{found['kind']}: at least {GOAL:g} dB over the shipped pipeline on five noisy scans in {MINUTES:g}"
        " processor minutes, without clean ones",
        f"{found['gain']:+.2f} dB, {found['gain_unseen']:+.2f} dB on a sixth scan, {minutes:.1f} processor minutes",
        found["gain"] >= GOAL and minutes <= MINUTES * 1.05,
    )


def document(result: dict[str, Any]) -> str:
    """Everything that was found, in Markdown."""
    where = result["environment"]
    how = "estimate the noise" if result["estimated"] else "are told the noise"
    made = (
        f"Pipeline {where['pipeline']} {where['version']}, weights {where['weights_sha256'][:12]};"
        f" {result['noise_percent']:g} % white noise, seed {result['seed']}, {where['threads']} threads. Both"
        f" pipelines {how}. PSNR in dB over the foreground, its peak the reference's maximum. The references are real"
        " scans with noise of their own, which caps all figures: where it is estimated, it is taken for noise too."
    )
    parts = [
        "# Fine-tuning on noisy scans alone",
        made,
        report.goals(result["verdicts"]),
    ]
    for found in result["found"]:
        body = [
            [row["scan"] + (" (never seen)" if index == LEARNED else "")]
            + [report.figure(row[key], sign=key == "gain") for key in ("noisy", "before", "after", "gain")]
            for index, row in enumerate(found["rows"])
        ]
        story = found["story"]
        estimate = (
            "nothing surely better was found"
            if story is None
            else (
                f"estimated without the truth {story['gain_db']['estimate']:+.2f} dB (standard error"
                f" {story['gain_db']['standard_error']:.2f}); {story['iterations']} iterations"
            )
        )
        lost = ", ".join(f"{setting} {value:+.2f}" for setting, value in found["forgotten"].items())
        how = (
            f"On what was held out: {estimate}, {found['processor_seconds']} processor seconds in"
            f" {found['wall_seconds']} s. An MR brain afterwards, in dB: {lost}."
        )
        table = report.table(["scan", "noisy", "shipped", "fine-tuned", "gain"], body)
        parts += [f"## {found['kind']}: {found['what']}", table, how]
    return "\n\n".join(parts)


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=["bone", "cells"])
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--noise", type=float, default=9.0, help="percent of the bright level")
    parser.add_argument("--estimate", action="store_true", help="the noise is estimated, not told")
    parser.add_argument("--learning-rate", type=float, default=Settings.learning_rate)
    parser.add_argument("--pipeline", default="mr")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    options = parser.parse_args()
    folder = cases.real_data()
    if folder is None:
        raise SystemExit("Set MEDIDIFF_REAL_DATA to the folder that holds the real scans.")
    threads = report.use_threads(options.threads)
    base = bundles.locate(options.pipeline).path
    pipeline = pipelines.load(base)
    assert isinstance(pipeline, Pipeline)
    found = [run(name, options, folder, base, threads) for name in options.kind]
    result = {
        "environment": report.environment(pipeline, threads),
        "noise_percent": options.noise,
        "estimated": options.estimate,
        "seed": options.seed,
        "minutes": options.minutes,
        "verdicts": [vars(verdict(one)) for one in found],
        "found": found,
    }
    text = document(result)
    print("\n" + text)
    report.write("finetune", result, text, options.results)


if __name__ == "__main__":
    main()
