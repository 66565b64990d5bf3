"""Training travels to machines that hold no medical readers and no command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

MISSING = ("nibabel", "pydicom", "highdicom", "click", "rich_click", "rich", "pydantic", "skimage", "matplotlib")
MODULES = (
    "trainer",
    "objective",
    "simulator",
    "pack",
    "recipe",
    "checkpoint",
    "validation",
    "records",
    "workers",
    "bundle",
)

CODE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {missing!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import medidiff.training.{module}
assert not set(sys.modules) & set({missing!r})
"""


@pytest.mark.parametrize("module", ["trainer", "bundle"])
def test_training_needs_torch_numpy_scipy_monai_and_safetensors_alone(module):
    code = CODE.format(missing=MISSING, module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_two_import_all_others():
    code = "import sys, medidiff.training.trainer, medidiff.training.bundle; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {f"medidiff.training.{module}" for module in MODULES} <= set(done.stdout.split())
