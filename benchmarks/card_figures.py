"""Tables for the model cards: every figure with its 95 % interval, out of what the benchmarks found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from benchmarks import ct as ct_benchmark
from benchmarks import inpaint, quality, report, superres
from benchmarks import lesions as lesions_benchmark
from medidiff.evaluation.statistics import interval
from medidiff.physics.intensity import CT_SCALE
from medidiff.training.validation import sigma_of

Result = dict[str, Any]
Row = dict[str, Any]
Value = Callable[[Row], float]


def by_subject(rows: Iterable[Row], value: Value) -> NDArray[np.float64]:
    """Mean of a figure over the volumes of each subject; what could not be measured is left out."""
    found: dict[str, list[float]] = {}
    for row in rows:
        figure = value(row)
        if figure is not None and np.isfinite(figure):
            found.setdefault(row["subject"], []).append(figure)
    return np.array([np.mean(figures) for figures in found.values()])


def spread(values: NDArray[np.float64], digits: int = 2, sign: bool = True) -> str:
    """The mean over subjects and its interval, in one cell."""
    if not values.size:
        return "–"
    low, high = (report.figure(end, digits, sign) for end in interval(values))
    return f"{report.figure(float(values.mean()), digits, sign)} ({low} to {high})"


def share(hits: int, tries: int) -> str:
    """A share in percent and Wilson's interval."""
    ends = binomtest(hits, tries).proportion_ci(method="wilson")
    return f"{hits} of {tries}: {100 * hits / tries:.1f} % ({100 * ends.low:.1f} to {100 * ends.high:.1f})"


def counted(rows: Sequence[Row]) -> str:
    """How many volumes of how many subjects."""
    return f"{len({row['volume'] for row in rows})} of {len({row['subject'] for row in rows})}"


def against(
    groups: dict[str, Sequence[Row]],
    mine: str,
    peers: Sequence[str],
    metric: str,
    digits: int,
    unit: str,
    *,
    lower: bool = False,
) -> str:
    """One line a group of rows: a method's own figure, and what it gains over each peer.

    Args:
        groups: rows, each with ``methods``, by what they have in common.
        mine: the method.
        peers: the others.
        metric: the figure to compare.
        digits: to show.
        unit: of the figure.
        lower: whether less is better.
    """

    def figure(method: str) -> Value:
        return lambda row: row["methods"].get(method, {}).get(metric)

    def gain(peer: str) -> Value:
        def value(row: Row) -> float:
            one, other = figure(mine)(row), figure(peer)(row)
            return float("nan") if one is None or other is None else (other - one if lower else one - other)

        return value

    body = []
    for name, rows in groups.items():
        own = spread(by_subject(rows, figure(mine)), digits, sign=False)
        gains = [spread(by_subject(rows, gain(peer)), digits) for peer in peers]
        body.append([name, counted(rows), own, *gains])
    return report.table([unit, "volumes of subjects", mine, *(f"over {peer}" for peer in peers)], body)


def quality_of(groups: dict[str, Sequence[Row]], mine: str, peers: Sequence[str], what: str = "") -> list[str]:
    """The tables of PSNR and SSIM, see ``against``; ``what`` stands before their names."""
    return [
        against(groups, mine, peers, metric, digits, f"{what}{unit}")
        for metric, digits, unit in (("psnr", 2, "PSNR, dB"), ("ssim", 3, "SSIM"))
    ]


def beaten(groups: dict[str, Sequence[Row]], mine: str, peers: Sequence[str]) -> str:
    """On how many images a peer was better by PSNR, and by how much at most."""
    found = []
    for name, rows in groups.items():
        for peer in peers:
            both = [row["methods"] for row in rows if peer in row["methods"]]
            losses = [each[peer]["psnr"] - each[mine]["psnr"] for each in both]
            worse = [loss for loss in losses if loss > 0]
            if worse:
                found.append(f"{name}, {peer} on {len(worse)} of {len(losses)} (by {max(worse):.2f} dB at most)")
    return f"Better than medidiff: {'; '.join(found) or 'no peer on any image'}."


def grouped(rows: Sequence[Row], key: Callable[[Row], str]) -> dict[str, Sequence[Row]]:
    """Rows by a name, in the order in which names come."""
    return {name: [row for row in rows if key(row) == name] for name in dict.fromkeys(map(key, rows))}


