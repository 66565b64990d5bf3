"""Acquisition operators: their rows, their right inverse, and projections onto what explains the data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics.operators import Acquisition, Axis, forward_matrix, right_inverse

PROFILES = ("gaussian", "box", "kspace")


@st.composite
def axes(draw: st.DrawFn) -> Axis:
    """Refined axes of any size, factors 1.5 to 8, every profile."""
    coarse = draw(st.integers(2, 40))
    fine = max(coarse + 1, round(coarse * draw(st.floats(1.5, 8))))
    return Axis(coarse, fine, draw(st.sampled_from(PROFILES)), draw(st.floats(0.5, 1.5)))


@settings(deadline=None, max_examples=150)
@given(axes())
def test_rows_are_weighted_means_and_the_inverse_is_exact(axis):
    A, R = forward_matrix(axis), right_inverse(axis)
    assert A.shape == (axis.coarse, axis.fine)
    assert R.shape == (axis.fine, axis.coarse)
    np.testing.assert_allclose(A.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(A @ R, np.eye(axis.coarse), atol=1e-9)
    np.testing.assert_allclose(R.sum(axis=1), 1, atol=1e-9)  # a constant comes back as that constant
    if axis.profile != "kspace":
        assert A.min() >= 0
    for matrix in (A, R):  # neither end of an axis is special
        np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-9)


@settings(deadline=None, max_examples=100)
@given(axes())
def test_share_that_the_data_determine(axis):
    share = Acquisition((axis,)).known(torch.zeros(1, axis.fine, dtype=torch.float64))[0].numpy()
    expected = np.diag(right_inverse(axis) @ forward_matrix(axis))
    np.testing.assert_allclose(share, expected.clip(0, 1), atol=1e-12)
    assert share.sum() == pytest.approx(axis.coarse, rel=0.05)  # trace of a projection: its rank
    assert share.min() >= 0
    assert share.max() <= 1


def test_box_of_a_whole_factor_is_the_mean_of_blocks():
    A = forward_matrix(Axis(5, 20, "box"))
    np.testing.assert_allclose(A, np.kron(np.eye(5), np.full(4, 0.25)), atol=1e-15)
    thin = forward_matrix(Axis(5, 20, "box", 0.5))  # a gap of half the distance
    np.testing.assert_allclose(thin, np.kron(np.eye(5), [0, 0.5, 0.5, 0]), atol=1e-15)


def test_width_of_a_gaussian_is_its_full_width_at_half_maximum():
    axis = Axis(9, 9 * 41, "gaussian", 0.8)
    row = forward_matrix(axis)[4]
    above = np.flatnonzero(row > row.max() / 2)
    assert above.mean() == 4 * 41 + 20  # the coarse voxel's centre
    assert len(above) == pytest.approx(0.8 * 41, abs=1)


def crop_of_kspace(image: NDArray[np.float64], coarse: int) -> NDArray[np.float64]:
    """The lowest frequencies of a periodic image, at the centres of the coarse voxels."""
    fine = len(image)
    spectrum = np.fft.fft(image) / fine
    frequency = np.rint(np.fft.fftfreq(fine) * fine).astype(int)
    weight = 1.0 * (2 * np.abs(frequency) < coarse)
    weight[2 * np.abs(frequency) == coarse] = 0.5  # the Nyquist frequency belongs half to either side
    assert weight.sum() == coarse
    position = (np.arange(coarse)[:, None] + 0.5) * fine / coarse - 0.5
    return ((weight * spectrum) * np.exp(2j * np.pi * position * frequency / fine)).sum(axis=1).real


@pytest.mark.parametrize(
    ("coarse", "fine"), [(8, 16), (7, 21), (8, 12), (9, 16), (6, 17), (16, 32), (10, 15), (2, 6), (3, 4), (64, 100)]
)
def test_band_of_kspace_is_a_crop_of_the_spectrum(coarse, fine):
    image = np.random.default_rng(0).standard_normal(fine)
    A = forward_matrix(Axis(coarse, fine, "kspace"))
    np.testing.assert_allclose(A @ image, crop_of_kspace(image, coarse), atol=1e-12)


def test_band_limited_image_is_sampled():
    fine, coarse = 48, 20
    places = [2 * np.pi * (np.arange(n) + 0.5) / n for n in (fine, coarse)]
    image, measured = (2 + np.cos(3 * place + 0.3) - 0.5 * np.sin(9 * place) for place in places)
    np.testing.assert_allclose(forward_matrix(Axis(coarse, fine, "kspace")) @ image, measured, atol=1e-12)


@pytest.mark.parametrize("profile", ["gaussian", "box"])
@pytest.mark.parametrize("width", [0.5, 1.0, 1.5])
@pytest.mark.parametrize(("coarse", "fine"), [(12, 24), (12, 48), (15, 120), (13, 20), (20, 30)])
def test_ramps_stay_ramps(profile, width, coarse, fine):
    """Inside, to a twentieth of what one coarse voxel adds; the last one levels off."""
    axis = Axis(coarse, fine, profile, width)
    ramp = (np.arange(fine) + 0.5) / axis.factor
    again = right_inverse(axis) @ (forward_matrix(axis) @ ramp)
    inner = slice(round(3 * axis.factor), -round(3 * axis.factor))
    np.testing.assert_allclose(again[inner], ramp[inner], atol=0.05)
    np.testing.assert_allclose(again, ramp, atol=0.5)


def test_trivial_axis_changes_nothing():
    axis = Axis(7, 7, "kspace", 0.6)
    assert axis.trivial
    np.testing.assert_array_equal(forward_matrix(axis), np.eye(7))
    np.testing.assert_array_equal(right_inverse(axis), np.eye(7))
    image = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    nothing = Acquisition((axis, Axis(5, 5)))
    assert torch.equal(nothing.forward(image), image)
    assert torch.equal(nothing.lift(image), image)
    assert torch.equal(nothing.known(image), torch.ones(1, 7, 5))


ACQUISITIONS = [
    Acquisition((Axis(7, 7), Axis(5, 11, "kspace"), Axis(4, 13, "gaussian", 0.7))),
    Acquisition((Axis(6, 12, "box"), Axis(5, 5), Axis(3, 24, "gaussian", 1.2))),
    Acquisition((Axis(8, 12, "kspace"), Axis(9, 18, "kspace"))),
]
BOTH = pytest.mark.parametrize("acquisition", ACQUISITIONS, ids=["mixed", "thick", "planes"])


def random(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn((2, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(acquisition: Acquisition, matrix) -> NDArray[np.float64]:
    whole = np.ones((1, 1))
    for axis in acquisition.axes:
        whole = np.kron(whole, matrix(axis))
    return whole


@BOTH
def test_operator_is_the_kronecker_product_of_its_axes(acquisition):
    image, data = random(acquisition.fine), random(acquisition.coarse)
    forward = image.reshape(2, -1).numpy() @ dense(acquisition, forward_matrix).T
    np.testing.assert_allclose(acquisition.forward(image).reshape(2, -1), forward, atol=1e-12)
    lifted = data.reshape(2, -1).numpy() @ dense(acquisition, right_inverse).T
    np.testing.assert_allclose(acquisition.lift(data).reshape(2, -1), lifted, atol=1e-10)
    both = dense(acquisition, right_inverse) @ dense(acquisition, forward_matrix)
    np.testing.assert_allclose(acquisition.known(image).flatten(), np.diag(both).clip(0, 1), atol=1e-9)


@BOTH
def test_projection_is_exact_and_done_once(acquisition):
    image, data = random(acquisition.fine), random(acquisition.coarse, 1)
    projected = acquisition.project(image, data)
    torch.testing.assert_close(acquisition.forward(projected), data, atol=1e-9, rtol=0)
    torch.testing.assert_close(acquisition.project(projected, data), projected, atol=1e-9, rtol=0)
    away = image - acquisition.lift(acquisition.forward(image))  # invisible to the scanner, so it stays
    torch.testing.assert_close(acquisition.project(away, torch.zeros_like(data)), away, atol=1e-9, rtol=0)


@BOTH
def test_projection_asks_nothing_of_holes(acquisition):
    image, data = random(acquisition.fine), random(acquisition.coarse, 1)
    trusted = (random(acquisition.coarse, 2) > -0.5).double()
    again = acquisition.forward(acquisition.project(image, data, trusted))
    torch.testing.assert_close(again, torch.where(trusted > 0, data, acquisition.forward(image)), atol=1e-9, rtol=0)


@BOTH
def test_soft_projection_is_the_posterior_mean_under_the_prior(acquisition):
    """``x + C A^T (A C A^T + lambda I)^-1 (y - A x)``, but for the mean that R fits."""
    image, data, damping = random(acquisition.fine), random(acquisition.coarse, 1), 0.3
    inner = dense(acquisition, lambda axis: covariance(axis)[0])
    damp = inner @ np.linalg.inv(inner + damping * np.eye(len(inner)))
    missing = (data - acquisition.forward(image)).reshape(2, -1).numpy() @ damp.T
    expected = image.reshape(2, -1).numpy() + missing @ dense(acquisition, right_inverse).T
    found = acquisition.project(image, data, damping=damping)
    np.testing.assert_allclose(found.reshape(2, -1), expected, atol=1e-8)


def covariance(axis: Axis) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``A C A^T`` and C of one axis, a Matern 3/2 process of 3 coarse voxels."""
    if axis.trivial:
        return np.eye(axis.fine), np.eye(axis.fine)
    lag = np.sqrt(3) / 3 * np.abs(np.subtract.outer(np.arange(axis.fine), np.arange(axis.fine))) / axis.factor
    C = (1 + lag) * np.exp(-lag)
    A = forward_matrix(axis)
    return A @ C @ A.T, C


