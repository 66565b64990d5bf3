"""A packed NIfTI file is read to the end of its gzip stream: only there stand its checksum and its length."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff.cli import main
from medidiff.errors import ScanError
from medidiff.scans import limits, nifti, nifti_mapped, read_mask
from medidiff.scans.volume import Scan, ScanRef, Volume

SHAPE = (9, 8, 7)
VALUES = np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.int16)
WRONG_BYTE = 352 + 500
Damage = Callable[[bytes], bytes]


def other_voxels(data: bytes) -> bytes:
    """A stream that inflates well, to other voxels than its checksum is of."""
    raw = bytearray(gzip.decompress(data))
    right = zlib.crc32(raw)
    raw[WRONG_BYTE] ^= 1
    return gzip.compress(bytes(raw))[:-8] + right.to_bytes(4, "little") + len(raw).to_bytes(4, "little")


def flipped_bit(data: bytes) -> bytes:
    """A stream of stored blocks with one bit flipped: the voxels alone differ."""
    packed = bytearray(gzip.compress(gzip.decompress(data), compresslevel=0))
    packed[10 + 5 + WRONG_BYTE] ^= 1
    return bytes(packed)


def cut(data: bytes) -> bytes:
    return data[:-4]


def whole(data: bytes) -> bytes:
    return data


def padded(data: bytes) -> bytes:
    return data + bytes(512)


def with_more_behind(data: bytes) -> bytes:
    return gzip.compress(gzip.decompress(data) + b"more than the voxels")


def with_something_else_behind(data: bytes) -> bytes:
    return data + b"no gzip member"


def ref_of(path: Path, damage: Damage) -> ScanRef:
    nib.save(nib.Nifti1Image(VALUES, np.eye(4)), path)
    path.write_bytes(damage(path.read_bytes()))
    return ScanRef("nifti", path, (path,), Path(path.name), path.name.split(".")[0])


def as_scan(ref: ScanRef, folder: Path) -> np.ndarray:
    return nifti.read(ref).volumes[0].array


def slab_by_slab(ref: ScanRef, folder: Path) -> np.ndarray:
    return nifti_mapped.read(ref, folder).volumes[0].array


def as_labels(ref: ScanRef, folder: Path) -> np.ndarray:
    return nifti.read_values(ref.path)[0][0]


def as_mask(ref: ScanRef, folder: Path) -> np.ndarray:
    scan = Scan(ref, (Volume(np.ones(SHAPE, np.float32), np.eye(4)),), None)
    return read_mask(ref.path, scan).holes[0]


@pytest.mark.parametrize("way", [as_scan, slab_by_slab, as_labels, as_mask])
@pytest.mark.parametrize("damage", [other_voxels, flipped_bit, cut])
def test_what_only_the_end_of_the_stream_tells_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[[ScanRef, Path], np.ndarray], damage: Damage
) -> None:
    monkeypatch.setattr(nifti_mapped, "SLAB", 150)
    ref = ref_of(tmp_path / "a.nii.gz", damage)
    with pytest.raises(ScanError, match=r"a\.nii\.gz is not .*truncated or damaged\); convert it again\.$"):
        way(ref, tmp_path)


@pytest.mark.parametrize("way", [as_scan, slab_by_slab, as_labels, as_mask])
@pytest.mark.parametrize("kept", [whole, padded, with_more_behind, with_something_else_behind])
def test_what_may_follow_the_voxels_is_no_damage(
    tmp_path: Path, way: Callable[[ScanRef, Path], np.ndarray], kept: Damage
) -> None:
    np.testing.assert_array_equal(way(ref_of(tmp_path / "a.nii.gz", kept), tmp_path), VALUES)


def test_a_stream_without_end_is_read_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INFLATED_FREELY", 4 * limits.STEP)
    ref = ref_of(tmp_path / "a.nii.gz", lambda data: cut(gzip.compress(gzip.decompress(data) + bytes(20_000_000))))
    np.testing.assert_array_equal(as_scan(ref, tmp_path), VALUES)


def test_commands_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref_of(tmp_path / "good.nii.gz", whole)
    ref_of(tmp_path / "bad.nii.gz", other_voxels)
    good, bad, out = (str(tmp_path / name) for name in ("good.nii.gz", "bad.nii.gz", "out"))
    for command in (
        ["denoise", bad, "-o", out],
        ["superres", bad, "-o", out, "--factor", "2"],
        ["inpaint", good, "-o", out, "--mask", bad],
        ["evaluate", good, "--reference", bad, "-o", out],
        ["info", bad],
    ):
        assert main(command) == 5, command
        told = capsys.readouterr()
        assert "bad.nii.gz is not a readable NIfTI file (truncated or damaged); convert it again." in (
            told.out + told.err
        )
