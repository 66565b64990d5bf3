"""The tables of ``python -m benchmarks.backbones``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.backbone_data import FACTOR, SIGMA, TASKS
from medidiff.evaluation.statistics import interval

Row = dict[str, Any]
WORDS = {"denoise": f"denoising, {100 * SIGMA:.0f} % noise", "superres": f"slices {FACTOR} times too thick"}


def of(row: Row, task: str, figure: str) -> NDArray[np.float64]:
    """One figure of every volume, in the same order for every network."""
    return np.array([each[figure] for each in row["volumes"] if each["task"] == task])


def between(row: Row, task: str, other: Row, figure: str) -> str:
    """What a network's PSNR is over a figure of another: mean over subjects and its interval."""
    differences = of(row, task, "psnr") - of(other, task, figure)
    subjects = np.array([each["subject"] for each in row["volumes"] if each["task"] == task])
    means = np.array([differences[subjects == subject].mean() for subject in dict.fromkeys(subjects)])
    low, high = interval(means)
    return f"{means.mean():+.2f} ({report.figure(low, sign=True)} to {report.figure(high, sign=True)})"


def document(result: dict[str, Any]) -> str:
    """Everything that was found, in Markdown."""
    rows, where = result["rows"], result["environment"]
    latent = [row for row in rows if "autoencoder" in row]
    intro = (
        f"{result['dims']}-D: {len(result['volumes'])} volumes of {result['subjects']} subjects that no network learnt"
        f" from; {result['processor_seconds_each']:.0f} processor seconds of one thread for each network, and as many"
        " before for each autoencoder. Gain over the classical base in dB of foreground PSNR, mean over subjects, with"
        " its 95 % bootstrap interval:"
    )
    bound = (
        "What the latent space itself costs, PSNR in dB. Ceiling: clean patches encoded and decoded, which is what"
        " latents without any error give. Kept: made to explain the measured slices afterwards, as the product is."
    )
    made = f"Torch {where['packages']['torch']}, {where['processor']}, pack {result['pack_sha256'][:12]}."
    told = [intro, gains(rows), "Against the product's network:", against(rows), bound, ceilings(rows[0], latent)]
    return "\n\n".join([*told, *(changed(row) for row in latent), made])


def gains(rows: list[Row]) -> str:
    """What each network costs and gains over the base."""
    body = [
        [
            row["method"],
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['kflop_a_voxel']:.0f}",
            f"{row['seconds_a_million_voxels']:.1f}",
            row["iterations"],
            *(between(row, task, row, "base") for task in TASKS),
        ]
        for row in rows
    ]
    return report.table(["", "weights", "kFLOP a voxel", "s a million voxels", "steps", *WORDS.values()], body)


def against(rows: list[Row]) -> str:
    """Differences from the first network."""
    body = [[row["method"], *(between(row, task, rows[0], "psnr") for task in TASKS)] for row in rows[1:]]
    return report.table(["", *WORDS.values()], body)


def ceilings(product: Row, latent: list[Row]) -> str:
    """What an autoencoder lets through, next to the base and to the product's network."""
    body = [
        [
            f"{row['method']}: {WORDS[task]}",
            f"{of(row, task, 'base').mean():.2f}",
            f"{of(product, task, 'psnr').mean():.2f}",
            f"{np.mean(row['autoencoder']['psnr']):.2f}",
            f"{of(row, task, 'unprojected').mean():.2f}",
            f"{of(row, task, 'psnr').mean():.2f}" if task == "superres" else "",
        ]
        for row in latent
        for task in TASKS
    ]
    return report.table(["", "base", "product's network", "ceiling", "latent network", "kept"], body)


def changed(row: Row) -> str:
    """How far a latent space is from exactness."""
    most, missed = row["autoencoder"]["largest_change"], of(row, "superres", "data_residual").max()
    return (
        f"{row['method'].capitalize()}: the autoencoder alone changes a voxel by up to {100 * most:.0f} % of the bright"
        f" level; before projection its image misses the measured slices by up to {100 * missed:.0f} %."
    )
