"""Measures how time and memory grow with voxels, samples, steps and cases, and works out a million scans from it.

    python -m benchmarks.scaling            volumes up to 320^3
    python -m benchmarks.scaling --long     up to 768^3: hours
    python -m benchmarks.scaling --quick    up to 96^3: a minute or two
    python -m benchmarks.scaling --docs     also the picture and the block of docs/explanation/cost.md

Each measurement runs in a process of its own. Times are of the processor, which other programs disturb least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cases, report
from medidiff.footprint import peak_gb
from medidiff.runs import pace
from medidiff.runs.estimate import duration

EDGES = {"quick": (48, 64, 96), "usual": (64, 96, 128, 192, 256, 320), "long": (64, 96, 128, 192, 256, 384, 512, 768)}
SMALL = 64  # edge of the volume that samples, steps and cases are counted on
SAMPLES, STEPS, CASES = (0, 1, 2, 4, 8), (2, 4, 8, 16), (1, 2, 4, 8)
BRAIN = 176 * 240 * 256  # voxels of a head at 1 mm
MILLION, HOURS_A_YEAR = 1_000_000, 8766
BYTES_A_VOXEL = 1.1  # of a compressed 16-bit result, measured on a T1w head
PAGE, PICTURE = cases.ROOT / "docs/explanation/cost.md", cases.ROOT / "docs/images/cost.png"
Result = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    threads = report.use_threads(options.threads)
    size = "quick" if options.quick else "long" if options.long else "usual"
    found: Result = {"environment": report.environment(None, threads), "size": size}
    found["voxels"] = [measured({"edge": edge}, threads) for edge in EDGES[size]]
    few = slice(0, 3) if options.quick else slice(None)
    found["samples"] = [measured({"edge": SMALL, "samples": count, "steps": 4}, threads) for count in SAMPLES[few]]
    found["steps"] = [measured({"edge": SMALL, "samples": 1, "steps": count}, threads) for count in STEPS[few]]
    found["cases"] = [measured({"edge": SMALL, "cases": count}, threads) for count in CASES[few]]
    found["exponent"] = exponent([r["voxels"] for r in found["voxels"]], [r["cpu_seconds"] for r in found["voxels"]])
    text = document(found)
    print("\n" + text)
    report.write("scaling", found, text, options.results)
    if options.docs:
        draw(found, PICTURE)
        report.update_block(PAGE, "scaling", text.partition("\n\n")[2])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true")
    sizes.add_argument("--long", action="store_true")
    parser.add_argument("--docs", action="store_true", help="write the picture and the block of the page on cost")
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measured(job: Result, threads: int) -> Result:
    """One measurement, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--worker", json.dumps(job | {"threads": threads})]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=cases.ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{job}: {done.stderr.strip().splitlines()[-1]}")
    result: Result = job | json.loads(done.stdout.splitlines()[-1])
    print(f"{job}: {result['cpu_seconds']:.1f} CPU s, peak {result['peak_gb']:.2f} GB", flush=True)
    return result


def work(job: Result) -> Result:
    """The measurement itself: one volume in memory, or a run over a folder of files."""
    from medidiff import pipelines
    from medidiff.config import ComputeOptions, RestoreOptions, RunConfig
    from medidiff.runs import Silent, run
    from medidiff.scans import nifti

    report.use_threads(job["threads"])
    compute = ComputeOptions(device="cpu", threads=job["threads"])
    options = RestoreOptions(samples=job.get("samples", 0), steps=job.get("steps", 8), force=True)
    volume = pace.phantom((job["edge"],) * 3)
    pipeline = pipelines.load("mr", compute=compute)
    pipeline.restore(pace.phantom((32,) * 3), RestoreOptions(force=True))
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "in"
        inputs.mkdir()
        for index in range(job.get("cases", 0)):
            nifti.save_array(np.round(volume.array), volume.affine, inputs / f"{index}.nii.gz", "phantom")
        begin, busy = time.perf_counter(), time.process_time()
        if "cases" in job:
            config = RunConfig(
                inputs=(inputs,), output=Path(folder) / "out", pipeline="mr", compute=compute, restore=options
            )
            run(config, reporter=Silent())
        else:
            pipeline.restore(volume, options)
    return {
        "voxels": volume.array.size,
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - busy,
        "peak_gb": peak_gb(),
    }


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The power of the size that a cost grows with: the slope between logarithms, from the upper half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half - 1 :]), np.log(costs[half - 1 :]), 1)[0])


