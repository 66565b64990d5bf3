"""Figures that describe an image, and how little noise moves them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.physics.statistics import statistics


@pytest.fixture(scope="module")
def image():
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((60, 60, 60)), 3)
    radius = sum(axis**2 for axis in np.meshgrid(*[np.linspace(-1, 1, 60)] * 3, indexing="ij"))
    return np.where(radius < 0.8, np.clip(0.6 + 0.15 * field / field.std(), 0.2, 1.1), 0).astype(np.float32)


def test_values_of_two_known_tissues():
    unit = np.zeros((40, 40, 40), np.float32)
    unit[4:36, 4:36, 4:20] = 0.5
    unit[4:36, 4:36, 20:36] = 1.0
    found = statistics(unit)
    assert 1 / 3 <= found["dark"] <= 0.5  # the rim is a mean over tissue and air
    assert found["bright"] == pytest.approx(1.0, abs=0.01)
    assert found["highlight"] == pytest.approx(0, abs=0.01)
    assert found["share"] == pytest.approx(1, abs=0.02)
    assert found["contrast"] == pytest.approx(np.log((1 - 0.5) / 0.5), abs=2e-3)


def test_noise_moves_them_little(image):
    rng = np.random.default_rng(1)
    noisy = np.hypot(image + 0.15 * rng.standard_normal(image.shape), 0.15 * rng.standard_normal(image.shape))
    clean, found = statistics(image), statistics(noisy.astype(np.float32), 0.15)
    for name in ("dark", "middle", "bright", "share"):
        assert found[name] == pytest.approx(clean[name], abs=0.08), name


def test_pure_noise_has_no_coherence_and_no_object():
    unit = np.hypot(*np.random.default_rng(0).standard_normal((2, 40, 40, 40))).astype(np.float32)
    found = statistics(0.3 * unit, 0.3)
    assert found == {"coherence": pytest.approx(found["coherence"])}
    assert found["coherence"] < -3


def test_air_around_does_not_change_the_share(image):
    wide = np.pad(image, 20)
    assert statistics(wide)["share"] == pytest.approx(statistics(image)["share"], abs=0.02)


@pytest.mark.parametrize("shape", [(1, 64, 64), (64, 64, 1), (2, 3, 4), (1, 1, 1)])
def test_thin_and_tiny(shape):
    assert all(np.isfinite(list(statistics(np.random.default_rng(0).random(shape, np.float32)).values())))


def test_a_constant_image_has_nothing_to_tell():
    assert statistics(np.ones((20, 20, 20), np.float32)) == {"coherence": 0.0}
