"""Gives a Dask worker the fake pipeline: ``distributed.worker.preload`` names this file, FAKE_BUNDLES the folder.

``trouble`` is what goes wrong in a worker, by the name of the file: see the fixtures of tests/runs/test_cluster.py.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from medidiff import bundles, pipelines
from medidiff.scans.volume import Volume
from tests import fake_pipelines


def on_restore(volume: Volume) -> None:
    """Die, wait or fail where the scan's values ask for it: its first voxel is the order."""
    order, folder = int(volume.array[0, 0, 0]), Path(os.environ["FAKE_BUNDLES"])
    if order == DIE_ONCE and not (folder / "died").exists():
        (folder / "died").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    if order == DIE:
        os.kill(os.getpid(), signal.SIGKILL)
    if order == WAIT:
        time.sleep(0.2)
    if order == FAIL:
        raise Odd(1, "first", "second")


DIE_ONCE, DIE, WAIT, FAIL = 1001, 1002, 1003, 1004


class Odd(Exception):
    """An exception that pickle cannot bring back."""

    def __init__(self, number: int, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def dask_setup(worker: Any) -> None:
    """Called by Dask when a worker starts."""
    bundles.folders = lambda: iter([Path(os.environ["FAKE_BUNDLES"])])  # type: ignore[assignment]
    fake_pipelines.on_restore = on_restore
    pipelines.load = fake_pipelines.load  # type: ignore[assignment]
