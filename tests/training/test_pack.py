"""The data as one file, without pickle."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from medidiff.training import pack as packs
from medidiff.training.pack import Pack


def test_round_trip(pack, tmp_path):
    pack.save(tmp_path / "p.npz")
    found = packs.load(tmp_path / "p.npz")
    assert found.entries == pack.entries
    for a, b in zip(found.arrays, pack.arrays, strict=True):
        assert a.dtype == np.uint8
        np.testing.assert_array_equal(a, b)


def test_same_content_same_arrays_and_nothing_pickled(pack, tmp_path):
    pack.save(tmp_path / "p.npz")
    with zipfile.ZipFile(tmp_path / "p.npz") as file:
        names = set(file.namelist())
        assert names == {"table.npy", *(f"volume_{i:04d}.npy" for i in range(len(pack.entries)))}
        assert all(b"'|O'" not in file.read(name)[:128] for name in names)


def test_pickled_content_is_refused(tmp_path):
    table = np.frombuffer(b'[{"name": "x"}]', dtype=np.uint8)
    np.savez(tmp_path / "bad.npz", table=table, volume_0000=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        packs.load(tmp_path / "bad.npz")


def test_levels_are_intensities(pack):
    values = pack.normalised(0)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, pack.arrays[0] * (1.25 / 255), rtol=1e-6)
    brightest = Pack((replace(pack.entries[0], ceiling=2.0),), (np.full((1, 1, 1), 255, np.uint8),))
    assert float(brightest.normalised(0)[0, 0, 0]) == pytest.approx(2)


def test_splits(pack):
    assert {split: pack.of(split) for split in ("train", "validation", "calibration", "test")} == {
        "train": [0, 1, 2],
        "validation": [3],
        "calibration": [4],
        "test": [],
    }


def test_digest(tmp_path):
    (tmp_path / "f").write_bytes(b"medidiff" * 100_000)
    assert packs.digest(tmp_path / "f") == hashlib.sha256(b"medidiff" * 100_000).hexdigest()
