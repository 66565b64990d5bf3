"""Measures what the stated uncertainty is worth: coverage of the 90 % interval, and whether it finds the errors.

    python -m benchmarks.coverage                    validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.coverage --volumes 2 --crop 48

Scans are degraded as for `medidiff calibrate`, but those of subjects that served neither training nor calibration.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks import report, volumes
from benchmarks.cases import Case, Image
from medidiff.config import RestoreOptions
from medidiff.evaluation import metrics, uncertainty
from medidiff.evaluation.ours import classical
from medidiff.pipelines import Pipeline
from medidiff.scans.volume import Volume
from medidiff.training import calibration
from medidiff.training.calibration import LEVELS, Reference, Trial

LOW, HIGH = 0.87, 0.93  # the goal for coverage
NORMAL = 1.6449  # quantile of a normal distribution, for a pipeline that was not calibrated
UNITS = {"denoise": "% noise", "superres": "voxels out per voxel in", "inpaint": ""}

Row = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a pipeline says of a trial, in the unit of the trial's truth.

    Attributes:
        mean: the restored image.
        std: its standard deviation.
        quantile: half width of the 90 % interval in standard deviations.
        calibrated: whether the pipeline's own.
        base: the classical base.
        correction: size of what the pipeline did to its input: to the scan for denoising, else to the base.
    """

    mean: Image
    std: Image
    quantile: float
    calibrated: bool
    base: Image
    correction: Image


def main(arguments: Sequence[str] | None = None) -> None:
    options = volumes.parser(__doc__, crop=80).parse_args(arguments)
    threads = report.use_threads(options.threads)
    pipelines = {task: volumes.load(options, task) for task in ("denoise", "superres", "inpaint")}
    choice = volumes.choose(options, isotropic=False)
    begin, rows = time.perf_counter(), []
    for number, case in enumerate(choice.cases):
        for row in measure(case, options.seed + number, pipelines):
            rows.append(row)
            print(line(row), flush=True)
    if not rows:
        raise SystemExit("No volume is fit for any of the tasks.")
    volumes.publish(
        "coverage",
        options,
        choice,
        pipelines["denoise"],
        threads=threads,
        seconds=time.perf_counter() - begin,
        verdicts=verdicts(rows),
        document=document,
        rows=rows,
    )


def measure(case: Case, seed: int, pipelines: dict[str, Pipeline]) -> list[Row]:
    """Every task at every level for which a volume is fit."""
    reference = Reference(case.clean, case.spacing, case.subject)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for task, levels in LEVELS.items():
        for level in levels:
            trials = (calibration.simulate(task, level, reference, generator) for _ in range(calibration.TRIALS[task]))
            for trial in filter(None, trials):
                found = judge(trial, answer(trial, pipelines[task]))
                rows.append({"volume": case.name, "subject": case.subject, "task": task, "level": level, **found})
    return rows


def answer(trial: Trial, pipeline: Pipeline) -> Answer:
    """Restore a trial on the product's own path."""
    volume = Volume(trial.scan, np.diag([*trial.spacing, 1.0]), "MR")
    options = RestoreOptions(**trial.options, force=True)
    found = pipeline.restore(volume, options, hole=trial.hole)
    base = classical(pipeline).restore(volume, options, hole=trial.hole).mean
    before = trial.scan if trial.task == "denoise" else base
    interval = found.record["interval"]
    quantile = float(interval["quantile"]) if interval["calibrated"] else NORMAL
    return Answer(found.mean, found.std, quantile, bool(interval["calibrated"]), base, np.abs(found.mean - before))


def judge(trial: Trial, found: Answer) -> dict[str, Any]:
    """Coverage and width of the interval, and areas of sparsification errors for three orders of voxels."""
    truth, inside = trial.truth, trial.inside
    deviation = uncertainty.ause(found.mean, found.std, truth, inside)
    by_correction = uncertainty.ause(found.mean, found.correction, truth, inside)
    return {
        "coverage": uncertainty.coverage(found.mean, found.std, truth, found.quantile, inside),
        "width": uncertainty.interval_width(found.std, found.quantile, inside),
        "rms_error": metrics.rmse(found.mean, truth, inside),
        "rms_error_base": metrics.rmse(found.base, truth, inside),
        "ause": deviation["ause"],
        "ause_random": deviation["ause_random"],
        "ause_correction": by_correction["ause"],
        "calibrated": found.calibrated,
    }


