"""What a network is worth: measured on scans of subjects that taught nothing, kept in the bundle.

A clean scan is degraded, restored, and compared with itself. Of the network's correction of the classical base that
share is kept, the gain, which comes nearest to the truth (the weight of least squares between 0 and 1, as in stacked
regressions: Breiman, Machine Learning 1996); so on these scans no result is worse than the base's in the mean square.
The score of a voxel is then ``|x - mean| / sd``, with sd the network's deviation scaled to the root mean square error
(split conformal prediction: Lei et al., JASA 2018). Voxels of a scan are not exchangeable, scans of different subjects
are; so the resolution is 1 / (volumes + 1).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.diffusion.uncertainty import FLOOR
from medidiff.physics import degradations
from medidiff.physics.fidelity import foreground
from medidiff.physics.operators import Acquisition, Axis, Profile
from medidiff.physics.statistics import LARGEST, statistics
from medidiff.training.pack import Pack
from medidiff.training.validation import HOLE_RADIUS, ISOTROPIC, noise_of, noisy_version, percentages, sigma_of

Image = NDArray[np.float32]

# noise in percent; voxels out per voxel in (2, 4, 6 through-plane, 8 = 2 x 2 x 2; of images 2, 4 = 2 x 2); inpainting
# knows no levels
LEVELS: dict[str, tuple[float, ...]] = {"denoise": percentages("MR"), "superres": (2, 4, 6, 8), "inpaint": (1,)}
# of each volume: a hole says little. With 4 the gain of image2d was 0.04 to 0.67, as the holes were drawn
TRIALS = {"denoise": 1, "superres": 1, "inpaint": 12}
COVERAGE = 0.9
_CUBE, _SQUARE = 8.0, 4.0  # levels of halving along all axes, of a volume and of an image
_FEWEST = 256  # voxels that a quantile is worth computing from
_ENOUGH = 50_000  # voxels of a volume that a quantile needs


@dataclass(frozen=True)
class Reference:
    """A clean scan in normalised intensity.

    Attributes:
        clean: shape (I, J, K).
        spacing: voxel size in millimetres.
        subject: who it shows; empty when not known.
        noise: modality whose noise it is given, ``CT`` or ``MR``.
    """

    clean: Image
    spacing: tuple[float, float, float]
    subject: str = ""
    noise: str = "MR"


@dataclass(frozen=True)
class Trial:
    """A scan to restore, and the answer.

    Attributes:
        task: ``denoise``, ``superres`` or ``inpaint``.
        level: one of `LEVELS` of the task.
        scan: what is to be restored, normalised.
        spacing: of the scan, in millimetres.
        hole: what is to be filled, or ``None``.
        options: settings of the restoration, fields of ``RestoreOptions``.
        truth: the answer.
        inside: what is judged, shape of ``truth``.
    """

    task: Literal["denoise", "superres", "inpaint"]
    level: float
    scan: Image
    spacing: tuple[float, float, float]
    hole: NDArray[np.bool_] | None
    options: dict[str, Any]
    truth: Image
    inside: NDArray[np.bool_]


# classical base, mean and predicted deviation of a trial, in the unit of its scan and the shape of its truth, not
# calibrated
Restore = Callable[[Trial], tuple[Image, Image, Image]]


@dataclass(frozen=True)
class Scores:
    """How one restored volume compares with its truth, whatever share of the network's correction is kept.

    Attributes:
        missing: truth minus base, of voxels.
        correction: mean minus base, of the same voxels.
        expected: predicted deviation and floor, of the same voxels.
        moments: mean squares of ``missing`` and ``correction`` and between them the mean product, of all voxels.
        deviation: root mean square of what was predicted, of all voxels.
    """

    missing: Image
    correction: Image
    expected: Image
    moments: tuple[float, float, float]
    deviation: float

    def square_error(self, gain: float) -> float:
        """Mean square error."""
        missing, product, correction = self.moments
        return max(0.0, missing - 2 * gain * product + gain**2 * correction)

    def ratios(self, gain: float) -> Image:
        """``|x - mean| / (sd + floor)`` of voxels."""
        return np.asarray(np.abs(self.missing - gain * self.correction) / self.expected, dtype=np.float32)


@dataclass
class Collected:
    """Scores of one task and level, with the subjects that gave them."""

    scores: list[Scores] = field(default_factory=list)
    volumes: int = 0
    subjects: set[str] = field(default_factory=set)


def levels(task: str, noise: str) -> tuple[float, ...]:
    """The levels at which a task is calibrated on scans with the noise of a modality."""
    return percentages(noise) if task == "denoise" else LEVELS[task]


def simulate(task: str, level: float, reference: Reference, generator: torch.Generator) -> Trial | None:
    """Degrade a clean scan; ``None`` where it is not fit for the task (thick slices, too few voxels).

    Args:
        task: ``denoise``, ``superres`` or ``inpaint``.
        level: one of `LEVELS` of the task.
        reference: the clean scan.
        generator: on the CPU.
    """
    make = {"denoise": _denoise, "superres": _superres, "inpaint": _inpaint}[task]
    trial = make(level, reference, generator)
    return trial if trial is not None and int(trial.inside.sum()) >= _FEWEST else None


def _denoise(level: float, reference: Reference, generator: torch.Generator) -> Trial:
    seed = int(torch.randint(2**31, (), generator=generator))
    noisy = noisy_version(reference.clean, level, seed, reference.noise)
    inside = foreground(reference.clean)
    return Trial("denoise", level, noisy, reference.spacing, None, {"noise": "auto"}, reference.clean, inside)


def _superres(level: float, reference: Reference, _: torch.Generator) -> Trial | None:
    """Thick slices along one axis, or a k-space of half the size along all."""
    planar = reference.clean.shape[2] == 1
    edges = reference.spacing[:2] if planar else reference.spacing
    if max(edges) > ISOTROPIC * min(edges):
        return None
    factor = _factor(level, planar=planar)
    if factor is None or any(n < 8 * f for n, f in zip(reference.clean.shape, factor, strict=True) if f > 1):
        return None
    cube = sum(f > 1 for f in factor) > 1
    whole = tuple(slice(0, n - n % f) for n, f in zip(reference.clean.shape, factor, strict=True))
    clean = np.ascontiguousarray(reference.clean[whole])
    profile: Profile = "kspace" if cube else "gaussian"
    axes = tuple(Axis(n // f, n, profile) for n, f in zip(clean.shape, factor, strict=True))
    scan = Acquisition(axes).forward(torch.from_numpy(clean)[None])[0].numpy()
    near, middle, far = (size * f for size, f in zip(reference.spacing, factor, strict=True))
    options = {"factor": tuple(map(float, factor)), "profile": profile, "noise": 0.0}
    return Trial("superres", level, scan, (near, middle, far), None, options, clean, foreground(clean))


def _factor(level: float, *, planar: bool) -> tuple[int, int, int] | None:
    """How coarse each axis becomes at a level; ``None`` where images of one slice have no such level."""
    if planar:
        return {2.0: (2, 1, 1), _SQUARE: (2, 2, 1)}.get(level)
    return (2, 2, 2) if level == _CUBE else (1, 1, round(level))


def _inpaint(level: float, reference: Reference, generator: torch.Generator) -> Trial:
    """A random hole, in which the scan is zero; what is judged is the hole's part in the object."""
    shape = torch.Size((1, *reference.clean.shape))
    hole = degradations.hole(shape, generator, torch.device("cpu"), HOLE_RADIUS)[0].numpy()
    scan = np.where(hole, np.float32(0), reference.clean)
    return Trial("inpaint", level, scan, reference.spacing, hole, {"noise": 0.0}, reference.clean, hole)


