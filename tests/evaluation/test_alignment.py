from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import ScanError
from medidiff.evaluation import alignment
from medidiff.scans.volume import Volume
from tests.evaluation.conftest import Save


def test_one_grid_is_not_touched(image: np.ndarray) -> None:
    volume = Volume(image, np.diag([1.0, 1, 2, 1]))
    shaken = np.diag([1.0, 1, 2, 1])
    shaken[:3, 3] = 1e-4
    values, valid = alignment.onto(volume, Volume(image, shaken), resample=False, what="reference")
    assert values is image
    assert valid is None


def test_another_geometry_is_refused_with_the_reason(image: np.ndarray) -> None:
    volume = Volume(image, np.eye(4))
    with pytest.raises(ScanError, match=r"16 x 14 x 12 voxels, not 8 x 14 x 12.*--resample"):
        alignment.onto(volume, Volume(image[:8], np.eye(4)), resample=False, what="reference")
    moved = np.eye(4)
    moved[0, 3] = 1
    with pytest.raises(ScanError, match="same shape in another place"):
        alignment.onto(volume, Volume(image, moved), resample=False, what="reference")


def test_mirrored_axes_come_back_exactly(image: np.ndarray) -> None:
    mirrored = np.diag([-1.0, 1, 1, 1])
    mirrored[0, 3] = image.shape[0] - 1
    values, valid = alignment.onto(
        Volume(image[::-1].copy(), mirrored), Volume(image, np.eye(4)), resample=True, what="r"
    )
    assert np.allclose(values, image, atol=1e-3)
    assert valid is None


def test_voxels_outside_of_the_reference_are_not_valid(image: np.ndarray) -> None:
    moved = np.eye(4)
    moved[2, 3] = 3
    values, valid = alignment.onto(Volume(image, moved), Volume(image, np.eye(4)), resample=True, what="reference")
    assert valid is not None
    assert not valid[:, :, :3].any()
    assert valid[:, :, 3:].all()
    assert np.allclose(values[:, :, 3:], image[:, :, :-3], atol=1e-3)
    moved[2, 3] = 300
    with pytest.raises(ScanError, match="does not overlap"):
        alignment.onto(Volume(image, moved), Volume(image, np.eye(4)), resample=True, what="reference")


def test_a_smooth_image_is_interpolated_to_a_finer_grid() -> None:
    x = np.arange(20) / 3
    coarse = np.broadcast_to(np.sin(x)[:, None, None], (20, 6, 6)).astype(np.float32)
    finer = np.diag([0.5, 1, 1, 1.0])
    values, _ = alignment.onto(
        Volume(coarse, np.eye(4)), Volume(np.zeros((39, 6, 6), np.float32), finer), resample=True, what="input"
    )
    assert values[4:-4, 3, 3] == pytest.approx(np.sin(np.arange(39) / 6)[4:-4], abs=2e-3)


def test_labels_go_to_the_nearest_voxel(tmp_path: Path, save: Save) -> None:
    labels = np.zeros((6, 6, 6))
    labels[2:4, 2:4, 2:4] = 5
    file = save(tmp_path / "labels.nii.gz", labels)
    fine = np.diag([0.5, 0.5, 0.5, 1])
    fine[:3, 3] = -0.25
    found = alignment.labels_on(file, Volume(np.zeros((12, 12, 12), np.float32), fine))
    assert np.array_equal(found, np.kron(labels, np.ones((2, 2, 2))))
    with pytest.raises(ScanError, match="whole numbers"):
        alignment.labels_on(save(tmp_path / "share.nii.gz", labels / 2), Volume(labels.astype(np.float32), np.eye(4)))
    with pytest.raises(ScanError, match="marks nothing"):
        alignment.labels_on(save(tmp_path / "none.nii.gz", 0 * labels), Volume(labels.astype(np.float32), np.eye(4)))
