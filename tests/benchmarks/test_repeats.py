from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks import repeats


def test_sigma_comes_from_differences_of_repeats() -> None:
    rng = np.random.default_rng(0)
    clean = np.zeros((24, 24, 24), np.float32)
    clean[6:18, 6:18, 6:18] = 1
    volumes = [clean + rng.normal(0, 0.03, clean.shape).astype(np.float32) for _ in range(8)]
    assert repeats.temporal_sigma(volumes, clean) == pytest.approx(0.03, rel=0.05)


def test_the_first_volumes_of_a_series_are_left_out() -> None:
    assert repeats.chosen(20, 3) == [4, 12, 19]
    assert repeats.chosen(3, 2) == [2]


def test_a_run_compares_with_the_mean_of_the_others(tiny_home: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    clean = np.zeros((24, 24, 20), np.float32)
    clean[5:19, 5:19, 4:16] = 1000
    series = np.stack(
        [np.hypot(clean + rng.normal(0, 50, clean.shape), rng.normal(0, 50, clean.shape)) for _ in range(10)], -1
    )
    path = tmp_path / "series.nii.gz"
    nib.save(nib.Nifti1Image(series.astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0])), path)
    options = ["--pipeline", "tiny", "--files", str(path), "--volumes", "1", "--threads", "1"]
    repeats.main([*options, "--results", str(tmp_path)])
    (row,) = json.loads((tmp_path / "repeats.json").read_text())["rows"]
    assert row["volume"] == 4
    assert row["sigma_percent"] == pytest.approx(5, rel=0.1)
    # the noise of the volume and of its reference, a peak above 1, and a dim background that scatters less
    assert -20 * np.log10(0.05 * np.sqrt(1 + 1 / 5)) < row["psnr"][repeats.NOISY] < -20 * np.log10(0.05) + 2
    assert row["psnr"][repeats.BASE] > row["psnr"][repeats.NOISY] + 1.5


def test_what_taught_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "repeats").mkdir()
    for name in "abc":
        (tmp_path / "repeats" / f"{name}.nii.gz").touch()
    (tmp_path / "MANIFEST.csv").write_text("file,split\nrepeats/a.nii.gz,train\nrepeats/b.nii.gz,validation\n")
    assert [path.name for path in repeats.held_out(tmp_path)] == ["b.nii.gz", "c.nii.gz"]


def test_without_repeats_it_says_so(tiny_home: Path) -> None:
    with pytest.raises(SystemExit, match="MEDIDIFF_REAL_DATA"):
        repeats.main([])
