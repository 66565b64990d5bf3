"""Restores single volumes of repeated acquisitions and compares them with the mean of the others: real noise.

    python -m benchmarks.repeats           4-D files in $MEDIDIFF_REAL_DATA/data/repeats, but those that taught
    python -m benchmarks.repeats --files bold.nii.gz

Nothing is simulated. The reference is the mean with its Rician bias removed; it keeps 1/sqrt(repeats) of the noise, and
whatever moved or drifted between repeats counts against every method. The true sigma comes from differences of
successive repeats.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import cases, methods, report
from benchmarks.cases import Case, Image
from medidiff import pipelines, scans
from medidiff.config import ComputeOptions
from medidiff.evaluation import baselines
from medidiff.physics import intensity
from medidiff.physics.fidelity import foreground_psnr
from medidiff.physics.rician import remove_rician_bias
from medidiff.training.build_pack import read_table

UNSTEADY = 4  # first volumes of a series, which may not be at steady state
NOISY, NLM, NLM_BLIND, BM4D = "single volume", "DIPY NLM, sigma of the repeats", "DIPY NLM, medidiff's sigma", "BM4D"
BASE, KNOWN, BLIND = "classical base", "medidiff, sigma of the repeats", "medidiff, noise estimated"

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    threads = report.use_threads(options.threads)
    pipeline = pipelines.load(options.pipeline, compute=ComputeOptions(device=options.device))
    rows = []
    for path in files(options):
        volumes = scans.open_scan(path).volumes
        rows += [
            measure(path.name.split(".")[0], volumes, index, pipeline, threads, options.with_bm4d)
            for index in chosen(len(volumes), options.volumes)
        ]
    result = {"environment": report.environment(pipeline, threads), "rows": rows}
    text = document(result)
    print(text)
    report.write("repeats", result, text, options.results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=Path, nargs="+", help="4-D NIfTI files whose volumes show the same scene")
    parser.add_argument("--volumes", type=int, default=3, help="how many volumes of each file to restore (default: 3)")
    parser.add_argument("--pipeline", default="mr")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument("--with-bm4d", action="store_true", help="also BM4D (non-commercial licence)")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    return parser.parse_args(arguments)


def files(options: argparse.Namespace) -> list[Path]:
    """The named files, or all repeats among the real scans that taught the pipelines nothing."""
    real = cases.real_data()
    found = options.files or (held_out(real) if real else [])
    if not found:
        raise SystemExit("No repeated acquisitions: name some with --files, or set MEDIDIFF_REAL_DATA.")
    return found


def held_out(folder: Path) -> list[Path]:
    """The repeats in a folder that its manifest does not list for training."""
    rows = read_table(folder / "MANIFEST.csv", ("file", "split"))
    taught = {row["file"] for _, row in rows if row["split"] == "train"}
    return [path for path in sorted((folder / "repeats").glob("*.nii.gz")) if f"repeats/{path.name}" not in taught]


def chosen(count: int, wanted: int) -> list[int]:
    """Indices of volumes at steady state, evenly spaced."""
    first = min(UNSTEADY, count - 1)
    return sorted({int(i) for i in np.linspace(first, count - 1, wanted).round()})


def measure(
    name: str, volumes: Sequence[Any], index: int, pipeline: pipelines.Pipeline, threads: int, with_bm4d: bool
) -> Row:
    """All methods on one volume."""
    steady = [volume.array for volume in volumes[min(UNSTEADY, len(volumes) - 2) :]]
    others = [volume.array for i, volume in enumerate(volumes) if i != index and i >= min(UNSTEADY, len(volumes) - 2)]
    scaling, mean = intensity.normalise(np.mean(others, axis=0, dtype=np.float32), "MR")
    noisy = scaling.apply(volumes[index].array)
    sigma = temporal_sigma([scaling.apply(array) for array in steady], mean)
    clean = remove_rician_bias(torch.from_numpy(mean / np.float32(sigma))).numpy() * np.float32(sigma)
    case = Case(name, name, "MR", volumes[0].spacing, clean, scaling)
    known, _ = methods.medidiff(pipeline, noisy, case, sigma)
    blind, restoration = methods.medidiff(pipeline, noisy, case, None)
    estimated = restoration.record["noise_sigma"] / scaling.scale
    images = {NOISY: noisy}
    if baselines.has("dipy"):
        images[NLM] = baselines.NLM_BEST(noisy, sigma, case.law, threads)
        images[NLM_BLIND] = baselines.NLM_BEST(noisy, max(estimated, 1e-6), case.law, threads)
    if with_bm4d:
        images[BM4D] = baselines.bm4d(noisy, sigma, case.law)
    images |= {BASE: baselines.classical_base(noisy, sigma, case.law), KNOWN: known, BLIND: blind}
    return {
        "file": name,
        "volume": index,
        "sigma_percent": 100 * sigma,
        "estimated_percent": 100 * estimated,
        "psnr": {method: foreground_psnr(image, clean) for method, image in images.items()},
    }


def temporal_sigma(volumes: Sequence[Image], clean: Image) -> float:
    """Noise from differences of successive repeats, over the foreground: the Rician law is nearly Gaussian there."""
    inside = intensity.foreground(clean)
    differences = np.diff(np.stack([volume[inside] for volume in volumes]), axis=0)
    return float(np.median(np.abs(differences)) / 0.67448975 / np.sqrt(2))


def document(result: dict[str, Any]) -> str:
    """Everything that was found, in Markdown."""
    rows, where = result["rows"], result["environment"]
    names = list(rows[0]["psnr"])
    body = [
        [
            f"{row['file']}, volume {row['volume']}",
            report.figure(row["sigma_percent"]),
            report.figure(row["estimated_percent"]),
            *(report.figure(row["psnr"][name]) for name in names),
        ]
        for row in rows
    ]
    return "\n\n".join(
        [
            "# Repeated acquisitions",
            report.table(["PSNR in dB", "noise of the repeats, %", "noise estimated, %", *names], body),
            (
                "Reference: mean of the other volumes. Noise in percent of the bright level. Motion, drift and "
                "physiology between repeats limit every figure."
            ),
            f"Pipeline {where['pipeline']} {where['version']}, weights {where['weights_sha256'][:12]}.",
        ]
    )


if __name__ == "__main__":
    main()
