"""Three classes of intensity: where the limits fall, how large they are, how they agree."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.evaluation.report import tissue
from tests.evaluation.report.conftest import head, noisy


def test_the_fit_finds_means_deviations_and_shares() -> None:
    rng = np.random.default_rng(0)
    parts = (rng.normal(100, 8, 40_000), rng.normal(180, 12, 80_000), rng.normal(300, 10, 20_000))
    found = tissue.fit(np.concatenate(parts).astype(np.float32))
    assert found is not None
    assert found.means == pytest.approx([100, 180, 300], abs=2)
    assert found.deviations == pytest.approx([8, 12, 10], abs=1.5)
    assert found.weights == pytest.approx([2 / 7, 4 / 7, 1 / 7], abs=0.01)


def test_a_constant_image_has_no_classes() -> None:
    assert tissue.fit(np.full(100, 3, np.float32)) is None
    assert tissue.fit(np.empty(0, np.float32)) is None


def test_noise_does_not_move_the_classes_of_a_phantom() -> None:
    truth, image = head(), noisy(0, 6)
    inside = truth > 0
    mixture = tissue.fit(image[inside])
    assert mixture is not None
    classes = tissue.segment(image, inside, mixture)
    wanted = np.select([truth == 100, truth == 200, truth == 300], [1, 2, 3], 0)
    assert np.mean(classes == wanted) == 1.0
    voxels = [int(np.count_nonzero(wanted == label)) for label in (1, 2, 3)]
    assert tissue.volumes(classes, (1, 2, 5)) == pytest.approx([count / 100 for count in voxels])


def test_far_values_belong_to_the_outer_classes() -> None:
    mixture = tissue.Mixture(np.array([10.0, 20.0, 30.0]), np.array([1.0, 9.0, 1.0]), np.full(3, 1 / 3))
    image = np.array([[[-50.0, 10.0, 20.0, 30.0, 90.0]]], np.float32)
    assert tissue.segment(image, np.ones(image.shape, bool), mixture).tolist() == [[[1, 1, 2, 3, 3]]]


def test_dice_by_hand() -> None:
    one = np.array([1, 1, 2, 2, 0], np.uint8)
    other = np.array([1, 2, 2, 2, 1], np.uint8)
    dark, middle, bright = tissue.dice(one, other)
    assert (dark, middle) == (2 * 1 / 4, 2 * 2 / 5)
    assert np.isnan(bright)
