"""The spectrum of noise that is not white: what it predicts, and that it is found again on a scan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medidiff.physics import degradations, noise, texture
from medidiff.physics.grouping import refine
from medidiff.physics.scales import pilot as pilot_of
from medidiff.physics.shrinkage import dct_matrix
from medidiff.physics.texture import WHITE, Texture

TEXTURES = [Texture(0.9, 0.55, WHITE, 2), Texture(0.6, 0.9, 0.62, 2), Texture(1.2, 0.43, 0.9, 0), Texture(0.0, 0.75)]


def drawn(kind: Texture, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    white = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return degradations.textured(white, kind)


@pytest.fixture(scope="module")
def body() -> np.ndarray:
    """Soft tissue of a few densities in air, normalised like CT."""
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in (80, 72, 64)), indexing="ij")
    radius = np.sqrt(sum(g**2 for g in grids))
    image = np.where(radius < 0.95, 0.5, 0.0)
    for k, (centre, size, value) in enumerate([(-0.3, 0.25, 0.56), (0.3, 0.3, 0.47), (0.0, 0.12, 0.8)]):
        off = np.sqrt(sum((g - centre * (axis != k)) ** 2 for axis, g in enumerate(grids)))
        image = np.where(off < size, value, image)
    return image.astype(np.float32)


@pytest.mark.parametrize("block", [(4, 4, 4), (8, 8, 1), (8, 8), (2, 4, 4)])
def test_white_noise_is_the_same_in_all_coefficients(block):
    white = texture.block_variances(Texture(0.0, 1e3, 1e3, 2), block)
    torch.testing.assert_close(white, torch.ones(math.prod(block)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", TEXTURES)
def test_variances_of_blocks_are_those_of_such_noise(kind):
    expected = texture.block_variances(kind, (4, 4, 4))
    assert float(expected.mean()) == pytest.approx(1, abs=1e-5)
    blocks = drawn(kind, (4, 96, 96, 96)).reshape(4, 24, 4, 24, 4, 24, 4).permute(0, 1, 3, 5, 2, 4, 6)
    for axis in (-3, -2, -1):
        blocks = torch.movedim(torch.movedim(blocks, axis, -1) @ dct_matrix(4).T.float(), -1, axis)
    found = blocks.reshape(-1, 64).square().mean(dim=0)
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("kind", TEXTURES)
def test_correlation_of_neighbours(kind):
    sample = drawn(kind, (2, 96, 96, 96))
    for axis, expected in enumerate(kind.lag1(3), start=1):
        low, high = sample.narrow(axis, 0, 95), sample.narrow(axis, 1, 95)
        assert float((low * high).mean()) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("kind", TEXTURES)
def test_power_of_means_over_three_voxels(kind):
    means = torch.nn.functional.avg_pool3d(drawn(kind, (2, 96, 96, 96))[:, None], 3)
    assert 27 * float(means.var()) == pytest.approx(kind.coarse((96, 96, 96), 3), rel=0.1, abs=0.02)
    assert Texture(0.0, 1e3, 1e3, 2).coarse((96, 96, 2), 3) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", [*TEXTURES[:2], Texture(0.0, WHITE, WHITE, 2)])
@pytest.mark.parametrize("sigma", [0.01, 0.03])
def test_noise_of_ct_is_measured_with_its_texture(kind, sigma, body):
    scan = body + np.float32(sigma) * drawn(kind, (1, *body.shape))[0].numpy()
    found = noise.of_scan(scan, "CT", kind.axis, with_map=False)
    assert found.sigma == pytest.approx(sigma, rel=0.08)
    assert found.texture is not None
    for block in ((4, 4, 4), (8, 8, 1)):
        off = texture.block_variances(found.texture, block) - texture.block_variances(kind, block)
        assert float(off.square().mean().sqrt()) < 0.2


def test_known_sigma_stays_and_mr_has_no_texture(body):
    scan = body + np.float32(0.02) * drawn(TEXTURES[0], (1, *body.shape))[0].numpy()
    given = noise.of_scan(scan, "CT", 2, sigma=0.05)
    assert (given.sigma, given.source) == (0.05, "given")
    assert given.texture is not None
    assert noise.of_scan(scan, "MR", 2).texture is None
    assert noise.of_scan(scan, "CT", 2, sigma=0.0).texture is None
    assert noise.seen(scan, given) == pytest.approx(0.02, rel=0.08)


def test_an_image_too_small_for_a_texture_has_none():
    scan = np.random.default_rng(0).normal(size=(20, 20, 1)).astype(np.float32)
    assert texture.measure(scan.shape, lambda: iter([(scan, np.ones(scan.shape, dtype=np.bool_))]), 2) is None


def test_shrinkage_that_knows_the_texture_is_better(body):
    clean = torch.from_numpy(body)[None]
    sigma = 0.02
    noisy = clean + sigma * drawn(TEXTURES[0], clean.shape)
    variances = texture.block_variances(TEXTURES[0], (4, 4, 4))

    def error(image: torch.Tensor) -> float:
        return float((image - clean)[clean > 0.25].square().mean().sqrt())

    told, white = pilot_of(noisy / sigma, 3, variances), pilot_of(noisy / sigma)
    assert error(told * sigma) < 0.85 * error(white * sigma)
    assert error(told * sigma) < 0.45 * sigma
    torch.testing.assert_close(white, pilot_of(noisy / sigma, 3, torch.ones(64)))
    last, promised = refine(noisy / sigma, told, 3, variances)
    untold, _ = refine(noisy / sigma, white)
    print(f"\n{[round(error(e * sigma) / sigma, 3) for e in (white, told, untold, last)]} of sigma")
    assert error(last * sigma) < error(told * sigma)
    assert error(last * sigma) < 0.85 * error(untold * sigma)
    assert error(last * sigma) == pytest.approx(sigma * float((promised * (2 - promised)).mean()) ** 0.5, rel=0.5)
    part = (noisy[:, :20, :20] / sigma, white[:, :20, :20])
    torch.testing.assert_close(refine(*part, 3, torch.ones(64)), refine(*part), atol=1e-3, rtol=0)
    barely = refine(*part, 3, 1 + 1e-6 * torch.arange(64.0))[0]  # the way of textured noise
    assert float((barely - refine(*part)[0]).abs().mean()) < 0.05
