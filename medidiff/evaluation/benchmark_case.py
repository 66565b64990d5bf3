"""One scan of a benchmark: what methods are given, the figures of their images, and how the report sees it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from medidiff._version import __version__
from medidiff.config import Task
from medidiff.evaluation import degrade, exchange, judge, metrics, uncertainty
from medidiff.evaluation.degrade import Clean, Degraded
from medidiff.evaluation.exchange import Job, Outcome
from medidiff.evaluation.judge import Truth
from medidiff.evaluation.results import EvaluatedCase, Figure, Image, Shown
from medidiff.physics.operators import Profile
from medidiff.physics.rician import Law
from medidiff.scans import discover, outputs
from medidiff.scans.volume import ScanRef

MAIN = "medidiff"


@dataclass(frozen=True)
class Settings:
    """How a benchmark is done.

    Attributes:
        task: what methods do.
        law: of the noise that is added.
        percent: standard deviation of the noise, of the bright level; 0 for none.
        factor: how many times coarser voxels become: one number for slices, three for the array's axes.
        profile: sensitivity of a coarse voxel; ``None`` for a Gaussian across slices, k-space along several axes.
        against: names of peers.
        crop: largest edge of the central part that is used; ``None`` for whole scans.
        seed: of noise and holes.
        volumes: only the first so many scans.
        threads: processor cores of each method; all when ``None``.
        pipeline: a name or a bundle's folder.
        device: where medidiff computes.
        force: medidiff also restores scans that lie outside of what its pipeline was trained for.
        alone: a process for each method and case, so that memory can be told.
    """

    task: Task = "denoise"
    law: Law = "rician"
    percent: float = 0.0
    factor: tuple[int, ...] = (4,)
    profile: Profile | None = None
    against: tuple[str, ...] = ()
    crop: int | None = None
    seed: int = 0
    volumes: int | None = None
    threads: int | None = None
    pipeline: str = "auto"
    device: str = "auto"
    force: bool = False
    alone: bool = True

    @property
    def shape_of_voxels(self) -> Profile:
        """The profile, with its default."""
        return self.profile or ("gaussian" if len(self.factor) == 1 else "kspace")


@dataclass(frozen=True)
class Posed:
    """A case: what methods are given, what they should give, where its files lie."""

    clean: Clean
    degraded: Degraded
    folder: Path
    key: str
    content: str


def pose(ref: ScanRef, name: str, settings: Settings, work: Path) -> Posed:
    """Degrade a scan and write what methods are given.

    Raises:
        ScanError: the scan cannot be read or degraded so.
    """
    clean = degrade.load(ref, name, settings.crop)
    noise = (settings.law, settings.percent, settings.seed)
    if settings.task == "superres":
        factors = list(settings.factor)
        if len(factors) == 1:
            across = degrade.slice_axis(clean.unit.shape, factors[0])
            factors = [factors[0] if axis == across else 1 for axis in range(3)]
        clean, degraded = degrade.coarse(clean, factors, settings.shape_of_voxels, *noise)
    elif settings.task == "inpaint":
        degraded = degrade.with_hole(clean, *noise)
    else:
        degraded = degrade.noisy(clean, *noise)
    folder = work / outputs.safe_name(name)
    key = exchange.save_problem(degraded, folder)
    exchange.save_images(folder / "truth.npz", image=clean.scaling.undo(clean.unit))
    return Posed(clean, degraded, folder, key, discover.content_hash(ref))


def truth_of(posed: Posed) -> Truth:
    """What results are compared with."""
    clean = posed.clean
    image = clean.scaling.undo(clean.unit)
    return Truth(clean.name, image, clean.spacing, clean.units, hole=posed.degraded.hole)


def given(degraded: Degraded) -> Image:
    """The degraded image on the truth's grid in the scan's units; a hole is empty."""
    image = degraded.measured
    if degraded.acquisition is not None:  # coarse voxels as they are
        image = degraded.acquisition.spread(torch.from_numpy(image)[None])[0].numpy()
    return degraded.scaling.undo(image)


def figures_of(job: Job, outcome: Outcome, truth: Truth, posed: Posed) -> list[Figure]:
    """Every figure of a method's image, its costs, and what its deviation is worth if it states one."""
    image = exchange.load_image(job.image_file)
    rows = judged(job.method, image, truth, posed)
    if exchange.holds(job.image_file, "uncertainty"):
        std = exchange.load_image(job.image_file, "uncertainty")
        interval = outcome.record["record"].get("interval") or {}
        quantile = interval.get("quantile") if interval.get("calibrated") else None
        rows += judge.uncertain(job.method, image, std, truth, float(quantile or uncertainty.NORMAL_90))
    rows.append(Figure(truth.case, job.method, "seconds", "full", outcome.seconds))
    rows.append(Figure(truth.case, job.method, "cpu_seconds", "full", outcome.cpu_seconds))
    if outcome.peak_gb is not None:
        rows.append(Figure(truth.case, job.method, "peak_gb", "full", outcome.peak_gb))
    return rows


