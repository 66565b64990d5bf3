"""Names of outputs, and files that are complete or absent."""

from __future__ import annotations

import json
import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import CannotWrite, UsageError
from medidiff.scans import outputs
from medidiff.scans.volume import ScanRef

NIFTI = ScanRef("nifti", Path("in/sub/t1w.nii.gz"), (), Path("sub/t1w.nii.gz"), "t1w")
DICOM = ScanRef("dicom", Path("in/sub"), (), Path("sub/301_Ax_T1"), "301_Ax_T1", "1.2.3")


def fail_inside(manager: AbstractContextManager[Path], error: BaseException) -> None:
    with manager as temporary:
        target = temporary / "three" if temporary.is_dir() else temporary
        target.write_text("three")
        raise error


def test_names_of_a_nifti_case():
    names = outputs.output_names(NIFTI, Path("out"), "denoise")
    assert names.restored == Path("out/sub/t1w_denoised.nii.gz")
    assert names.sidecar == Path("out/sub/t1w_denoised.json")
    assert names.uncertainty == Path("out/sub/t1w_denoised_uncertainty.nii.gz")
    assert names.sample == Path("out/sub/t1w_denoised_sample.nii.gz")
    assert names.supplied == Path("out/sub/t1w_denoised_supplied.nii.gz")


def test_names_of_a_dicom_case():
    names = outputs.output_names(DICOM, Path("out"), "superres")
    assert names.restored == Path("out/sub/301_Ax_T1_superres")
    assert names.sidecar == Path("out/sub/301_Ax_T1_superres.json")
    assert names.uncertainty == Path("out/sub/301_Ax_T1_superres_uncertainty.nii.gz")
    assert names.sample == Path("out/sub/301_Ax_T1_superres_sample")


def test_output_may_be_a_file_name_for_one_nifti(tmp_path):
    names = outputs.output_names(NIFTI, tmp_path / "clean.v2.nii", "denoise")
    assert [path.name for path in (names.restored, names.sidecar, names.uncertainty, names.sample)] == [
        "clean.v2.nii",
        "clean.v2.json",
        "clean.v2_uncertainty.nii.gz",
        "clean.v2_sample.nii.gz",
    ]
    with pytest.raises(UsageError, match="folder"):
        outputs.output_names(DICOM, tmp_path / "clean.nii.gz", "denoise")
    existing = tmp_path / "t1.nii"
    existing.write_bytes(b"x")
    with pytest.raises(UsageError, match="the input itself"):
        outputs.output_names(ScanRef("nifti", existing, (existing,), Path("t1.nii"), "t1"), existing, "denoise")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ax T1/FLAIR: 3 mm", "Ax_T1_FLAIR_3_mm"),
        ("../../etc/passwd", "etc_passwd"),
        ("Schädel 頭部", "Schädel_頭部"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("***", ""),
        ("a" * 200, "a" * 80),
    ],
)
def test_safe_name(text, expected):
    assert outputs.safe_name(text) == expected


def test_safe_name_never_cuts_a_letter():
    assert outputs.safe_name("頭" * 50, 80) == "頭" * 26


def test_unique_names_ignore_case():
    taken: set[str] = set()
    assert [outputs.unique_name(name, taken) for name in ("a", "A", "a-2", "a")] == ["a", "A-2", "a-2-2", "a-3"]


def test_atomic_file_appears_on_success_only(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with outputs.atomic_file(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
        assert temporary.name.startswith(".")
    with pytest.raises(KeyboardInterrupt):
        fail_inside(outputs.atomic_file(path), KeyboardInterrupt())
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_atomic_folder_replaces_the_older_one(tmp_path):
    path = tmp_path / "series"
    for content in ("one", "two"):
        with outputs.atomic_folder(path) as temporary:
            (temporary / content).write_text(content)
    with pytest.raises(RuntimeError):
        fail_inside(outputs.atomic_folder(path), RuntimeError())
    assert [entry.name for entry in path.iterdir()] == ["two"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["series"]


def test_operating_system_errors_become_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CannotWrite, match="cannot be written"), outputs.atomic_file(tmp_path / "file" / "below.txt"):
        pass
    with pytest.raises(CannotWrite, match="cannot be written"), outputs.atomic_folder(tmp_path / "file" / "below"):
        pass
    with pytest.raises(CannotWrite, match="is a file"):
        outputs.check_writable(tmp_path / "file")
    with pytest.raises(CannotWrite, match="the disk is full"):
        fail_inside(outputs.atomic_file(tmp_path / "full"), OSError(28, "No space left on device"))
    outputs.check_writable(tmp_path / "made" / "here")
    assert list((tmp_path / "made" / "here").iterdir()) == []


def test_json_is_plain_and_strict(tmp_path):
    path = tmp_path / "record.json"
    outputs.write_json_atomic(path, {"a": np.float32(1.5), "b": [float("nan")], "c": Path("x/y"), "d": (1, None, "ä")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1.5, "b": [None], "c": "x/y", "d": [1, None, "ä"]}


@pytest.mark.skipif(os.name == "nt", reason="processes are not asked there")
def test_leftovers_of_ended_processes_go(tmp_path):
    with outputs.atomic_file(tmp_path / "sub" / "t1.nii.gz") as mine:
        mine.write_text("at work")
        dead = mine.with_name(mine.name.replace(f"-{os.getpid()}-", "-999999999-"))
        dead.write_text("left")
        other = mine.with_name(f"{outputs.TEMPORARY}otherhost-999999999-x")
        other.mkdir()
        assert outputs.remove_leftovers(tmp_path) == (dead,)
        assert mine.exists()
        assert other.exists()


def test_folders_that_go_while_one_looks_into_them_hold_nothing(tmp_path):
    """Two runs on one output folder: the hidden folder of the one goes while the other clears up."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "stays").mkdir()
    (tmp_path / "stays" / "b.txt").write_text("b")
    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            (tmp_path / "goes").mkdir()
            (tmp_path / "goes").rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        for _ in range(500):
            below = outputs.entries(tmp_path, "*.txt", below=True)
            assert below == [tmp_path / "a.txt", tmp_path / "stays" / "b.txt"]
            assert outputs.entries(tmp_path, "*.txt") == [tmp_path / "a.txt"]
            assert outputs.entries(tmp_path / "goes", "*") == []
    finally:
        ended.set()
        other.join()
