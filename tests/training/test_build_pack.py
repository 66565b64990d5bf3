"""From a manifest to a pack."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medidiff.errors import UsageError
from medidiff.training import build_pack

HEAD = "file,modality,subject_id,weights_ok,split"


def table(folder: Path, *lines: str, head: str = HEAD, mark: str = "") -> Path:
    path = folder / "scans.csv"
    path.write_text(mark + "\n".join((head, *lines)), encoding="utf-8")
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_know_their_lines(tmp_path: Path, mark: str) -> None:
    rows = build_pack.read_manifest(table(tmp_path, "a.nii,T1w,s,yes,train", "", "b.nii,T1w,t,,validation", mark=mark))
    assert [(line, row["file"], row["weights_ok"]) for line, row in rows] == [(2, "a.nii", "yes"), (4, "b.nii", "")]


@pytest.mark.parametrize("words", ["endoscopy", "", "tomography"])
def test_a_modality_that_is_not_known_is_no_mr(tmp_path: Path, words: str) -> None:
    manifest = table(tmp_path, "a.nii,T1w,s,yes,train", f"b.nii,{words},t,yes,train")
    told = f"{manifest}, line 3: no modality is known by {words!r}; known are MR: mr, mri, "
    with pytest.raises(UsageError, match=re.escape(told)):
        build_pack.read_manifest(manifest)


def test_words_of_a_modality_are_documented() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/train-your-own.md").read_text(encoding="utf-8")
    for code, words in build_pack.MODALITIES.items():
        assert f"| `{code}` | {words} |" in page.splitlines()