@BOTH
def test_soft_projection_lies_between_no_move_and_the_exact_one(acquisition):
    image, data = random(acquisition.fine), random(acquisition.coarse, 1)
    before = data - acquisition.forward(image)
    left = [
        (data - acquisition.forward(acquisition.project(image, data, damping=damping))).square().sum()
        for damping in (0.0, 1e-6, 0.01, 0.1, 1.0, 10.0, 1e6)
    ]
    ratios = [float(each / before.square().sum()) for each in left]
    assert all(a < b for a, b in itertools.pairwise(ratios))
    assert ratios[0] < 1e-20
    assert ratios[1] < 1e-3
    assert ratios[-1] == pytest.approx(1, abs=1e-4)
    assert all(ratio <= 1 for ratio in ratios)


def test_spread_repeats_coarse_voxels():
    acquisition = Acquisition((Axis(3, 6), Axis(2, 2), Axis(2, 5)))
    data = torch.arange(12.0).reshape(1, 3, 2, 2)
    found = acquisition.spread(data)
    expected = data.numpy().repeat(2, axis=1)[..., [0, 0, 1, 1, 1]]  # the middle voxel's centre belongs to the second
    np.testing.assert_array_equal(found, expected)


def test_single_precision_is_enough():
    for profile, factor, coarse in itertools.product(PROFILES, (2, 3.3, 8), (9, 31)):
        acquisition = Acquisition((Axis(coarse, round(factor * coarse), profile),))
        image = torch.rand(1, acquisition.fine[0], generator=torch.Generator().manual_seed(0))
        data = torch.rand(1, coarse, generator=torch.Generator().manual_seed(1))
        assert float((acquisition.forward(acquisition.project(image, data)) - data).abs().max()) < 3e-6
