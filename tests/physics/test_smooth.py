"""Gaussian smoothing against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medidiff.physics.smooth import gaussian


@pytest.mark.parametrize("sigmas", [(1.0, 2.0, 0.7), (0.0, 3.0, 1.0)])
def test_it_is_scipys(sigmas):
    image = np.random.default_rng(0).standard_normal((2, 19, 16, 11))
    found = gaussian(torch.from_numpy(image), sigmas).numpy()
    expected = np.stack([ndimage.gaussian_filter(each, sigmas, mode="reflect", truncate=3.0) for each in image])
    np.testing.assert_allclose(found, expected, atol=5e-3)  # where the kernel ends differs by half a voxel


def test_constant_stays():
    image = torch.full((1, 9, 5), 2.5)
    torch.testing.assert_close(gaussian(image, (4.0, 4.0)), image)


@pytest.mark.parametrize("sigma", [1.0, 1.7, 4.0])
def test_variance_of_an_impulse(sigma):
    image = torch.zeros(1, 61, 3, dtype=torch.float64)
    image[0, 30] = 1
    found = gaussian(image, (sigma, 0.0))[0, :, 1]
    offset = torch.arange(61) - 30
    assert float(found.sum()) == pytest.approx(1)
    assert float((found * offset).sum()) == pytest.approx(0, abs=1e-12)
    assert float((found * offset.square()).sum().sqrt()) == pytest.approx(sigma, rel=0.02)


def test_axes_of_one_voxel_and_of_no_width_stay():
    image = torch.randn(1, 1, 12, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(gaussian(image, (3.0, 0.0, 0.0)), image)
    torch.testing.assert_close(gaussian(image, (3.0, 2.0, 0.0)), gaussian(image[:, 0], (2.0, 0.0))[:, None])
