"""Measures what a second local worker gains on a folder of volumes: ``python -m benchmarks.cluster``.

The folder is restored by one worker and by two, each with one thread, in turn; and by one process without workers, of
which all bytes must come again. Run it on a machine with two idle cores.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from benchmarks import cases, report
from medidiff import runs
from medidiff.config import ComputeOptions, RunConfig

GOAL = 1.7
PERCENT = 9.0
ALONE = 0  # workers of a run in one process


class Clock(runs.Silent):
    """Notes when the first case began and the last one ended, and what the cases took together."""

    def __init__(self) -> None:
        self.begin, self.end, self.work = 0.0, 0.0, 0.0

    def finished(self, case: runs.PlannedCase, result: runs.CaseResult, error: BaseException | None) -> None:
        """One more case."""
        self.end = time.perf_counter()
        self.begin = self.begin or self.end - result.seconds
        self.work += result.seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=8, help="volumes in the folder")
    parser.add_argument("--crop", type=int, default=96, help="largest edge of a volume in voxels")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers to compare")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--pipeline", default="auto")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as home:
        folder = make_folder(Path(home) / "in", options.volumes, options.crop)
        rows = [
            measure(folder, Path(home) / f"out{repeat}-{workers}", workers, options.pipeline)
            for repeat in range(options.repeats)
            for workers in (ALONE, *options.workers)
        ]
        same = all_equal(
            [Path(home) / f"out{repeat}-{n}" for repeat in range(options.repeats) for n in {ALONE, *options.workers}]
        )
    result = {
        "environment": report.environment(None, 1),
        "volumes": options.volumes,
        "crop": options.crop,
        "runs": rows,
        "equal": same,
    }
    found = verdicts(rows, same)
    text = document(result, found)
    print(text)
    report.write("cluster", result, text, options.results)


def make_folder(folder: Path, volumes: int, crop: int) -> Path:
    """A folder of volumes with the same anatomy and each its own noise."""
    folder.mkdir()
    case = cases.load(cases.SAMPLES[0], crop, "MR")
    affine = np.diag([*case.spacing, 1.0])
    for index in range(volumes):
        image = np.round(1000 * case.noisy(PERCENT, seed=index)).astype(np.int16)
        nib.save(nib.Nifti1Image(image, affine), folder / f"volume{index:03}.nii.gz")
    return folder


def measure(folder: Path, output: Path, workers: int, pipeline: str) -> dict[str, Any]:
    """Restore the folder; wall-clock seconds of the whole run, and from the first case on."""
    more: dict[str, Any] = {} if workers == ALONE else {"cluster": "local", "jobs": workers}
    compute = ComputeOptions(device="cpu", threads=1)
    config = RunConfig(inputs=(folder,), output=output, pipeline=pipeline, compute=compute, **more)
    clock = Clock()
    start = time.perf_counter()
    done = runs.run(config, reporter=clock)
    if done.exit_code:
        raise SystemExit(f"the run with {workers} workers failed: {done.record.cases[0].reason}")
    whole = time.perf_counter() - start
    print(f"{workers or 'no'} workers: {whole:.1f} s", flush=True)
    return {"workers": workers, "whole": whole, "working": clock.end - clock.begin, "of_cases": clock.work}


def all_equal(folders: Sequence[Path]) -> bool:
    """Whether the images in all folders have the same bytes."""
    first = {path.name: path.read_bytes() for path in folders[0].glob("*.nii.gz")}
    return all({path.name: path.read_bytes() for path in each.glob("*.nii.gz")} == first for each in folders[1:])


def best(rows: Sequence[dict[str, Any]], workers: int, what: str) -> float:
    """The shortest time of the runs with a number of workers."""
    return min((row[what] for row in rows if row["workers"] == workers), default=float("nan"))


def verdicts(rows: Sequence[dict[str, Any]], same: bool) -> list[report.Verdict]:
    """Whether the goals are met."""
    ratio = best(rows, 1, "working") / best(rows, 2, "working")
    met = None if np.isnan(ratio) else ratio >= GOAL
    return [
        report.Verdict(f"two workers reach {GOAL:g} times one worker", report.figure(ratio), met),
        report.Verdict("the images have the bytes of those of one process", "yes" if same else "no", same),
    ]


def document(result: dict[str, Any], found: Sequence[report.Verdict]) -> str:
    """Everything that was found, in Markdown."""
    rows = result["runs"]
    lines = []
    for workers in sorted({row["workers"] for row in rows}):
        whole, working = best(rows, workers, "whole"), best(rows, workers, "working")
        ratio = best(rows, 1, "working") / working
        name = "one process" if workers == ALONE else f"{workers} workers"
        lines.append([name, report.figure(whole, 1), report.figure(working, 1), report.figure(ratio)])
    head = ["with one thread each", "seconds", "without the start", "times one worker"]
    return "\n\n".join(
        [
            "# Several workers on a folder",
            f"{result['volumes']} volumes of at most {result['crop']} voxels an edge, shortest of the repeats.",
            "\n".join(str(verdict) for verdict in found),
            report.table(head, lines),
        ]
    )


if __name__ == "__main__":
    main()
