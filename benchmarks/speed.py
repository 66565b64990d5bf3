"""Measures time and peak memory of one pass over a 1 mm brain, next to classical denoisers on as many threads.

    python -m benchmarks.speed
    python -m benchmarks.speed --tile auto whole 160 128   which tile suits this machine
    python -m benchmarks.speed --with-bm4d                 BM4D takes minutes

Each method runs in a process of its own, so that its memory is its own. Without real scans a phantom is used.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy import ndimage

from benchmarks import cases, report
from medidiff.footprint import peak_gb

SCAN = "t1w_philips_mprage.nii.gz"
PHANTOM_SHAPE = (192, 224, 192)
PERCENT = 9.0
TILES = {"auto": None, "whole": 1 << 16}
TIMES_FASTER_THAN_BM4D, LARGEST_PEAK = 10.0, 4.0  # goals: ratio, GB
MEDIDIFF, NLM_DEFAULT, NLM, BM4D = "medidiff", "DIPY NLM, its default", "DIPY NLM, best setting", "BM4D"

Result = dict[str, Any]
Stages = dict[str, float]
Run = Callable[[cases.Image], Stages]

# stage -> where medidiff.restore finds it
STAGES = {
    "intensity": ("intensity", "normalise"),
    "noise estimate": ("noise", "estimate"),
    "classical base": ("posing", "pose"),
    "network": ("sampler", "posterior_mean"),
    "checks": ("consistency", "check"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.worker:
        print(json.dumps(work(options)))
        return
    threads = report.use_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        image, what = scan(options)
        path = Path(folder) / "noisy.npy"
        np.save(path, image)
        print(f"{what}, {image.size / 1e6:.1f} M voxels, {PERCENT:g} % Rician noise, {threads} threads\n")
        results = [measure(name, tile, path, threads, options.pipeline, options.device) for name, tile in jobs(options)]
    found = verdicts(results)
    result = {
        "environment": report.environment(None, threads),
        "data": what,
        "shape": list(image.shape),
        "noise": PERCENT,
        "verdicts": [vars(verdict) for verdict in found],
        "methods": results,
    }
    text = document(result, results, found)
    print("\n" + text)
    report.write("speed", result, text, options.results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--file", type=Path, help=f"the scan (default: {SCAN} of the real scans, else a phantom)")
    parser.add_argument("--crop", type=int, help="only the middle so many voxels along each axis")
    parser.add_argument("--tile", nargs="+", default=["auto"], help="tile edges to try, auto or whole (default: auto)")
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument("--pipeline", default="mr")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--with-bm4d", action="store_true", help="also BM4D (minutes; non-commercial licence)")
    parser.add_argument("--without-nlm", action="store_true", help="leave DIPY out")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    for name in ("--worker", "--input"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def scan(options: argparse.Namespace) -> tuple[cases.Image, str]:
    """The noisy scan in normalised intensity, and what it is."""
    real = cases.real_data()
    path = options.file or (real / SCAN if real else None)
    if path is not None:
        case = cases.load(path, options.crop, "MR")
        return case.noisy(PERCENT), case.name
    case = cases.load(cases.SAMPLES[0], None, "MR")
    zoom = [n / m for n, m in zip(PHANTOM_SHAPE, case.clean.shape, strict=True)]
    large = np.maximum(ndimage.zoom(case.clean, zoom, order=1), 0)
    return cases.noisy_version(cases.central(large, options.crop), PERCENT), "phantom"


def jobs(options: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """(method, tile) of every run."""
    for tile in options.tile:
        yield MEDIDIFF, tile
    if not options.without_nlm:
        yield from ((NLM_DEFAULT, ""), (NLM, ""))
    if options.with_bm4d:
        yield BM4D, ""


def measure(method: str, tile: str, path: Path, threads: int, pipeline: str, device: str) -> Result:
    """Run one method in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.speed", "--worker", method, "--input", str(path)]
    command += ["--threads", str(threads), "--pipeline", pipeline, "--device", device, "--tile", tile or "auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=cases.ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit code {done.returncode}"
        print(f"{method}: failed ({reason})", flush=True)
        return {"method": method, "tile": tile, "error": reason}
    result: Result = {"method": method, "tile": tile, **json.loads(done.stdout.splitlines()[-1])}
    name = f"{method}, tile {tile}" if tile else method
    print(f"{name:28} {result['seconds']:8.1f} s  peak {result['peak_gb']:.2f} GB", flush=True)
    return result


def work(options: argparse.Namespace) -> Result:
    """The measurement itself, inside the process of one method."""
    if hasattr(os, "sched_setaffinity"):  # BM4D takes every core that it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    noisy = np.load(options.input)
    begin = time.perf_counter()
    run = LOADERS[options.worker](options)
    loaded, busy, idle = time.perf_counter(), time.process_time(), peak_gb()
    stages = run(noisy)
    end = time.perf_counter()
    return {
        "seconds": end - loaded,
        "cpu_seconds": time.process_time() - busy,
        "load_seconds": loaded - begin,
        "peak_gb": peak_gb(),
        "idle_gb": idle,
        "stages": stages,
    }


def load_medidiff(options: argparse.Namespace) -> Run:
    """medidiff, noise estimated."""
    from medidiff import pipelines
    from medidiff.config import ComputeOptions
    from medidiff.scans.volume import Volume

    tile = TILES[options.tile[0]] if options.tile[0] in TILES else int(options.tile[0])
    compute = ComputeOptions(device=options.device, tile=tile, threads=options.threads)
    pipeline = pipelines.load(options.pipeline, compute=compute)

    def run(noisy: cases.Image) -> Stages:
        stages: Stages = {}
        with timed_stages(stages):
            pipeline.restore(Volume(noisy, np.eye(4), "MR"))
        return stages

    return run


def load_nlm(options: argparse.Namespace) -> Run:
    """DIPY's non-local means, told sigma."""
    import dipy.denoise.nlmeans  # noqa: F401  (its import is loading, not denoising)

    from medidiff.evaluation import baselines

    setting = baselines.NLM_BEST if options.worker == NLM else baselines.NLM_DEFAULT

    def run(noisy: cases.Image) -> Stages:
        setting(noisy, PERCENT / 100, "rician", options.threads)
        return {}

    return run


def load_bm4d(options: argparse.Namespace) -> Run:
    """BM4D, told sigma."""
    import bm4d  # noqa: F401  (its import is loading, not denoising)

    from medidiff.evaluation import baselines

    def run(noisy: cases.Image) -> Stages:
        baselines.bm4d(noisy, PERCENT / 100, "rician")
        return {}

    return run


LOADERS: dict[str, Callable[[argparse.Namespace], Run]] = {
    MEDIDIFF: load_medidiff,
    NLM_DEFAULT: load_nlm,
    NLM: load_nlm,
    BM4D: load_bm4d,
}


@contextmanager
def timed_stages(stages: Stages) -> Iterator[None]:
    """Note the seconds of each stage of ``medidiff.restore`` while it runs."""
    from medidiff import restore

    with ExitStack() as stack:
        for stage, (place, name) in STAGES.items():
            owner = getattr(restore, place)
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), stage, stages)))
        yield