def peers_of(rows: Sequence[Row], mine: Sequence[str]) -> list[str]:
    """The methods of rows but one's own, in order."""
    return [name for name in dict.fromkeys(name for row in rows for name in row["methods"]) if name not in mine]


def denoising(result: Result) -> str:
    """PSNR and SSIM against every peer at each noise level."""
    rows = result["rows"]
    groups = grouped(rows, lambda row: f"{row['noise']:g} % noise")
    peers = [*peers_of(rows, (quality.KNOWN, quality.BLIND)), quality.KNOWN]
    tables = quality_of(groups, quality.BLIND, peers)
    laws = " and ".join(sorted({row["law"].capitalize() for row in rows}))
    intro = (
        f"{result['data']}; {laws} noise in percent of the bright level, PSNR over the foreground. All methods see the"
        " same images; the peers are told the true noise, medidiff estimates it."
    )
    return "\n\n".join([intro, *tables, beaten(groups, quality.BLIND, peers[:-1])])


def superresolution(result: Result) -> str:
    """PSNR and SSIM against interpolation; how well the data are reproduced."""
    rows = result["rows"]
    groups = grouped(rows, lambda row: row["setting"])
    peers = peers_of(rows, (superres.MEDIDIFF,))
    worst = max(row["methods"][superres.MEDIDIFF]["data_residual"] for row in rows)
    return "\n\n".join(
        [
            f"{result['data']}, made coarse; PSNR over the foreground.",
            *quality_of(groups, superres.MEDIDIFF, peers),
            beaten(groups, superres.MEDIDIFF, peers),
            f"What was measured is reproduced to {worst:.0e} of its range at worst.",
        ]
    )


def inpainting(result: Result) -> str:
    """The BraTS metric inside the hole against every peer."""
    rows = result["rows"]
    peers = peers_of(rows, (inpaint.MEDIDIFF,))
    holes = {f"{len(rows)} holes": rows}
    changed = max(row["changed_outside"] for row in rows)
    return "\n\n".join(
        [
            f"{result['data']}, tumour-shaped holes; PSNR and SSIM by the BraTS local-synthesis metric, in the hole.",
            *quality_of(holes, inpaint.MEDIDIFF, peers),
            beaten(holes, inpaint.MEDIDIFF, peers),
            f"Voxels changed outside of the hole: {changed}.",
        ]
    )


def ct(result: Result) -> str:
    """Error in HU against every peer, bias, noise texture and sharpness."""
    volumes: dict[tuple[str, float], Row] = {}
    for row in result["rows"]:
        at = volumes.setdefault((row["volume"], row["percent"]), {**row, "methods": {}})
        at["methods"][row["method"]] = {"rmse": row["rmse"], "bias": row["bias"]}
    rows = list(volumes.values())
    groups = grouped(rows, lambda row: f"{CT_SCALE * sigma_of(row['percent'], 'CT'):.0f} HU added")
    mine = ct_benchmark.MEDIDIFF
    table = against(groups, mine, peers_of(rows, (mine,)), "rmse", 1, "root mean square error, HU", lower=True)
    bias = [
        [name, spread(by_subject(each, lambda row: row["methods"][mine]["bias"]), 2)] for name, each in groups.items()
    ]
    seen = [row for row in result["phantom"] if row["method"] == mine]
    physical = [
        [
            f"{CT_SCALE * sigma_of(row['percent'], 'CT'):.0f} HU added",
            f"{row['noise']:.1f}",
            f"{row['shift']:+.1f} %",
            *(f"{row['blur'][rod]:.1f} %" for rod in ct_benchmark.RODS),
        ]
        for row in seen
    ]
    blur = [f"MTF50 of {rod} lower by" for rod in ct_benchmark.RODS]
    intro = (
        f"{result['data']}; noise with the spectrum of a smooth kernel, errors over the body. The references have"
        " noise of their own, which counts against every method."
    )
    return "\n\n".join(
        [
            intro,
            table,
            report.table(["bias of medidiff, HU", "mean over subjects"], bias),
            "A phantom of water with rods, one image at each strength:",
            report.table(["", "noise left, HU", "mean frequency of the noise shifts by", *blur], physical),
        ]
    )


