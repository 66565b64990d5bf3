"""Measures what the 2-D pipeline gains over classical methods, on slices and micrographs, on identical input.

    python -m benchmarks.slices                     validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.slices --volumes 2 --crop 96
    python -m benchmarks.slices --with-bm3d         pip install bm3d, whose licence is non-commercial

White Gaussian noise of 15, 25 and 50 of 255, of which scikit-image's non-local means and BM3D are told and medidiff
estimates it; pixels two or four times too coarse; holes. Three slices of every volume.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch

from benchmarks import cases, report, volumes
from benchmarks.cases import Case, Image
from medidiff.config import RestoreOptions
from medidiff.evaluation import degrade, metrics
from medidiff.evaluation.baselines import biharmonic, bm3d, interpolated, mean_of_rim, nlm_skimage
from medidiff.evaluation.ours import classical
from medidiff.physics import degradations
from medidiff.physics.fidelity import foreground, psnr
from medidiff.physics.operators import Profile
from medidiff.pipelines import Pipeline
from medidiff.training.validation import HOLE_RADIUS

LEVELS = (15, 25, 50)  # of 255
COARSE: tuple[tuple[str, tuple[int, int, int], Profile], ...] = (
    ("2 x 2, k-space", (2, 2, 1), "kspace"),
    ("4 along one axis, Gaussian", (1, 4, 1), "gaussian"),
)
SLICES = 3
GOAL = 0.5  # dB over non-local means and BM3D
NOISY, NLM, BM3D = "noisy", "scikit-image NLM", "BM3D"
SPLINE, BIHARMONIC, RIM = "cubic spline", "biharmonic", "mean of the rim"
BASE, MEDIDIFF = "medidiff's classical base", "medidiff"
SIGNED = RestoreOptions(force=True)  # Gaussian noise makes values of MR negative, which no magnitude image has

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = volumes.parser(__doc__, crop=128)
    parser.set_defaults(pipeline="image2d")
    parser.add_argument("--with-bm3d", action="store_true", help="also BM3D (a second an image)")
    options = parser.parse_args(arguments)
    threads = report.use_threads(options.threads)
    pipelines = {task: volumes.load(options, task) for task in ("denoise", "superres", "inpaint")}
    begin, rows = time.perf_counter(), []
    for case, number in images(options):
        found = [*denoised(case, pipelines["denoise"], options.seed, with_bm3d=options.with_bm3d)]
        found += refined(case, pipelines["superres"])
        found += filled(case, pipelines["inpaint"], number + options.seed)
        rows += [{"volume": case.name, "subject": case.subject, "slice": number, **row} for row in found]
        print(f"{case.name[:30]:30} slice {number}", *(line(row) for row in found), sep="\n  ", flush=True)
    if not rows:
        raise SystemExit("There is no image to judge on.")
    result = {
        "environment": report.environment(pipelines["denoise"], threads),
        "data": described(rows, options),
        "seed": options.seed,
        "seconds": round(time.perf_counter() - begin),
        "verdicts": [vars(verdict) for verdict in verdicts(rows)],
        "rows": rows,
    }
    text = document(result)
    print("\n" + text)
    report.write("slices", result, text, options.results)


def images(options: argparse.Namespace) -> Iterator[tuple[Case, int]]:
    """Slices of the volumes of every modality, evenly spaced, each a case of one voxel along its last axis."""
    if options.files or options.manifest is None:
        found = (cases.load(path, options.crop) for path in options.files or cases.SAMPLES)
        yield from slices_of(islice(found, options.volumes))
        return
    for modality in ("MR", "CT", "OT"):
        found = cases.from_manifest(options.manifest, options.split, modality, options.crop)
        yield from slices_of(islice(found, options.volumes))


def slices_of(found: Iterator[Case]) -> Iterator[tuple[Case, int]]:
    """Three slices of each case, fewer where it is thin; magnitudes below 0 (ringing) are set to 0."""
    for case in found:
        depth = case.clean.shape[2]
        for index in sorted({int(k) for k in np.linspace(0, depth - 1, SLICES + 2)[1:-1]}):
            clean = np.maximum(case.clean[:, :, index : index + 1], 0)
            if foreground(clean).mean() > 0.05 and min(clean.shape[:2]) >= volumes.SMALLEST:
                yield replace(case, clean=np.ascontiguousarray(clean)), index


def denoised(case: Case, pipeline: Pipeline, seed: int, *, with_bm3d: bool = False) -> Iterator[Row]:
    """White noise; peers are told its strength."""
    for level in LEVELS:
        sigma = level / 255 * float(case.clean.max())
        rng = np.random.default_rng([seed, level])
        noisy = case.clean + np.float32(sigma) * rng.standard_normal(case.clean.shape, dtype=np.float32)
        volume = volumes.volume_of(case, noisy)
        methods: dict[str, Callable[[], Image]] = {
            NOISY: lambda noisy=noisy: noisy,
            NLM: partial(nlm_skimage, noisy, sigma, "gaussian"),
            **({BM3D: partial(bm3d, noisy, sigma)} if with_bm3d else {}),
            BASE: lambda volume=volume: case.scaling.apply(classical(pipeline).restore(volume, SIGNED).mean),
            MEDIDIFF: lambda volume=volume: case.scaling.apply(pipeline.restore(volume, SIGNED).mean),
        }
        yield row("denoise", f"noise of {level}", methods, case.clean, foreground(case.clean))


def refined(case: Case, pipeline: Pipeline) -> Iterator[Row]:
    """Coarse pixels without noise."""
    for name, factors, profile in COARSE:
        if any(f > 1 and n < degrade.FEWEST * f for n, f in zip(case.clean.shape, factors, strict=True)):
            continue
        truth, _, measured = degrade.measure(case.clean, factors, profile)
        spacing = tuple(size * f for size, f in zip(case.spacing, factors, strict=True))
        volume = volumes.volume_of(case, measured, spacing)
        options = RestoreOptions(noise=0.0, factor=tuple(float(f) for f in factors), profile=profile)
        methods: dict[str, Callable[[], Image]] = {
            SPLINE: partial(interpolated, measured, truth.shape, 3),
            BASE: lambda v=volume, o=options: case.scaling.apply(classical(pipeline).restore(v, o).mean),
            MEDIDIFF: lambda v=volume, o=options: case.scaling.apply(pipeline.restore(v, o).mean),
        }
        yield row("superres", name, methods, truth, foreground(truth))


def filled(case: Case, pipeline: Pipeline, seed: int) -> Iterator[Row]:
    """One hole, judged inside it."""
    shape = torch.Size((1, *case.clean.shape[:2]))
    generator = torch.Generator().manual_seed(seed)
    hole = degradations.hole(shape, generator, torch.device("cpu"), HOLE_RADIUS)[0].numpy()[:, :, None]
    scan = np.where(hole, np.float32(0), case.clean)
    volume = volumes.volume_of(case, scan)

    def ours(chosen: Pipeline) -> Image:
        return case.scaling.apply(chosen.restore(volume, RestoreOptions(), hole=hole).mean)

    methods: dict[str, Callable[[], Image]] = {
        RIM: partial(mean_of_rim, scan, hole),
        BIHARMONIC: partial(biharmonic, scan, hole),
        BASE: partial(ours, classical(pipeline)),
        MEDIDIFF: partial(ours, pipeline),
    }
    yield row("inpaint", "one hole", methods, case.clean, hole)


def row(task: str, setting: str, methods: dict[str, Callable[[], Image]], truth: Image, inside: Any) -> Row:
    """PSNR and SSIM of every method over the voxels ``inside``."""
    figures = {}
    for name, make in methods.items():
        image = make()
        figures[name] = {
            "psnr": psnr(image, truth, inside),
            "ssim": metrics.ssim(image, truth, float(truth.max()), inside),
        }
    return {"task": task, "setting": setting, "methods": figures}


def line(row: Row) -> str:
    """One row for a person who waits."""
    return f"{row['setting']:28} " + "  ".join(f"{name} {one['psnr']:.2f}" for name, one in row["methods"].items())


def described(rows: Sequence[Row], options: argparse.Namespace) -> str:
    """What was judged on, in words."""
    shown = {(row["volume"], row["slice"]) for row in rows}
    subjects = len({row["subject"] for row in rows})
    source = "named files or shipped samples" if options.files or options.manifest is None else options.split + " split"
    count = len({volume for volume, _ in shown})
    return (
        f"{len(shown)} slices of {count} volumes of {subjects} subjects ({source}: MR, CT, micrographs), central crops"
        f" of at most {options.crop} pixels an axis"
    )


def gains(rows: Sequence[Row], setting: str, over: str) -> Any:
    """What medidiff gains in a setting, a figure a slice; a task stands for all its settings."""
    chosen = [row["methods"] for row in rows if setting in (row["setting"], row["task"])]
    return np.array([methods[MEDIDIFF]["psnr"] - methods[over]["psnr"] for methods in chosen])


def verdicts(rows: Sequence[Row]) -> list[report.Verdict]:
    """The goals: better than non-local means at every strength of noise, and no task worse than without the network."""
    found = []
    peers = [name for name in (NLM, BM3D) if any(name in row["methods"] for row in rows)]
    for peer, level in itertools.product(peers, LEVELS):
        gain = gains(rows, f"noise of {level}", peer)
        text = f"{gain.mean():+.2f} dB in the mean of {gain.size} slices, {gain.min():+.2f} dB at worst"
        goal = f"at least {GOAL:g} dB over {peer} at noise of {level} of 255"
        found.append(report.Verdict(goal, text, bool(gain.mean() >= GOAL)))
    for task in dict.fromkeys(row["task"] for row in rows):
        gain = gains(rows, task, BASE)
        text = f"{gain.mean():+.2f} dB in the mean, worse on {(gain < 0).sum()} of {gain.size} images"
        found.append(report.Verdict(f"{task}: no worse than {BASE}", text, bool(gain.mean() >= 0)))
    return found


def document(result: dict[str, Any]) -> str:
    """Everything that was found, in Markdown."""
    rows, where = result["rows"], result["environment"]
    intro = (
        f"{result['data']}; pipeline {where['pipeline']} {where['version']}. PSNR in dB and SSIM, mean over slices;"
        " over the foreground, for inpainting in the hole."
    )
    parts = ["# 2-D images", intro]
    for task in dict.fromkeys(row["task"] for row in rows):
        settings = list(dict.fromkeys(row["setting"] for row in rows if row["task"] == task))
        names = list(next(row["methods"] for row in rows if row["task"] == task))
        body = [[name, *(cell(rows, setting, name) for setting in settings)] for name in names]
        parts += [f"## {task}", report.table(["PSNR in dB / SSIM", *settings], body)]
    parts += [report.goals(result["verdicts"])]
    return "\n\n".join([*parts, volumes.made_with(result)])


def cell(rows: Sequence[Row], setting: str, method: str) -> str:
    """Mean PSNR and SSIM of a method in a setting."""
    chosen = [row["methods"][method] for row in rows if row["setting"] == setting]
    values = [float(np.nanmean([one[metric] for one in chosen])) for metric in ("psnr", "ssim")]
    return f"{report.figure(values[0])} / {report.figure(values[1], 3)}"


if __name__ == "__main__":
    main()
