"""From options and header to an acquisition, and where the finer voxels lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medidiff.errors import ScanError, UsageError
from medidiff.physics import resolution
from medidiff.physics.operators import Acquisition, Axis


def fine(shape: tuple[int, ...], spacing: tuple[float, ...], **options: Any) -> tuple[int, ...]:
    return resolution.plan(shape, spacing, **options).fine


def test_by_default_voxels_become_isotropic():
    assert fine((100, 100, 20), (1.0, 1.0, 5.0)) == (100, 100, 100)
    assert fine((100, 60, 20), (1.0, 2.0, 5.0)) == (100, 120, 100)
    assert fine((50, 50, 31), (0.7, 0.7, 2.0)) == (50, 50, round(31 * 2 / 0.7))
    assert fine((20, 100, 100), (3.3, 1.02, 1.0)) == (66, 100, 100)  # 2 % is no difference


def test_slices_have_a_gaussian_profile_and_planes_a_band_of_kspace():
    found = resolution.plan((64, 32, 20), (1.0, 2.0, 5.0))
    assert [axis.profile for axis in found.axes] == ["kspace", "kspace", "gaussian"]
    assert [axis.width for axis in found.axes] == [1.0, 1.0, 1.0]
    for profile in ("box", "gaussian", "kspace"):
        asked = resolution.plan((64, 32, 20), (1.0, 2.0, 5.0), profile=profile)
        assert {axis.profile for axis in asked.axes} == {profile}


def test_slice_axis_of_the_header_counts_before_the_coarsest():
    found = resolution.plan((64, 32, 20), (1.0, 2.0, 5.0), slice_axis=1)
    assert [axis.profile for axis in found.axes] == ["kspace", "gaussian", "kspace"]
    isotropic = resolution.plan((20, 20, 20), (1.0, 1.0, 1.0), factor=(2, 2, 2))
    assert {axis.profile for axis in isotropic.axes} == {"kspace"}  # no axis stands out
    stacked = resolution.plan((20, 20, 20), (1.0, 1.0, 1.0), factor=(2, 2, 2), slice_axis=0)
    assert [axis.profile for axis in stacked.axes] == ["gaussian", "kspace", "kspace"]


@pytest.mark.parametrize(
    ("thickness", "width"), [(None, 1.0), (5.0, 1.0), (4.0, 0.8), (6.0, 1.2), (1.0, 0.5), (40.0, 1.5), (0.0, 1.0)]
)
def test_thickness_against_distance_gives_the_gap(thickness, width):
    found = resolution.plan((64, 64, 20), (1.0, 1.0, 5.0), slice_axis=2, thickness=thickness)
    assert [axis.width for axis in found.axes] == [1.0, 1.0, pytest.approx(width)]
    kspace = resolution.plan((64, 64, 20), (1.0, 1.0, 5.0), slice_axis=2, thickness=thickness, profile="kspace")
    assert {axis.width for axis in kspace.axes} == {1.0}  # a volume that was encoded in 3-D has no gaps


def test_factors_need_not_be_whole():
    found = resolution.plan((40, 41, 7), (1.0, 1.0, 1.0), factor=(1.5, 1.25, 8))
    assert found.fine == (60, 51, 56)
    assert [axis.factor for axis in found.axes] == [1.5, 51 / 41, 8.0]
    assert fine((3, 10, 10), (1.0, 1.0, 1.0), factor=(1.4, 1, 1)) == (4, 10, 10)


def test_spacing_in_millimetres():
    assert fine((40, 40, 20), (1.0, 1.0, 3.0), target=(0.5, 0.5, 1.0)) == (80, 80, 60)
    assert fine((40, 40, 20), (1.0, 1.0, 3.0), target=(1.0, 1.0, 1.0)) == (40, 40, 60)
    assert fine((40, 40, 20), (1.0, 1.0, 3.0), target=(1.03, 1.0, 1.0)) == (40, 40, 60)  # as good as the scan's


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices_are_refined_in_their_plane(axis):
    shape, spacing = np.insert([40, 30], axis, 1), np.insert([0.5, 1.0], axis, 30.0)
    shape, spacing = tuple(map(int, shape)), tuple(map(float, spacing))
    assert fine(shape, spacing) == tuple(int(n) for n in np.insert([40, 60], axis, 1))
    assert fine(shape, spacing, target=(0.25,) * 3) == tuple(int(n) for n in np.insert([80, 120], axis, 1))
    assert fine(shape, spacing, factor=(3.0,) * 3) == tuple(int(n) for n in np.insert([120, 90], axis, 1))


@pytest.mark.parametrize(
    ("shape", "spacing", "options", "error", "says"),
    [
        ((20, 20, 20), (1.0, 1.0, 1.04), {}, ScanError, "isotropic already"),
        ((20, 20, 1), (1.0, 1.0, 5.0), {}, ScanError, "isotropic already"),
        ((1, 1, 1), (1.0, 1.0, 5.0), {}, ScanError, "isotropic already"),
        ((20, 20, 1), (1.0, 1.0, 5.0), {"factor": (1, 1, 2)}, ScanError, "several voxels, of 20 x 20 x 1"),
        ((20, 20, 20), (1.0, 1.0, 1.0), {"factor": (1, 1, 1)}, ScanError, "Nothing becomes finer: give more than 1"),
        (
            (20, 20, 20),
            (1.0, 1.01, 1.0),
            {"target": (1.0, 1.0, 1.0)},
            ScanError,
            "a --spacing below the .* 1 x 1.01 x 1 mm",
        ),
        ((20, 20, 20), (1.0, 1.0, 2.0), {"factor": (2, 2, 2), "target": (1, 1, 1)}, UsageError, "not both"),
        ((20, 20, 20), (1.0, 1.0, 1.0), {"factor": (1, 1, 17)}, UsageError, "17 is not between 1 and 16"),
        ((20, 20, 20), (1.0, 1.0, 1.0), {"factor": (0.5, 2, 2)}, UsageError, "0.5 is not between 1 and 16"),
        ((20, 20, 20), (1.0, 1.0, 4.0), {"target": (2, 2, 2)}, UsageError, "coarser than the scan"),
        ((20, 20, 20), (1.0, 1.0, 20.0), {}, UsageError, "20 is not between 1 and 16"),
    ],
)
def test_what_cannot_be_done_is_said(shape, spacing, options, error, says):
    with pytest.raises(error, match=says):
        resolution.plan(shape, spacing, **options)


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.floats(-180, 180)] * 3),
    st.tuples(*[st.floats(0.3, 6)] * 3),
    st.tuples(*[st.tuples(st.integers(1, 30), st.integers(0, 90))] * 3),
    st.sampled_from([1, -1]),
)
def test_outer_faces_of_the_field_of_view_stay(angles, spacing, sizes, hand):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(
        [*spacing[:2], hand * spacing[2]]
    )
    affine[:3, 3] = (-90, 33, 7)
    acquisition = Acquisition(tuple(Axis(coarse, coarse + more) for coarse, more in sizes))
    found = resolution.fine_affine(affine, acquisition)
    for corner in np.ndindex(2, 2, 2):
        before, after = (
            (np.where(corner, np.array(size) - 0.5, -0.5)) for size in (acquisition.coarse, acquisition.fine)
        )
        np.testing.assert_allclose(found @ [*after, 1], affine @ [*before, 1], atol=1e-9)
    edges = np.linalg.norm(found[:3, :3], axis=0)
    np.testing.assert_allclose(edges, [s / axis.factor for s, axis in zip(spacing, acquisition.axes, strict=True)])
    directions = found[:3, :3] / edges
    np.testing.assert_allclose(directions, affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0), atol=1e-9)