def repeats(result: Result) -> str:
    """PSNR of single volumes against the mean of the others."""
    rows = [
        {**row, "subject": row["file"], "methods": {name: {"psnr": psnr} for name, psnr in row["psnr"].items()}}
        for row in result["rows"]
    ]
    mine = "medidiff, noise estimated"
    return "\n\n".join(
        [
            "Single volumes of repeated acquisitions against the mean of the others; subjects: the acquisitions.",
            against({"all": rows}, mine, peers_of(rows, (mine,)), "psnr", 2, "PSNR, dB"),
        ]
    )


def slices(result: Result) -> str:
    """PSNR and SSIM of 2-D images in every setting."""
    rows = result["rows"]
    parts = [f"{result['data']}. White Gaussian noise, of 255; the peers are told its strength, medidiff estimates it."]
    for task, chosen in grouped(rows, lambda row: row["task"]).items():
        groups = grouped(chosen, lambda row: row["setting"])
        peers = peers_of(chosen, ("medidiff",))
        parts += [*quality_of(groups, "medidiff", peers, f"{task}: "), beaten(groups, "medidiff", peers)]
    return "\n\n".join(parts)


def coverage(result: Result) -> str:
    """Coverage of the 90 % interval by task and level."""
    body = []
    for name, rows in grouped(result["rows"], lambda row: f"{row['task']}, {row['level']}").items():
        inside = spread(100 * by_subject(rows, lambda row: row["coverage"]), 1, sign=False)
        lowest, highest = (100 * end([row["coverage"] for row in rows]) for end in (min, max))
        widths = [spread(by_subject(rows, lambda row, key=key: row[key]), 3, False) for key in ("width", "ause")]
        body.append([name, counted(rows), inside, f"{lowest:.0f} to {highest:.0f}", *widths])
    head = [
        "task, level",
        "volumes of subjects",
        "voxels inside the 90 % interval, %",
        "single volumes",
        "width",
        "AUSE",
    ]
    intro = (
        f"{result['data']}. Levels: percent of noise, voxels made of one. Width in units of the bright level; AUSE: 0"
        " where the stated deviation orders voxels as their errors do."
    )
    return f"{intro}\n\n{report.table(head, body)}"


def lesions(result: Result) -> str:
    """How many detectable lesions keep their contrast-to-noise ratio, and how many appear."""
    found = [row for row in result["lesions"] if row["d_prime"] >= lesions_benchmark.DETECTABLE]
    body = []
    for setting, rows in grouped(found, lambda row: row["setting"]).items():
        for image in (lesions_benchmark.MEAN, lesions_benchmark.SAMPLE):
            kept = sum(row["cnr_ratio"][image] >= lesions_benchmark.KEPT for row in rows)
            false = [row for row in result["false_lesions"] if (row["setting"], row["image"]) == (setting, image)]
            contrast = by_subject(rows, lambda row, image=image: row["contrast_kept"][image])
            body.append(
                [
                    f"{setting}, {image}",
                    counted(rows),
                    share(kept, len(rows)),
                    spread(contrast, sign=False),
                    sum(row["blobs"] for row in false),
                ]
            )
    head = ["", "volumes of subjects", "keep 0.9 of the contrast-to-noise ratio", "contrast kept", "false lesions"]
    intro = (
        f"{result['data']}. Spheres put into clean scans, those that an ideal observer finds in the degraded scan;"
        " contrast as a share of the true one. False lesions: blobs like lesions in the same volumes without any."
    )
    return f"{intro}\n\n{report.table(head, body)}"


def guard(result: Result) -> str:
    """Planted failures noticed and sound results called unsound, by task."""
    body = []
    for task, rows in grouped(result["rows"], lambda row: row["tried"].partition(",")[0]).items():
        cells = []
        for failure in (True, False):
            chosen = [row for row in rows if row["failure"] is failure]
            cells.append(share(sum(bool(row["said"]) for row in chosen), len(chosen)))
        body.append([task, *cells])
    return "\n\n".join(
        [
            f"{result['data']}. Super-resolution and inpainting are judged on classical images, `range` on scans.",
            report.table(["", "planted failures noticed", "false alarms on sound results"], body),
        ]
    )
