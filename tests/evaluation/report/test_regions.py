"""What is flagged: planted changes are, noise is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.evaluation.report import regions


def white(seed: int = 0, shape: tuple[int, int, int] = (48, 40, 32)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 10, shape).astype(np.float32)


def test_noise_alone_is_not_flagged() -> None:
    score = regions.unexpected(white(), np.ones((48, 40, 32), bool))
    assert regions.regions(score, regions.UNEXPECTED, "change", (1, 1, 1))[0] == ()


def test_a_planted_change_below_the_noise_is_found_where_it_is() -> None:
    residual = white()
    residual[20:26, 10:16, 5:11] += 12  # 1.2 sigma, which no voxel shows
    score = regions.unexpected(residual, np.ones(residual.shape, bool))
    found, voxels = regions.regions(score, regions.UNEXPECTED, "change", (2, 1, 1))
    assert len(found) == 1
    assert found[0].centre == pytest.approx((22.5, 12.5, 7.5), abs=2)
    assert found[0].voxels == np.count_nonzero(voxels)
    assert found[0].millilitres == pytest.approx(found[0].voxels * 2 / 1000)
    assert found[0].peak > 9


def test_the_uncertainty_excuses_a_change() -> None:
    residual, scale = white(), np.full((48, 40, 32), 10, np.float32)
    residual[20:26, 10:16, 5:11] += 12
    scale[18:28, 8:18, 3:13] = 40
    inside = np.ones(residual.shape, bool)
    excused = regions.unexpected(residual, inside, scale)[20:26, 10:16, 5:11].max()
    assert excused < 0.4 * regions.unexpected(residual, inside)[20:26, 10:16, 5:11].max()


def test_nothing_is_flagged_outside_of_the_foreground() -> None:
    inside = np.zeros((48, 40, 32), bool)
    inside[8:40, 8:32, 8:24] = True
    residual = np.where(inside, white(), 1e6).astype(np.float32)
    score = regions.unexpected(residual, inside)
    assert score[~inside].max() == 0
    assert score.max() < regions.UNEXPECTED


def test_doubt_by_hand() -> None:
    deviation = np.array([[[2.0, 4.0]]], np.float32)
    assert regions.doubtful(deviation, 2.5, 100).ravel() == pytest.approx([0.05, 0.1])
    assert regions.doubtful(deviation, None, 100).ravel() == pytest.approx([0.0329, 0.0658])


def test_small_regions_are_left_out_and_the_strongest_come_first() -> None:
    score = np.zeros((30, 30, 30), np.float32)
    score[1:3, 1:3, 1:2] = 99  # 4 voxels: too few
    for number in range(7):
        score[4 * number : 4 * number + 2, 10:12, 10:12] = 9 + number
        score[4 * number, 10, 10] = 10 + number
    found, voxels = regions.regions(score, 5, "uncertain", (1, 1, 1))
    assert [region.peak for region in found] == [16, 15, 14, 13, 12]
    assert found[0].centre == (24, 10, 10)
    assert np.count_nonzero(voxels) == 7 * 8
    assert ndimage.label(voxels)[1] == 7
