"""Fixtures that every room's tests share."""

from __future__ import annotations

import gc
import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# One thread for a test and for the processes that it starts: arrays are small, and tests run side by side. On a machine
# that has other work to do, threads that wait for each other take many times as long as one. Before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")  # no test opens a window

import pytest
import torch
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fake_run"]

ROOT = Path(__file__).parents[1]

# a machine that has other work to do is no reason to fail
settings.register_profile("medidiff", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("medidiff")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``real`` where there are no real scans."""
    if os.environ.get("MEDIDIFF_REAL_DATA"):
        return
    skip = pytest.mark.skip(reason="needs real scans: set MEDIDIFF_REAL_DATA")
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that holds data/, dicom/ and tools/ with real scans; skips the test where there is none."""
    folder = os.environ.get("MEDIDIFF_REAL_DATA")
    if not folder:
        pytest.skip("needs real scans: set MEDIDIFF_REAL_DATA")
    if not Path(folder).is_dir():
        pytest.fail(f"MEDIDIFF_REAL_DATA names {folder}, which is not a folder")
    return Path(folder)


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """The shipped sample scans; never written to."""
    return ROOT / "sample_data"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Take back the threads that the test before has given torch; the number holds for the whole process."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="module", autouse=True)
def _set_aside() -> Iterator[None]:
    """Keep what is there before a file's tests out of the collections of garbage that runs ask for after each case.

    To look through all of torch, MONAI and pytest takes a quarter of a second each time.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fine-tuning that is given seconds gets them of the processor: on a busy machine it learns as much."""
    monkeypatch.setattr("medidiff.training.finetune.time", SimpleNamespace(monotonic=time.process_time))


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse connections to other machines in every test."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_local(str(address[0])):
            raise RuntimeError(f"no network in tests: {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


def is_local(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
