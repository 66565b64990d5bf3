"""Deviations, their calibration, and which interval is looked up."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.diffusion.uncertainty import Calibration, Interval, combine

SETTINGS = {
    "calibration": {
        "denoise": {
            "3": {"quantile90": 1.5, "scale": 1.1, "volumes": 9, "subjects": []},
            "15": {"gain": 0.25, "quantile90": 1.7, "scale": 0.9, "volumes": 8, "subjects": []},
        },
        "inpaint": {"1": {"quantile90": 1.6, "scale": 2.0, "volumes": 7}},
    }
}


@pytest.mark.parametrize(("level", "expected"), [(0.0, 3), (3, 3), (6, 3), (7, 15), (40, 15)])
def test_the_nearest_level_in_ratio(level, expected):
    assert Calibration.from_settings(SETTINGS).interval("denoise", level).level == expected


def test_what_was_not_calibrated():
    assert Calibration.from_settings(SETTINGS).interval("superres", 4) is None
    assert Calibration.from_settings({}).interval("denoise", 9) is None
    assert Calibration().interval("denoise", 9) is None


def test_a_network_is_followed_wholly_unless_a_table_says_otherwise():
    known = Calibration.from_settings(SETTINGS)
    assert known.gain(known.interval("denoise", 15)) == 0.25
    assert known.gain(known.interval("denoise", 3)) == 1.0  # a table of before gains were known
    assert known.gain(known.interval("superres", 4)) == 0.0  # calibrated for other tasks alone
    assert Calibration().gain(None) == 1.0


@pytest.mark.parametrize(("level", "gain"), [(0.0, 1), (3, 1), (3 * 5**0.5, 0.625), (15, 0.25), (40, 0.25)])
def test_the_gain_is_continuous_in_the_level(level, gain):
    known = Calibration.from_settings(SETTINGS)
    assert known.gain(known.interval("denoise", level)) == pytest.approx(gain)


def test_scale_and_floor_are_in_the_unit_of_the_scan():
    predicted = np.full((2, 2, 2), 10, np.float32)
    interval = Interval(9, 1.6, 1.5, 9)
    assert combine(predicted, [], interval, unit=1000.0) == pytest.approx(1.5 * (10 + 0.1))
    assert np.array_equal(combine(predicted, []), predicted)
    assert np.array_equal(combine(predicted, [predicted]), predicted)


def test_samples_weigh_as_many_as_they_are():
    rng = np.random.default_rng(0)
    samples = [rng.normal(0, 2, (24, 24, 24)).astype(np.float32) for _ in range(8)]
    found = combine(np.full((24, 24, 24), 1, np.float32), samples)
    assert float(np.mean(found**2)) == pytest.approx(0.5 * 4 + 0.5 * 1, rel=0.02)
