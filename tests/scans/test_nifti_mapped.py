"""Files read into arrays on disk, and written from them, are what they are in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medidiff.errors import CannotWrite, ScanError
from medidiff.scans import mapped, nifti, nifti_mapped
from medidiff.scans.volume import Derivation, ScanRef

AFFINE = np.array([[0, -1.2, 0, 5], [1, 0, 0, 3], [0, 0, 2.0, 1], [0, 0, 0, 1]])
LABEL = Derivation("denoise", "text", "short", "1")


@pytest.fixture(autouse=True)
def thin_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti_mapped, "SLAB", 500)
    monkeypatch.setattr(nifti_mapped, "PIECE", 200)
    monkeypatch.setattr(mapped, "SPAN", 2000)


def write(path: Path, shape: tuple[int, ...], kind: Any, scaling: tuple[float, float] | None = None) -> ScanRef:
    values = np.random.default_rng(0).integers(0, 900, shape).astype(kind)
    if np.dtype(kind).kind == "f":
        values[3, 2] = np.nan
    image = nib.Nifti1Image(values, AFFINE)
    if scaling:
        image.header.set_slope_inter(*scaling)
    nib.save(image, path)
    return ScanRef("nifti", path, (path,), Path(path.name), "scan")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [np.int16, ">i2", np.float32])
@pytest.mark.parametrize(("shape", "scaling"), [((13, 11, 9), None), ((13, 11), (2.5, -3)), ((7, 6, 5, 3), (1, 4))])
def test_there_and_back_as_in_memory(shape: Any, scaling: Any, kind: Any, suffix: str, tmp_path: Path) -> None:
    ref = write(tmp_path / f"scan{suffix}", shape, kind, scaling)
    (tmp_path / "folder").mkdir()
    plain, large = nifti.read(ref), nifti_mapped.read(ref, tmp_path / "folder")
    assert plain.notes == large.notes
    assert nifti_mapped.shape_of(ref) == shape
    for one, other in zip(plain.volumes, large.volumes, strict=True):
        np.testing.assert_array_equal(one.array, other.array)
        assert mapped.file_of(other.array) is not None
        assert (one.valid is None) == (other.valid is None)
        if one.valid is not None:
            np.testing.assert_array_equal(one.valid, other.valid)
        for name in ("modality", "units", "label", "slice_axis"):
            assert getattr(one, name) == getattr(other, name)
    images = [volume.array * np.float32(1.3) for volume in plain.volumes]
    for writer, scan in ((nifti, plain), (nifti_mapped, large)):
        writer.write(scan, images, tmp_path / f"{writer.__name__}{suffix}", LABEL)
        writer.write_map(scan, images, tmp_path / f"{writer.__name__}_map{suffix}", LABEL)
    for name in ("", "_map"):
        one, other = (tmp_path / f"{writer.__name__}{name}{suffix}" for writer in (nifti, nifti_mapped))
        assert one.read_bytes() == other.read_bytes()


def test_planes_of_the_grid_lie_together_on_disk(tmp_path: Path) -> None:
    scan = nifti_mapped.read(write(tmp_path / "scan.nii", (13, 11, 9), np.int16), tmp_path)
    stored = mapped.opened(tmp_path / "volume0.npy")
    assert stored.flags.c_contiguous
    np.testing.assert_array_equal(stored, scan.volumes[0].array.transpose(1, 0, 2)[::-1])


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    ref = write(tmp_path / "scan.nii.gz", (13, 11, 9), np.int16)
    ref.path.write_bytes(ref.path.read_bytes()[:-400])
    with pytest.raises(ScanError, match="truncated or damaged"):
        nifti_mapped.read(ref, tmp_path)


def test_a_file_without_a_finite_value_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((5, 5, 5), np.nan, np.float32), AFFINE), tmp_path / "scan.nii")
    ref = ScanRef("nifti", tmp_path / "scan.nii", (tmp_path / "scan.nii",), Path("scan.nii"), "scan")
    with pytest.raises(ScanError, match="no finite value"):
        nifti_mapped.read(ref, tmp_path)


def test_the_input_is_not_replaced(tmp_path: Path) -> None:
    ref = write(tmp_path / "scan.nii", (13, 11, 9), np.int16)
    scan = nifti_mapped.read(ref, tmp_path)
    with pytest.raises(CannotWrite, match="input itself"):
        nifti_mapped.write(scan, [scan.volumes[0].array], ref.path, LABEL)
    with pytest.raises(ScanError, match="does not fit"):
        nifti_mapped.write(scan, [scan.volumes[0].array[1:]], tmp_path / "out.nii", LABEL)


def test_a_small_disk_is_told_before(tmp_path: Path) -> None:
    mapped.refuse_small_disk(tmp_path, 1e3)
    with pytest.raises(CannotWrite, match=r"1e\+12 GB of room"):
        mapped.refuse_small_disk(tmp_path, 1e21)


def test_parts_of_mapped_arrays(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    array = mapped.make(tmp_path / "a.npy", values.shape, np.float32)
    for turned, expected in ((array, values), (array.transpose(2, 0, 1), values.transpose(2, 0, 1))):
        whole = tuple(slice(0, n) for n in turned.shape)
        mapped.put(turned, whole, expected)
        box = (slice(1, 6), slice(None), slice(2, 5))
        np.testing.assert_array_equal(mapped.take(turned, box), expected[box])
        assert np.array_equal(turned, expected)
    assert mapped.file_of(values) is None
    assert mapped.all_finite(array)
    array[3, 3, 3] = np.inf
    assert not mapped.all_finite(array)
