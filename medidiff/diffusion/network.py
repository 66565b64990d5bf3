"""The network: a U-Net whose output depends on a bounded neighbourhood, never on the window it is seen through.

No normalisation over space, no attention, no pooling to a point: the same scan seen through two windows gives the same
voxels, which is what makes tiles seamless. A 2x pixel-unshuffle stem moves all work to half resolution, and
everything is a dense 3x3x3 convolution, the one 3-D operation that CPUs and GPUs both run near their limit.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

STEM = 2  # edge of the pixel-unshuffle blocks
# MONAI's layers and its pixel-unshuffle are the same, but take two seconds to import
_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
LAYER_SCALE = 0.2


def unshuffle(x: Tensor) -> Tensor:
    """Blocks of ``STEM`` voxels an axis as channels: (B, C, *spatial) to (B, C * cells, *(spatial / STEM))."""
    dims = x.ndim - 2
    split = x.reshape(*x.shape[:2], *itertools.chain(*((n // STEM, STEM) for n in x.shape[2:])))
    order = (0, 1, *range(3, 3 + 2 * dims, 2), *range(2, 2 + 2 * dims, 2))
    return split.permute(order).reshape(len(x), -1, *(n // STEM for n in x.shape[2:]))


def shuffle(x: Tensor) -> Tensor:
    """The inverse of ``unshuffle``."""
    dims = x.ndim - 2
    split = x.reshape(len(x), -1, *(STEM,) * dims, *x.shape[2:])
    order = (0, 1, *itertools.chain(*((2 + dims + axis, 2 + axis) for axis in range(dims))))
    return split.permute(order).reshape(len(x), -1, *(n * STEM for n in x.shape[2:]))


class FiLM(nn.Module):
    """Per-channel scale and shift from an embedding (Perez et al., AAAI 2018); the identity at initialisation."""

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding, 2 * channels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: (B, C, *spatial); ``embedding``: (B, E)."""
        shape = (x.shape[0], x.shape[1], *(1,) * (x.ndim - 2))
        factor, shift = self.of(embedding)
        return torch.addcmul(shift.reshape(shape), x, factor.reshape(shape))

    def of(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and shift, each (B, C)."""
        scale, shift = self.linear(embedding).chunk(2, dim=1)
        return 1 + scale, shift


def _scaled(weight: Tensor, factor: Tensor) -> Tensor:
    """A convolution's weights (O, I, *kernel) with each output channel scaled; keeps their layout."""
    return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))