def slope(counts: Sequence[float], costs: Sequence[float]) -> float:
    """What one more costs."""
    return float(np.polyfit(counts, costs, 1)[0])


def million(found: Result) -> list[tuple[str, str]]:
    """A million heads at 1 mm, by arithmetic from the largest volume that was measured."""
    largest = found["voxels"][-1]
    seconds = BRAIN * largest["cpu_seconds"] / largest["voxels"]
    hours = MILLION * seconds / 3600
    pairs = [(each["samples"], each["cpu_seconds"]) for each in found["samples"]]
    each = slope(*map(list, zip(*pairs, strict=True))) / found["samples"][0]["cpu_seconds"]
    sampled = hours * (1 + 8 * each * 7 / 3)  # eight samples of eight steps; measured with four, the first is shared
    storage = MILLION * BRAIN * BYTES_A_VOXEL / 1e12
    return [
        ("processor time of one head", duration(seconds)),
        ("a million heads, one pass", f"{hours:,.0f} core-hours: {hours / HOURS_A_YEAR:.1f} years of one core"),
        ("on 1000 cores", f"{hours / 1000 / 24:.1f} days"),
        ("a million heads, 8 samples of 8 steps", f"{sampled:,.0f} core-hours"),
        ("their results, 16 bits, compressed", f"{storage:.1f} TB"),
    ]


def document(found: Result) -> str:
    """Everything that was found, in Markdown."""
    where = found["environment"]
    rows = [
        [
            f"{each['edge']}³",
            report.figure(each["cpu_seconds"], 1),
            report.figure(1e6 * each["cpu_seconds"] / each["voxels"], 2),
            report.figure(each["peak_gb"]),
        ]
        for each in found["voxels"]
    ]
    parts = [
        "# How cost grows",
        f"{where['processor']}, {where['threads']} threads; processor time of one pass of `mr` over a noisy phantom.",
        report.table(["voxels", "CPU s", "µs a voxel", "peak GB"], rows),
        f"Time grows with the power {found['exponent']:.2f} of the voxels.",
    ]
    for what, head in (("samples", "samples of 4 steps"), ("steps", "steps of 1 sample"), ("cases", "cases in a run")):
        body = [[each[what], report.figure(each["cpu_seconds"], 1), report.figure(each["peak_gb"])]
                for each in found[what]]  # fmt: skip
        parts.append(report.table([f"{head}, {SMALL}³", "CPU s", "peak GB"], body))
    parts.append(report.table(["a million scans", ""], [list(row) for row in million(found)]))
    return "\n\n".join(parts)


def draw(found: Result, path: Path) -> None:
    """Time and memory against voxels, and time against samples, steps and cases."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    voxels = [each["voxels"] / 1e6 for each in found["voxels"]]
    for axis, key, label in ((axes[0], "cpu_seconds", "processor seconds"), (axes[1], "peak_gb", "peak memory, GB")):
        axis.loglog(voxels, [each[key] for each in found["voxels"]], "o-")
        axis.set(xlabel="million voxels", ylabel=label)
        axis.grid(alpha=0.3)
    for what in ("samples", "steps", "cases"):
        axes[2].plot(
            [each[what] for each in found[what]], [each["cpu_seconds"] for each in found[what]], "o-", label=what
        )
    axes[2].set(xlabel=f"how many, at {SMALL}³", ylabel="processor seconds")
    axes[2].legend()
    axes[2].grid(alpha=0.3)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
