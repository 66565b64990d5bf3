"""Measures the peak memory of restorations and compares it with what is estimated before they begin.

    python -m benchmarks.memory
    python -m benchmarks.memory --only denoise

Each case runs in a process of its own, on one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cases, report
from medidiff import footprint
from medidiff.footprint import Footprint, Network, Request, peak_gb

LARGEST_ERROR = 0.25  # the goal

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is restored, and how.

    Attributes:
        shape: of the scan.
        task: what is done.
        pipeline: with which.
        way: ``whole``, ``tiles`` or ``blocks``.
        tile: edge of a window; ``None`` for the whole scan.
        samples: how many.
        thick: voxels are this many times as long along the last axis.
        hole: edge of the hole that is filled.
    """

    shape: tuple[int, int, int]
    task: str = "denoise"
    pipeline: str = "mr"
    way: str = "whole"
    tile: int | None = None
    samples: int = 0
    thick: float = 1.0
    hole: int = 0


CASES = (
    Case((64, 64, 64)),
    Case((128, 128, 128)),
    Case((192, 192, 192)),
    Case((128, 128, 128), pipeline="ct"),
    Case((160, 160, 160), way="tiles", tile=96),
    Case((200, 200, 200), way="tiles", tile=128),
    Case((128, 128, 128), samples=2),
    Case((96, 96, 96), samples=8),
    Case((96, 96, 32), "superres", thick=3.0),
    Case((144, 144, 48), "superres", thick=3.0),
    Case((160, 160, 160), "inpaint", hole=20),
    Case((160, 160, 160), "inpaint", hole=60),
    Case((512, 512, 1), pipeline="image2d"),
    Case((1024, 1024, 1), pipeline="image2d"),
    Case((256, 256, 40), pipeline="image2d"),
    Case((192, 192, 192), way="blocks", tile=128),
    Case((256, 256, 256), way="blocks", tile=192),
    Case((24, 1024, 1024), way="blocks", tile=128),
    Case((128, 128, 128), way="blocks", tile=96, samples=4),
    Case((1024, 1024, 8), pipeline="image2d", way="blocks", tile=192),
)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.worker:
        print(json.dumps(work(CASES[options.worker - 1])))
        return
    rows = []
    for number, case in enumerate(CASES, start=1):
        if options.only and options.only not in (case.task, case.way):
            continue
        rows.append(measured(number, case))
        print(rows[-1], flush=True)
    worst = max(abs(row["estimated_gb"] / row["peak_gb"] - 1) for row in rows)
    goal = f"the peak is estimated within {100 * LARGEST_ERROR:.0f} %"
    found = [report.Verdict(goal, f"{100 * worst:.0f} % at worst", worst < LARGEST_ERROR)]
    result = {
        "environment": report.environment(None, 1),
        "verdicts": [vars(verdict) for verdict in found],
        "rows": rows,
    }
    text = document(rows, found)
    print("\n" + text)
    report.write("memory", result, text, options.results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="a task or a way: whole, tiles, blocks")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measured(number: int, case: Case) -> Row:
    """One case in a process of its own, and its estimate."""
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", str(number)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cases.ROOT, env=environment, capture_output=True, text=True, check=True)
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return {**asdict(case), "estimated_gb": (way_of(case).peak + found["held"]) / 1e9, **found}


def way_of(case: Case) -> Footprint:
    """The estimate of a case, whichever way would be chosen."""
    from medidiff import bundles

    spacing, fine = (1.0, 1.0, case.thick), None
    if case.task == "superres":
        from medidiff.config import RestoreOptions

        fine = footprint.fine_shape(case.shape, spacing, RestoreOptions())
    if case.task == "inpaint":
        fine = footprint.around(hole_of(case))
    network = Network.of(bundles.locate(case.pipeline).settings)
    asked = Request(case.shape, network, case.task, case.samples, fine)  # type: ignore[arg-type]
    if case.way == "blocks":
        return Footprint("blocks", case.tile, footprint.in_blocks(asked, case.tile or 0))
    return Footprint("whole", case.tile, footprint.in_memory(asked, case.tile))


def hole_of(case: Case) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """A cube in the middle."""
    hole = np.zeros(case.shape, dtype=np.bool_)
    hole[tuple(slice((n - case.hole) // 2, (n + case.hole) // 2) for n in case.shape)] = True
    return hole


def work(case: Case) -> Row:
    """The measurement itself."""
    import torch

    from medidiff import blocks, pipelines
    from medidiff.config import ComputeOptions, RestoreOptions
    from medidiff.restore import restore
    from medidiff.scans.volume import Volume

    torch.set_num_threads(1)
    compute = ComputeOptions(device="cpu", tile=case.tile if case.way == "tiles" else None)
    pipeline = pipelines.load(case.pipeline, case.task, compute=compute)  # type: ignore[arg-type]
    assert isinstance(pipeline, pipelines.Pipeline)
    array, modality = image(case.shape), "CT" if case.pipeline == "ct" else "MR"
    volume = Volume(array - 1000 if modality == "CT" else array, np.diag([1, 1, case.thick, 1.0]), modality)
    hole = hole_of(case) if case.hole else None
    options = RestoreOptions(samples=case.samples, steps=2, force=True)
    if case.way == "blocks":
        with tempfile.TemporaryDirectory() as folder:
            blocks.restore(volume, pipeline.engine, options, Path(folder), tile=case.tile or 0)
    else:
        restore(volume, pipeline.engine, options, case.task, hole=hole)  # type: ignore[arg-type]
    return {"peak_gb": peak_gb(), "held": volume.array.nbytes}


def image(shape: tuple[int, int, int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Shells in air with Rician noise, made plane by plane so that making it takes no memory."""
    lines = [np.linspace(-1, 1, n, dtype=np.float32) if n > 1 else np.zeros(1, np.float32) for n in shape]
    array = np.empty(shape, dtype=np.float32)
    for index, x in enumerate(lines[0]):
        radius = np.sqrt(x**2 + lines[1][:, None] ** 2 + lines[2] ** 2)
        clean = 800 * np.clip((0.8 - radius) * 20, 0, 1) * (1 - 0.3 * np.sin(9 * radius))
        noise = 60 * np.random.default_rng(index).standard_normal((2, *radius.shape), dtype=np.float32)
        array[index] = np.hypot(clean + noise[0], noise[1])
    return array


def document(rows: Sequence[Row], found: Sequence[report.Verdict]) -> str:
    """Everything that was found, in Markdown."""
    body = [
        [
            " x ".join(map(str, row["shape"])),
            f"{row['pipeline']} {row['task']}" + (f", {row['samples']} samples" if row["samples"] else ""),
            row["way"] if row["tile"] is None else f"{row['way']} of {row['tile']}",
            report.figure(row["peak_gb"]),
            report.figure(row["estimated_gb"]),
            report.figure(100 * (row["estimated_gb"] / row["peak_gb"] - 1), 0, sign=True),
        ]
        for row in sorted(rows, key=lambda row: (row["way"], row["task"], math.prod(row["shape"])))
    ]
    head = ["voxels", "what", "way", "peak GB", "estimated GB", "off, %"]
    parts = [
        "# Memory, and what is estimated before",
        "The whole process, on one thread of a CPU. The scan lies in memory, also where it is restored in blocks.",
        report.table(head, body),
        "## Goals",
        "\n".join(str(verdict) for verdict in found),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
