"""From a manifest to a pack."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff.errors import NoScanFound, UsageError
from medidiff.training import build_pack
from tests.training.conftest import blobs

HEAD = "file,modality,subject_id,weights_ok,split"


def table(folder: Path, *lines: str, head: str = HEAD, mark: str = "") -> Path:
    path = folder / "scans.csv"
    path.write_text(mark + "\n".join((head, *lines)), encoding="utf-8")
    return path


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_rows_know_their_lines(tmp_path: Path, mark: str) -> None:
    rows = build_pack.read_manifest(table(tmp_path, "a.nii,T1w,s,yes,train", "", "b.nii,T1w,t,,validation", mark=mark))
    assert [(line, row["file"], row["weights_ok"]) for line, row in rows] == [(2, "a.nii", "yes"), (4, "b.nii", "")]


def head(path: Path) -> None:
    nib.save(nib.Nifti1Image((500 * blobs((20, 20, 20), 0)).astype(np.float32), np.eye(4)), path)


def test_rows_that_are_left_out_are_told(tmp_path: Path) -> None:
    for name in "abc":
        head(tmp_path / f"{name}.nii")
    manifest = table(
        tmp_path,
        *("a.nii,T1w,s,Yes,train", "b.nii,T1w,t,TRUE ,train", "c.nii,T1w,u,1,calibration", "d.nii,T1w,v,No,train"),
        *("e.nii,T1w,w,0,calibration", "f.nii,ct,x,yes,train", "g.nii,T1w,y,,train", "h.nii,PET,z,no,validation"),
    )
    said: list[str] = []
    pack = build_pack.build(manifest, progress=said.append)
    assert [entry.name for entry in pack.entries] == ["a.nii", "b.nii", "c.nii"]
    assert [line for line in said if line.startswith("left out")] == [
        "left out: d.nii (train): weights_ok is not yes",
        "left out: e.nii (calibration): weights_ok is not yes",
        "left out: f.nii (train): the modality is CT, not MR",
        "left out: g.nii (train): weights_ok is not yes",
        "left out: h.nii (validation): the modality is PT, not MR",
    ]


@pytest.mark.parametrize(
    ("lines", "error", "words"),
    [
        (
            ["a.nii,T1w,s,no,train", "b.nii,T1w,t,no,train", "c.nii,CT,u,yes,train", "d.nii,CT,v,yes,calibration"],
            NoScanFound,
            "of MR to learn from: weights_ok is not yes (2 of the split train), the modality is CT, not MR (1 of",
        ),
        (["a.nii,T1w,s,yes,calibration"], NoScanFound, "of MR to learn from: no row has the split train."),
        (["a.nii,T1w,s,ja,train"], UsageError, "scans.csv, line 2: weights_ok is yes or no, not 'ja'."),
        (
            ["a.nii,T1w,s,yes,train", "absent.nii,T1w,t,yes,train"],
            UsageError,
            "scans.csv, line 3: {folder}/absent.nii is not there, or is no file.",
        ),
    ],
)
def test_nothing_is_read_where_nothing_can_be_learned(
    tmp_path: Path, lines: list[str], error: type[Exception], words: str
) -> None:
    (tmp_path / "a.nii").write_text("no scan")
    with pytest.raises(error, match=re.escape(words.format(folder=tmp_path))):
        build_pack.build(table(tmp_path, *lines))


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


def test_what_was_not_measured_is_no_water(tmp_path: Path) -> None:
    """Voxels without a value are air like the least that was measured, and lie outside of the box of the body."""
    hounsfield = (1024 * blobs((24, 24, 24), 0) - 1000).astype(np.float32)
    hounsfield[:5] = hounsfield[12, 12, 12] = np.nan
    repeat = hounsfield.copy()
    repeat[13, 12, 12] = np.nan
    nib.save(nib.Nifti1Image(np.stack([hounsfield, repeat], axis=-1), np.eye(4)), tmp_path / "ct.nii")
    pack = build_pack.build(table(tmp_path, "ct.nii,CT,s,yes,train"), ("CT",))
    body = np.argwhere(np.nan_to_num(hounsfield, nan=-1000) > -900)
    unit = pack.normalised(0)
    low, high = body.min(axis=0), body.max(axis=0) + 1
    assert unit.shape == tuple(high - low)
    expected = np.where(np.isfinite(repeat), hounsfield, -1000)[tuple(map(slice, low, high))]
    np.testing.assert_allclose(2000 * unit - 1024, expected, atol=1)


def test_of_a_large_volume_the_middle_is_kept(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(200, 1000, 60, dtype=np.float32)[:, None, None], (60, 40, 40))
    nib.save(nib.Nifti1Image(ramp, np.eye(4)), tmp_path / "a.nii")
    manifest = table(tmp_path, "a.nii,T1w,s,yes,train")
    whole, part = build_pack.build(manifest), build_pack.build(manifest, largest=70_000)
    assert (whole.arrays[0].shape, part.arrays[0].shape) == ((60, 40, 40), (40, 40, 40))
    np.testing.assert_allclose(part.normalised(0), whole.normalised(0)[10:50], atol=0.01)
