"""Stands in for a trained pipeline in the tests of runs and of the command line: no torch, no network.

The fake restoration is ``0.5 * scan + seed``; ``on_restore`` and ``on_load`` let a test fail, wait or interrupt there.
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

loads: list[Path] = []


def on_restore(volume: Volume) -> None:
    pass


def on_load(compute: ComputeOptions) -> None:
    pass


def make_bundle(folder: Path, weights: bytes = b"weights", tasks: tuple[str, ...] = ("denoise",)) -> Path:
    """A bundle that can be found and verified, but not run."""
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    (folder / "model").write_bytes(weights)
    settings = {
        "tasks": tasks,
        "modalities": ["MR"],
        "licence": "CC0-1.0",
        "network": {"channels": 1},
        "halo": 0,
        "weights": {"file": "model", "sha256": hashlib.sha256(weights).hexdigest()},
    }
    metadata = {"version": "1.2.3", "description": "A fake.", "medidiff": settings}
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


class Pipeline:
    def __init__(self, path: Path) -> None:
        bundle = bundles.read(path)
        self.name, self.version, self.path = bundle.name, bundle.version, bundle.path
        self.weights_sha256 = bundle.weights_sha256
        self.summary, self.device = "A fake.", "cpu"

    def restore(self, volume: Volume, options: RestoreOptions, *, progress: Any = None) -> Any:
        for done in range(2):
            progress(done, 2)
            time.sleep(float(os.environ.get("FAKE_SECONDS", "0")) / 2)
        on_restore(volume)
        mean = (0.5 * volume.array + options.seed).astype(np.float32)
        progress(2, 2)
        record = {"noise_percent": 9.04, "noise_law": "rician", "seed": options.seed, "tile": (64, 64, 64)}
        if volume.modality != "MR":
            record["warnings"] = [f"Pipeline fake was trained on MR scans, not on {volume.modality}."]
        return SimpleNamespace(
            mean=mean,
            std=np.full_like(mean, 0.25),
            samples=(),
            checks={"residual_mean": np.float32(0.5), "guard": True, "odd": float("nan")},
            record=record,
        )


def load(name: str | Path = "auto", *, compute: ComputeOptions | None = None) -> Pipeline:
    on_load(compute or ComputeOptions())
    loads.append(Path(name))
    return Pipeline(Path(name))


if __name__ == "__main__":
    from medidiff.cli import main

    with tempfile.TemporaryDirectory() as home:
        make_bundle(Path(home) / "fake")
        bundles.folders = lambda: iter([Path(home)])  # type: ignore[assignment]
        pipelines.load = load  # type: ignore[assignment]
        sys.exit(main())
