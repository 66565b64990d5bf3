"""Blocks on disk give what tiles in memory give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medidiff import blocks
from medidiff.blocks import cutting
from medidiff.config import RestoreOptions
from medidiff.engine import Engine
from medidiff.errors import ScanError
from medidiff.restore import Restoration, restore
from medidiff.scans.volume import Volume
from tests.fake_networks import Constant, Local, ball, engine, gained, magnitude

SHAPE = (43, 34, 29)
TURNED = np.array([[0, -1.2, 0, 5], [1, 0, 0, 3], [0, 0, 2.0, 1], [0, 0, 0, 1]])  # stored anterior, left, superior
TILE, EDGE = 24, 16
ROUNDING = 1e-5  # sigma


def mr(shape: tuple[int, ...] = SHAPE, sigma: Any = 60.0) -> Volume:
    return Volume(magnitude(800 * ball(shape), sigma), TURNED, "MR")


def ct() -> Volume:
    clean = 1100 * ball(SHAPE) - 1000
    noisy = clean + 40 * np.random.default_rng(1).standard_normal(SHAPE)
    return Volume(noisy.astype(np.float32), TURNED, "CT", "HU")


def padded() -> Volume:
    valid = np.ones(SHAPE, dtype=np.bool_)
    valid[:7], valid[20:30, 10:12] = False, False
    whole = mr()
    return replace(whole, array=np.where(valid, whole.array, np.float32(0)), valid=valid)


def both(volume: Volume, one: Engine, folder: Path, **options: Any) -> tuple[Restoration, Restoration]:
    """The result of blocks, and that of tiles with the same windows."""
    settings = RestoreOptions(**options)
    found = blocks.restore(volume, one, settings, folder, tile=TILE, edge=EDGE)
    return found, restore(volume, replace(one, tile=TILE), settings)


def images(result: Restoration) -> dict[str, NDArray[np.float32]]:
    samples = {f"sample {index}": sample for index, sample in enumerate(result.samples)}
    return {"mean": result.mean, "std": result.std, "supplied": result.supplied, **samples}


def assert_same(found: Restoration, expected: Restoration, tolerance: float = ROUNDING) -> None:
    sigma = expected.record["noise_sigma"]
    for name, image in images(expected).items():
        scale = 1.0 if name == "supplied" else sigma
        assert np.abs(images(found)[name] - image).max() <= tolerance * scale, name
    ours, theirs = (
        {key: value for key, value in result.record.items() if key not in ("seconds", "tile", "blocks")}
        for result in (found, expected)
    )
    assert ours == theirs
    assert found.record["blocks"] == TILE
    assert found.verdicts == expected.verdicts
    assert found.checks == pytest.approx(expected.checks, rel=1e-3, abs=1e-4)
    np.testing.assert_array_equal(found.affine, expected.affine)


@pytest.mark.parametrize("scan", [mr, ct, padded])
def test_blocks_give_what_tiles_give(scan: Any, tmp_path: Path) -> None:
    assert_same(*both(scan(), engine(Local()), tmp_path))


def test_samples_and_their_steps(tmp_path: Path) -> None:
    found, expected = both(mr(), engine(Local()), tmp_path, samples=2, steps=3, gamma=0.5, strength=0.7, noise=6.0)
    assert_same(found, expected)
    assert found.sample is not None
    assert float(np.abs(found.samples[0] - found.samples[1]).max()) > 0.1 * expected.record["noise_sigma"]
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["mean", "sample0", "sample1", "std", "supplied"]


def test_the_gain_of_the_calibration(tmp_path: Path) -> None:
    found, expected = both(ct(), gained(Local(), 0.5), tmp_path, samples=1, steps=3)
    assert_same(found, expected)
    assert found.record["network_gain"] == 0.5
    base, whole = (both(ct(), engine(network), tmp_path)[1].mean for network in (Constant(), Local()))
    np.testing.assert_allclose(expected.mean, (base + whole) / 2, atol=1e-2)
    assert float(np.abs(whole - base).max()) > 1


@pytest.mark.parametrize("dims", [3, 2])
def test_mirror_images(dims: int, tmp_path: Path) -> None:
    found, expected = both(mr((43, 34, 6)), engine(Local(dims)), tmp_path, preset="best", samples=1, steps=2)
    assert expected.record["flips"]
    assert_same(found, expected)


@pytest.mark.parametrize("dims", [3, 2])
def test_noise_that_varies(dims: int, tmp_path: Path) -> None:
    shape = (49, 52, 20)
    volume = mr(shape, 60 * np.linspace(0.5, 2, shape[0])[:, None, None])
    found, expected = both(volume, engine(Local(dims)), tmp_path)
    assert expected.record["noise_varies"]
    assert_same(found, expected)


@pytest.mark.parametrize("dims", [3, 2])
def test_a_background_of_one_value(dims: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of planes end within its reach, and in a 2-D pipeline see no other plane."""
    monkeypatch.setattr(cutting, "LARGEST", 4 * TILE * TILE)
    volume = mr()
    masked = replace(volume, array=np.where(ball(SHAPE) > 0.5, volume.array, np.float32(0)))
    masked.array[:, :, 9:15] = 0
    found, expected = both(masked, engine(Local(dims)), tmp_path, strength=0.7)
    assert_same(found, expected)
    assert not expected.mean[masked.array == 0].any()
    assert not expected.std[masked.array == 0].any()


@pytest.mark.parametrize("shape", [(43, 34, 5), (70, 61, 1)])
def test_planes_one_by_one(shape: tuple[int, ...], tmp_path: Path) -> None:
    found, expected = both(mr(shape), engine(Local(2)), tmp_path, samples=1, steps=2)
    assert expected.record["slices_one_by_one"]
    assert_same(found, expected)


def test_tiles_in_memory_of_another_size_differ_by_no_more_than_the_tolerance(tmp_path: Path) -> None:
    volume, one = mr(), engine(Local())
    found = blocks.restore(volume, one, RestoreOptions(), tmp_path, tile=TILE, edge=EDGE)
    whole = restore(volume, one, RestoreOptions())
    assert np.abs(found.mean - whole.mean).max() < 0.02 * whole.record["noise_sigma"]


def test_a_constant_image_is_left_as_it_is(tmp_path: Path) -> None:
    volume = Volume(np.full(SHAPE, 100, dtype=np.float32), TURNED, "MR")
    found, expected = both(volume, engine(), tmp_path, samples=1, force=True)
    for name, image in images(expected).items():
        np.testing.assert_array_equal(images(found)[name], image)


def test_a_scan_far_from_training_is_refused(tmp_path: Path) -> None:
    one = replace(engine(Constant()), modalities=("MR",))
    with pytest.raises(ScanError, match="not on CT"):
        blocks.restore(ct(), one, RestoreOptions(), tmp_path, tile=TILE, edge=EDGE)


def test_progress_comes_to_its_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    options = RestoreOptions(samples=1, steps=2)
    blocks.restore(mr(), engine(), options, tmp_path, tile=TILE, edge=EDGE, progress=progress)
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, total in seen} == {len(seen)}


@pytest.mark.slow
def test_workers_of_a_cluster_give_the_same(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    options = RestoreOptions(samples=1, steps=2)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    alone.mkdir()
    shared.mkdir()
    expected = blocks.restore(padded(), engine(Local()), options, alone, tile=TILE, edge=EDGE)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        run = blocks.Workers(client)
        found = blocks.restore(padded(), engine(Local()), options, shared, tile=TILE, edge=EDGE, run=run)
    for name, image in images(expected).items():
        np.testing.assert_array_equal(images(found)[name], image)
