"""Stands in for a trained pipeline in the tests of runs and of the command line: no torch, no network.

The fake restoration is ``0.5 * scan + seed``, on the grid of the factor (2 along each axis when none is given) for
superres, and the scan with 7 in the hole for inpaint; ``on_restore`` and ``on_load`` let a test fail, wait or interrupt
there, and ``verdicts`` and ``interval`` are what the guard and the calibration say.
Run as a program it is the ``medidiff`` command with the fake pipeline; FAKE_SECONDS is what a volume takes.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from medidiff import bundles, pipelines
from medidiff.config import ComputeOptions, RestoreOptions
from medidiff.scans.volume import Volume

TASKS = ("denoise", "superres", "inpaint")
loads: list[Path] = []
verdicts: tuple[str, ...] = ()
interval: dict[str, Any] = {"level": 0.9, "quantile": 1.7, "calibrated": True, "volumes": 4}


def on_restore(volume: Volume) -> None:
    pass


def on_load(compute: ComputeOptions) -> None:
    pass


def make_bundle(folder: Path, weights: bytes = b"weights", tasks: tuple[str, ...] = TASKS, **changes: Any) -> Path:
    """A bundle that can be found and verified, but not run."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "model").write_bytes(weights)
    settings = {
        "tasks": tasks,
        "modalities": ["MR"],
        "licence": "CC0-1.0",
        "network": {"channels": [1]},
        "halo": 0,
        "weights": {"file": "model", "sha256": hashlib.sha256(weights).hexdigest()},
        **changes,
    }
    metadata = {"version": "1.2.3", "description": "A fake.", "medidiff": settings}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


class Pipeline:
    modalities: tuple[str, ...] = ("MR",)

    def __init__(self, path: Path, task: str) -> None:
        bundle = bundles.read(path)
        self.name, self.version, self.path = bundle.name, bundle.version, bundle.path
        self.weights_sha256 = bundle.weights_sha256
        self.summary, self.device, self.task = "A fake.", "cpu", task

    def choose(self, volume: Volume) -> Pipeline:
        return self

    def on_disk(self, shape: tuple[int, ...], options: RestoreOptions) -> float:
        return 0.0

    def restore(self, volume: Volume, options: RestoreOptions, *, hole: Any = None, progress: Any = None) -> Any:
        for done in range(2):
            progress(done, 2)
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0")) / 2)
        on_restore(volume)
        mean, affine = getattr(sys.modules[__name__], self.task)(volume, options, hole)
        progress(2, 2)
        noise = 9.04 if self.task == "denoise" else 0.0
        record = {"noise_percent": noise, "noise_law": "rician", "seed": options.seed, "tile": (64, 64, 64)}
        record |= {"interval": interval}
        if volume.modality != "MR":
            record["warnings"] = [f"Pipeline fake was trained on MR scans, not on {volume.modality}."]
        return SimpleNamespace(
            mean=mean,
            affine=affine,
            std=np.full_like(mean, 0.25),
            samples=(),
            sample=mean + np.float32(options.gamma) if options.gamma else None,
            supplied=np.full_like(mean, 0.125),
            checks={"residual_mean": np.float32(0.5), "guard": True, "odd": float("nan")},
            verdicts=verdicts,
            record=record,
            volume=volume,
        )


def denoise(volume: Volume, options: RestoreOptions, hole: Any) -> Any:
    assert hole is None
    return (0.5 * volume.array + options.seed).astype(np.float32), volume.affine


def superres(volume: Volume, options: RestoreOptions, hole: Any) -> Any:
    factors = [1 if n == 1 else int(f) for n, f in zip(volume.array.shape, options.factor or (2, 2, 2), strict=True)]
    mean = volume.array if hole is None else np.where(hole, np.float32(7), volume.array)
    for axis, factor in enumerate(factors):
        mean = np.repeat(mean, factor, axis)
    finer = np.diag([*(1 / factor for factor in factors), 1.0])
    finer[:3, 3] = [(1 / factor - 1) / 2 for factor in factors]
    return (0.5 * mean).astype(np.float32), volume.affine @ finer


def inpaint(volume: Volume, options: RestoreOptions, hole: Any) -> Any:
    return np.where(hole, np.float32(7), volume.array), volume.affine


def load(name: str | Path = "auto", task: str = "denoise", *, compute: ComputeOptions | None = None) -> Any:
    on_load(compute or ComputeOptions())
    if str(name) == "auto":
        return Auto(task)
    loads.append(Path(name))
    return Pipeline(Path(name), task)


class Auto:
    """The chooser among several; what it loads is listed in ``loads``."""

    modalities: tuple[str, ...] = ()

    def __init__(self, task: str) -> None:
        self.task = task

    def choose(self, volume: Volume) -> Pipeline:
        return load(pipelines.choose(volume, pipelines.candidates(task=self.task)).path, self.task)

    def on_disk(self, shape: tuple[int, ...], options: RestoreOptions) -> float:
        return 0.0


if __name__ == "__main__":
    from medidiff.cli import main

    with tempfile.TemporaryDirectory() as home:
        make_bundle(Path(home) / "fake")
        bundles.folders = lambda: iter([Path(home)])  # type: ignore[assignment]
        pipelines.load = load  # type: ignore[assignment]
        sys.exit(main())