def timed(function: Callable[..., Any], stage: str, stages: Stages) -> Callable[..., Any]:
    """The same function, its seconds noted."""

    def wrapped(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - begin

    return wrapped


def verdicts(results: Sequence[Result]) -> list[report.Verdict]:
    """The goals: ten times faster than BM4D, less than 4 GB."""
    first = next(result for result in results if result["method"] == MEDIDIFF)
    bm4d = next((result for result in results if result["method"] == BM4D), {"error": "not run; use --with-bm4d"})
    faster, small = f"at least {TIMES_FASTER_THAN_BM4D:g} times faster than BM4D", f"peak below {LARGEST_PEAK:g} GB"
    if "error" in first:
        return [report.Verdict(goal, first["error"], None) for goal in (faster, small)]
    peak = report.Verdict(small, f"{first['peak_gb']:.2f} GB", first["peak_gb"] < LARGEST_PEAK)
    if "error" in bm4d:
        return [report.Verdict(faster, bm4d["error"], None), peak]
    ratio = bm4d["seconds"] / first["seconds"]
    return [report.Verdict(faster, f"{ratio:.1f} times", ratio >= TIMES_FASTER_THAN_BM4D), peak]


def document(result: Result, results: Sequence[Result], found: Sequence[report.Verdict]) -> str:
    """Everything that was found, in Markdown."""
    done = [each for each in results if "error" not in each]
    voxels = float(np.prod(result["shape"])) / 1e6
    first = done[0]["seconds"] if done else float("nan")
    body = [
        [
            f"{each['method']}, {each['tile']} tile" if each["tile"] else each["method"],
            report.figure(each["seconds"], 1),
            report.figure(each["cpu_seconds"], 1),
            report.figure(each["seconds"] / voxels, 2),
            report.figure(each["seconds"] / first, 2),
            report.figure(each["load_seconds"], 1),
            report.figure(each["peak_gb"]),
            report.figure(1e3 * (each["peak_gb"] - each["idle_gb"]) / voxels, 0),
        ]
        for each in done
    ]
    head = ["", "s", "CPU s", "µs a voxel", "ratio", "s to load", "peak GB", "bytes a voxel"]
    stages = [
        [each["tile"], *(report.figure(each["stages"].get(s, 0.0), 1) for s in STAGES)]
        for each in done
        if each["stages"]
    ]
    where = result["environment"]
    what = (
        f"{result['data']}, {' x '.join(map(str, result['shape']))} = {voxels:.1f} M voxels, {PERCENT:g} % Rician noise"
    )
    parts = [
        "# Time and memory",
        f"{what}; {where['processor']}, {where['threads']} threads.",
        report.table(head, body),
        "Loading (imports, weights) is not in the time. The peak is of the whole process, imports included.",
        "## Stages of medidiff, s",
        report.table(["tile", *STAGES], stages),
        "## Goals",
        "\n".join(str(verdict) for verdict in found),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
