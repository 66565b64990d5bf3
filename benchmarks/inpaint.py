"""Measures how well holes are filled, with the metric of the BraTS local-synthesis challenge.

    python -m benchmarks.inpaint                     validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.inpaint --volumes 2 --crop 64 --holes 1

Holes have the shape of tumours and lie in tissue that looks healthy; what was in them is known and is the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report, volumes
from benchmarks.cases import Case, Image
from medidiff.config import RestoreOptions
from medidiff.evaluation import degrade, metrics
from medidiff.evaluation.baselines import AROUND, biharmonic, mean_of_rim
from medidiff.evaluation.degrade import LARGEST, MILLILITRES, millilitres
from medidiff.evaluation.ours import classical
from medidiff.pipelines import Pipeline

Mask = NDArray[np.bool_]
Row = dict[str, Any]

MEAN, BIHARMONIC, BASE, MEDIDIFF = "mean of the rim", "biharmonic", "medidiff's classical base", "medidiff"
METHODS = (MEAN, BIHARMONIC, BASE, MEDIDIFF)
GOAL = 2.0  # dB over its own base and the biharmonic filling


def main(arguments: Sequence[str] | None = None) -> None:
    parser = volumes.parser(__doc__, crop=96)
    parser.add_argument("--holes", type=int, default=4, help="holes a volume, each filled alone (default: 4)")
    options = parser.parse_args(arguments)
    threads = report.use_threads(options.threads)
    pipeline = volumes.load(options, "inpaint")
    choice = volumes.choose(options)
    begin, rows = time.perf_counter(), []
    for case in choice.cases:
        for number in range(options.holes):
            hole = healthy_hole(case, options.seed + number)
            if hole is not None:
                rows.append(measure(case, hole, number, pipeline))
                print(line(rows[-1]), flush=True)
    if not rows:
        raise SystemExit("No hole fits into healthy-looking tissue.")
    volumes.publish(
        "inpaint",
        options,
        choice,
        pipeline,
        threads=threads,
        seconds=time.perf_counter() - begin,
        verdicts=verdicts(rows),
        document=document,
        rows=rows,
    )


def healthy_hole(case: Case, seed: int) -> Mask | None:
    """A tumour-shaped hole in healthy-looking tissue, the same on every machine; ``None`` where none fits."""
    return degrade.healthy_hole(case.clean, case.spacing, f"{case.name} {seed}")


def measure(case: Case, hole: Mask, number: int, pipeline: Pipeline) -> Row:
    """All methods on one hole; all see zeros in it."""
    scan = np.where(hole, np.float32(0), case.clean)
    row: Row = {
        "volume": case.name,
        "subject": case.subject,
        "hole": number,
        "voxels": int(hole.sum()),
        "millilitres": round(millilitres(hole, case.spacing), 2),
        "methods": {},
    }
    methods: dict[str, Callable[[], Image]] = {
        MEAN: partial(mean_of_rim, scan, hole),
        BIHARMONIC: partial(biharmonic, scan, hole),
        BASE: partial(filled, case, scan, hole, classical(pipeline)),
        MEDIDIFF: partial(filled, case, scan, hole, pipeline),
    }
    for name, make in methods.items():
        begin = time.perf_counter()
        image = make()
        seconds = round(time.perf_counter() - begin, 2)
        if name == MEDIDIFF:  # in the scan's own units
            row["changed_outside"] = int(((image != volumes.volume_of(case, scan).array) & ~hole).sum())
        if name in (BASE, MEDIDIFF):
            image = case.scaling.apply(image)
        row["methods"][name] = {**metrics.brats_inpainting(image, case.clean, hole), "seconds": seconds}
    return row


def filled(case: Case, scan: Image, hole: Mask, pipeline: Pipeline) -> Image:
    """The product's own path, in the units of the case's file."""
    return pipeline.restore(volumes.volume_of(case, scan), RestoreOptions(), hole=hole).mean


def figures(rows: Sequence[Row], method: str, metric: str = "psnr") -> NDArray[np.float64]:
    """One figure of every hole."""
    return np.array([row["methods"][method][metric] for row in rows])


def verdicts(rows: Sequence[Row]) -> list[report.Verdict]:
    """The goals: dB over both fillings, and nothing changed outside."""
    found = []
    for other in (BASE, BIHARMONIC):
        gain = figures(rows, MEDIDIFF) - figures(rows, other)
        text = f"{gain.mean():+.2f} dB in the mean of {gain.size} holes, {(gain > 0).sum()} of them better"
        found.append(report.Verdict(f"at least {GOAL:+.1f} dB over {other}", text, bool(gain.mean() >= GOAL)))
    worst = max(row["changed_outside"] for row in rows)
    return [*found, report.Verdict("no voxel changed outside of holes", f"{worst} at most", worst == 0)]


def line(row: Row) -> str:
    """One row for a person who waits."""
    found = "  ".join(f"{name.split(' (')[0]} {one['psnr']:.2f}" for name, one in row["methods"].items())
    return f"{row['volume'][:24]:24} hole {row['hole']} {row['voxels']:6d} voxels  {found}"


def spread(values: NDArray[np.float64], digits: int) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


def document(result: dict[str, Any], listing: str) -> str:
    """Everything that was found, in Markdown."""
    rows, where = result["rows"], result["environment"]
    judged = (
        f"{result['data']}; {len(rows)} tumour-shaped holes of {min(row['voxels'] for row in rows)} to"
        f" {max(row['voxels'] for row in rows)} voxels in healthy-looking tissue; pipeline {where['pipeline']}"
        f" {where['version']}. Metric of the BraTS local-synthesis challenge: inside the hole, over the truth's maximum"
        " there; SSIM is the 3-D map of the images zeroed outside of the hole, computed with MONAI, equal to that of"
        " torchmetrics to 1e-5. Figures of the challenge itself were measured on other images and are not comparable."
    )
    means = [
        [
            name,
            spread(figures(rows, name, "ssim"), 3),
            spread(figures(rows, name), 2),
            spread(figures(rows, name, "mse"), 4),
            report.figure(float(figures(rows, name, "seconds").mean()), 1),
        ]
        for name in METHODS
    ]
    each = [
        [
            f"{row['volume']}, hole {row['hole']}",
            row["voxels"],
            f"{row['millilitres']:.1f}",
            *(report.figure(row["methods"][name]["psnr"]) for name in METHODS),
            *(report.figure(row["methods"][name]["ssim"], 3) for name in (BIHARMONIC, BASE, MEDIDIFF)),
            row["changed_outside"],
        ]
        for row in rows
    ]
    ssims = [f"SSIM {name}" for name in (BIHARMONIC, BASE, MEDIDIFF)]
    limits = (
        f"Biharmonic filling sees the hole's box and {AROUND} voxels around it; holes have at most {LARGEST} voxels and"
        f" {MILLILITRES:g} mL, so that it takes seconds and they stay as large as tumours are."
    )
    parts = [
        "# Inpainting",
        judged,
        report.table(["", "SSIM", "PSNR, dB", "MSE", "seconds"], means),
        report.goals(result["verdicts"]),
        "## Every hole: PSNR in dB",
        report.table(["hole", "voxels", "mL", *METHODS, *ssims, "changed outside"], each),
        limits,
        volumes.closing(result, listing),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