class ResidualBlock(nn.Module):
    """conv -> FiLM -> SiLU -> conv -> learned per-channel gain, added to the input."""

    def __init__(self, spatial_dims: int, channels: int, embedding: int) -> None:
        super().__init__()
        conv = _CONVOLUTION[spatial_dims]
        self.conv1 = conv(channels, channels, 3, padding=1)
        self.film = FiLM(embedding, channels)
        self.conv2 = conv(channels, channels, 3, padding=1)
        self.gain = nn.Parameter(torch.full((1, channels, *(1,) * spatial_dims), LAYER_SCALE))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: (B, C, *spatial); ``embedding``: (B, E)."""
        if len(x) == 1 and not torch.is_grad_enabled():
            return self._merged(x, embedding)
        h = nn.functional.silu(self.film(self.conv1(x), embedding), inplace=True)
        return torch.addcmul(x, self.conv2(h), self.gain)

    def _merged(self, x: Tensor, embedding: Tensor) -> Tensor:
        """The same for one window: FiLM and gain are put into the weights, and cost nothing."""
        convolve = {2: nn.functional.conv2d, 3: nn.functional.conv3d}[x.ndim - 2]
        factor, shift = (each[0] for each in self.film.of(embedding))
        gain = self.gain.reshape(-1)
        h = convolve(x, _scaled(self.conv1.weight, factor), self.conv1.bias * factor + shift, padding=1)
        h = nn.functional.silu(h, inplace=True)
        return convolve(h, _scaled(self.conv2.weight, gain), self.conv2.bias * gain, padding=1).add_(x)


class Backbone(nn.Module):
    """What every network here promises.

    Attributes:
        spatial_dims: 2 or 3.
        stride: window sizes and positions must be multiples of this many voxels.
    """

    spatial_dims: int
    stride: int


class MedUNet(Backbone):
    """U-Net for 2-D and 3-D restoration.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of state and conditions.
        parameters: length of the parameter vector (diffusion angle and degradation parameters).
        channels: channels of the levels at 1/2, 1/4, 1/8 ... of the resolution.
        encoder_blocks: residual blocks of each level on the way down (the last entry is the bottom).
        decoder_blocks: residual blocks of each level on the way up, from the finest; one entry fewer.
        embedding: width of the parameter embedding.
        out_channels: 2: velocity and log-variance.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        parameters: int,
        channels: Sequence[int] = (24, 48, 96),
        encoder_blocks: Sequence[int] = (1, 2, 2),
        decoder_blocks: Sequence[int] = (1, 1),
        embedding: int = 64,
        out_channels: int = 2,
    ) -> None:
        super().__init__()
        conv, up = _CONVOLUTION[spatial_dims], _TRANSPOSED[spatial_dims]
        cells = STEM**spatial_dims
        self.spatial_dims = spatial_dims
        self.stride = STEM * 2 ** (len(channels) - 1)
        self.embed = nn.Sequential(
            nn.Linear(parameters, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.stem = conv(in_channels * cells, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.ModuleList(ResidualBlock(spatial_dims, width, embedding) for _ in range(count))
            for width, count in zip(channels, encoder_blocks, strict=True)
        )
        pairs = list(itertools.pairwise(channels))
        self.down = nn.ModuleList(conv(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.up = nn.ModuleList(up(coarse, fine, 2, stride=2) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(
            nn.ModuleList(ResidualBlock(spatial_dims, width, embedding) for _ in range(count))
            for width, count in zip(channels[:-1], decoder_blocks, strict=True)
        )
        self.head = conv(channels[0], out_channels * cells, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Velocity and log-variance (B, out_channels, *spatial) of ``x`` (B, in_channels, *spatial)."""
        embedding = self.embed(parameters)
        x = unshuffle(x)
        x = self.stem(x.contiguous(memory_format=self._memory_format))
        skips = []
        for level, blocks in enumerate(self.encoder):
            for block in cast(nn.ModuleList, blocks):
                x = block(x, embedding)
            if level < len(self.down):
                skips.append(x)
                x = self.down[level](x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](x).add_(skips.pop())
            for block in cast(nn.ModuleList, self.decoder[level]):
                x = block(x, embedding)
        return shuffle(self.head(x))

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last_3d if self.spatial_dims == 3 else torch.channels_last


class MonaiUNet(Backbone):
    """MONAI's ``DiffusionModelUNet`` behind the same call, as a backbone to compare with.

    Its group norms and its attention look at the whole window, so tiles leave seams: for experiments, not for
    shipped bundles.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        parameters: int,
        channels: Sequence[int] = (32, 64, 64),
        out_channels: int = 2,
    ) -> None:
        super().__init__()
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        levels = len(channels)
        self.spatial_dims = spatial_dims
        self.unet = DiffusionModelUNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels + parameters - 1,
            out_channels=out_channels,
            channels=tuple(channels),
            num_res_blocks=1,
            attention_levels=(False,) * levels,
            norm_num_groups=8,
        )
        self.stride = 2 ** (levels - 1)

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        """As ``MedUNet.forward``; parameters after the first (the diffusion angle) enter as constant channels."""
        rest = parameters[:, 1:].reshape(*parameters[:, 1:].shape, *(1,) * (x.ndim - 2)).expand(-1, -1, *x.shape[2:])
        answer: Tensor = self.unet(torch.cat([x, rest], dim=1), parameters[:, 0] * 1000)
        return answer


BACKBONES: dict[str, type[Backbone]] = {"medunet": MedUNet, "monai": MonaiUNet}


def build(backbone: str = "medunet", **settings: Any) -> Backbone:
    """The network that a bundle's ``network`` section describes."""
    return BACKBONES[backbone](**settings)
