"""Windows of the noise map: medians from histograms against sorted values, and slabs against the whole."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.physics import slabs
from medidiff.physics.sigma_map import Windows
from medidiff.physics.texture import MAD_OF_NORMAL


@pytest.mark.parametrize("shape", [(40, 53, 48), (50, 48, 5), (3, 60, 50), (50, 19, 48), (24, 48, 48)])
def test_medians_are_those_of_sorted_values(shape):
    rng = np.random.default_rng(0)
    white = (
        np.abs(rng.standard_normal(shape)).astype(np.float32) * np.linspace(1, 3, shape[1], dtype=np.float32)[:, None]
    )
    inside = rng.random(shape) < np.linspace(0, 1, shape[2])
    (whole,) = slabs.of(white)
    found = Windows(shape).medians(white, inside, whole, 1.5)
    edges = [16 if n >= 32 else 8 if n >= 16 else n for n in shape]
    steps = [edge // 2 if n >= 16 else n for n, edge in zip(shape, edges, strict=True)]
    assert np.isnan(found).any() == (shape[2] > 16)  # windows in which too little is inside
    assert found.shape == tuple(max(1, n // step - 1) for n, step in zip(shape, steps, strict=True))
    for index in np.argwhere(np.isfinite(found)):
        window = tuple(slice(step * i, step * i + edge) for i, step, edge in zip(index, steps, edges, strict=True))
        exact = np.median(white[window][inside[window]]) / MAD_OF_NORMAL
        assert found[tuple(index)] == pytest.approx(exact, rel=0.01 if min(edges) > 8 or min(shape) < 16 else 0.03)


def test_slabs_give_the_same_windows():
    rng = np.random.default_rng(1)
    white, inside = np.abs(rng.standard_normal((75, 20, 24))).astype(np.float32), rng.random((75, 20, 24)) < 0.7
    windows = Windows(white.shape)
    (whole,) = slabs.of(white)
    expected = windows.medians(white, inside, whole, 1.0)
    parts = slabs.Slabs(white.shape, lambda planes: white[planes], 32)
    within = slabs.Slabs(white.shape, lambda planes: inside[planes], 32)
    found = [windows.medians(a.values, b.values, a, 1.0) for a, b in zip(parts, within, strict=True)]
    np.testing.assert_array_equal(np.concatenate(found), expected)


@pytest.mark.parametrize(("shape", "least"), [((128, 128, 64), 1.3), ((128, 128, 1), 2.0)])
def test_windows_of_slices_have_to_differ_more(shape, least):
    """In 256 coefficients anatomy alone varies by half; in 4096 of a volume it does not."""
    windows = Windows(shape)
    ramp = np.linspace(0, 1, windows._counts[0])[:, None, None] * np.ones(windows._counts)
    for spread, found in ((0.9 * least, False), (1.3 * least, True)):
        assert (windows.fit([1 + (spread / 0.93 - 1) * ramp]) is not None) is found


def test_the_faces_of_a_volume_are_extrapolated_and_an_outlier_is_cut():
    windows = Windows((128, 128, 128))
    ramp = 1 + 2 * np.linspace(0, 1, windows._counts[0])[:, None, None] * np.ones(windows._counts)
    ramp[7, 7, 7] *= 5
    along = windows.fit([ramp]).whole[:, 0, 0]
    steps = np.diff(along)
    assert steps.min() > 0.5 * np.median(steps)
    assert along[0] < 1 < 3 < along[-1]
    assert windows.fit([ramp]).whole.max() < 1.2 * 3
    flat = Windows((128, 128, 1)).fit([ramp[:, :, :1]]).whole[:, 0, 0]
    assert flat[0] >= 1
    assert flat[-1] <= 3
