"""The model's grid: axes are turned and never resampled, and the way back is exact."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medidiff.scans.geometry import to_model_grid
from medidiff.scans.volume import Volume

ORIENTATIONS = [
    (order, flips) for order in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]


def turned(volume: Volume, order: tuple[int, ...], flips: tuple[int, ...]) -> Volume:
    """The same scan, stored along other axes."""
    orientation = np.stack([order, flips], axis=1).astype(float)
    array = nib.apply_orientation(volume.array, orientation)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(orientation, volume.array.shape)
    valid = None if volume.valid is None else nib.apply_orientation(volume.valid, orientation)
    return Volume(np.ascontiguousarray(array), affine, volume.modality, volume.units, valid=valid)


def scan(angles: tuple[float, float, float] = (0, 0, 0)) -> Volume:
    """Axes right, anterior, superior, tilted by ``angles`` in degrees."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag([0.5, 1.5, 4.0])
    affine[:3, 3] = [-10, 20, 30]
    return Volume(np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32), affine)


@settings(deadline=None)
@given(st.sampled_from(ORIENTATIONS), st.tuples(*[st.floats(-25, 25)] * 3))
def test_every_orientation_of_a_scan_is_one_array_to_the_model(orientation, angles):
    upright = scan(angles)
    stored = turned(upright, *orientation)
    grid, array = to_model_grid(stored)
    np.testing.assert_array_equal(array, upright.array)
    np.testing.assert_array_equal(grid.undo(array), stored.array)
    np.testing.assert_allclose(grid.spacing, (0.5, 1.5, 4.0), rtol=1e-12)
    assert array.flags.c_contiguous
    assert grid.undo(array).flags.c_contiguous


@given(st.sampled_from(ORIENTATIONS))
def test_masks_turn_with_the_scan(orientation):
    grid, array = to_model_grid(turned(scan(), *orientation))
    mask = grid.undo(array) > 0
    np.testing.assert_array_equal(grid.apply(mask), array > 0)
    assert grid.apply(mask).dtype == np.bool_


def test_world_positions_are_kept():
    """The voxel that the model sees farther along its first axis lies farther to the right."""
    for orientation in ORIENTATIONS:
        stored = turned(scan((10, -5, 20)), *orientation)
        positions = nib.affines.apply_affine(stored.affine, np.moveaxis(np.indices(stored.array.shape), 0, -1))
        grid, _ = to_model_grid(stored)
        for axis in range(3):
            along = grid.apply(np.ascontiguousarray(positions[..., axis]))
            assert (np.diff(along, axis=axis) > 0).all()


@pytest.mark.parametrize("shape", [(1, 4, 5), (4, 1, 5), (4, 5, 1), (1, 1, 1)])
def test_single_slices(shape):
    volume = Volume(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), scan().affine)
    for orientation in ORIENTATIONS:
        stored = turned(volume, *orientation)
        grid, array = to_model_grid(stored)
        np.testing.assert_array_equal(array, volume.array)
        np.testing.assert_array_equal(grid.undo(array), stored.array)


def test_affine_without_directions_leaves_axes_alone():
    affine = np.diag([2.0, 0.0, 3.0, 1.0])
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    grid, on_grid = to_model_grid(Volume(array, affine))
    np.testing.assert_array_equal(on_grid, array)
    np.testing.assert_array_equal(grid.undo(on_grid), array)
    assert grid.spacing == (2.0, 1.0, 3.0)  # a length of zero would be divided by
