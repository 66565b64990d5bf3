from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks import cases, superres, volumes
from medidiff.config import ComputeOptions
from medidiff.evaluation.baselines import interpolated, zero_filled
from medidiff.evaluation.degrade import slice_axis
from medidiff.physics import tasks
from medidiff.physics.intensity import Intensity
from medidiff.pipelines import SuperResolvePipeline

CUBE, THICK, _ = superres.SETTINGS


def case_of(clean: cases.Image, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> cases.Case:
    return cases.Case("made", "made", "MR", spacing, np.asarray(clean, np.float32), Intensity(0.0, 500.0))


def posed_of(clean: cases.Image, setting: superres.Setting, **kwargs: tuple[float, float, float]) -> superres.Posed:
    posed = superres.pose(case_of(clean, **kwargs), setting)
    assert posed is not None
    return posed


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_interpolation_gives_a_ramp_back_at_the_centres_of_fine_voxels(order: int, factor: int) -> None:
    fine = np.arange(24 * factor, dtype=np.float32)
    coarse = fine.reshape(24, factor).mean(axis=1)
    found = interpolated(coarse[:, None, None] * np.ones((1, 4, 4), np.float32), (24 * factor, 4, 4), order)
    inner = slice(9 * factor, -9 * factor)  # a mirror bends the ramp at its ends
    assert np.allclose(found[inner, 2, 2], fine[inner], atol=2e-3)


def test_zero_filling_gives_back_what_is_within_the_band() -> None:
    position = (np.arange(32) + 0.5) / 32
    wave = 1 + 0.3 * np.cos(2 * np.pi * 3 * position)
    clean = wave[:, None, None] * wave[None, :, None] * wave[None, None, :]
    posed = posed_of(clean, CUBE)
    assert posed.measured.shape == (16, 16, 16)
    assert np.allclose(zero_filled(posed.measured, posed.acquisition), clean, atol=1e-5)
    assert superres.residual(posed.truth, posed) < 1e-6


def test_what_cannot_be_known_of_white_noise_is_its_part_outside_the_band() -> None:
    noise = 0.02 * np.random.default_rng(0).standard_normal((32, 32, 32)).astype(np.float32)
    posed = posed_of(noise, CUBE)
    error = zero_filled(posed.measured, posed.acquisition) - posed.truth
    assert superres.unknowable(posed, 0.02) == pytest.approx(0.02**2 * 7 / 8)
    assert np.mean(np.square(error)) == pytest.approx(superres.unknowable(posed, 0.02), rel=0.02)
    bright = posed_of(np.ones((32, 32, 32)), CUBE)
    assert superres.ceiling(bright, 0.02) == pytest.approx(-10 * np.log10(0.02**2 * 7 / 8))


def test_the_pipeline_poses_the_acquisition_that_made_the_data(
    silent_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "ROUNDS", ())  # the smooth image does not depend on the unit of intensity
    pipeline = SuperResolvePipeline.load(silent_bundle, compute=ComputeOptions(device="cpu"))
    clean = np.random.default_rng(1).random((16, 18, 33), dtype=np.float32)
    for setting in (CUBE, THICK):
        posed = posed_of(clean, setting, spacing=(1.0, 1.1, 0.9))
        found = superres.restored(posed, pipeline)
        expected = posed.acquisition.lift(torch.from_numpy(posed.measured)[None])[0].numpy()
        assert found.shape == posed.truth.shape
        assert np.allclose(found, expected, atol=1e-5)
        assert superres.residual(found, posed) < 1e-5


def test_slices_are_thick_along_the_last_axis_that_is_long_enough() -> None:
    assert slice_axis((96, 96, 96), 6) == 2
    assert slice_axis((96, 91, 20), 6) == 1
    assert slice_axis((53, 61, 33), 6) == 1
    assert superres.pose(case_of(np.ones((30, 28, 20))), THICK) is None


def row(spline: float, mine: float, error: float = 1.0, left: float = 0.5) -> superres.Row:
    figures = {"mse": error, "mse_without_reference_noise": left, "data_residual": 1e-7}
    methods = {superres.SPLINE: {"psnr": spline, **figures}, superres.MEDIDIFF: {"psnr": mine, **figures}}
    return {"volume": "a", "setting": THICK.name, "methods": methods}


def test_goals_are_judged_on_the_mean_gain_over_the_spline() -> None:
    rows = [row(28, 29), row(28, 30.2)]
    gain, residual = superres.verdicts(rows)
    assert gain.met is True
    assert "+1.60 dB in the mean of 2 volumes, +1.00 dB at worst" in gain.found
    assert residual.met is True
    rows[1]["methods"][superres.MEDIDIFF]["data_residual"] = 2e-5
    assert superres.verdicts(rows)[1].met is False


def test_gains_without_reference_noise_leave_out_what_cannot_be_told() -> None:
    rows = [row(28, 29), row(28, 29)]
    rows[0]["methods"][superres.MEDIDIFF]["mse_without_reference_noise"] = 0.25
    rows[1]["methods"][superres.MEDIDIFF]["mse_without_reference_noise"] = float("nan")
    assert superres.clean_gains(rows, THICK.name) == pytest.approx([10 * np.log10(2)])


def test_a_run_judges_the_base_as_medidiff_when_the_network_adds_nothing(
    silent_bundle: Path, body: Path, tmp_path: Path
) -> None:
    superres.main(
        [
            "--pipeline",
            str(silent_bundle),
            "--files",
            str(body),
            "--crop",
            "48",
            "--threads",
            "1",
            "--results",
            str(tmp_path),
        ]
    )
    result = json.loads((tmp_path / "superres.json").read_text())
    assert [found["setting"] for found in result["rows"]] == [setting.name for setting in superres.SETTINGS]
    for found in result["rows"]:
        base, mine = found["methods"][superres.BASE], found["methods"][superres.MEDIDIFF]
        assert mine["psnr"] == pytest.approx(base["psnr"], abs=1e-6)
        assert mine["psnr"] > found["methods"][superres.LINEAR]["psnr"]
        assert mine["data_residual"] < 1e-5 < found["methods"][superres.SPLINE]["data_residual"]
    assert "| body | 48x40x40 | 1 x 1 x 1 | taken |" in (tmp_path / "superres.md").read_text()


def test_volumes_of_thick_slices_are_left_out_and_it_says_so(tmp_path: Path, body: Path) -> None:
    image = nib.load(body)
    thick = tmp_path / "thick.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.diag([1.0, 1.0, 4.0, 1.0])), thick)
    options = volumes.parser("text", 32).parse_args(["--files", str(thick), str(body)])
    choice = volumes.choose(options)
    assert [case.name for case in choice.cases] == ["body"]
    assert "left out: slices 4.0 times as thick as wide" in choice.listing[0]["why"]
    assert len(volumes.choose(options, isotropic=False).cases) == 2
