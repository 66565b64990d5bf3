"""The classical base: what it must leave alone, what it takes away, and a slow and plain version of itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import fft

from medidiff.physics import shrinkage
from medidiff.physics.fidelity import foreground_psnr
from medidiff.physics.shrinkage import LOW_THRESHOLD, THRESHOLD, block_shape, dct_matrix


def shrink(*arguments):
    """The estimate alone."""
    return shrinkage.shrink(*arguments)[0]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_dct_is_scipys_and_orthonormal(size):
    matrix = dct_matrix(size)
    signal = np.random.default_rng(0).standard_normal(size)
    np.testing.assert_allclose(matrix.numpy() @ signal, fft.dct(signal, norm="ortho"), atol=1e-12)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize(
    ("spatial", "block"),
    [
        ((64, 64, 64), (4, 4, 4)),
        ((64, 64, 2), (4, 4, 2)),
        ((64, 64, 1), (8, 8, 1)),
        ((1, 64, 5), (1, 8, 5)),
        ((64, 64), (8, 8)),
        ((3, 1, 1), (3, 1, 1)),
        ((1, 1, 1), (1, 1, 1)),
    ],
)
def test_block_fits_the_image(spatial, block):
    assert block_shape(spatial) == block


@pytest.mark.parametrize("shape", [(9, 10, 11), (12, 7, 1), (5, 1, 1), (1, 1, 1), (3, 2, 2)])
def test_constant_is_itself(shape):
    image = torch.full(shape, 1234.5)
    torch.testing.assert_close(shrink(image), image, atol=0, rtol=1e-6)


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0, 10.0])
def test_ramp_is_itself_away_from_the_border(slope):
    ramp = slope * torch.arange(40.0)[:, None, None].expand(40, 12, 12)
    estimate = shrink(ramp)
    inner, everywhere = (estimate - ramp)[4:-4].abs().max(), (estimate - ramp).abs().max()
    assert float(inner) < 0.005  # of the noise standard deviation
    assert float(everywhere) < 0.1


@pytest.mark.parametrize("shape", [(48, 48, 48), (96, 96, 1), (200, 200), (48, 48, 2)])
def test_noise_on_a_constant_falls_to_little_more_than_a_mean_of_a_block(shape):
    error = float((shrink(100 + noise(*shape), len(shape)) - 100).square().mean())
    # averaging the overlapping blocks helps, least in a stack of two
    share = error * float(np.prod(block_shape(shape)))
    print(f"\n{shape}: {share:.2f}")
    assert 0.5 < share < 2.5


def test_nothing_but_noise_is_wanted_gone():
    """A signal far above the noise everywhere in the spectrum survives."""
    strong = 1000 * noise(24, 24, 24, seed=1)
    estimate = shrink(strong + noise(24, 24, 24, seed=2))
    assert float((estimate - strong).square().mean()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("percent", "gain"), [(3, 3.9), (9, 6.6), (15, 8.2)])
def test_phantom_gains(head, add_noise, percent, gain):
    noisy = add_noise("gaussian", head, percent / 100)
    estimate = shrink(torch.from_numpy(noisy) / (percent / 100)).numpy() * (percent / 100)
    found = foreground_psnr(estimate, head) - foreground_psnr(noisy, head)
    print(f"\n{percent} %: +{found:.2f} dB")
    assert found == pytest.approx(gain, abs=0.3)


def test_batch_is_single_images():
    batch = noise(3, 13, 9, 10) * torch.tensor([1.0, 3, 10]).reshape(3, 1, 1, 1)
    together = shrink(batch)
    for i in range(3):
        torch.testing.assert_close(together[i], shrink(batch[i]))


def test_same_bits_with_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(shrinkage, "_TOGETHER", 100)  # layers of one block
    image, before = 3 * noise(40, 30, 20), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(shrink(image))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_plane_is_the_same_in_two_and_in_three_dimensions():
    image = 3 * noise(21, 18)
    torch.testing.assert_close(shrink(image, 2), shrink(image[:, :, None], 3)[:, :, 0])


def test_symmetries():
    image = 2 * noise(17, 17, 17) + torch.arange(17.0)
    estimate = shrink(image)
    for other, back in [
        (shrink(-image), lambda e: -e),
        (shrink(image + 64), lambda e: e - 64),
        (shrink(image.permute(2, 0, 1)), lambda e: e.permute(1, 2, 0)),
    ]:
        torch.testing.assert_close(back(other), estimate, atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(5, 6, 7), (9, 10, 1), (3, 2, 6)])
def test_same_as_block_by_block(shape):
    image = (3 * noise(*shape, seed=4) + 2 * torch.arange(float(shape[0]))[:, None, None]).numpy()
    expected = plain_shrink(image.astype(np.float64))
    np.testing.assert_allclose(shrink(torch.from_numpy(image)).numpy(), expected, atol=1e-4)


def plain_shrink(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Two loops over every block, written from the description of the method alone."""
    block = block_shape(image.shape)
    # just so far that every block that touches the image fits, and whole blocks
    before = [n - 1 for n in block]
    after = [
        next(a for a in range(n - 1, 2 * n) if (n - 1 + size + a) % n == 0)
        for size, n in zip(image.shape, block, strict=True)
    ]
    padded = np.pad(image, list(zip(before, after, strict=True)), mode="symmetric")

    def corners():
        for corner in itertools.product(*(range(n - b + 1) for n, b in zip(padded.shape, block, strict=True))):
            if sum(c % b for c, b in zip(corner, block, strict=True)) % 4 == 0:
                yield tuple(slice(c, c + b) for c, b in zip(corner, block, strict=True))

    def average(parts):
        top, bottom = np.zeros_like(padded), np.zeros_like(padded)
        for where, values, weight in parts:
            top[where] += weight * values
            bottom[where] += weight
        inside = tuple(slice(m, m + n) for m, n in zip(before, image.shape, strict=True))
        return top / np.maximum(bottom, 1e-12), (top / np.maximum(bottom, 1e-12))[inside]

    low = np.sum(np.meshgrid(*(np.arange(n) / n for n in block), indexing="ij"), axis=0) <= 0.5
    threshold = np.where(low & (min(block) > 2), LOW_THRESHOLD, THRESHOLD)

    def thresholded():
        for where in corners():
            spectrum = fft.dctn(padded[where], norm="ortho")
            gain = (np.abs(spectrum) > threshold).astype(float)
            gain.flat[0] = 1
            yield where, fft.idctn(gain * spectrum, norm="ortho"), 1 / np.square(gain).sum()

    pilot, _ = average(thresholded())

    def wiener():
        for where in corners():
            power = np.square(fft.dctn(pilot[where], norm="ortho"))
            gain = power / (power + 1)
            gain.flat[0] = 1
            restored = fft.idctn(gain * fft.dctn(padded[where], norm="ortho"), norm="ortho")
            yield where, restored, 1 / np.square(gain).sum()

    return average(wiener())[1]