def score(trial: Trial, base: Image, mean: Image, deviation: Image) -> Scores:
    """Compare a restoration with its truth, inside what is judged."""
    missing, correction = ((image - base)[trial.inside] for image in (trial.truth, mean))
    expected = deviation[trial.inside] + np.float32(FLOOR)
    some = slice(None, None, max(1, missing.size // _ENOUGH))
    return Scores(
        missing[some],
        correction[some],
        expected[some],
        (_product(missing, missing), _product(missing, correction), _product(correction, correction)),
        math.sqrt(_product(expected, expected)),
    )


def _product(left: Image, right: Image) -> float:
    """Mean over voxels."""
    return float(np.mean(np.multiply(left, right, dtype=np.float64)))


def best_gain(scores: Sequence[Scores]) -> float:
    """The share of the correction, 0 to 1, with the least square error in the mean over volumes."""
    products, corrections = (sum(one.moments[index] for one in scores) for index in (1, 2))
    return min(max(products / corrections, 0.0), 1.0) if corrections > 0 else 1.0


def calibrate(
    references: Iterable[Reference],
    restore: Restore,
    tasks: Sequence[str] = tuple(LEVELS),
    *,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """The calibration table of a bundle: {task: {level: {gain, quantile90, scale, volumes, subjects}}}.

    Args:
        references: clean scans of subjects that the network did not learn from.
        restore: the pipeline, without a calibration of its own.
        tasks: what to calibrate.
        seed: of noise and holes.
        progress: told what was done, in words.

    Raises:
        ValueError: no reference was fit for one of the tasks.
    """
    found: dict[tuple[str, float], Collected] = {}
    for number, reference in enumerate(references):
        generators = {name: torch.Generator().manual_seed(seed + number) for name in tasks}
        for task, level in [(name, each) for name in tasks for each in levels(name, reference.noise)]:
            trials = [simulate(task, level, reference, generators[task]) for _ in range(TRIALS[task])]
            scores = [score(trial, *restore(trial)) for trial in trials if trial is not None]
            if not scores:
                continue
            collected = found.setdefault((task, level), Collected())
            collected.scores += scores
            collected.volumes += 1
            collected.subjects |= {reference.subject} - {""}
            if progress:
                progress(f"volume {number + 1}: {task} {level:g}")
    table: dict[str, Any] = {}
    for (task, level), collected in sorted(found.items(), key=lambda item: item[0][1]):
        table.setdefault(task, {})[f"{level:g}"] = _row(collected)
    missing = [task for task in tasks if task not in table]
    if missing:
        raise ValueError(f"none of the scans can calibrate {', '.join(missing)}")
    return table


def _row(collected: Collected) -> dict[str, Any]:
    scores = collected.scores
    gain = round(best_gain(scores), 4)
    error = float(np.mean([one.square_error(gain) for one in scores]))
    scale = math.sqrt(error / float(np.mean([one.deviation**2 for one in scores])))
    return {
        "gain": gain,
        "quantile90": round(quantile([one.ratios(gain) for one in scores]) / scale, 4),
        "scale": round(scale, 4),
        "volumes": collected.volumes,
        "subjects": sorted(collected.subjects),
    }


def quantile(ratios: Sequence[Image], coverage: float = COVERAGE) -> float:
    """The pooled quantile of the scores, every volume with the same weight.

    Measured on pipeline mr 0.1.0, 11 volumes that calibrate and 16 of other subjects that judge, 3, 9 and 15 % noise:
    the pooled quantile holds 89 % of the voxels in the mean over volumes (81 to 96 % of a single one); the conformal
    order statistic of the volumes' own quantiles, which promises 90 % for nine scans in ten, holds 95 to 96 % (91 to
    99 %), with intervals a third wider. A map of 90 % intervals is read as the former.

    Args:
        ratios: of each volume.
        coverage: share of voxels that the interval shall hold in the mean over volumes.
    """
    values = np.concatenate(ratios)
    weights = np.concatenate([np.full(one.size, 1 / one.size) for one in ratios])
    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / len(ratios)
    return float(values[order[min(int(np.searchsorted(reached, coverage)), values.size - 1)]])


def write(metadata: Path, table: dict[str, Any]) -> None:
    """Put a table into a bundle's ``configs/metadata.json``; tasks that it lacks keep what they had."""
    tree = json.loads(metadata.read_text(encoding="utf-8"))
    tree["medidiff"]["calibration"] = {**tree["medidiff"].get("calibration", {}), **table}
    temporary = metadata.with_suffix(".new")
    temporary.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
    temporary.replace(metadata)


def references(pack: Pack, split: str = "calibration", modalities: Sequence[str] = ("MR",)) -> list[Reference]:
    """The volumes of a split."""
    return [
        Reference(pack.normalised(index), entry.spacing, entry.subject, noise_of(modalities))
        for index in pack.of(split)
        if (entry := pack.entries[index]).modality in modalities
    ]


def middle(clean: Image, edge: int) -> Image:
    """The middle of the body, at most ``edge`` voxels along each axis."""
    body = np.argwhere(foreground(clean))
    if not body.size:
        return clean
    centre = (body.min(axis=0) + body.max(axis=0) + 1) // 2
    starts = [int(np.clip(c - edge // 2, 0, max(n - edge, 0))) for c, n in zip(centre, clean.shape, strict=True)]
    return np.ascontiguousarray(clean[tuple(slice(start, start + edge) for start in starts)])


def trained_range(
    pack: Pack,
    noise_percent: tuple[float, float],
    modalities: Sequence[str] = ("MR",),
    bodies: Sequence[tuple[Image, float]] = (),
) -> dict[str, Any]:
    """What the training volumes of a pack, and synthetic bodies, look like, for ``trained_on``; see `range_of`.

    Where most of them are synthetic, nobody knows from them which intensities are usual, so nothing is said of these.
    """
    real = references(pack, "train", modalities)
    synthetic = [Reference(body, (size,) * 3, "", noise_of(modalities)) for body, size in bodies]
    found = range_of([*real, *synthetic], noise_percent)
    if len(synthetic) > len(real):
        found["intensity"] = {}
    return found


def range_of(volumes: Iterable[Reference], noise_percent: tuple[float, float]) -> dict[str, Any]:
    """What volumes look like, as ``guard.range_check`` wants it.

    Every volume counts as it is and with weak, middling and strong noise of the trained range.

    Args:
        volumes: the training data.
        noise_percent: least and most noise that was added in training.

    Returns:
        ``intensity``: {statistic: [mean, standard deviation]}; ``anisotropy``: [least, most] ratio of voxel edges.
    """
    low, high = noise_percent
    rows: dict[str, list[float]] = {}
    ratios = []
    for reference in volumes:
        clean = middle(reference.clean, LARGEST)
        ratios.append(max(reference.spacing) / min(reference.spacing))
        for percent in (0.0, low, math.sqrt(low * high), high):
            scan = noisy_version(clean, percent, modality=reference.noise) if percent else clean
            for name, value in statistics(scan, sigma_of(percent, reference.noise)).items():
                rows.setdefault(name, []).append(value)
    intensity = {name: [round(float(np.mean(v)), 5), round(float(np.std(v)), 5)] for name, v in rows.items()}
    return {"intensity": intensity, "anisotropy": [round(min(ratios), 4), round(max(ratios), 4)]}
