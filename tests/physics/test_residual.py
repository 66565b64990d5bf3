"""What comes back of what was taken for noise: blobs do, noise does not, and nothing jumps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.physics import tasks
from medidiff.physics.grouping import refine
from medidiff.physics.residual import FLAT, FLAT_IN_PLANES, THRESHOLD, THRESHOLD_TEXTURED, put_back
from medidiff.physics.scales import pilot as pilot_of
from medidiff.physics.shrinkage import block_shape
from medidiff.physics.texture import Texture, block_variances

SPREAD = {2: 0.375, 3: 0.375**1.5}  # of white noise after the kernel, along two and three axes
ROUGH = Texture(0.9, 0.55, axis=2)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def textured(image: Tensor, texture: Texture) -> Tensor:
    root = torch.from_numpy(texture.power(tuple(image.shape))).sqrt()
    return torch.fft.ifftn(torch.fft.fftn(image) * root).real.float()


def blob(size: int, diameter: float) -> Tensor:
    axis = torch.arange(float(size)) - size // 2
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < diameter**2 / 4).float()


def sure(image: Tensor) -> Tensor:
    """A promised variance that lets everything significant back."""
    return torch.full_like(image, max(FLAT[1], FLAT_IN_PLANES[1]))


@pytest.mark.parametrize("dims", [2, 3])
def test_response_returns_by_the_garrote(dims):
    """Far from the border of a constant, what returns of the constant is what the formula says."""
    image = torch.zeros((11,) * dims)
    limit = THRESHOLD * SPREAD[dims]
    for times in (0.99, 1.01, 2.0, -3.0):
        left = torch.full_like(image, times * limit)
        found = float(put_back(left, image, sure(image), dims)[(5,) * dims])
        assert found == pytest.approx(times * limit * max(0, 1 - times**-2), abs=1e-6)


@pytest.mark.parametrize("promised", [0.0, 0.025, 0.03, 0.05, 1.0])
def test_nothing_returns_where_blocks_are_flat(promised):
    image = 5 * blob(9, 3)
    found = put_back(image, torch.zeros_like(image), torch.full_like(image, promised), 3)
    whole = put_back(image, torch.zeros_like(image), sure(image), 3)
    torch.testing.assert_close(found, whole * min(max((promised - 0.025) / 0.025, 0), 1))


@pytest.mark.parametrize("shape", [(9, 10, 11), (12, 7, 1), (1, 1, 1), (2, 1, 3)])
def test_estimate_that_took_nothing_away_stays(shape):
    image = 1000 + 7 * noise(*shape)
    assert torch.equal(put_back(image, image, sure(image), 3), image)


@pytest.mark.parametrize("texture", [None, ROUGH])
def test_noise_hardly_returns(texture):
    """The mean square of what returns of noise alone: of the garrote on a normal variable, computed by hand."""
    taken = noise(64, 64, 64) if texture is None else textured(noise(64, 64, 64), texture)
    found = put_back(taken, torch.zeros_like(taken), sure(taken), 3, texture)[1:-1, 1:-1, 1:-1]
    threshold = THRESHOLD if texture is None else THRESHOLD_TEXTURED
    z = np.linspace(-9, 9, 100001)
    kept = z * np.maximum(1 - threshold**2 / np.maximum(z**2, 1e-9), 0)
    share = float((kept**2 * np.exp(-(z**2) / 2)).mean() * 18 / np.sqrt(2 * np.pi))
    smoothed = float((torch.nn.functional.conv3d(taken[None, None], kernel())[0, 0]).square().mean())
    assert float(found.square().mean()) == pytest.approx(share * smoothed, rel=0.05)


def kernel() -> Tensor:
    line = torch.tensor([0.25, 0.5, 0.25])
    return (line[:, None, None] * line[:, None] * line)[None, None]


def test_negation_batch_and_planes():
    noisy, estimate = 3 * noise(4, 9, 10), noise(4, 9, 10, seed=1)
    variance = 0.1 * noise(4, 9, 10, seed=2).abs()
    found = put_back(noisy, estimate, variance, 2)
    torch.testing.assert_close(put_back(-noisy, -estimate, variance, 2), -found)
    for index in range(4):
        alone = put_back(noisy[index, :, :, None], estimate[index, :, :, None], variance[index, :, :, None], 3)
        torch.testing.assert_close(alone[:, :, 0], found[index])


def test_continuous():
    noisy, estimate, variance = 2 * noise(16, 16, 16), noise(16, 16, 16, seed=1), 0.1 * noise(16, 16, 16).abs()
    before = put_back(noisy, estimate, variance, 3)
    after = put_back(noisy + 1e-5 * noise(16, 16, 16, seed=3).sign(), estimate, variance + 1e-6, 3)
    assert float((after - before).abs().max()) < 1e-3


def test_depends_on_neighbours_alone():
    noisy, estimate = 2 * noise(20, 9, 9), noise(20, 9, 9, seed=1)
    whole = put_back(noisy, estimate, sure(noisy), 3)
    part = slice(4, 15)
    window = put_back(noisy[part], estimate[part], sure(noisy[part]), 3)
    assert torch.equal(window[1:-1], whole[part][1:-1])


@pytest.mark.parametrize("diameter", [3, 4])
def test_blob_on_noise_comes_back(diameter):
    """The base keeps more of a blob of d' 7, and of its contrast to noise, than the groups alone do."""
    shape = blob(25, diameter)
    height = 7 / float(shape.norm())
    kept = []
    for seed in range(6):
        one = torch.full((1,), 1.0)
        calm = 100 + 2 * torch.sin(torch.arange(25.0) / 3) + noise(25, 25, 25, seed=seed)
        pair = []
        for image in (calm, calm + height * shape):
            groups, variance = refine(image, pilot_of(image))
            pair.append((groups, put_back(image, groups, variance, 3)))
            base, _ = tasks._classical(image[None], one, "gaussian", None)
            torch.testing.assert_close(base[0], pair[-1][1], atol=1e-4, rtol=0)
        kept.append([float(((a - b) * shape).sum() / (height * shape.sum())) for a, b in zip(*pair[::-1], strict=True)])
    groups, found = np.mean(kept, axis=0)
    assert found > groups + 0.04


def test_constant_in_textured_noise_stays_as_quiet():
    noisy = 100 + textured(noise(48, 48, 48), ROUGH)
    variances = block_variances(ROUGH, block_shape((48, 48, 48)))
    groups, _ = refine(noisy, pilot_of(noisy, 3, variances), 3, variances)
    base, _ = tasks._classical(noisy[None], torch.ones(1), "gaussian", ROUGH)
    before, after = (float((image - 100).square().mean()) for image in (groups, base[0]))
    assert after < 1.05 * before
