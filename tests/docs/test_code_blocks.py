"""Every Python block of the documentation runs, and so does every ``medidiff`` command.

The blocks of a page run in order, in one namespace, in a folder of its own that holds what the pages talk about:
``scan.nii.gz`` and ``scans/`` (a NIfTI scan in a subfolder, and a DICOM series), cut small to be quick.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import pytest

from medidiff.cli import main

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text and the line of the page where the text starts."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        yield Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)


def commands(text: str) -> list[str]:
    """The lines that call medidiff, continued lines joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("medidiff ")]


def runs(page: Path) -> bool:
    return any(b.language == "python" or (b.language == "bash" and commands(b.text)) for b in blocks(page))


PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if runs(page)]


@pytest.fixture
def folder(tmp_path: Path, sample_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a page."""
    image = nib.load(sample_data / "phantom_t1w.nii.gz")
    (tmp_path / "scans" / "sub-01").mkdir(parents=True)
    nib.save(image.slicer[24:72, 30:78, 30:62], tmp_path / "scan.nii.gz")
    nib.save(image.slicer[20:60, 40:80, 30:60], tmp_path / "scans" / "first.nii.gz")
    nib.save(image.slicer[40:80, 20:60, 30:60], tmp_path / "scans" / "sub-01" / "second.nii.gz")
    series = tmp_path / "scans" / "series"
    series.mkdir()
    for path in sorted((sample_data / "dicom_mr").glob("*.dcm"))[:8]:
        shutil.copy(path, series)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__page__"}
    for block in blocks(page):
        if block.language == "python":
            # Line numbers of the page, so that a traceback points into it.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(page), "exec"), namespace)
        elif block.language == "bash":
            for command in commands(block.text):
                assert main(shlex.split(command)[1:]) == 0, f"{page.name}: {command}"


def test_there_are_pages_to_run() -> None:
    assert {"README.md", "first-scan.md", "denoise-a-folder.md", "use-from-python.md"} <= {page.name for page in PAGES}
