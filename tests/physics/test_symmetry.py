"""The plane of symmetry of a scan, and what its other side says of a hole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.physics import holes, symmetry

Image = NDArray[np.float32]


def head(
    shape: tuple[int, ...], spacing: tuple[float, ...], normal: tuple[float, ...], shift: float, seed: int = 0
) -> Image:
    """An ellipsoid with blobs in it, each with its twin across a plane ``shift`` mm beside the grid's middle."""
    rng = np.random.default_rng(seed)
    size, dims = np.array(spacing), len(shape)
    n = np.array(normal) / np.linalg.norm(normal)
    extent = np.array(shape) * size
    offset = n @ (extent / 2) + shift
    points = np.stack(np.meshgrid(*((np.arange(m) + 0.5) * s for m, s in zip(shape, size, strict=True)), indexing="ij"))
    column = (-1, *(1,) * dims)
    middle = extent / 2 + shift * n

    def blob(centre: NDArray[np.float64], width: float) -> NDArray[np.float64]:
        return np.exp(-np.square(points - centre.reshape(column)).sum(axis=0) / (2 * width**2))

    radius = 0.4 * extent[np.array(shape) > 1].min()
    inside = np.square(points - middle.reshape(column)).sum(axis=0) < radius**2
    image = np.full(shape, 0.5)
    for _ in range(60):
        centre, width = middle + radius * rng.uniform(-0.8, 0.8, dims), radius * rng.uniform(0.08, 0.2)
        twin = centre - 2 * (n @ centre - offset) * n
        image += rng.uniform(-0.4, 0.4) * (blob(centre, width) + blob(twin, width))
    return np.where(inside, image.clip(0.1, 1.2), 0).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "spacing", "normal", "shift"),
    [
        ((48, 52, 40), (1.0, 1.0, 1.0), (1, 0, 0), 0.0),
        ((48, 52, 40), (1.0, 1.0, 1.0), (1, 0.15, -0.1), 3.0),
        ((40, 61, 21), (1.2, 0.9, 2.5), (0.1, 1, 0.05), -2.0),
        ((64, 57), (1.0, 1.5), (0.2, 1), 2.5),
        ((50, 1, 43), (1.0, 5.0, 1.0), (1, 0, 0.1), -2.0),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.03, 0.09, 0.15])
def test_the_plane_is_found(shape, spacing, normal, shift, noise):
    """Whatever the noise in the air around."""
    image = head(shape, spacing, normal, shift)
    real, imaginary = np.random.default_rng(1).normal(size=(2, *shape)) * noise
    image = np.hypot(image + real, imaginary).astype(np.float32)
    found = symmetry.find(image, np.ones(shape, dtype=bool), spacing)
    assert found is not None
    n = np.array(normal) / np.linalg.norm(normal)
    middle = np.array(shape) * spacing / 2
    assert abs(found.normal @ n) > np.cos(np.radians(2.5))
    sign = np.sign(found.normal @ n)
    assert abs(sign * (found.offset - found.normal @ middle) - shift) < 1.0  # mm
    assert found.correlation > (0.9 if noise == 0 else 0.55)


def test_what_was_not_measured_does_not_count():
    image = head((48, 52, 40), (1.0,) * 3, (1, 0, 0), 2.0)
    spoiled, measured = image.copy(), np.ones(image.shape, dtype=bool)
    spoiled[28:40, 10:40, 8:30], measured[28:40, 10:40, 8:30] = 3.0, False
    found = symmetry.find(spoiled, measured, (1.0,) * 3)
    assert found is not None
    assert found.correlation > 0.9


@pytest.mark.parametrize("shape", [(24, 20, 22), (30, 26), (12, 1, 1), (1, 1, 1)])
def test_nothing_is_found_where_nothing_is_symmetric(shape):
    rng = np.random.default_rng(0)
    measured = np.ones(shape, dtype=bool)
    for image in (np.zeros(shape), np.full(shape, 0.7), rng.uniform(0.2, 1, shape)):
        assert symmetry.find(image.astype(np.float32), measured, (1.0,) * len(shape)) is None


