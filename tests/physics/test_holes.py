"""Filling holes against dense kriging, and how deep a voxel lies in a hole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import fft, ndimage

from medidiff.physics import holes


def solved(image: NDArray[np.float32], hole: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float64]:
    """Universal kriging by dense matrices: a trend by least squares, then the conditional mean of the process."""
    shape, inside = image.shape, hole.ravel()
    near = np.square(min(spacing)) / np.square(spacing)
    rate = 1 / 10.0**2
    for axis, n in enumerate(shape):
        step = (2 - 2 * np.cos(np.pi * np.arange(n) / n)) * near[axis]
        rate = rate + step.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    cosines = np.ones((1, 1))
    for n in shape:
        cosines = np.kron(cosines, fft.dct(np.eye(n), axis=0, norm="ortho"))
    precision = cosines.T @ (rate.reshape(-1, 1) ** (0.75 + len(shape) / 2) * cosines)
    position = np.stack([np.ones(image.size), *(g.ravel() for g in np.indices(shape))], axis=1)
    values = image.ravel().astype(np.float64)
    trend = position @ np.linalg.lstsq(position[~inside], values[~inside], rcond=None)[0]
    pull = -precision[np.ix_(inside, ~inside)] @ (values - trend)[~inside]
    filled = np.linalg.solve(precision[np.ix_(inside, inside)], pull) + trend[inside]
    values[inside] = filled.clip(values[~inside].min(), values[~inside].max())
    return values.reshape(shape)


def fill(image: NDArray[np.float32], hole: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float32]:
    tensors = torch.from_numpy(image)[None], torch.from_numpy(hole)[None], torch.tensor([spacing])
    return holes.fill(*tensors)[0].numpy()


def tissue(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    field = np.random.default_rng(seed).standard_normal(shape)
    field = ndimage.gaussian_filter(field, [1.5 if n > 1 else 0 for n in shape])
    return (0.5 + 0.3 * field / max(field.std(), 1e-9)).astype(np.float32)


def blobs(shape: tuple[int, ...], seed: int = 1) -> NDArray[np.bool_]:
    field = ndimage.gaussian_filter(
        np.random.default_rng(seed).standard_normal(shape), [3 if n > 1 else 0 for n in shape]
    )
    return field > np.quantile(field, 0.65)


def middle(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    hole = np.zeros(shape, dtype=bool)
    hole[tuple(slice(n // 4, n - n // 4) if n > 3 else slice(None) for n in shape)] = True
    return hole


@pytest.mark.parametrize("make", [blobs, middle])
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((12, 11, 9), (1.0, 1.0, 1.0)),
        ((12, 11, 9), (1.0, 1.0, 5.0)),
        ((12, 11, 9), (3.0, 0.5, 1.0)),
        ((20, 4, 15), (1.0, 1.0, 1.0)),
        ((30, 27), (1.0, 2.0)),
        ((24, 21, 1), (1.0, 1.0, 6.0)),
        ((1, 50), (1.0, 1.0)),
    ],
)
def test_filling_is_the_best_linear_estimate(shape, spacing, make):
    image, hole = tissue(shape), make(shape)
    found, expected = fill(image, hole, spacing), solved(image, hole, spacing)
    assert np.sqrt(np.mean(np.square(found - expected)[hole])) < 0.01 * np.ptp(image)
    np.testing.assert_array_equal(found[~hole], image[~hole])  # to the last bit


def test_filling_is_closer_than_the_mean():
    image, hole = tissue((40, 36, 32), seed=3), blobs((40, 36, 32), seed=4)
    error = np.square(fill(image, hole, (1.0, 1.0, 1.0)) - image)[hole].mean()
    assert error < 0.65 * image[hole].var()


def test_far_holes_are_filled_alone():
    image = tissue((90, 14, 12))
    first, second = np.zeros(image.shape, dtype=bool), np.zeros(image.shape, dtype=bool)
    first[5:9, 4:9, 4:9], second[75:81, 4:9, 4:9] = True, True
    both = fill(image, first | second, (1.0, 1.0, 1.0))
    for alone in (first, second):
        np.testing.assert_array_equal(both[alone], fill(image, alone, (1.0, 1.0, 1.0))[alone])


def test_what_a_hole_holds_does_not_matter():
    image, hole = tissue((16, 15, 14)), middle((16, 15, 14))
    expected = fill(image, hole, (1.0, 1.0, 1.0))
    for value in (0.0, -7.0, 1e4):
        np.testing.assert_array_equal(
            fill(np.where(hole, np.float32(value), image), hole, (1.0, 1.0, 1.0))[~hole], image[~hole]
        )
        np.testing.assert_allclose(
            fill(np.where(hole, np.float32(value), image), hole, (1.0, 1.0, 1.0)), expected, atol=1e-6
        )


@pytest.mark.parametrize("value", [0.0, 0.7, -3.0])
def test_constant(value):
    image = np.full((17, 14, 12), value, dtype=np.float32)
    np.testing.assert_allclose(fill(image, blobs(image.shape), (1.0, 2.0, 3.0)), value, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ramp(axis):
    shape = (18, 17, 16)
    ramp = np.indices(shape)[axis].astype(np.float32) / 16
    np.testing.assert_allclose(fill(ramp, middle(shape), (1.0, 1.0, 4.0)), ramp, atol=1e-3)


def test_over_the_border_a_trend_ends_where_the_known_values_do():
    line = np.linspace(0, 1, 20, dtype=np.float32).reshape(20, 1)
    hole = np.zeros((20, 1), dtype=bool)
    hole[14:] = True
    np.testing.assert_allclose(fill(line, hole, (1.0, 1.0))[14:], line[13, 0], atol=1e-6)


def test_distant_slices_count_little():
    image = np.zeros((9, 9, 9), dtype=np.float32)
    image[:, :, 5:] = 1
    image[:, :, 4] = 0.5
    hole = np.zeros_like(image, dtype=bool)
    hole[4, 4, 3] = True  # 0 around it in its plane, 0 below, 0.5 above
    values = [float(fill(image, hole, (1.0, 1.0, size))[4, 4, 3]) for size in (0.5, 1.0, 2.0, 10.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.05
    assert abs(values[-1]) < 0.01


def test_images_of_a_batch_do_not_mix():
    images, gaps = np.stack([tissue((20, 18), s) for s in range(3)]), np.stack([blobs((20, 18), s) for s in range(3)])
    gaps[1] = False
    spacing = torch.tensor([[1.0, 1.0], [1.0, 1.0], [4.0, 1.0]])
    found = holes.fill(torch.from_numpy(images), torch.from_numpy(gaps), spacing).numpy()
    np.testing.assert_array_equal(found[1], images[1])
    for index, sizes in ((0, (1.0, 1.0)), (2, (4.0, 1.0))):
        alone = fill(images[index], gaps[index], sizes)
        np.testing.assert_allclose(found[index], alone, atol=0.01)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 14)] * 3), st.floats(0.05, 0.9))
def test_filling_obeys_the_maximum_principle(seed, shape, share):
    rng = np.random.default_rng(seed)
    image, hole = rng.uniform(0, 1, shape).astype(np.float32), rng.uniform(0, 1, shape) < share
    if hole.all():
        return
    found = fill(image, hole, (1.0, 1.0, 2.0))
    assert np.isfinite(found).all()
    assert found.min() >= image[~hole].min() - 2e-3
    assert found.max() <= image[~hole].max() + 2e-3


def test_depth_is_the_chessboard_distance_up_to_eight():
    hole = np.zeros((30, 29), dtype=bool)
    hole[3:27, 2:20] = True
    hole[25, 25] = True
    expected = np.minimum(ndimage.distance_transform_cdt(hole, "chessboard"), 8)
    np.testing.assert_array_equal(holes.depth(torch.from_numpy(hole)[None])[0], expected)
    volume = blobs((16, 15, 14))
    inner = ndimage.distance_transform_cdt(np.pad(volume, 9, mode="edge"), "chessboard")[9:-9, 9:-9, 9:-9]
    np.testing.assert_array_equal(holes.depth(torch.from_numpy(volume)[None])[0], np.minimum(inner, 8))
