from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from scipy import ndimage

from medidiff.errors import ScanError, UsageError
from medidiff.evaluation import baselines
from medidiff.evaluation.degrade import Degraded, measure
from medidiff.evaluation.results import Image
from medidiff.physics.intensity import Intensity

SLOW = ("bm4d", "gaussian")  # seconds; the other law shows the same


def smooth(shape: tuple[int, ...] = (40, 40, 24)) -> Image:
    found = ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 4, mode="wrap")
    return (0.2 + 0.6 * (found - found.min()) / np.ptp(found)).astype(np.float32)


def noisy(clean: Image, sigma: float, law: str) -> Degraded:
    rng = np.random.default_rng(1)
    real, imaginary = sigma * rng.standard_normal((2, *clean.shape))
    measured = np.hypot(clean + real, imaginary) if law == "rician" else clean + real
    return Degraded("denoise", measured.astype(np.float32), np.eye(4), "MR", Intensity(0, 1), law, sigma)  # type: ignore[arg-type]


def rmse(image: Image, clean: Image) -> float:
    return float(np.sqrt(np.mean(np.square(image - clean))))


@pytest.mark.parametrize(
    ("name", "law"),
    [(name, law) for name in baselines.of("denoise") for law in ("rician", "gaussian") if (name, law) != SLOW],
)
def test_every_denoiser_takes_noise_away(name: str, law: str) -> None:
    peer = baselines.PEERS[name]
    if not peer.installed:
        pytest.skip(f"{peer.package} is not installed")
    clean = smooth((16, 16, 16) if name == "bm4d" else (24, 24, 20))
    given = noisy(clean, 0.06, law)
    restored = peer.run(given, 1)
    assert restored.shape == clean.shape
    assert rmse(restored, clean) < 0.6 * rmse(given.measured, clean)


def test_interpolators_reach_the_truths_grid_and_the_spline_is_better() -> None:
    clean = smooth()
    truth, acquisition, measured = measure(clean, [1, 1, 2], "box")
    given = Degraded("superres", measured, np.eye(4), "MR", Intensity(0, 1), "rician", 0.0, acquisition, 2)
    spline, linear = (baselines.PEERS[name].run(given, None) for name in ("spline", "linear"))
    assert spline.shape == truth.shape
    assert rmse(spline, truth) < rmse(linear, truth) < 0.02
    with pytest.raises(ScanError, match="--profile kspace"):
        baselines.PEERS["zero-fill"].run(given, None)


def test_fillers_change_the_hole_alone() -> None:
    clean = smooth()
    hole = np.linalg.norm(np.indices(clean.shape) - np.array([20, 20, 12])[:, None, None, None], axis=0) < 4
    scan = np.where(hole, np.float32(0), clean)
    given = Degraded("inpaint", scan, np.eye(4), "MR", Intensity(0, 1), "rician", 0.0, hole=hole)
    errors = {}
    for name in baselines.of("inpaint"):
        filled = baselines.PEERS[name].run(given, None)
        assert np.array_equal(filled[~hole], clean[~hole])
        errors[name] = rmse(filled[hole], clean[hole])
    assert errors["biharmonic"] < errors["rim"] < 0.2


def test_fillers_fill_planar_images() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 30, dtype=np.float32)[:, None, None], (30, 30, 1)).copy()
    hole = np.zeros(ramp.shape, bool)
    hole[12:17, 12:17] = True
    assert baselines.biharmonic(np.where(hole, 0, ramp).astype(np.float32), hole) == pytest.approx(ramp, abs=1e-3)


def test_unknown_and_unfit_peers_are_told() -> None:
    with pytest.raises(UsageError, match=r"no method 'nml'.*nlm"):
        baselines.find("nml", "denoise")
    with pytest.raises(UsageError, match=r"spline cannot denoise.*median"):
        baselines.find("spline", "denoise")
    assert baselines.find("spline", "superres").title == "cubic B-spline"


def test_a_peer_without_its_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert baselines.PEERS["median"].installed
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not baselines.PEERS["ants"].installed
    assert baselines.PEERS["nlm-skimage"].installed  # medidiff needs scikit-image itself