@given(st.integers(0, 2), st.floats(-4, 4), st.tuples(*(st.floats(0.5, 3),) * 3))
@settings(max_examples=20, deadline=None)
def test_a_reflection_of_a_reflection_is_where_it_was(axis, shift, spacing):
    normal = np.eye(3)[axis] + [0.1, -0.2, 0.15]
    plane = symmetry.Reflection(normal / np.linalg.norm(normal), 10 + shift, 1.0)
    points = np.random.default_rng(0).uniform(0, 30, (3, 50)) * np.reshape(spacing, (3, 1))
    np.testing.assert_allclose(plane.points(plane.points(points)), points, atol=1e-9)


def test_a_reflection_about_the_middle_turns_an_axis_round():
    image = np.random.default_rng(0).random((9, 6, 5)).astype(np.float32)
    plane = symmetry.Reflection(np.array([0.0, 1.0, 0.0]), 6 * 2.0 / 2, 1.0)
    box = (slice(2, 7), slice(0, 6), slice(1, 4))
    np.testing.assert_allclose(plane.reflected(image, (1.0, 2.0, 3.0), box), image[:, ::-1][box], atol=1e-6)


def filled(image: Image, hole: NDArray[np.bool_], across: Image | None) -> Image:
    parts = [torch.from_numpy(np.ascontiguousarray(each))[None] for each in (image, hole)]
    other = None if across is None else torch.from_numpy(np.ascontiguousarray(across))[None]
    return np.asarray(holes.fill(*parts, torch.ones(1, image.ndim), other)[0].numpy())


def tissue(shape: tuple[int, ...], seed: int = 0) -> Image:
    """Structure of a few voxels everywhere."""
    rough = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.0)
    return (0.6 + 0.15 * rough / rough.std()).astype(np.float32)


def quarter(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A hole of ten voxels an axis away from the middle."""
    hole = np.zeros(shape, dtype=bool)
    hole[tuple(slice(n // 4, n // 4 + 10) for n in shape)] = True
    return hole


@pytest.mark.parametrize("shape", [(48, 52, 40), (80, 72)])
def test_the_other_side_says_what_is_in_a_hole(shape):
    """Even where it is brighter, and displaced by a voxel: both are found beside the hole."""
    image, hole = tissue(shape), quarter(shape)
    across = 1.3 * np.roll(image, 1, axis=1)
    errors = [np.square(filled(image, hole, other) - image)[hole].mean() for other in (None, across)]
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("shape", [(48, 52, 40), (80, 72)])
def test_another_body_is_hardly_believed(shape):
    """Where the other side is not like this one the filling is hardly worse than without it."""
    hole, worse = quarter(shape), []
    for seed in range(8):
        image, other = tissue(shape, seed), tissue(shape, seed + 100)
        errors = [np.square(filled(image, hole, across) - image)[hole].mean() for across in (None, other)]
        worse.append(10 * np.log10(errors[1] / errors[0]))
    assert np.mean(worse) < 0.5


def test_voxels_outside_of_a_hole_stay_and_inside_keep_their_range():
    image = head((40, 36, 30), (1.0,) * 3, (1, 0, 0), 0.0)
    hole = ndimage.binary_dilation(np.random.default_rng(0).random(image.shape) > 0.9995, iterations=3)
    found = filled(np.where(hole, np.float32(9), image), hole, image[::-1])
    np.testing.assert_array_equal(found[~hole], image[~hole])
    assert found[hole].min() >= image[~hole].min() - 1e-6
    assert found[hole].max() <= image[~hole].max() + 1e-6


def test_a_reflection_without_detail_changes_nothing():
    image = head((40, 36, 30), (1.0,) * 3, (1, 0, 0), 0.0)
    hole = np.zeros(image.shape, dtype=bool)
    hole[10:18, 12:20, 10:18] = True
    np.testing.assert_allclose(filled(image, hole, np.full_like(image, 0.4)), filled(image, hole, None), atol=1e-5)
