from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff.cli import main

Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]

pytestmark = pytest.mark.usefixtures("fake")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("a", "b[1]"):
        array = np.zeros((16, 16, 16), np.float32)
        array[4:12, 4:12, 4:12] = np.arange(512).reshape(8, 8, 8)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "in" / f"{name}.nii.gz")
    return tmp_path / "in"


def test_the_page_lies_in_the_folder_and_its_path_on_stdout(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert main(["denoise", str(folder), "-o", str(out)]) == 0
    assert not (out / "report.html").exists()
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    assert main(["report", str(out), "-o", str(tmp_path / "new" / "page.html")]) == 0
    assert (tmp_path / "new" / "page.html").read_bytes() == (out / "report.html").read_bytes()


@pytest.mark.parametrize("task", ["denoise", "superres"])
def test_a_run_writes_its_report_when_asked(folder: Path, tmp_path: Path, capsys: Capture, task: str) -> None:
    out = tmp_path / "out"
    assert main([task, str(folder), "-o", str(out), "--report", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {case["outputs"]["report"] for case in record["cases"]} == {"report.html"}
    text = (out / "report.html").read_text()
    assert f"{task.capitalize()}: 2 scans" in text
    assert '"pattern":"b[[]1].nii.gz"' in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is no folder"),
        (["in"], "holds no run.json"),
        (["in", "-o", "in"], "in is a folder; name an HTML file"),
        (["in", "-o", "scan.nii.gz"], "scan.nii.gz is a scan; name an HTML file"),
    ],
)
def test_what_cannot_be_reported_is_a_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_exclude_reads_lists(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "list.txt").write_text("\ufeff# rejected\n\n  b[[]1].nii.gz  \n", encoding="utf-8")
    arguments = ["denoise", str(folder), "-o", str(tmp_path / "out"), "--json", "--exclude"]
    assert main([*arguments, f"@{tmp_path / 'list.txt'}"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [case["input"] for case in record["cases"]] == ["../in/a.nii.gz"]
    assert record["config"]["exclude"] == ["b[[]1].nii.gz"]
    assert main([*arguments, "@nowhere.txt"]) == 2
    assert "nowhere.txt cannot be read (No such file or directory)." in capsys.readouterr().err
