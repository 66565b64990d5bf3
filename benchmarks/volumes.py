"""What the benchmarks of the tasks share: their options, the volumes they judge on, and the network switched off."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cases, report
from benchmarks.cases import Case, Image
from benchmarks.report import Verdict
from medidiff import pipelines
from medidiff.config import ComputeOptions, Task
from medidiff.pipelines import Pipeline
from medidiff.scans.volume import Volume
from medidiff.training.validation import ISOTROPIC

SMALLEST = 16  # voxels along the shortest axis


@dataclass
class Choice:
    """The volumes that a benchmark judges on.

    Attributes:
        cases: the volumes.
        listing: every volume that was looked at, and why it was taken or left out.
    """

    cases: list[Case] = field(default_factory=list)
    listing: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        body = [
            [one["volume"], "x".join(map(str, one["shape"])), one["spacing"], one["why"] or "taken"]
            for one in self.listing
        ]
        return report.table(["volume", "crop", "voxel, mm", ""], body)


def parser(text: str, crop: int) -> argparse.ArgumentParser:
    """The options that all benchmarks of tasks have."""
    real = cases.real_data()
    found = argparse.ArgumentParser(description=text.splitlines()[0])
    found.add_argument("--manifest", type=Path, default=real / "MANIFEST.csv" if real else None)
    found.add_argument("--split", default="validation")
    found.add_argument("--files", type=Path, nargs="+", help="judge on these nearly noise-free MR scans instead")
    found.add_argument("--volumes", type=int, help="only so many volumes")
    found.add_argument(
        "--crop", type=int, default=crop, help=f"largest edge of the central crop in voxels (default: {crop})"
    )
    found.add_argument("--pipeline", default="mr")
    found.add_argument("--device", default="auto")
    found.add_argument("--threads", type=int, help="default: all cores that the process may use")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--results", type=Path, default=report.RESULTS)
    return found


def choose(options: argparse.Namespace, *, isotropic: bool = True) -> Choice:
    """The MR volumes to judge on, in the manifest's order.

    Args:
        options: see ``parser``.
        isotropic: only volumes whose voxels are nearly cubes: where slices are thick already there is no fine
            reference along them.
    """
    found = Choice()
    for case in listed(options):
        why = unfit(case, isotropic)
        spacing = " x ".join(f"{size:.3g}" for size in case.spacing)
        found.listing.append({"volume": case.name, "shape": list(case.clean.shape), "spacing": spacing, "why": why})
        if not why:
            found.cases.append(case)
        if len(found.cases) == options.volumes:
            break
    if not found.cases:
        raise SystemExit("There is no volume to judge on.")
    return found


def listed(options: argparse.Namespace) -> Iterator[Case]:
    """Named files, a manifest's MR rows, or the shipped samples; magnitudes below 0 (ringing) are set to 0."""
    if options.files or options.manifest is None:
        found = (cases.load(path, options.crop, "MR") for path in chain(options.files or cases.SAMPLES))
    else:
        found = cases.from_manifest(options.manifest, options.split, "MR", options.crop)
    return (replace(case, clean=np.maximum(case.clean, 0)) for case in found)


def unfit(case: Case, isotropic: bool) -> str:
    """Why a volume is left out; empty when it is not."""
    ratio = max(case.spacing) / min(case.spacing)
    if isotropic and ratio >= ISOTROPIC:
        return f"left out: slices {ratio:.1f} times as thick as wide hold no fine reference"
    if min(case.clean.shape) < SMALLEST:
        return f"left out: {min(case.clean.shape)} voxels along one axis"
    return ""


def describe(options: argparse.Namespace, choice: Choice) -> str:
    """What was judged on, in words."""
    subjects = len({case.subject for case in choice.cases})
    count = f"{len(choice.cases)} volumes of {subjects} subjects"
    part = f"central crops of at most {options.crop} voxels an axis"
    if options.files:
        return f"{count} (named files), {part}"
    if options.manifest is None:
        return f"{count} (the shipped samples, which are easier than real scans), {part}"
    return f"{count} (MR, {options.split} split), {part}"


def load(options: argparse.Namespace, task: Task) -> Pipeline:
    """The pipeline for one task."""
    found = pipelines.load(options.pipeline, task, compute=ComputeOptions(device=options.device))
    if not isinstance(found, Pipeline):
        raise SystemExit("Name one pipeline: --pipeline auto stands for several.")
    return found


def volume_of(case: Case, unit: Image, spacing: tuple[float, ...] | None = None, **known: Any) -> Volume:
    """A normalised image as a scan in the units of the case's file."""
    return Volume(case.scaling.undo(unit), np.diag([*(spacing or case.spacing), 1.0]), case.modality, **known)


def publish(
    name: str,
    options: argparse.Namespace,
    choice: Choice,
    pipeline: Pipeline,
    *,
    threads: int,
    seconds: float,
    verdicts: Iterable[Verdict],
    document: Callable[[dict[str, Any], str], str],
    **found: Any,
) -> None:
    """Print a benchmark's report and store it with its figures, ``found``, under ``name``."""
    result = {
        "environment": report.environment(pipeline, threads),
        "data": describe(options, choice),
        "volumes": choice.listing,
        "seed": options.seed,
        "seconds": round(seconds),
        "verdicts": [vars(verdict) for verdict in verdicts],
        **found,
    }
    text = document(result, str(choice))
    print("\n" + text)
    report.write(name, result, text, options.results)


def closing(result: dict[str, Any], listing: str) -> str:
    """The end of a document: what was judged on, and what the figures depend on."""
    return "\n\n".join(["## Volumes", listing, made_with(result)])


def made_with(result: dict[str, Any]) -> str:
    """What the figures depend on, in one sentence."""
    where = result["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in where["packages"].items())
    return (
        f"Pipeline {where['pipeline']} {where['version']}, weights {where['weights_sha256'][:12]}, {where['device']},"
        f" {where['threads']} threads, seed {result['seed']}, {result['seconds']} s; {packages}."
    )
