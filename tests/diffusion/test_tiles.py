"""Tiles: each voxel once, and an answer that does not depend on how the volume was cut."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medidiff.diffusion import tiles
from medidiff.diffusion.network import MedUNet
from medidiff.diffusion.windows import widest

shapes = st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple)
strides = st.sampled_from([1, 2, 4, 8])


class Blocks(nn.Module):
    """A local network with a grid: weighted sums over 5 voxels along each axis plus the sum of each cell of
    ``stride`` voxels.

    Weights and voxels are whole numbers, so that equal means equal to the last bit. It reaches 2 voxels, or to the
    end of a cell; beyond the window it sees zeros. Its second channel counts the windows' voxels in reach.
    """

    def __init__(self, dims: int, stride: int) -> None:
        super().__init__()
        self.dims, self.stride = dims, stride
        convolve = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.smooth = convolve(1, 1, 5, padding=2, bias=False)
        self.smooth.weight.data = torch.arange(5**dims, dtype=torch.float32).reshape(1, 1, *(5,) * dims) % 7 - 3

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        cells = {1: nn.functional.avg_pool1d, 2: nn.functional.avg_pool2d, 3: nn.functional.avg_pool3d}[self.dims](
            x, self.stride
        ) * float(self.stride**self.dims)
        for axis in range(2, x.ndim):
            cells = cells.repeat_interleave(self.stride, axis)
        shift = parameters[:, :1].reshape(-1, 1, *(1,) * self.dims)
        return torch.cat([self.smooth(x) + 3 * cells + shift, self.smooth(torch.ones_like(x))], dim=1)


def run(image: Tensor, tile: int | None, halo: int, stride: int, batch: int = 1) -> Tensor:
    tiling = tiles.plan(image.shape, tile, halo, stride)
    channels = tiles.pad(image[None], tiling)
    with torch.inference_mode():
        answer = tiles.evaluate(Blocks(image.ndim, stride), channels, torch.tensor([5.0]), tiling, batch=batch)
    return answer[(slice(None), *(slice(0, n) for n in image.shape))]


@settings(deadline=None)
@given(shapes, st.none() | st.integers(8, 48), st.integers(0, 12), strides)
def test_cores_cover_every_voxel_once_and_windows_keep_their_halo(spatial, tile, halo, stride):
    try:
        tiling = tiles.plan(spatial, tile, halo, stride)
    except ValueError:
        rounded = math.ceil(halo / stride) * stride
        assert tile is not None
        assert tile // stride * stride - 2 * rounded < stride
        assert any(math.ceil(n / stride) * stride > tile for n in spatial)
        return
    assert all(0 <= p - n < stride and p % stride == 0 for p, n in zip(tiling.padded, spatial, strict=True))
    count = torch.zeros(tiling.padded, dtype=torch.int64)
    number = 0
    for found in tiling:
        number += 1
        count[found.core] += 1
        window = torch.arange(count.numel()).reshape(count.shape)[found.window]
        assert torch.equal(window[found.inside], torch.arange(count.numel()).reshape(count.shape)[found.core])
        for whole, core, size in zip(found.window, found.core, tiling.padded, strict=True):
            assert whole.start % stride == 0
            assert whole.stop % stride == 0
            assert core.start - whole.start >= min(halo, core.start)
            assert whole.stop - core.stop >= min(halo, size - core.stop)
            assert tile is None or whole.stop - whole.start <= max(tile, stride)
    assert torch.equal(count, torch.ones_like(count))
    assert number == len(tiling)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(12, 40), st.integers(2, 9), strides, st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_answer_does_not_depend_on_the_cut(spatial, tile, halo, stride, batch, seed):
    rounded = math.ceil(halo / stride) * stride
    assume(tile // stride * stride - 2 * rounded >= stride)
    image = torch.randint(-8, 9, spatial, generator=torch.Generator().manual_seed(seed)).float()
    assert torch.equal(run(image, tile, halo, stride, batch), run(image, None, 0, stride))


@pytest.mark.parametrize("spatial", [(33, 18, 27), (40, 1, 24), (5, 6, 7), (1, 1, 1), (29, 41)])
@pytest.mark.parametrize("kind", ["constant", "ramp", "impulse"])
def test_plain_images_have_no_seam(spatial, kind):
    image = torch.zeros(spatial)
    if kind == "constant":
        image += 7
    elif kind == "ramp":
        image += torch.arange(spatial[0]).reshape(-1, *(1,) * (len(spatial) - 1))
    else:
        image[tuple(n // 2 for n in spatial)] = 9
    stride = 4
    cut, whole = run(image, 24, 4, stride), run(image, None, 0, stride)
    assert torch.equal(cut, whole)
    if kind == "constant":
        padded = tiles.plan(spatial, None, 0, stride).padded
        inner = (0, *(slice(2, min(n, p - 2)) for n, p in zip(spatial, padded, strict=True)))
        kernel = Blocks(len(spatial), stride).smooth.weight.detach()
        expected = 7 * float(kernel.sum() + 3 * stride ** len(spatial)) + 5
        assert torch.all(whole[inner] == expected)


def run_mirrored(image: Tensor, tile: int | None, halo: int, stride: int) -> Tensor:
    tiling = tiles.plan(image.shape, tile, halo, stride)
    network = partial(tiles.over_flips, Blocks(image.ndim, stride))
    with torch.inference_mode():
        answer = tiles.evaluate(network, tiles.pad(image[None], tiling), torch.tensor([5.0]), tiling)
    return answer[(slice(None), *(slice(0, n) for n in image.shape))]


@pytest.mark.parametrize("spatial", [(40, 33), (30, 18, 27)])
def test_mirror_images_make_the_kernel_symmetric_whatever_the_cut(spatial):
    image = torch.randint(-8, 9, spatial, generator=torch.Generator().manual_seed(1)).float()
    found = run_mirrored(image, None, 0, 4)
    assert torch.equal(found, run_mirrored(image, 24, 4, 4))
    axes = range(len(spatial))
    network = Blocks(len(spatial), 4)
    kernel = network.smooth.weight.data
    subsets = [chosen for count in range(len(axes) + 1) for chosen in itertools.combinations(axes, count)]
    symmetric = sum(kernel.flip([2 + axis for axis in chosen]) for chosen in subsets) / len(subsets)
    assert not torch.equal(symmetric, kernel)
    network.smooth.weight.data = symmetric
    tiling = tiles.plan(spatial, None, 0, 4)
    with torch.inference_mode():
        expected = network(tiles.pad(image[None], tiling)[None], torch.tensor([[5.0]]))[0, 0]
    torch.testing.assert_close(found[0], expected[tuple(slice(0, n) for n in spatial)], rtol=1e-6, atol=1e-4)


def test_too_small_a_halo_is_seen():
    image = torch.randint(-8, 9, (40, 40), generator=torch.Generator().manual_seed(0)).float()
    assert not torch.equal(run(image, 16, 0, 4), run(image, None, 0, 4))


def test_tile_without_a_core_is_refused():
    with pytest.raises(ValueError, match="halos of 16"):
        tiles.plan((64, 64, 64), 32, 16, 8)
    assert len(tiles.plan((32, 32, 32), 32, 16, 8)) == 1  # the volume fits: no halo is needed


def test_tiles_are_even():
    tiling = tiles.plan((120,), 64, 8, 4)
    assert [t.window[0] for t in tiling] == [slice(0, 52), slice(36, 88), slice(72, 120)]
    assert [t.core[0] for t in tiling] == [slice(0, 44), slice(44, 80), slice(80, 120)]
    tiling = tiles.plan((112,), 64, 8, 4)  # two tiles have one halo each
    assert [t.window[0] for t in tiling] == [slice(0, 64), slice(48, 112)]
    tiling = tiles.plan((96,), 64, 8, 4)
    assert [t.window[0] for t in tiling] == [slice(0, 56), slice(40, 96)]


def test_no_more_tiles_than_need_be():
    """The first and the last read a halo on one side alone: five of 248 voxels make up what took six."""
    windows = [t.window[0] for t in tiles.plan((1024,), 248, 24, 8)]
    assert [w.stop - w.start for w in windows] == [248, 248, 248, 248, 224]
    assert [w.stop - w.start for w in (t.window[0] for t in tiles.plan((512,), 248, 24, 8))] == [208, 208, 192]


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 3), st.sampled_from([1, 4, 8]))
def test_the_widest_window_is_told_and_their_number_is_the_least(units, core, halos, stride):
    size, halo = units * stride, halos * stride
    tile = core * stride + 2 * halo
    windows = [found.window[0] for found in tiles.plan((size,), tile, halo, stride)]
    assert max(w.stop - w.start for w in windows) == widest(size, tile, halo, stride) <= tile

    def reach(count: int) -> int:
        return tile if count == 1 else 2 * (tile - halo) + (count - 2) * (tile - 2 * halo)

    assert reach(len(windows)) >= size
    assert len(windows) == 1 or reach(len(windows) - 1) < size


def test_padding_mirrors_the_far_side_only():
    tiling = tiles.plan((3, 5), None, 0, 4)
    image = torch.arange(15.0).reshape(1, 1, 3, 5)
    padded = tiles.pad(image, tiling)[0, 0]
    assert torch.equal(padded[:3, :5], image[0, 0])
    assert torch.equal(padded[3, :5], image[0, 0, 2])
    assert torch.equal(padded[:3, 5:], image[0, 0][:, [4, 3, 2]])


def test_batches_hold_windows_of_one_shape_and_progress_counts_tiles():
    tiling = tiles.plan((150, 70), 40, 8, 2)
    sizes, steps = [], []

    def network(windows: Tensor, parameters: Tensor) -> Tensor:
        assert parameters.shape == (len(windows), 3)
        assert torch.equal(parameters, torch.tensor([[1.0, 2.0, 3.0]]).expand(len(windows), -1))
        sizes.append(len(windows))
        return torch.cat([windows, -windows], dim=1).to(torch.bfloat16)

    image = torch.arange(150 * 70.0).reshape(1, 150, 70) % 128  # whole numbers that bfloat16 holds exactly
    out = tiles.evaluate(
        network, image, torch.tensor([1.0, 2, 3]), tiling, batch=3, progress=lambda *counts: steps.append(counts)
    )
    assert out.dtype == torch.float32
    assert torch.equal(out, torch.cat([image, -image]))
    assert sum(sizes) == len(tiling)
    assert max(sizes) == 3
    assert steps == [(sum(sizes[: i + 1]), len(tiling)) for i in range(len(sizes))]


def small_network(dims: int, channels: tuple[int, ...]) -> MedUNet:
    """Random weights everywhere, the head included, in float64."""
    levels = len(channels)
    torch.manual_seed(dims)
    network = MedUNet(dims, 2, 3, channels, (1,) * levels, (1,) * (levels - 1), embedding=8).double().eval()
    for parameter in network.parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
    return network.requires_grad_(False)


def reach(network: MedUNet, size: int) -> int:
    """How many voxels away an input can lie and still matter to an output, by differentiation; over all grid phases."""
    dims, middle, cell = network.spatial_dims, size // 2, network.stride
    image = torch.randn(1, 2, *(size,) * dims, dtype=torch.float64, requires_grad=True)
    farthest = 0
    for phase in range(cell):
        at = middle + phase
        (gradient,) = torch.autograd.grad(network(image, torch.ones(1, 3).double())[(0, 0, *(at,) * dims)], image)
        touched = gradient[0].abs().sum(0).nonzero()
        farthest = max(farthest, int((touched - at).abs().max()))
    assert farthest < middle - cell  # otherwise the border hid it
    return farthest


@pytest.mark.parametrize(
    ("dims", "channels", "size", "tile"), [(2, (4, 6), 128, 96), (3, (3,), 52, 32), (2, (4,), 64, 32)]
)
def test_network_through_tiles_is_the_network_on_the_whole_volume(dims, channels, size, tile):
    network = small_network(dims, channels)
    halo = reach(network, size)
    spatial = tuple(size - 3 * axis for axis in range(dims))  # odd sizes too
    image = torch.randn((2, *spatial), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    parameters = torch.tensor([0.3, -1, 2]).double()

    def evaluate(tile: int | None, halo: int, batch: int = 1) -> Tensor:
        tiling = tiles.plan(spatial, tile, halo, network.stride)
        channels = tiles.pad(image[None], tiling)[0]
        return tiles.evaluate(network, channels, parameters, tiling, batch=batch)

    whole = evaluate(None, 0)
    for batch in (1, 3):
        torch.testing.assert_close(evaluate(tile, halo, batch), whole, atol=1e-6, rtol=1e-5)
    assert float((evaluate(tile, 0) - whole).abs().max()) > 1e-3 * float(whole.abs().max())
