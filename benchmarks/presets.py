"""Measures what each preset costs and gains: ``--preset fast``, ``balanced`` and ``best``.

    python -m benchmarks.presets                     validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.presets --volumes 4 --docs  also put the table into docs/explanation/cost.md

A sample should lie as far from the mean as the truth does: the spread of samples is judged by the error of the mean, at
voxels, and at the means of cubes, where noise of the right strength alone does not help.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report, superres, volumes
from benchmarks.cases import ROOT, Case, Image
from medidiff.config import PRESETS, RestoreOptions, Task
from medidiff.physics.fidelity import foreground, psnr
from medidiff.pipelines import Pipeline
from medidiff.scans.volume import Volume

Row = dict[str, Any]
PAGE = ROOT / "docs/explanation/cost.md"
PERCENT, SAMPLES, CUBE = 9.0, 4, 8
TASKS: dict[Task, str] = {"denoise": f"denoise, {PERCENT:g} % noise", "superres": superres.SETTINGS[1].name}
WITHIN = 0.75  # of a cube in the foreground


def main(arguments: Sequence[str] | None = None) -> None:
    parser = volumes.parser(__doc__, crop=56)
    parser.add_argument("--docs", action="store_true", help="put the table into docs/explanation/cost.md")
    options = parser.parse_args(arguments)
    threads = report.use_threads(options.threads)
    pipelines = {task: volumes.load(options, task) for task in TASKS}
    choice = volumes.choose(options)
    begin, rows = time.perf_counter(), []
    for case in choice.cases:
        for task, pipeline in pipelines.items():
            rows += measure(case, task, pipeline, options.seed)
    if not rows:
        raise SystemExit("No volume is large enough.")
    volumes.publish(
        "presets",
        options,
        choice,
        pipelines["denoise"],
        threads=threads,
        seconds=time.perf_counter() - begin,
        verdicts=verdicts(rows),
        document=document,
        rows=rows,
    )
    if options.docs:
        report.update_block(PAGE, "presets", f"{table(rows)}\n\n{judged(volumes.describe(options, choice))}")


def measure(case: Case, task: Task, pipeline: Pipeline, seed: int = 0) -> list[Row]:
    """One row for each preset, all on the same measurement; none where the volume is too small."""
    posed = pose(case, task)
    if posed is None:
        return []
    truth, volume, known = posed
    rows = []
    for preset in PRESETS:
        asked = {**known, "preset": preset, "seed": seed, "force": True}
        begin = time.process_time()
        mean = case.scaling.apply(pipeline.restore(volume, RestoreOptions(**asked)).mean)
        middle = time.process_time()
        drawn = pipeline.restore(volume, RestoreOptions(**asked, samples=SAMPLES))
        end = time.process_time()
        samples = [case.scaling.apply(sample) for sample in drawn.samples]
        rows.append(
            {
                "volume": case.name,
                "subject": case.subject,
                "task": task,
                "preset": preset,
                "psnr": psnr(mean, truth, foreground(truth)),
                "mean_seconds": round(middle - begin, 2),
                "samples_seconds": round(end - middle, 2),
                **spread(samples, mean - truth, foreground(truth)),
            }
        )
        print(f"{case.name[:24]:24} {task:8} {preset:8} {rows[-1]['psnr']:.3f} dB", flush=True)
    return rows


def pose(case: Case, task: Task) -> tuple[Image, Volume, dict[str, Any]] | None:
    """The truth, a measurement of it, and what is known of that; ``None`` when the volume is too small."""
    if task == "denoise":
        return case.clean, volumes.volume_of(case, case.noisy(PERCENT)), {"noise": PERCENT}
    posed = superres.pose(case, superres.SETTINGS[1])
    return None if posed is None else (posed.truth, posed.volume, posed.options)


def spread(samples: Sequence[Image], error: Image, inside: NDArray[np.bool_]) -> dict[str, float]:
    """The deviation of samples over the error of the mean, root mean squares over the foreground.

    Returns:
        ``voxel`` and ``cube``: at voxels, and of the means of cubes that lie in the foreground (NaN without one).
    """
    whole = cubes(inside.astype(np.float32)) > WITHIN
    return {
        "voxel": _ratio(np.stack(samples), error, inside),
        "cube": _ratio(np.stack([cubes(sample) for sample in samples]), cubes(error), whole),
    }


def _ratio(samples: Image, error: Image, inside: NDArray[np.bool_]) -> float:
    if not inside.any():
        return float("nan")
    variance = samples.var(axis=0, ddof=1)[inside].mean()
    return float(np.sqrt(variance / np.square(error[inside]).mean()))


def cubes(image: Image) -> Image:
    """Means of cubes of ``CUBE`` voxels an axis; what is left at the ends does not count."""
    counts = [n // CUBE for n in image.shape]
    whole = image[tuple(slice(0, n * CUBE) for n in counts)]
    i, j, k = counts
    return np.asarray(whole.reshape(i, CUBE, j, CUBE, k, CUBE).mean(axis=(1, 3, 5)))


def mean_of(rows: Sequence[Row], task: str, preset: str, name: str) -> float:
    """A figure's mean over the volumes."""
    return float(np.nanmean([row[name] for row in rows if (row["task"], row["preset"]) == (task, preset)]))


