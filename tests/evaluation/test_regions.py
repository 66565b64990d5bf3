from __future__ import annotations

import numpy as np
import pytest

from medidiff.evaluation import regions


def labelled() -> np.ndarray:
    labels = np.zeros((12, 12, 12), np.int64)
    labels[4:8, 4:8, 4:8] = 3
    return labels


def test_snr_and_cnr_by_hand() -> None:
    labels = labelled()
    image = np.where(labels == 3, 30.0, 10.0).astype(np.float32)
    image[::2] += 2  # half of the voxels of either region: deviation 1 but for n - 1
    inside = labels == 3
    assert regions.snr(image, inside) == pytest.approx(31 / np.sqrt(64 / 63))
    around = np.zeros_like(inside)
    around[0:4] = True
    noise = np.sqrt((64 / 63 + around.sum() / (around.sum() - 1)) / 2)
    assert regions.cnr(image, inside, around) == pytest.approx(20 / noise)


def test_constant_and_tiny_regions_have_neither() -> None:
    labels = labelled()
    image = np.where(labels == 3, 30.0, 10.0).astype(np.float32)
    assert np.isnan(regions.snr(image, labels == 3))
    assert np.isnan(regions.cnr(image, labels == 3, labels == 0))
    dot = np.zeros(labels.shape, bool)
    dot[0, 0, 0] = True
    assert np.isnan(regions.snr(np.random.default_rng(0).random(labels.shape), dot))


def test_surroundings_leave_other_labels_out_where_they_can() -> None:
    labels = labelled()
    labels[:, :, 8:] = 5
    shell = regions.surroundings(labels == 3, labels)
    assert shell[4, 4, 3]
    assert shell[4, 4, 1]
    assert not shell[4, 4, 0]  # 4 voxels away
    assert not shell[4, 4, 8]
    crowded = np.where(labels == 0, 7, labels)
    assert regions.surroundings(labels == 3, crowded)[4, 4, 8]


def test_labels_are_named_by_their_number() -> None:
    found = regions.of(labelled())
    assert list(found) == ["label 3"]
    assert found["label 3"].sum() == 64
