"""The files that pass between a benchmark and the process of a method, and that make it resumable.

problem.npz   what every method is given          truth.npz     what it should give
METHOD.npz    its image (and its deviation)       METHOD.json   key, seconds, peak memory, or why there is none
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.evaluation.degrade import Degraded
from medidiff.evaluation.results import Image
from medidiff.physics.intensity import Intensity
from medidiff.physics.operators import Acquisition, Axis
from medidiff.scans.outputs import atomic_file, write_json_atomic


@dataclass(frozen=True)
class Job:
    """One method on one case.

    Attributes:
        folder: of the case.
        method: its name.
        key: identity of everything that determines the result.
        pipeline: a name or a bundle's folder, for medidiff's own methods.
        device: where medidiff computes.
        threads: how many processor cores the method may use; all when ``None``.
        alone: whether it has a process of its own, so that its memory can be told.
        force: whether medidiff also restores scans outside of what its pipeline was trained for.
    """

    folder: Path
    method: str
    key: str
    pipeline: str = "auto"
    device: str = "auto"
    threads: int | None = None
    alone: bool = True
    force: bool = False

    @property
    def image_file(self) -> Path:
        """Where the image goes."""
        return self.folder / f"{self.method}.npz"

    @property
    def outcome_file(self) -> Path:
        """Where the account goes."""
        return self.folder / f"{self.method}.json"


@dataclass(frozen=True)
class Outcome:
    """How a method fared.

    Attributes:
        key: of the job.
        error: why there is no image, in one sentence; empty when there is one.
        seconds: wall time without imports and loading of weights.
        cpu_seconds: processor time of the same, over all cores.
        peak_gb: largest resident memory of the process, imports included; ``None`` when it is not known.
        record: what medidiff says of its own result; empty for peers.
    """

    key: str
    error: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_gb: float | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


def save_problem(degraded: Degraded, folder: Path) -> str:
    """Write what every method is given; return the SHA-256 of its content."""
    tree = _describe(degraded)
    arrays = {"measured": degraded.measured, "affine": degraded.affine}
    if degraded.hole is not None:
        arrays["hole"] = degraded.hole
    text = json.dumps(tree, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    _save(folder / "problem.npz", tree=np.array(text), **arrays)
    return digest.hexdigest()


def load_problem(folder: Path) -> Degraded:
    """Read it again."""
    with np.load(folder / "problem.npz", allow_pickle=False) as file:
        tree = json.loads(str(file["tree"]))
        axes = tree.pop("axes")
        return Degraded(
            measured=file["measured"],
            affine=file["affine"],
            hole=file.get("hole"),
            acquisition=None if axes is None else Acquisition(tuple(Axis(**axis) for axis in axes)),
            scaling=Intensity(**tree.pop("scaling")),
            **tree,
        )


def _describe(degraded: Degraded) -> dict[str, Any]:
    acquisition = degraded.acquisition
    return {
        "task": degraded.task,
        "modality": degraded.modality,
        "scaling": dataclasses.asdict(degraded.scaling),
        "law": degraded.law,
        "sigma": degraded.sigma,
        "slices": degraded.slices,
        "axes": None if acquisition is None else [dataclasses.asdict(axis) for axis in acquisition.axes],
    }


def save_images(path: Path, **images: Image) -> None:
    """Write named images."""
    _save(path, **images)


def load_image(path: Path, name: str = "image") -> Image:
    """Read one of them."""
    with np.load(path, allow_pickle=False) as file:
        return np.asarray(file[name])


def holds(path: Path, name: str) -> bool:
    """Whether an image of this name lies in a file."""
    with np.load(path, allow_pickle=False) as file:
        return name in file


def _save(path: Path, **arrays: Any) -> None:
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def save_outcome(job: Job, outcome: Outcome) -> None:
    """Write how a method fared."""
    write_json_atomic(job.outcome_file, dataclasses.asdict(outcome))


def load_outcome(job: Job) -> Outcome | None:
    """How a method fared on the same job before; ``None`` when it has to run."""
    try:
        found = Outcome(**json.loads(job.outcome_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    stands = found.key == job.key and not found.error and job.image_file.is_file()
    return found if stands else None
