"""Restores many small scans in one run and watches the memory: ``python -m benchmarks.soak``.

One process works through all of them, as the command would, with a real pipeline. After the warm-up (the first
``--warm`` scans: libraries load, buffers find their size) the memory must stay where it is: what grows a little with
each scan ends a night's run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks import report
from medidiff import runs
from medidiff.config import ComputeOptions, RunConfig
from medidiff.runs import CaseResult, PlannedCase, Silent

PAGE = report.ROOT / "docs/explanation/when-things-go-wrong.md"
SHAPE = (40, 36, 32)
KINDS = ("nifti", "nifti", "broken")  # every third scan cannot be read: failures must not pile up either
LARGEST_GROWTH = 0.05
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass
class Gauge(Silent):
    """Notes the resident memory after each case.

    Attributes:
        megabytes: one figure a case.
        seconds: when, since the start.
    """

    megabytes: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    def finished(self, case: PlannedCase, result: CaseResult, error: BaseException | None) -> None:
        """Note the memory."""
        self.megabytes.append(resident_mb())
        self.seconds.append(time.monotonic() - self.begin)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--warm", type=int, default=20, help="cases before the memory is compared")
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument("--pipeline", default="mr")
    parser.add_argument("--docs", action="store_true", help=f"also put it into {PAGE.relative_to(report.ROOT)}")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    options = parser.parse_args(arguments)
    if not sys.platform.startswith("linux"):
        raise SystemExit("The memory of a process is read from /proc, which is Linux's.")
    threads = report.use_threads(options.threads)
    gauge = Gauge()
    with tempfile.TemporaryDirectory() as folder:
        scans(Path(folder) / "in", options.cases)
        config = RunConfig(
            inputs=(Path(folder) / "in",),
            output=Path(folder) / "out",
            pipeline=options.pipeline,
            compute=ComputeOptions(device="cpu", threads=threads),
            uncertainty=True,
        )
        result = runs.run(config, reporter=gauge)
    statuses = [case.status for case in result.record.cases]
    found = growth(gauge.megabytes, options.warm)
    tree = {
        "environment": report.environment(None, threads),
        "shape": list(SHAPE),
        "cases": {status: statuses.count(status) for status in ("done", "failed")},
        "warm": options.warm,
        **found,
        "megabytes": [round(each, 1) for each in gauge.megabytes],
        "seconds": [round(each, 2) for each in gauge.seconds],
    }
    text = document(tree)
    print(text)
    report.write("soak", tree, text, options.results)
    if options.docs:
        report.update_block(PAGE, "soak", text.partition("\n\n")[2])


def scans(folder: Path, count: int) -> None:
    """Small scans of noisy ellipsoids, no two alike, and files that are cut off."""
    folder.mkdir(parents=True)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.7
    for index in range(count):
        rng = np.random.default_rng(index)
        image = 800 * inside * (1 + 0.3 * np.sin(3 * axes[0] + index)) + rng.normal(0, 40, SHAPE)
        path = folder / f"scan-{index:04d}.nii.gz"
        nib.save(nib.Nifti1Image(np.abs(image).astype(np.float32), np.eye(4)), path)
        if KINDS[index % len(KINDS)] == "broken":
            path.write_bytes(path.read_bytes()[:2000])


def resident_mb() -> float:
    """Resident memory of this process, in MB (1e6 bytes)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES / 1e6


def growth(megabytes: Sequence[float], warm: int) -> dict[str, float]:
    """How the memory after the warm-up changed, from its first to its last tenth, medians, and at most."""
    after = np.asarray(megabytes[warm:])
    tenth = max(len(after) // 10, 1)
    first, last = float(np.median(after[:tenth])), float(np.median(after[-tenth:]))
    return {
        "first_mb": first,
        "last_mb": last,
        "growth": last / first - 1,
        "widest": float(np.abs(after / first - 1).max()),
        "mb_a_case": float(np.polyfit(np.arange(len(after)), after, 1)[0]),
    }


def verdict(tree: dict[str, Any]) -> report.Verdict:
    """The goal: flat within five per cent."""
    what = f"memory flat within {100 * LARGEST_GROWTH:g} % over {sum(tree['cases'].values())} scans, after warm-up"
    found = f"{100 * tree['growth']:+.1f} % from the first to the last tenth, {100 * tree['widest']:.1f} % at most"
    return report.Verdict(what, found, tree["widest"] <= LARGEST_GROWTH)


def document(tree: dict[str, Any]) -> str:
    """Everything that was found, in Markdown."""
    cases, count = tree["cases"], len(tree["megabytes"])
    where = tree["environment"]
    rows = [
        [f"{index + 1}", report.figure(tree["seconds"][index], 0), report.figure(tree["megabytes"][index], 1)]
        for index in sorted({0, tree["warm"], count // 4, count // 2, 3 * count // 4, count - 1})
    ]
    what = (
        f"{count} scans of {' x '.join(map(str, tree['shape']))} voxels in one run, {cases['done']} restored with "
        f"uncertainty maps, {cases['failed']} broken and refused; {where['processor']}, {where['threads']} threads."
    )
    slope = f"A line through all cases after the first {tree['warm']}: {1e3 * tree['mb_a_case']:+.1f} kB a case."
    return "\n\n".join(
        ["# Soak", what, report.table(["after case", "s", "MB resident"], rows), slope, str(verdict(tree))]
    )


if __name__ == "__main__":
    main()
