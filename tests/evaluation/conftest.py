"""Small scans on disk, and the pipeline that adds nothing to the classical base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.benchmarks.conftest import body, silent_bundle

__all__ = ["body", "silent_bundle"]

Save = Callable[..., Path]


class Watch:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.total = 0
        self.lines: list[str] = []

    def planned(self, total: int) -> None:
        self.total = total

    def doing(self, case: str, method: str) -> None:
        pass

    def done(self, case: str, method: str, text: str) -> None:
        self.lines.append(f"{case}, {method}: {text}")


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def save() -> Save:
    """Writes an array as NIfTI, and a sidecar beside it if one is given."""

    def write(path: Path, array: np.ndarray, affine: Any = None, sidecar: dict[str, Any] | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array.astype(np.float32), np.eye(4) if affine is None else affine), path)
        if sidecar is not None:
            stem = path.name.removesuffix(".nii.gz").removesuffix(".nii")
            tree = {"medidiff": "0", "outputs": [], **sidecar}
            path.with_name(f"{stem}.json").write_text(json.dumps(tree))
        return path

    return write


@pytest.fixture
def image() -> np.ndarray:
    """A ramp in a dark frame, 16 x 14 x 12."""
    inner = np.linspace(100, 200, 12 * 10 * 8, dtype=np.float32).reshape(12, 10, 8)
    return np.pad(inner, 2)
