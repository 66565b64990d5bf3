"""The network: silent at first, small, and blind to where in the volume its window lies."""

from __future__ import annotations

import pytest
import torch
from monai.networks.utils import pixelunshuffle
from torch import Tensor, nn

from medidiff.diffusion import network as networks
from medidiff.diffusion.network import FiLM, MedUNet, MonaiUNet
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names

IN = STATE_CHANNELS + len(VIEWS)


def scrambled(network: nn.Module) -> nn.Module:
    """Random weights everywhere, also where training starts from zero."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data = 0.2 * torch.randn_like(parameter)
    return network.double().eval().requires_grad_(False)


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("dims", "spatial"), [(2, (24, 16)), (3, (16, 8, 24))])
def test_untrained_network_says_zero_with_unit_variance(dims, spatial):
    network = networks.build("medunet", spatial_dims=dims, in_channels=IN, parameters=6)
    out = network(torch.randn(2, IN, *spatial), torch.randn(2, 6))
    assert torch.equal(out, torch.zeros(2, 2, *spatial))


def test_default_network_is_small_enough_to_ship():
    network = MedUNet(3, IN, len(parameter_names(3)))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert 1_000_000 < count < 2_500_000
    plane = MedUNet(2, IN, len(parameter_names(2)))
    assert sum(parameter.numel() for parameter in plane.parameters()) < count / 2
    large = MedUNet(
        3, IN, len(parameter_names(3)), channels=(48, 96, 192), encoder_blocks=(2, 2, 3), decoder_blocks=(2, 2)
    )
    assert 2 * sum(parameter.numel() for parameter in large.parameters()) < 25 * 2**20  # bytes in fp16


@pytest.mark.parametrize(("levels", "stride"), [(1, 2), (2, 4), (3, 8)])
def test_stride_is_the_smallest_size_that_works(levels, stride):
    network = MedUNet(2, 3, 2, (8,) * levels, (1,) * levels, (1,) * (levels - 1))
    assert network.stride == stride
    assert network(torch.zeros(1, 3, stride, 3 * stride), torch.zeros(1, 2)).shape == (1, 2, stride, 3 * stride)
    with pytest.raises((RuntimeError, ValueError)):
        network(torch.zeros(1, 3, stride + 1, stride), torch.zeros(1, 2))


@pytest.mark.parametrize("spatial", [(24, 16), (4, 8, 6)])
def test_blocks_become_channels_as_in_monai(spatial):
    image = images(2, 3, *spatial)
    blocks = networks.unshuffle(image)
    assert torch.equal(blocks, pixelunshuffle(image, len(spatial), networks.STEM))
    assert torch.equal(networks.shuffle(blocks), image)


@pytest.mark.parametrize(("dims", "spatial"), [(2, (24, 16)), (3, (16, 8, 24))])
def test_one_window_with_merged_weights_is_one_of_a_batch(dims, spatial):
    network = scrambled(networks.build("medunet", spatial_dims=dims, in_channels=IN, parameters=6))
    windows, parameters = images(2, IN, *spatial), images(2, 6)
    with torch.inference_mode():
        together = network(windows, parameters)
        single = [network(windows[i : i + 1], parameters[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(torch.cat(single), together, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(network(windows[:1], parameters[:1]), together[:1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
def test_shifting_the_image_by_the_stride_shifts_the_answer(dims):
    """Away from the border, whose zeros reach as far as the receptive field."""
    network = scrambled(MedUNet(dims, 2, 3, (4,), (1,), (), embedding=8))
    size, border, shift = 48, 16, 4 * network.stride
    x, parameters = images(1, 2, *(size,) * dims), images(1, 3)
    plain = network(x, parameters)
    moved = network(x.roll(shift, dims=2), parameters)
    inside = (..., *(slice(border, -border) for _ in range(dims - 1)))
    expected = plain[:, :, border : size - border - shift][inside]
    torch.testing.assert_close(moved[:, :, border + shift : size - border][inside], expected)
    assert float(expected.std()) > 0.1
    odd = network(x.roll(1, dims=2), parameters)[:, :, border + 1 : size - border - shift + 1][inside]
    assert float((odd - expected).abs().max()) > 0.01  # the pixel-unshuffle grid is real: hence windows on the stride


def test_images_of_a_batch_do_not_see_each_other():
    network = scrambled(MedUNet(3, 2, 3, (4, 6), (1, 1), (1,), embedding=8))
    x, parameters = images(3, 2, 8, 12, 8), images(3, 3)
    together = network(x, parameters)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], network(x[i : i + 1], parameters[i : i + 1]))


def test_every_input_channel_and_every_parameter_matters():
    network = scrambled(MedUNet(3, IN, len(parameter_names(3)), (8,), (1,), (), embedding=8))
    x, parameters = images(1, IN, 8, 8, 8), images(1, len(parameter_names(3)))
    plain = network(x, parameters)
    for channel in range(IN):
        other = x.clone()
        other[:, channel] += 1
        assert float((network(other, parameters) - plain).abs().max()) > 1e-3
    for index in range(len(parameter_names(3))):
        other = parameters.clone()
        other[:, index] += 1
        assert float((network(x, other) - plain).abs().max()) > 1e-6


def test_film_is_the_identity_until_it_learns():
    film = FiLM(4, 3)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(film(x, torch.randn(2, 4)), x)
    film.linear.bias.data = torch.tensor([1.0, 0, -1, 10, 20, 30])
    expected = torch.stack([2 * x[:, 0] + 10, x[:, 1] + 20, torch.full_like(x[:, 2], 30)], dim=1)
    torch.testing.assert_close(film(x, torch.randn(2, 4)), expected)


def test_gradients_reach_every_weight():
    torch.manual_seed(0)
    network = MedUNet(3, IN, len(parameter_names(3)), (8, 12), (1, 1), (1,), embedding=8)
    for _ in range(2):  # the zero head passes nothing back in the first step, zero FiLM weights nothing in the second
        network(torch.randn(2, IN, 8, 8, 8), torch.randn(2, len(parameter_names(3)))).sub(1).square().mean().backward()
        for parameter in network.parameters():
            parameter.data -= 0.1 * parameter.grad
            parameter.grad = None
    network(torch.randn(2, IN, 8, 8, 8), torch.randn(2, len(parameter_names(3)))).sub(1).square().mean().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in network.parameters())


@pytest.mark.parametrize(("dims", "spatial"), [(2, (16, 24)), (3, (8, 8, 12))])
def test_monai_backbone_answers_the_same_call(dims, spatial):
    pytest.importorskip("einops", reason="MONAI's attention needs einops")
    network = networks.build("monai", spatial_dims=dims, in_channels=IN, parameters=4, channels=(8, 16, 16))
    assert isinstance(network, MonaiUNet)
    assert network.stride == 4
    x, parameters = torch.randn(2, IN, *spatial), torch.rand(2, 4)
    with torch.inference_mode():
        out = network(x, parameters)
        assert torch.equal(out, torch.zeros(2, 2, *spatial))  # silent at first as well
        for parameter in network.parameters():
            parameter.data = 0.1 * torch.randn_like(parameter)
        out = network(x, parameters)
        for index in range(4):  # the angle as its time, the others as channels
            other = parameters.clone()
            other[:, index] += 0.5
            assert float((network(x, other) - out).abs().max()) > 1e-5


def test_unknown_backbone():
    with pytest.raises(KeyError, match="vit"):
        networks.build("vit")
