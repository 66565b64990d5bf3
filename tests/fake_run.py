"""Fixtures for runs with a pipeline that costs nothing; the tests of runs/ and cli/ share them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medidiff import bundles, pipelines
from medidiff.cli import dry_run
from medidiff.config import RunConfig
from medidiff.runs import RunResult, run
from medidiff.runs.reporter import Silent

FAKE = Path(__file__).with_name("fake_pipelines.py")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A fresh fake pipeline, the only one that is installed; ``fake.home`` is the folder of its bundle."""
    spec = importlib.util.spec_from_file_location("fake_pipelines", FAKE)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fake_pipelines", module)
    spec.loader.exec_module(module)
    module.home = module.make_bundle(tmp_path_factory.mktemp("bundles") / "fake")
    monkeypatch.setattr(bundles, "folders", lambda: iter([module.home.parent]))
    monkeypatch.setattr(pipelines, "load", module.load)
    monkeypatch.setattr(dry_run, "expected", lambda plan, config: None)  # there is no network whose pace could be told
    return module


@pytest.fixture
def scan() -> Callable[..., Path]:
    """Writes a small NIfTI scan of known values."""

    def write(path: Path, value: float = 100.0, shape: tuple[int, ...] = (8, 7, 6)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = value + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])), path)
        return path

    return write


@pytest.fixture
def go(fake: ModuleType) -> Callable[..., RunResult]:
    """Runs with the fake pipeline."""

    def start(*inputs: Path, output: Path, reporter: Any = None, **settings: Any) -> RunResult:
        config = RunConfig(inputs=inputs, output=output, **settings)
        return run(config, reporter=reporter or Silent(), command=["medidiff", config.task])

    return start
