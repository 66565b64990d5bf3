"""The pilot at several scales: less slow noise where nothing happens, and nothing else."""

from __future__ import annotations

import pytest
import torch

from medidiff.physics.fidelity import foreground_psnr
from medidiff.physics.scales import _LEVELS, pilot
from medidiff.physics.shrinkage import block_shape, shrink


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def alone(image: torch.Tensor, dims: int = 3) -> torch.Tensor:
    """The finest scale."""
    return shrink(image, dims)[0]


@pytest.mark.parametrize("shape", [(9, 10, 11), (12, 17, 1), (5, 1, 1), (1, 1, 1), (3, 40, 41), (33, 8)])
def test_constant_is_itself(shape):
    image = torch.full(shape, 1234.5)
    torch.testing.assert_close(pilot(image, len(shape)), image, atol=0, rtol=1e-6)


@pytest.mark.parametrize("slope", [0.5, 3.0])
def test_ramp_is_itself_away_from_the_border(slope):
    ramp = slope * torch.arange(40.0)[:, None, None].expand(40, 12, 12)
    found = (pilot(ramp) - ramp).abs()
    assert float(found[10:-10].max()) < 0.01  # of the noise standard deviation
    assert float(found.max()) < 0.12


@pytest.mark.parametrize(
    ("shape", "share"), [((48, 48, 48), 0.8), ((49, 41, 47), 0.8), ((200, 200), 0.5), ((99, 101), 0.5)]
)
def test_a_constant_keeps_less_noise_than_at_one_scale(shape, share):
    noisy, dims = 100 + noise(*shape), len(shape)
    one, more = (float((found - 100).square().mean()) for found in (alone(noisy, dims), pilot(noisy, dims)))
    print(f"\n{shape}: {more / one:.2f}")
    assert more < share * one


def test_where_something_happens_everywhere_one_scale_speaks():
    strong = 1000 * noise(24, 24, 24, seed=1) + noise(24, 24, 24, seed=2)
    torch.testing.assert_close(pilot(strong), alone(strong), rtol=0, atol=1e-2)


@pytest.mark.parametrize("percent", [3, 9, 15])
def test_a_head_loses_nothing(head, add_noise, percent):
    noisy = torch.from_numpy(add_noise("gaussian", head, percent / 100)) / (percent / 100)
    one, more = (foreground_psnr(found.numpy() * percent / 100, head) for found in (alone(noisy), pilot(noisy)))
    print(f"\n{percent} %: {more - one:+.3f} dB")
    assert more > one - 0.01


def test_a_step_stays_a_step():
    image = torch.zeros(40, 40, 40)
    image[20:] = 50
    assert float((pilot(image) - image).abs().max()) < 0.1


def test_batch_is_single_images_and_planes_are_thin_volumes():
    batch = noise(3, 13, 20, 10) * torch.tensor([1.0, 3, 10]).reshape(3, 1, 1, 1)
    together = pilot(batch)
    for image, found in zip(batch, together, strict=True):
        torch.testing.assert_close(found, pilot(image))
    torch.testing.assert_close(pilot(batch[0], 2), torch.stack([pilot(plane, 2) for plane in batch[0]]))
    torch.testing.assert_close(pilot(batch[0, 0], 2), pilot(batch[0, 0][..., None], 3)[..., 0])


@pytest.mark.parametrize(("shape", "cut", "reach"), [((176, 40), 32, 62), ((72, 24, 24), 8, 16)])
def test_windows_that_begin_alike_agree_with_the_whole(shape, cut, reach):
    image, dims = 100 + 3 * noise(*shape) + noise(shape[0], *(1,) * (len(shape) - 1), seed=3), len(shape)
    whole, part = pilot(image, dims), pilot(image[cut:], dims)
    torch.testing.assert_close(part[reach:], whole[cut:][reach:], rtol=0, atol=1e-4)
    assert cut == max(block_shape(shape)) * 2 ** _LEVELS[dims > 2]


def test_textured_noise_stays_at_one_scale():
    image = 100 + noise(24, 24, 24)
    variances = torch.linspace(0.5, 1.5, 64)
    torch.testing.assert_close(pilot(image, 3, variances), shrink(image, 3, variances)[0])
    torch.testing.assert_close(pilot(image, 3, torch.ones(64)), pilot(image))


def test_the_image_given_is_left_alone():
    image = 100 + noise(16, 16, 16)
    before = image.clone()
    pilot(image)
    assert torch.equal(image, before)
