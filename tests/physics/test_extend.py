"""Symmetric extension against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medidiff.physics.extend import extend, symmetric_index


@given(st.integers(1, 12), st.integers(0, 40), st.integers(0, 40))
def test_index_is_numpys_symmetric_padding_any_number_of_times_over(size, before, after):
    expected = np.pad(np.arange(size), (before, after), mode="symmetric")
    np.testing.assert_array_equal(symmetric_index(size, before, after).numpy(), expected)


@settings(deadline=None)
@given(st.data())
def test_last_axes_are_extended_as_numpy_does(data):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    count = data.draw(st.integers(1, len(shape)))
    before = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    after = data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))
    volume = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    widths = [(0, 0)] * (len(shape) - count) + list(zip(before, after, strict=True))
    found = extend(torch.from_numpy(volume), before, after)
    np.testing.assert_array_equal(found.numpy(), np.pad(volume, widths, mode="symmetric"))


def test_nothing_to_extend_costs_nothing():
    volume = torch.ones(3, 4)
    assert extend(volume, [0, 0], [0, 0]) is volume


def test_one_length_for_each_axis():
    with pytest.raises(ValueError, match="shorter"):
        extend(torch.ones(3, 4), [1, 1], [1])
