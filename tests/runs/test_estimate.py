"""The time that a dry run tells: its arithmetic, what it reads of headers, and the truth."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medidiff import pipelines
from medidiff.cli import main
from medidiff.config import ComputeOptions, RestoreOptions, RunConfig
from medidiff.runs import estimate, make_plan, pace, run
from medidiff.runs.estimate import Estimate, duration
from medidiff.runs.pace import Pace
from medidiff.runs.reporter import Silent
from medidiff.scans import discover


@pytest.fixture(scope="module")
def mr() -> pipelines.Pipeline:
    pipeline = pipelines.load("mr", compute=ComputeOptions(device="cpu"))
    assert isinstance(pipeline, pipelines.Pipeline)
    return pipeline


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.42 s"), (12.4, "12 s"), (89, "89 s"), (150, "2.5 min"), (7000, "1.9 h"), (864000, "10 days")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_estimate_as_a_sentence() -> None:
    assert str(Estimate(600, 3, 1, False)) == "about 10 min for 3 scans, without 1 whose size is not known"
    assert str(Estimate(12, 1, 0, True)) == "about 12 s for 1 scan, less or more as the holes are small or large"
    assert "not known" in str(Estimate(0, 0, 2, False))


def test_seconds_of_a_volume_are_voxels_and_evaluations(mr: pipelines.Pipeline) -> None:
    found = Pace({"read": 1e-6, "base": 2e-6, "network": 123.0}, operations=1e5, rate=1e11)
    volume = pace.phantom((40, 48, 56))
    config = RunConfig(inputs=(Path("a"),), output=Path("b"))
    voxels = 40 * 48 * 56
    assert estimate.of_volume(volume, config, mr, found) == pytest.approx(voxels * 4e-6)
    many = config.model_copy(update={"restore": RestoreOptions(samples=8, steps=8)})
    assert estimate.of_volume(volume, many, mr, found) == pytest.approx(voxels * (3e-6 + 57e-6))
    best = config.model_copy(update={"restore": RestoreOptions(preset="best", samples=2)})
    assert estimate.of_volume(volume, best, mr, found) == pytest.approx(voxels * (3e-6 + (8 + 2 * 15) * 1e-6))
    finer = config.model_copy(update={"task": "superres", "restore": RestoreOptions(factor=(1, 1, 2))})
    assert estimate.of_volume(volume, finer, mr, found) == pytest.approx(2 * voxels * (4e-6 + 3 * 2e-6))  # four rounds


def test_halos_count(mr: pipelines.Pipeline) -> None:
    assert estimate.evaluated(mr, (80, 81, 82)) == 80 * 88 * 88
    assert 1.1 < estimate.evaluated(mr, (400, 400, 400)) / 400**3 < 2


def test_size_out_of_headers(scan: Callable[..., Path], sample_data: Path, tmp_path: Path) -> None:
    files = scan(tmp_path / "a.nii.gz"), scan(tmp_path / "b.nii.gz", shape=(5, 6, 7, 3))
    for path, shape, count in zip(files, [(8, 7, 6), (5, 6, 7)], [1, 3], strict=True):
        volume, volumes = estimate.hollow(discover.find_scans([path]).cases[0])
        assert (volume.array.shape, volumes) == (shape, count)
        assert volume.spacing == pytest.approx((2, 2, 3))
    (series,) = discover.find_scans([sample_data / "dicom_mr"]).cases
    volume, volumes = estimate.hollow(series)
    assert volume.array.shape[2] == len(series.files)
    assert (volume.modality, volumes) == ("MR", 1)


def test_operations_are_those_of_dense_convolutions(mr: pipelines.Pipeline) -> None:
    cells, total = {"encoder.0": 8, "decoder.0": 8, "stem": 8, "head": 8, "encoder.1": 64, "decoder.1": 64}, 0.0
    for name, weight in mr.engine.network.named_parameters():
        if weight.ndim == 5 and name.endswith(".weight"):
            level = next((n for prefix, n in cells.items() if name.startswith(prefix)), 512)
            level = {"down.0.weight": 64, "down.1.weight": 512, "up.0.weight": 64, "up.1.weight": 512}.get(name, level)
            total += 2 * weight.numel() / level
    assert pace.operations(mr.engine) == pytest.approx(total, rel=0.01)


def test_small_scans_take_time_too(
    scan: Callable[..., Path], mr: pipelines.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what their few voxels take: once a run, and once a scan."""
    monkeypatch.setattr(estimate, "probe", lambda *_: (mr, Pace({"base": 0.0}, operations=0.0, rate=1.0)))
    inputs = tuple(scan(tmp_path / f"{name}.nii.gz") for name in "abc")
    config = RunConfig(inputs=inputs, output=tmp_path / "out")
    expected = estimate.of_plan(make_plan(config), config)
    assert expected is not None
    assert expected.seconds == pytest.approx(1.0 + 3 * 0.3)


@pytest.mark.slow
def test_dry_run_tells_the_time_within_a_quarter(sample_data: Path, tmp_path: Path) -> None:
    config = RunConfig(
        inputs=(sample_data / "phantom_t1w.nii.gz",),
        output=tmp_path / "out",
        compute=ComputeOptions(device="cpu", threads=1),
        existing="overwrite",
    )
    ratios = []
    for _ in range(3):
        expected = estimate.of_plan(make_plan(config), config, time.process_time)
        assert expected is not None
        begin = time.process_time()
        run(config, reporter=Silent())
        ratios.append((expected.seconds - estimate.FIRST) / (time.process_time() - begin))
    assert sorted(ratios)[1] == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("task", ["denoise", "superres", "inpaint"])
def test_dry_run_prints_it(
    task: str, sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every task, whatever the probe measures."""
    monkeypatch.setattr(estimate, "PROBE", {3: (48, 48, 48), 2: (64, 64, 1)})
    scan = sample_data / "phantom_t1w.nii.gz"
    more = {
        "denoise": [],
        "superres": ["--factor", "2"],
        "inpaint": ["--mask", str(sample_data / "phantom_t1w_truth.nii.gz")],
    }[task]
    assert main([task, str(scan), *more, "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert re.search(r"\d (s|min) for 1 scan", capsys.readouterr().out)
    assert not (tmp_path / "out").exists()


def test_dry_run_says_what_cannot_become_so_fine(
    sample_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "PROBE", {3: (48, 48, 48), 2: (64, 64, 1)})
    scan = str(sample_data / "phantom_t1w.nii.gz")
    assert main(["superres", scan, "--spacing", "0.05", "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "is not between 1 and 16; choose another --factor or --spacing" in capsys.readouterr().out
