"""A new grid on the scan's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medidiff.errors import ScanError
from medidiff.scans.regrid import regrid
from medidiff.scans.volume import Volume


def volume(shape=(4, 5, 3), affine=None) -> Volume:
    return Volume(np.zeros(shape, dtype=np.float32), np.diag([2.0, 3.0, 4.0, 1.0]) if affine is None else affine)


@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    spacing=st.tuples(*[st.floats(0.2, 8)] * 3),
    sizes=st.tuples(*[st.integers(1, 30)] * 3),
    new=st.tuples(*[st.integers(1, 60)] * 3),
)
def test_outer_faces_and_nearest_voxels(angles, spacing, sizes, new):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = [-120.5, 40.25, 7.0]
    scale = np.array(sizes) / np.array(new)
    change = np.diag([*scale, 1.0])
    change[:3, 3] = (scale - 1) / 2
    grid = regrid(volume(sizes, affine), new, affine @ change)
    np.testing.assert_allclose(grid.matrix, change, atol=1e-9)
    assert (grid.shape, grid.source) == (new, sizes)
    for axis in range(3):
        places = grid.places(axis)
        assert places[0] - scale[axis] / 2 == pytest.approx(-0.5, abs=1e-6)
        assert places[-1] + scale[axis] / 2 == pytest.approx(sizes[axis] - 0.5, abs=1e-6)
        nearest = grid.nearest(axis)
        assert 0 <= nearest.min() <= nearest.max() < sizes[axis]
        assert np.abs(nearest - places).max() <= 0.5 + 1e-6
        if new[axis] % sizes[axis] == 0:
            np.testing.assert_array_equal(nearest, np.repeat(np.arange(sizes[axis]), new[axis] // sizes[axis]))


def test_grids_that_do_not_fit_are_refused():
    turned = np.diag([2.0, 3.0, 4.0, 1.0])[[1, 0, 2, 3]]
    for affine in (turned, np.diag([-2.0, 3.0, 4.0, 1.0]), np.diag([2.0, 3.0, 0.0, 1.0]), np.full((4, 4), np.nan)):
        with pytest.raises(ScanError, match="do not run along"):
            regrid(volume(), (4, 5, 3), affine)
    with pytest.raises(ScanError, match="4x5, which is not a volume"):
        regrid(volume(), (4, 5), np.eye(4))
    with pytest.raises(ScanError, match="no inverse"):
        regrid(volume(affine=np.diag([1.0, 1.0, 0.0, 1.0])), (4, 5, 3), np.eye(4))
