"""From a manifest to a pack."""

from __future__ import annotations

from pathlib import Path

import pytest

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