def gain(rows: Sequence[Row]) -> float:
    """How much nearer to the truth than the classical base, in dB, in the mean over volumes."""
    return float(np.mean([20 * np.log10(row["rms_error_base"] / row["rms_error"]) for row in rows]))


def of(rows: Sequence[Row], task: str, level: float | None = None) -> list[Row]:
    """The rows of a task, at one level or at all."""
    return [row for row in rows if row["task"] == task and level in (None, row["level"])]


def mean(rows: Sequence[Row], key: str) -> float:
    """Mean over volumes."""
    return float(np.mean([row[key] for row in rows]))


def verdicts(rows: Sequence[Row]) -> list[report.Verdict]:
    """The goals for every task: coverage within the limits, and a deviation that orders voxels best."""
    found = []
    for task in LEVELS:
        mine = of(rows, task)
        if not mine:
            continue
        share = mean(mine, "coverage")
        told = f"{share:.3f} in the mean of {len(mine)} restorations"
        if not all(row["calibrated"] for row in mine):
            told += f"; the pipeline is not calibrated, {NORMAL:g} standard deviations were taken"
        found.append(report.Verdict(f"{task}: coverage of {LOW} to {HIGH}", told, LOW <= share <= HIGH))
        areas = [mean(mine, key) for key in ("ause", "ause_random", "ause_correction")]
        text = f"{areas[0]:.3f}, random {areas[1]:.3f}, size of the correction {areas[2]:.3f}"
        goal = f"{task}: smaller sparsification error than a random order and than the correction's size"
        found.append(report.Verdict(goal, text, areas[0] < min(areas[1:])))
        nearer = {level: gain(of(mine, task, level)) for level in sorted({row["level"] for row in mine})}
        text = ", ".join(f"{each:+.2f} dB at {level:g}" for level, each in nearer.items())
        found.append(
            report.Verdict(f"{task}: no worse than the classical base at any level", text, min(nearer.values()) >= 0)
        )
    return found


def line(row: Row) -> str:
    """One row for a person who waits."""
    return (
        f"{row['volume'][:24]:24} {row['task']:8} {row['level']:>4g}  coverage {row['coverage']:.3f}"
        f"  AUSE {row['ause']:.3f} (random {row['ause_random']:.3f}, correction {row['ause_correction']:.3f})"
    )


def summary(rows: Sequence[Row]) -> str:
    """One line for each task and level."""
    body = []
    for task, levels in LEVELS.items():
        for level in levels:
            mine = of(rows, task, level)
            if mine:
                shares = [row["coverage"] for row in mine]
                body.append(
                    [
                        f"{task}, {level:g} {UNITS[task]}" if UNITS[task] else task,
                        len(mine),
                        report.figure(mean(mine, "coverage"), 3),
                        f"{min(shares):.3f} to {max(shares):.3f}",
                        *(report.figure(mean(mine, key), 4) for key in ("width", "rms_error")),
                        f"{gain(mine):+.2f}",
                        *(report.figure(mean(mine, key), 3) for key in ("ause", "ause_correction", "ause_random")),
                    ]
                )
    head = [
        "task",
        "volumes",
        "coverage",
        "of single volumes",
        "mean width",
        "RMS error",
        "over base, dB",
        "AUSE",
        "AUSE, correction's size",
        "AUSE, random",
    ]
    return report.table(head, body)


def document(result: dict[str, Any], listing: str) -> str:
    """Everything that was found, in Markdown."""
    rows, where = result["rows"], result["environment"]
    judged = (
        f"{result['data']}; pipeline {where['pipeline']} {where['version']}. Voxels of the foreground, for inpainting"
        " of the hole. Widths and errors in units of the bright level. AUSE: area between the sparsification curve of"
        " an order of voxels and that of their true errors, 0 is best; the orders are the stated deviation, the size of"
        " what was done to the scan (denoising) or to the classical base, and chance."
    )
    parts = [
        "# Coverage of the 90 % interval",
        judged,
        summary(rows),
        report.goals(result["verdicts"]),
        volumes.closing(result, listing),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
