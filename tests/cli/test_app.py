from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from medidiff._version import __version__
from medidiff.cli import main
from medidiff.cli.app import COMMANDS, app
from medidiff.errors import EXIT_MEANINGS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "monai", "nibabel", "pydicom", "scipy", "skimage")


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["list", "--json"],
        ["denoise", "--help"],
        ["denoise", "--nonsense"],
        ["superres", "--help"],
        ["superres", "scan.nii.gz", "-o", "out", "--factor", "2", "--spacing", "1"],
        ["inpaint", "--help"],
        ["verify", "--help"],
        ["export", "--help"],
        ["cite"],
        ["evaluate", "--help"],
        ["benchmark", "--help"],
        ["benchmark", "scan.nii.gz", "-o", "out", "--noise", "salt:5"],
        ["inpaint", "scan.nii.gz", "-o", "out", "--mask", ""],
        ["nope"],
    ],
)
def test_answers_without_torch(args: list[str], tmp_path: Path) -> None:
    code = f"import sys; from medidiff.cli import main; main({args!r}); print(*sys.modules, sep='\\n', file=sys.stderr)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.splitlines())
    assert "medidiff.cli.app" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("args", [["--help"], ["denoise", "--help"], ["train", "--help"], ["report", "--help"]])
def test_help_comes_before_anything_that_takes_time_to_load(args: list[str]) -> None:
    code = f"import sys; from medidiff.cli import main; main({args!r}); print(*sys.modules, sep='\\n', file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(done.stderr.splitlines()).isdisjoint({*HEAVY, "numpy", "pydantic"})


def test_dry_run_without_torch_when_nothing_is_to_do(
    tmp_path: Path, fake: ModuleType, scan: Callable[..., Path]
) -> None:
    source, out = scan(tmp_path / "in" / "a.nii.gz"), tmp_path / "out"
    assert main(["denoise", str(source), "-o", str(out)]) == 0
    args = ["denoise", str(source), "-o", str(out), "--dry-run"]
    code = f"import sys; from medidiff.cli import main; print(main({args!r})); print('torch' in sys.modules)"
    environment = {**os.environ, "MEDIDIFF_BUNDLES": str(fake.home.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.splitlines()[-2:] == ["0", "False"], done.stdout + done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"medidiff {__version__}\n"


def test_help_lists_every_command_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in COMMANDS:
        assert name in shown
    for code in EXIT_MEANINGS:
        assert f" {int(code)} " in shown


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert app.get_command(app.make_context("medidiff", [name]), name) is not None
    assert capsys.readouterr().err == ""


def test_strength_is_told_for_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    """Without strength a hole is filled all the same."""
    assert main(["inpaint", "--help"]) == 0
    words = "".join(part for part in capsys.readouterr().out if part.isalnum())
    assert "ortheclassicalestimatewithoutthenetworksuperresinpaint" in words


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "sample-data" in capsys.readouterr().out


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "medidiff", "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"medidiff {__version__}\n")


@pytest.mark.parametrize(
    ("args", "end"),
    [
        (["list"], "; please report it."),
        (["denoise", "s.nii.gz", "-o", "out"], "; run again with -vv for details and please report it."),
    ],
)
def test_advice_on_a_fault_is_one_that_the_command_takes(
    args: list[str], end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("medidiff.pipelines.available", fail)
    monkeypatch.setattr("medidiff.cli.restoring.execute", fail)
    assert main(args) == 5
    said = capsys.readouterr().err
    assert said.startswith("medidiff: Stopped by an unexpected ZeroDivisionError (test_app.py, line ")
    assert said.endswith(end + "\n")