def judged(method: str, image: Image, truth: Truth, posed: Posed) -> list[Figure]:
    """Every figure of an image."""
    rows = judge.figures(method, image, truth)
    degraded = posed.degraded
    if degraded.task == "denoise":
        unit = degraded.scaling.apply(image)
        more = metrics.denoised(unit, posed.clean.unit, degraded.measured, degraded.sigma, degraded.law)
        rows.append(Figure(truth.case, method, "removed", "foreground", more["removed"]))
        if degraded.law == "rician":
            rows.append(Figure(truth.case, method, "dark_bias", "full", more["dark_bias"]))
    return rows


def case_of(posed: Posed, settings: Settings, outcomes: dict[str, Outcome]) -> EvaluatedCase:
    """The case with its images, which are read when they are drawn."""
    clean = posed.clean
    before = posed.degraded
    images = [
        Shown("reference", "", partial(exchange.load_image, posed.folder / "truth.npz")),
        Shown("input", "", partial(_given, posed.folder)),
    ]
    for method, outcome in outcomes.items():
        file = posed.folder / f"{method}.npz"
        if outcome.error:
            continue
        images.append(Shown("restored", method, partial(exchange.load_image, file)))
        if method == MAIN:
            images.append(Shown("uncertainty", method, partial(exchange.load_image, file, "uncertainty")))
            images.append(Shown("supplied", method, partial(exchange.load_image, file, "supplied")))
    if before.hole is not None:
        images.append(Shown("hole", "", partial(_hole, posed.folder)))
    own = outcomes[MAIN].record
    return EvaluatedCase(
        name=clean.name,
        task=settings.task,
        spacing=clean.spacing,
        units="HU" if clean.units == "HU" else "",
        images=tuple(images),
        verdicts=tuple(own.get("verdicts", ())),
        checks=dict(own.get("checks", {})),
        sidecar=_account(settings, own),
        failures={method: outcome.error for method, outcome in outcomes.items() if outcome.error},
        orientation="".join(map(str, nib.aff2axcodes(clean.affine))),
    )


def _given(folder: Path) -> Image:
    return given(exchange.load_problem(folder))


def _hole(folder: Path) -> Image:
    hole = exchange.load_problem(folder).hole
    assert hole is not None
    return np.asarray(hole, dtype=np.float32)


def _account(settings: Settings, own: Any) -> dict[str, Any] | None:
    """What medidiff says of its result, in the form of a sidecar."""
    record = own.get("record")
    if not record:
        return None
    volume = {
        "record": record,
        "guard": {"verdicts": list(own["verdicts"]), "figures": own["checks"]},
        "uncertainty": record.get("interval") or {},
    }
    pipeline = {"name": record["pipeline"], **{key: record[key] for key in ("version", "weights_sha256")}}
    return {"medidiff": __version__, "task": settings.task, "pipeline": pipeline, "volumes": [volume]}
