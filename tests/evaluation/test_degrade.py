from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medidiff.errors import ScanError
from medidiff.evaluation import degrade
from medidiff.evaluation.degrade import Clean
from medidiff.physics.intensity import Intensity
from medidiff.physics.rician import RAYLEIGH_MEAN
from medidiff.scans.discover import find_scans
from tests.evaluation.conftest import Save


def clean_of(unit: np.ndarray, modality: str = "MR") -> Clean:
    return Clean("made", unit.astype(np.float32), np.diag([1.0, 2, 3, 1]), modality, "a.u.", Intensity(0.0, 500.0))


def test_a_scan_is_cropped_to_its_body_and_stays_where_it_is(tmp_path: Path, save: Save) -> None:
    image = np.zeros((40, 30, 24))
    image[25:35, 5:15, 8:18] = 100
    affine = np.diag([2.0, 2, 2, 1])
    (ref,) = find_scans([save(tmp_path / "scan.nii.gz", image, affine)]).cases
    clean = degrade.load(ref, "scan", 16)
    assert clean.unit.shape == (16, 16, 16)
    assert clean.unit.sum() == pytest.approx(1000)  # all of the body, normalised
    first = np.argwhere(clean.unit > 0)[0]
    assert (clean.affine @ [*first, 1])[:3] == pytest.approx([50, 10, 16])
    assert degrade.load(ref, "scan", None).unit.shape == image.shape


def test_repeats_are_averaged_and_tiny_scans_refused(tmp_path: Path) -> None:
    repeats = np.stack([np.full((18, 18, 18), 90.0), np.full((18, 18, 18), 110.0)], axis=3).astype(np.float32)
    repeats[0] = 0
    nib.save(nib.Nifti1Image(repeats, np.eye(4)), tmp_path / "repeats.nii.gz")
    (ref,) = find_scans([tmp_path / "repeats.nii.gz"]).cases
    assert degrade.load(ref, "repeats", None).scaling.scale == pytest.approx(100)
    nib.save(nib.Nifti1Image(repeats[:6, :6, :6, 0], np.eye(4)), tmp_path / "tiny.nii.gz")
    (ref,) = find_scans([tmp_path / "tiny.nii.gz"]).cases
    with pytest.raises(ScanError, match="too small"):
        degrade.load(ref, "tiny", None)


def test_noise_is_the_same_again_and_has_the_stated_strength() -> None:
    unit = np.zeros((40, 40, 40))
    unit[20:] = 0.8
    clean = clean_of(unit)
    found = degrade.noisy(clean, "rician", 5, seed=3)
    assert found.sigma == pytest.approx(0.05)
    assert found.measured[:20].mean() == pytest.approx(0.05 * RAYLEIGH_MEAN, rel=0.01)
    assert found.measured[20:].std() == pytest.approx(0.05, rel=0.02)
    assert np.array_equal(found.measured, degrade.noisy(clean, "rician", 5, seed=3).measured)
    assert not np.array_equal(found.measured, degrade.noisy(clean, "rician", 5, seed=4).measured)
    gaussian = degrade.noisy(clean, "gaussian", 5, seed=3)
    assert gaussian.measured.min() < 0
    assert (gaussian.measured - unit).std() == pytest.approx(0.05, rel=0.02)


def test_signed_images_have_no_rician_noise() -> None:
    with pytest.raises(ScanError, match="gaussian:PERCENT"):
        degrade.noisy(clean_of(np.full((16, 16, 16), -1.0)), "rician", 5, 0)
    with pytest.raises(ScanError, match="gaussian:PERCENT"):
        degrade.noisy(clean_of(np.ones((16, 16, 16)), "CT"), "rician", 5, 0)
    untouched = degrade.noisy(clean_of(np.full((16, 16, 16), -1.0)), "rician", 0, 0)
    assert (untouched.measured == -1).all()


def test_thick_slices_are_means_and_lie_in_the_same_place() -> None:
    unit = np.random.default_rng(0).random((16, 16, 35))
    truth, posed = degrade.coarse(clean_of(unit), [1, 1, 4], "box", "gaussian", 0, 0)
    assert truth.unit.shape == (16, 16, 32)
    assert posed.measured.shape == (16, 16, 8)
    assert posed.measured[:, :, 1] == pytest.approx(unit[:, :, 4:8].mean(axis=2), abs=1e-6)
    assert posed.spacing == pytest.approx((1, 2, 12))
    assert posed.slices == 2
    assert (posed.affine @ [0, 0, 0, 1])[2] == pytest.approx(4.5)  # the middle of slices at 0, 3, 6 and 9 mm
    with pytest.raises(ScanError, match="too few voxels"):
        degrade.coarse(clean_of(unit), [4, 1, 1], "box", "gaussian", 0, 0)


def test_a_hole_lies_in_the_body_and_is_empty(body: Path) -> None:
    (ref,) = find_scans([body]).cases
    clean = degrade.load(ref, "body", 40)
    posed = degrade.with_hole(clean, "rician", 0, 1)
    assert posed.hole is not None
    assert (posed.measured[posed.hole] == 0).all()
    assert np.array_equal(posed.measured[~posed.hole], clean.unit[~posed.hole])
    assert (clean.unit[posed.hole] > 0.2).mean() > 0.9
    with pytest.raises(ScanError, match="No hole fits"):
        degrade.with_hole(clean_of(np.eye(20)[:, :, None] * np.ones(20)), "rician", 0, 1)


def test_a_hole_fits_into_a_planar_image() -> None:
    distance = np.linalg.norm(np.indices((96, 96)) - 48, axis=0)
    texture = np.random.default_rng(0).random((96, 96)) / 10
    unit = np.where(distance < 44, 0.8 + texture, 0)[:, :, None]
    hole = degrade.healthy_hole(unit.astype(np.float32), (1, 1, 1), "plane 0")
    assert hole is not None
    assert hole.shape == (96, 96, 1)
    assert 30 < hole.sum() < 1500
