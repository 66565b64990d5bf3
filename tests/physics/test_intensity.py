"""Scaling between a scan's units and the network's, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medidiff.physics import intensity
from medidiff.physics.intensity import CT_OFFSET, CT_SCALE, Intensity

values = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.just(0.0) | st.floats(2.0**-10, 2.0**20, width=32),
)


@settings(deadline=None)
@given(values, st.sampled_from([1e-6, 1.0, 3e4]))
def test_there_and_back(array, factor):
    array = array * np.float32(factor)
    scaling, unit = intensity.normalise(array, "MR")
    assert unit.dtype == np.float32
    np.testing.assert_allclose(scaling.undo(unit), array, rtol=1e-6)


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
        elements=st.floats(-1024, 3071, width=32),
    )
)
def test_hounsfield_units_there_and_back(array):
    scaling, unit = intensity.normalise(array, "CT")
    assert (scaling.offset, scaling.scale) == (CT_OFFSET, CT_SCALE)
    np.testing.assert_allclose(scaling.undo(unit), array, atol=4096 * 1e-6)


def test_hounsfield_units_have_fixed_places():
    array = np.array([[[-1024.0, 0.0, 976.0, 2976.0]]], dtype=np.float32)
    expected = np.array([[[0, 0.512, 1, 2]]], dtype=np.float32)
    np.testing.assert_array_equal(intensity.normalise(array, "CT")[1], expected)


def test_zero_stays_zero_and_nothing_is_clipped(shells, add_noise):
    noisy = add_noise("rician", 900 * shells, 30)
    noisy[0] = 0
    scaling, unit = intensity.normalise(noisy, "MR")
    assert scaling.offset == 0
    assert np.all(unit[0] == 0)
    assert float(unit.max()) > 1
    np.testing.assert_allclose(unit / unit.max(), noisy / noisy.max(), rtol=1e-6)
    assert float(unit.min()) >= 0


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1234.5])
def test_bright_level_scales_with_the_image(shells, factor):
    plain = intensity.bright_level(shells)
    assert plain == pytest.approx(1.3, rel=0.05)  # the brightest shell
    assert intensity.bright_level(shells * np.float32(factor)) == pytest.approx(factor * plain, rel=1e-5)


def test_a_few_hot_voxels_do_not_move_the_bright_level(shells):
    hot = shells.copy()
    hot.reshape(-1)[:: hot.size // 20] = 1e5
    assert intensity.bright_level(hot) == pytest.approx(intensity.bright_level(shells), rel=0.05)


def test_foreground_is_the_object(shells):
    found = intensity.foreground(shells)
    assert found[shells > 0.7].all()
    assert not found[shells < 0.2].any()


@pytest.mark.parametrize(("value", "level"), [(0.0, 1.0), (5.0, 5.0), (-5.0, 5.0)])
def test_constant_images(value, level):
    array = np.full((4, 4, 4), value, dtype=np.float32)
    assert intensity.foreground(array).all()
    assert intensity.bright_level(array) == level
    scaling, unit = intensity.normalise(array, "MR")
    np.testing.assert_array_equal(scaling.undo(unit), array)


def test_image_of_two_values_and_image_of_one_bright_voxel():
    array = np.zeros((10, 10, 10), dtype=np.float32)
    array[0, 0, 0] = 3
    assert intensity.bright_level(array) == 3
    array[:5] = 3
    assert np.array_equal(intensity.foreground(array), array > 0)


def test_padding_takes_no_part():
    array = np.random.default_rng(0).uniform(100, 200, (12, 12, 12)).astype(np.float32)
    valid = np.ones(array.shape, dtype=bool)
    valid[:4] = False
    padded = np.where(valid, array, np.float32(-2000))
    scaling, unit = intensity.normalise(padded, "MR", valid)
    lowest = float(array[valid].min())
    np.testing.assert_allclose(unit[:4] * scaling.scale, lowest, rtol=1e-6)
    np.testing.assert_allclose(scaling.undo(unit)[valid], array[valid], rtol=1e-6)
    assert scaling.scale == pytest.approx(np.percentile(array[valid], 99.5), rel=0.02)
    assert scaling == intensity.normalise(np.where(valid, array, np.float32(9e9)), "MR", valid)[0]


def test_nothing_valid_is_all_zero():
    array = np.full((3, 3, 3), 7, dtype=np.float32)
    scaling, unit = intensity.normalise(array, "MR", np.zeros(array.shape, dtype=bool))
    assert scaling == Intensity(0.0, 1.0)
    assert not unit.any()


def test_bright_level_of_ct_is_in_unit_intensity(shells):
    hounsfield = (shells * 1000 - 1000).astype(np.float32)
    scaling, unit = intensity.normalise(hounsfield, "CT")
    assert scaling.bright == pytest.approx((1300 - 1000 - CT_OFFSET) / CT_SCALE, rel=0.05)
    assert scaling.bright == intensity.bright_level(unit)
