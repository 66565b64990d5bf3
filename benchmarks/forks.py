"""Runs the ``medidiff`` command in processes of its own with a pipeline that costs nothing, so that they can be harmed.

The processes are forks of one that has imported everything, so that hundreds of them take seconds.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np

from medidiff import bundles, pipelines
from medidiff.cli import denoise, main, progress, restoring
from medidiff.runs import environment, sidecar
from medidiff.scans import nifti, outputs

WARM = (denoise, progress, restoring, nifti, environment.code_sha256())  # what every process would load for itself
Prepare = Callable[[ModuleType], object]
ROOT = Path(__file__).parents[1]
SHAPE = (24, 20, 16)
REAL = (bundles.folders, pipelines.load)
PATIENCE = 120.0  # seconds until a process that should end is given up


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: its exit code; minus the signal's number where a signal ended it.
        said: what it wrote on stderr.
    """

    code: int
    said: str

    @property
    def sentence(self) -> str:
        """The last line that is meant for the user."""
        return (self.said.strip().splitlines() or [""])[-1]


@dataclass(frozen=True)
class Child:
    """A process at work."""

    pid: int
    said: Path

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def end(self) -> Ended:
        """Wait for its end."""
        give_up = time.monotonic() + PATIENCE
        while not (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > give_up:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(self.said.read_text(encoding="utf-8"))
            time.sleep(0.005)
        return Ended(os.waitstatus_to_exitcode(found[1]), self.said.read_text(encoding="utf-8"))


class Stage:
    """A folder with a few small scans in ``in``, whose results go to ``out``.

    Args:
        folder: where; made.
        names: the scans.
    """

    def __init__(self, folder: Path, names: Sequence[str] = ("a", "b", "c")) -> None:
        self.folder, self.names = folder, tuple(names)
        self.out = folder / "out"
        self.fake = load_fake(folder / "bundles" / "fake")
        self.started = 0
        for index, name in enumerate(names):
            self.scan(name, 100.0 * (index + 1))
        self.before = self.inputs()

    def scan(self, name: str, value: float, shape: tuple[int, int, int] = SHAPE) -> Path:
        """Write a scan."""
        path = self.folder / "in" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        array = value + np.random.default_rng(int(value)).random(shape, dtype=np.float32)
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 3.0, 1.0])), path)
        return path

    def inputs(self) -> dict[str, str]:
        """The hash of every input."""
        return {path.name: digest(path) for path in sorted((self.folder / "in").iterdir()) if path.is_file()}

    def start(self, *more: str, prepare: Prepare | None = None, output: str = "out", source: str = "in") -> Child:
        """Start ``medidiff denoise in -o out`` with more flags; ``prepare`` harms it from inside."""
        self.started += 1
        said = self.folder / f"said-{self.started}.txt"
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            work(self, ["denoise", source, "-o", output, *more], said, prepare)
        return Child(pid, said)

    def run(self, *more: str, prepare: Prepare | None = None, output: str = "out", source: str = "in") -> Ended:
        """Run it to its end."""
        return self.start(*more, prepare=prepare, output=output, source=source).end()

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says."""
        found: dict[str, Any] = json.loads((self.out / "run.json").read_text(encoding="utf-8"))
        return found

    def statuses(self) -> list[str]:
        """What became of each case."""
        return [case["status"] for case in self.record()["cases"]]

    def images(self) -> dict[str, str]:
        """The hash of every image in the output."""
        return {
            path.relative_to(self.out).as_posix(): digest(path)
            for path in outputs.entries(self.out, "*.nii.gz", below=True)
        }

    def wait_for(self, name: str) -> None:
        """Wait until a file is there."""
        give_up = time.monotonic() + PATIENCE
        while not (self.out / name).exists():
            if time.monotonic() > give_up:
                raise TimeoutError(name)
            time.sleep(0.01)

    def lies(self) -> list[str]:
        """What is not as it should be while or after a run is stopped; empty when nothing was lost."""
        found = [] if self.inputs() == self.before else ["an input changed"]
        if (self.out / "run.json").exists():
            named = [path for case in self.record()["cases"] for path in case["outputs"].values() if path is not None]
            found += [f"run.json names {path}, which is not there" for path in named if not (self.out / path).exists()]
        for file in outputs.entries(self.out, "*.json", below=True):
            hidden = any(part.startswith(".medidiff") for part in file.parts)
            if not hidden and file.name != "run.json" and sidecar.load(file) is None:
                found.append(f"{file.name} is not whole")
        return found

    def hidden(self) -> list[str]:
        """Temporary files and locks."""
        return [f"{path.name} was left" for path in outputs.entries(self.out, ".medidiff*", below=True)]

    def leftovers(self) -> list[str]:
        """Temporary files, locks and images without a sidecar."""
        trees = [
            tree
            for file in outputs.entries(self.out, "*_denoised.json", below=True)
            if (tree := sidecar.load(file)) is not None
        ]
        damaged = [f"{tree['config']['output']}: {why}" for tree in trees if (why := sidecar.damaged(tree, self.out))]
        listed = {name for tree in trees for name in sidecar.listed(tree)}
        return self.hidden() + damaged + [f"{name} has no sidecar" for name in self.images() if name not in listed]


def load_fake(home: Path) -> ModuleType:
    """The fake pipeline of the tests, with its bundle in ``home``."""
    spec = importlib.util.spec_from_file_location("fake_pipelines", ROOT / "tests/fake_pipelines.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["fake_pipelines"] = module
    spec.loader.exec_module(module)
    module.home = module.make_bundle(home)
    return module  # type: ignore[no-any-return]


def work(stage: Stage, arguments: list[str], said: Path, prepare: Prepare | None) -> None:
    """What a child does; it does not come back."""
    code = 70
    try:
        os.chdir(stage.folder)
        for number, file in ((1, os.devnull), (2, said)):
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o644), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        bundles.folders = lambda: iter([stage.fake.home.parent])
        pipelines.load = stage.fake.load
        if prepare is not None:
            prepare(stage.fake)
        sys.argv = ["medidiff", *arguments]
        code = main(arguments)
    finally:
        sys.stderr.flush()
        os._exit(code)


def use_real_pipelines() -> None:
    """Take the installed pipelines after all; in a child."""
    bundles.folders, pipelines.load = REAL


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
