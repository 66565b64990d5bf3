"""What is measured in slabs is what is measured on the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from medidiff.physics import intensity, noise, slabs
from medidiff.physics.slabs import Slabs

values = hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-1e6, 1e6, width=32))


@settings(deadline=None)
@given(values, st.integers(1, 7), st.sampled_from([0, 10, 50, 99.5, 100]))
def test_percentiles_of_chunks(array: NDArray[np.float32], parts: int, percent: float) -> None:
    found = slabs.percentile(lambda: np.array_split(array, parts), percent)
    assert found == pytest.approx(np.percentile(array.astype(np.float64), percent), rel=1e-9, abs=1e-9)


def test_no_values_have_no_percentile() -> None:
    assert np.isnan(slabs.percentile(lambda: [np.empty(0, dtype=np.float32)], 50))


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 7))
def test_every_of_chunks(count: int, step: int, parts: int) -> None:
    array = np.arange(count)
    found = np.concatenate(slabs.every(np.array_split(array, parts), step))
    np.testing.assert_array_equal(found, array[::step])


def test_slabs_hold_their_planes_and_some_around() -> None:
    array = np.arange(35 * 2, dtype=np.float32).reshape(35, 2)
    scan = Slabs(array.shape, lambda planes: array[planes], 16)
    assert not scan.whole
    np.testing.assert_array_equal(np.concatenate(list(scan.own())), array)
    second = list(scan)[1]
    assert (second.start, second.stop, second.first) == (16, 32, 14)
    np.testing.assert_array_equal(second.values, array[14:35])
    np.testing.assert_array_equal(scan.part((slice(3, 33), slice(1, 2))), array[3:33, 1:2])
    assert slabs.of(array).whole


def noisy(shape: tuple[int, ...], law: str, sigma: Any) -> NDArray[np.float32]:
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij")
    clean = np.exp(-2 * sum(axis**2 for axis in axes))
    real, imaginary = np.random.default_rng(0).normal(size=(2, *shape)) * sigma
    image = np.hypot(clean + real, imaginary) if law == "rician" else 1100 * (clean + real) - 1000
    return image.astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "law", "sigma"),
    [
        ((61, 50, 44), "rician", 0.05),
        ((61, 64, 44), "rician", 0.05 * np.linspace(1, 3, 61)[:, None, None]),
        ((61, 50, 44), "gaussian", 0.04),
        ((90, 47, 1), "rician", 0.06),
        ((61, 50, 44), "rician", 0.001),
        ((61, 50, 44), "rician", 0.0),
    ],
)
def test_a_survey_in_slabs_is_that_of_the_whole(shape: tuple[int, ...], law: str, sigma: Any) -> None:
    array, modality = noisy(shape, law, sigma), "MR" if law == "rician" else "CT"
    scaling, unit = intensity.normalise(array, modality)
    expected = noise.of_scan(unit, modality, 2)
    scan = Slabs(shape, lambda planes: array[planes], 16)
    assert intensity.scaling_of(scan, modality) == scaling
    found = noise.of_scan(scan.mapped(scaling.apply), modality, 2)
    assert found.sigma == pytest.approx(expected.sigma, rel=1e-6)
    assert found.correlation == pytest.approx(expected.correlation, abs=1e-6)
    assert (found.law, found.texture, found.field is None) == (expected.law, expected.texture, expected.field is None)
    assert (expected.field is not None) == (np.ndim(sigma) > 0)
    if found.map is not None:
        np.testing.assert_allclose(found.map, expected.map, rtol=1e-5)
        part = (slice(3, 20), slice(5, 9), slice(0, 44))
        np.testing.assert_allclose(found.within(part).local, expected.map[part], rtol=1e-5)


def test_a_nearly_empty_scan_has_a_threshold() -> None:
    array = np.zeros((200, 100, 100), dtype=np.float32)
    array[100, 50, 50:60] = 5
    whole = intensity.threshold_of(lambda: [array])
    assert 0 <= whole < 5
    assert intensity.threshold_of(lambda: np.array_split(array, 7)) == whole
