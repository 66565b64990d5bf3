"""Every Python block of the documentation runs, and so does every ``medidiff`` command.

The blocks of a page run in order, in one namespace, in a folder of its own that holds what the pages talk about:
``scan.nii.gz`` and ``scans/`` (a NIfTI scan in a subfolder, and a DICOM series), ``thick.nii.gz`` with thick slices,
masks for all of them, ``gap/``, a DICOM series that lacks a slice, and ``dataset/``, a BIDS dataset; cut small to be
quick.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
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
    slices = sorted((sample_data / "dicom_mr").glob("*.dcm"))
    for path in slices[:8]:
        shutil.copy(path, series)
    (tmp_path / "gap").mkdir()
    for path in (*slices[:4], *slices[5:9]):
        shutil.copy(path, tmp_path / "gap")
    anatomy = tmp_path / "dataset" / "sub-01" / "anat"
    anatomy.mkdir(parents=True)
    shutil.copy(tmp_path / "scans" / "first.nii.gz", anatomy / "sub-01_T1w.nii.gz")
    (tmp_path / "dataset" / "dataset_description.json").write_text('{"Name": "Phantom", "BIDSVersion": "1.10.1"}')
    thicken(tmp_path / "scan.nii.gz", tmp_path / "thick.nii.gz")
    mark_middle(tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz")
    mark_middle(tmp_path / "thick.nii.gz", tmp_path / "thick_mask.nii.gz")
    mark_middle(tmp_path / "scans" / "first.nii.gz", tmp_path / "masks" / "first.nii.gz")
    mark_middle(tmp_path / "scans" / "sub-01" / "second.nii.gz", tmp_path / "masks" / "second_mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def thicken(source: Path, target: Path) -> None:
    """Means of four slices."""
    image = nib.load(source)
    array = image.get_fdata(dtype=np.float32)
    thick = array.reshape(*array.shape[:2], -1, 4).mean(axis=3)
    step = np.diag([1.0, 1.0, 4.0, 1.0])
    step[2, 3] = 1.5
    nib.save(nib.Nifti1Image(thick, image.affine @ step), target)


def mark_middle(source: Path, target: Path) -> None:
    """A mask of a scan's middle."""
    image = nib.load(source)
    hole = np.zeros(image.shape, dtype=np.uint8)
    hole[tuple(slice(n // 2 - n // 8, n // 2 + n // 8) for n in image.shape)] = 1
    target.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(hole, image.affine), target)


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
    names = {page.name for page in PAGES}
    assert {"README.md", "first-scan.md", "denoise-a-folder.md", "use-from-python.md"} <= names
    assert {"super-resolve.md", "inpaint.md", "judge-a-result.md"} <= names
