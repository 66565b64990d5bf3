"""Networks that ``python -m benchmarks.backbones`` compares with the product's: a transformer, and a latent space."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medidiff.diffusion.network import STEM, Backbone, ResidualBlock, shuffle, unshuffle

_CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class TransformerBlock(nn.Module):
    """Attention and a perceptron, shifted, scaled and gated by the embedding (adaLN-zero); at first the identity."""

    def __init__(self, width: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(embedding, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.attention, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``x``: (B, tokens, width); ``embedding``: (B, E)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self._attend(self.norm(x) * (1 + scale1) + shift1)
        return x + gate2 * self.perceptron(self.norm(x) * (1 + scale2) + shift2)

    def _attend(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.attention(x).chunk(3, dim=-1))
        return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DiT(Backbone):
    """A diffusion transformer (Peebles and Xie, ICCV 2023) behind the call of ``MedUNet``.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of state and conditions.
        parameters: length of the parameter vector.
        width: of a token; a multiple of ``2 * spatial_dims`` and of ``heads``.
        depth: blocks.
        heads: of the attention.
        patch: edge of the patch that becomes a token.
        embedding: width of the parameter embedding.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        parameters: int,
        width: int = 192,
        depth: int = 5,
        heads: int = 6,
        patch: int = 4,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.spatial_dims, self.stride = spatial_dims, patch
        self.patchify = _CONVOLUTION[spatial_dims](in_channels, width, patch, stride=patch)
        self.embed = nn.Sequential(
            nn.Linear(parameters, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, embedding) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * patch**spatial_dims)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor, parameters: Tensor) -> Tensor:
        """Velocity and log-variance (B, 2, *spatial) of ``x`` (B, in_channels, *spatial)."""
        embedding, tokens = self.embed(parameters), self.patchify(x)
        grid = tokens.shape[2:]
        tokens = tokens.flatten(2).transpose(1, 2)
        tokens = tokens + positions(tuple(grid), tokens.shape[-1]).to(tokens)
        for block in self.blocks:
            tokens = block(tokens, embedding)
        return self._unpatchify(self.head(self.norm(tokens)), tuple(grid))

    def _unpatchify(self, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(B, tokens, 2 * patch^dims) to (B, 2, *spatial)."""
        dims, patch = self.spatial_dims, self.stride
        split = tokens.reshape(len(tokens), *grid, 2, *(patch,) * dims)
        order = [0, dims + 1]
        for axis in range(dims):
            order += [1 + axis, dims + 2 + axis]
        return split.permute(order).reshape(len(tokens), 2, *(n * patch for n in grid))


def positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Sines and cosines of each token's place, an equal share of ``width`` for each axis: (tokens, width)."""
    share = width // len(grid)
    frequency = torch.exp(-math.log(10_000) * torch.arange(share // 2) / (share // 2))
    places = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in places]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)


class Plain(nn.Module):
    """conv -> SiLU -> conv, added to the input."""

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        conv = _CONVOLUTION[spatial_dims]
        self.layers = nn.Sequential(
            conv(channels, channels, 3, padding=1), nn.SiLU(), conv(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x``: (B, channels, *spatial)."""
        return x + 0.2 * self.layers(x)


class Autoencoder(nn.Module):
    """Images (B, 1, *spatial) to latents (B, latents, *(spatial / factor)) and back.

    Made for the smallest squared error and nothing else: no noise in the latents, no prior on them, no adversary, all
    of which cost PSNR. A pixel-unshuffle stem as the product's network has makes it as quick as that.
    """

    def __init__(self, spatial_dims: int, factor: int, latents: int, width: int = 48) -> None:
        super().__init__()
        conv, up, cells = _CONVOLUTION[spatial_dims], _TRANSPOSED[spatial_dims], STEM**spatial_dims
        halvings = int(math.log2(factor // STEM))
        self.factor, self.latents = factor, latents
        down: list[nn.Module] = [conv(cells, width, 3, padding=1), Plain(spatial_dims, width)]
        back: list[nn.Module] = [Plain(spatial_dims, width), conv(width, cells, 3, padding=1)]
        for _ in range(halvings):
            down += [conv(width, 2 * width, 2, stride=2), Plain(spatial_dims, 2 * width)]
            back = [Plain(spatial_dims, 2 * width), up(2 * width, width, 2, stride=2), *back]
            width *= 2
        self.encoder = nn.Sequential(*down, conv(width, latents, 1))
        self.decoder = nn.Sequential(conv(latents, width, 1), *back)

    def encode(self, image: Tensor) -> Tensor:
        """(B, *spatial) to (B, latents, *coarse)."""
        found: Tensor = self.encoder(unshuffle(image[:, None]))
        return found

    def decode(self, latents: Tensor) -> Tensor:
        """(B, latents, *coarse) to (B, *spatial)."""
        return shuffle(self.decoder(latents))[:, 0]

    def forward(self, image: Tensor) -> Tensor:
        """What comes back of an image, (B, *spatial)."""
        return self.decode(self.encode(image))


class LatentNet(nn.Module):
    """Predicts the latents of the clean image from those of the base and from all views of the measurement."""

    def __init__(
        self, spatial_dims: int, views: int, parameters: int, latents: int, factor: int, width: int = 96, depth: int = 3
    ) -> None:
        super().__init__()
        conv = _CONVOLUTION[spatial_dims]
        embedding = 64
        self.halvings = int(math.log2(factor))
        self.embed = nn.Sequential(
            nn.Linear(parameters, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.stem = conv(views * factor**spatial_dims + latents, width, 1)
        self.blocks = nn.ModuleList(ResidualBlock(spatial_dims, width, embedding) for _ in range(depth))
        self.head = conv(width, latents, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.size: Tensor
        self.register_buffer("size", torch.ones(1, latents, *(1,) * spatial_dims))

    def forward(self, views: Tensor, parameters: Tensor, base: Tensor) -> Tensor:
        """``views``: (B, views, *spatial); ``base``: (B, latents, *coarse); the answer is as ``base``."""
        for _ in range(self.halvings):
            views = unshuffle(views)
        x, embedding = self.stem(torch.cat([views, base], dim=1)), self.embed(parameters)
        for block in self.blocks:
            x = block(x, embedding)
        return base + self.size * self.head(x)