def gains(rows: Sequence[Row], task: str, preset: str) -> list[float]:
    """PSNR of each volume beyond that of ``balanced``, in dB."""
    found = {name: [r["psnr"] for r in rows if (r["task"], r["preset"]) == (task, name)] for name in PRESETS}
    return [one - other for one, other in zip(found[preset], found["balanced"], strict=True)]


def verdicts(rows: Sequence[Row]) -> list[report.Verdict]:
    """Whether the presets are worth their names."""
    tasks = dict.fromkeys(row["task"] for row in rows)
    gained = [gain for task in tasks for gain in gains(rows, task, "best")]
    text = f"{np.mean(gained):+.3f} dB in the mean, {min(gained):+.3f} at least"
    ratios = [
        mean_of(rows, task, "balanced", "samples_seconds") / mean_of(rows, task, "fast", "samples_seconds")
        for task in tasks
    ]
    wider = [mean_of(rows, task, "best", "cube") - mean_of(rows, task, "balanced", "cube") for task in tasks]
    return [
        report.Verdict("best gains 0.02 dB in the mean", text, bool(np.mean(gained) >= 0.02)),
        report.Verdict("samples of best spread more over regions", f"{min(wider):+.3f} at least", bool(min(wider) > 0)),
        report.Verdict("fast halves the time of samples", f"1/{min(ratios):.2f} at most", bool(min(ratios) >= 2)),
    ]


def table(rows: Sequence[Row]) -> str:
    """Cost and gain of each preset."""
    head = ["", "steps", "mirror images", "mean, CPU s", f"{SAMPLES} samples, CPU s", "mean, dB", "gain, dB"]
    body = []
    for task, what in TASKS.items():
        if not any(row["task"] == task for row in rows):
            continue
        for preset, settings in PRESETS.items():
            figure = {
                name: mean_of(rows, task, preset, name)
                for name in ("mean_seconds", "samples_seconds", "psnr", "voxel", "cube")
            }
            body.append(
                [
                    f"{what}: `{preset}`",
                    settings["steps"],
                    "yes" if settings["flips"] else "no",
                    report.figure(figure["mean_seconds"], 1),
                    report.figure(figure["samples_seconds"], 1),
                    report.figure(figure["psnr"]),
                    report.figure(float(np.mean(gains(rows, task, preset))), 3, sign=True),
                    report.figure(figure["voxel"]),
                    report.figure(figure["cube"]),
                ]
            )
    return report.table([*head, "spread, voxels", "spread, cubes"], body)


def judged(data: str) -> str:
    """What the figures are."""
    return (
        f"{data}. Spread: deviation of {SAMPLES} samples over the error of the mean, 1 at best; at voxels, and of the"
        f" means of cubes of {CUBE} voxels an axis. Small volumes: a voxel costs up to twice as much as in a head."
    )


def document(result: dict[str, Any], listing: str) -> str:
    """Everything that was found, in Markdown."""
    parts = [
        "# Presets",
        judged(result["data"]),
        table(result["rows"]),
        report.goals(result["verdicts"]),
        volumes.closing(result, listing),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
