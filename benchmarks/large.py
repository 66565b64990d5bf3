"""Measures time and peak memory of denoising volumes that memory is not to hold, and how they grow.

    python -m benchmarks.large
    python -m benchmarks.large --sizes 512 768 1024

Each volume is a 16-bit NIfTI file, made slab by slab, and is denoised by the command in a process of its own, which may
take ``--memory`` GB. A small one goes through blocks and through memory, to compare. Below 512^3 voxels the scan's own
borders, which need no halo, make blocks cheaper than they are in larger scans.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks import report
from medidiff import footprint

SIZES = (512, 768)
MEMORY = 4.0  # GB
COMPARED, COMPARED_MEMORY = 256, 2.0  # voxels an edge, and GB that are too few for it in memory
LARGEST_PEAK = 4.0  # GB
EXPONENT = (0.95, 1.05)
TOLERANCE = 0.02  # sigma: the goal for tiles
SIGMA = 60.0
GOAL = 1024

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    threads = report.use_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        start = measured(folder, 32, threads, None)["cpu_seconds"]
        rows = [measured(folder, size, threads, options.memory) for size in options.sizes]
        for row in rows:
            row["seconds_a_million"] = (row["cpu_seconds"] - start) / row["voxels"] * 1e6
        memories = (COMPARED_MEMORY, None) if options.compare else ()
        compared = [measured(folder, COMPARED, threads, memory) for memory in memories]
        found = verdicts(rows, start, difference(*compared) if compared else None)
    result = {
        "environment": report.environment(None, threads),
        "memory": options.memory,
        "start_seconds": start,
        "verdicts": [vars(verdict) for verdict in found],
        "rows": rows,
        "compared": compared,
    }
    text = document(result, found)
    print("\n" + text)
    report.write("large", result, text, options.results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="edges in voxels")
    parser.add_argument("--memory", type=float, default=MEMORY, help="GB that the process may take")
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument("--folder", type=Path, help="where the volumes lie for a while; 40 bytes a voxel")
    parser.add_argument("--no-compare", dest="compare", action="store_false", help="leave the comparison out")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    return parser.parse_args(arguments)


def make(path: Path, size: int) -> None:
    """A noisy magnitude image of shells in air, written plane by plane."""
    header: Any = nib.Nifti1Header()  # type: ignore[no-untyped-call]
    header.set_data_shape((size,) * 3)
    header.set_data_dtype(np.int16)
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    line = np.linspace(-1, 1, size, dtype=np.float32)
    with path.open("wb") as file:
        header.write_to(file)
        file.write(b"\0" * (int(header["vox_offset"]) - file.tell()))
        for index, z in enumerate(line):
            radius = np.sqrt(line[:, None] ** 2 + line**2 + z**2)
            clean = 800 * np.clip((0.85 - radius) * 20, 0, 1) * (1 - 0.3 * np.sin(size / 16 * radius))
            noise = SIGMA * np.random.default_rng(index).standard_normal((2, size, size), dtype=np.float32)
            file.write(np.hypot(clean + noise[0], noise[1]).astype("<i2").tobytes(order="F"))


def measured(folder: Path, size: int, threads: int, memory: float | None) -> Row:
    """Denoise one volume in a process of its own."""
    source, target = folder / f"in{size}.nii", folder / f"out{size}{'' if memory else 'm'}.nii"
    if not source.exists():
        make(source, size)
    command = [sys.executable, "-m", "medidiff", "denoise", str(source), "-o", str(target), "--overwrite"]
    command += ["--threads", str(threads), "--progress", "none", "--uncertainty", "--pipeline", "mr", "--device", "cpu"]
    command += [] if memory is None else ["--memory", str(memory)]
    begin = time.perf_counter()
    child = os.posix_spawn(sys.executable, command, {**os.environ, "OMP_NUM_THREADS": str(threads)})
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{size}^3 failed with exit code {os.waitstatus_to_exitcode(status)}")
    tree = json.loads(target.with_name(f"{target.name.removesuffix('.nii')}.json").read_text())
    record = tree["volumes"][0]["record"]
    asked = footprint.Request((size,) * 3)
    way = next((way for way in footprint.ways(asked) if way.way == "blocks" and way.tile == record.get("blocks")), None)
    row = {
        "size": size,
        "voxels": size**3,
        "blocks": record.get("blocks"),
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9,
        "estimated_gb": way.peak / 1e9 if way else float("nan"),
        "timings": tree["timings"],
        "sigma": record["noise_sigma"],
        "files": [str(target), str(target.with_name(f"{target.name.removesuffix('.nii')}_uncertainty.nii.gz"))],
    }
    print({key: value for key, value in row.items() if key != "files"}, flush=True)
    return row


def difference(one: Row, other: Row) -> float:
    """The largest difference of two uncertainty maps, in sigma: these are not rounded to whole numbers."""
    first, second = (np.asanyarray(nib.load(row["files"][1]).dataobj) for row in (one, other))  # type: ignore[attr-defined]
    return float(np.abs(first - second).max()) / one["sigma"]


def exponent(rows: Sequence[Row], start: float) -> float:
    """How time grows with voxels, once the process has started."""
    if len(rows) < 2:
        return float("nan")
    seconds = [math.log(max(row["cpu_seconds"] - start, 0.1)) for row in rows]
    return float(np.polyfit([math.log(row["voxels"]) for row in rows], seconds, 1)[0])


def verdicts(rows: Sequence[Row], start: float, off: float | None) -> list[report.Verdict]:
    """The goals: less than 4 GB, time linear in voxels, the same result as in memory, an estimate that holds."""
    peak, power = max(row["peak_gb"] for row in rows), exponent(rows, start)
    found = [
        report.Verdict(f"peak below {LARGEST_PEAK:g} GB", f"{peak:.2f} GB", peak < LARGEST_PEAK),
        report.Verdict(
            f"time grows with voxels to the power {EXPONENT[0]:g} to {EXPONENT[1]:g}",
            f"{power:.3f}",
            EXPONENT[0] <= power <= EXPONENT[1] if math.isfinite(power) else None,
        ),
    ]
    known = [row for row in rows if math.isfinite(row["estimated_gb"])]
    if known:
        worst = max(abs(row["estimated_gb"] / row["peak_gb"] - 1) for row in known)
        found.append(report.Verdict("the peak is estimated within 25 %", f"{100 * worst:.0f} % at worst", worst < 0.25))
    if off is not None:
        goal = f"blocks change less than {TOLERANCE:g} sigma everywhere"
        found.append(report.Verdict(goal, f"{off:.4f} sigma", off < TOLERANCE))
    return found


def document(result: Row, found: Sequence[report.Verdict]) -> str:
    """Everything that was found, in Markdown."""
    head = ["edge", "M voxels", "block", "s", "CPU s", "CPU µs a voxel", "peak GB", "estimated GB"]
    body = [
        [
            row["size"],
            report.figure(row["voxels"] / 1e6, 0),
            row["blocks"] or "in memory",
            report.figure(row["seconds"], 0),
            report.figure(row["cpu_seconds"], 0),
            report.figure(row["seconds_a_million"], 2),
            report.figure(row["peak_gb"]),
            report.figure(row["estimated_gb"]),
        ]
        for row in result["rows"]
    ]
    where, last = result["environment"], result["rows"][-1]
    rate = last["seconds_a_million"]
    command, start = f"medidiff denoise --memory {result['memory']:g}", result["start_seconds"]
    parts = [
        "# Volumes larger than memory",
        f"16-bit NIfTI files denoised with maps by `{command}`; {where['processor']}, {where['threads']} threads.",
        report.table(head, body),
        f"The start of the process, {start:.1f} s of CPU time, is not in the time a voxel; its memory is in the peak.",
    ]
    if last["size"] < GOAL:
        hours = rate * GOAL**3 / 1e6 / 3600
        parts.append(f"At the last row's rate {GOAL}^3 voxels take {hours:.2f} hours of CPU time (extrapolated).")
    parts += ["## Goals", "\n".join(str(verdict) for verdict in found)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
