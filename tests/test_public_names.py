"""What ``import medidiff`` offers, and what it costs."""

import subprocess
import sys

import pytest

import medidiff

HEAVY = ("torch", "monai", "nibabel", "pydicom", "highdicom", "numpy", "click", "matplotlib")


def test_all_names_exactly_the_public_interface() -> None:
    assert medidiff.__all__ == ["Restoration", "__version__", "denoise", "inpaint", "load", "superresolve"]


@pytest.mark.parametrize("name", ["Restoration", "__version__", "denoise", "inpaint", "load", "superresolve"])
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(medidiff, name) is not None
    assert name in dir(medidiff)


def test_the_names_are_those_of_the_rooms() -> None:
    from medidiff import pipelines, restore

    assert medidiff.load is pipelines.load
    assert medidiff.superresolve is pipelines.superresolve
    assert medidiff.inpaint is pipelines.inpaint
    assert medidiff.Restoration is restore.Restoration


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sharpen'"):
        _ = medidiff.sharpen  # type: ignore[attr-defined]


def imported_by(statement: str) -> set[str]:
    """The top-level packages that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_costs_none_of_the_heavy_packages() -> None:
    assert imported_by("import medidiff").isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["config", "errors", "cli", "scans.discover"])
def test_the_front_imports_no_torch(module: str) -> None:
    assert imported_by(f"import medidiff.{module}").isdisjoint({"torch", "monai"})


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["denoise", "--help"], ["superres", "--factor", "0"], ["list"], ["no-such-command"]],
)
def test_quick_commands_import_no_torch(arguments: list[str]) -> None:
    statement = (
        f"import contextlib, io\nfrom medidiff.cli import main\n"
        f"with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        f"    main({arguments!r})"
    )
    assert imported_by(statement).isdisjoint({"torch", "monai"})


BLOCK = """
import importlib, pkgutil, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"nibabel", "pydicom", "highdicom", "click", "rich_click"}:
            raise ImportError(name + " is not to be had here")

sys.meta_path.insert(0, Refuse())
import medidiff.diffusion, medidiff.physics, medidiff.training
for room in (medidiff.diffusion, medidiff.physics, medidiff.training):
    for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
        if module.name.rpartition(".")[2] not in {"__main__", "build_pack"}:  # build_pack is the one that reads scans
            importlib.import_module(module.name)
"""


def test_the_mathematics_runs_without_file_formats_and_command_line() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
