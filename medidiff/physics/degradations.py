"""Simulated measurements: the noise that scanners add, drawn on the device where training runs.

All functions take normalised images of shape (B, *spatial) and one strength per image, and use no global random state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medidiff.physics.texture import Texture

TINY = 1e-12
_SLAB, _CUBOID = 0.1, 0.1  # shares of the shapes of holes; the rest are lesions


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _spatial(image: Tensor) -> tuple[int, ...]:
    return tuple(range(1, image.ndim))


def smooth_field(shape: torch.Size, generator: torch.Generator, device: torch.device, cells: int = 3) -> Tensor:
    """A smooth random field within -1 and 1 for each image (B, *spatial): low-resolution noise, interpolated."""
    spatial = shape[1:]
    coarse = (
        torch.rand((shape[0], 1, *(cells if n > 1 else 1 for n in spatial)), generator=generator, device=device) * 2 - 1
    )
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(spatial)]
    return torch.nn.functional.interpolate(coarse, size=tuple(spatial), mode=mode, align_corners=len(spatial) > 0)[:, 0]


def colour(white: Tensor, fwhm: Tensor) -> Tensor:
    """Correlate white noise with a Gaussian of ``fwhm`` voxels (B, dims) along each axis, keeping unit variance."""
    axes = _spatial(white)
    spectrum = torch.fft.fftn(white, dim=axes)
    power = torch.zeros_like(white)
    for i, axis in enumerate(axes):
        frequency = torch.fft.fftfreq(white.shape[axis], device=white.device)
        shape = [1] * white.ndim
        shape[axis] = -1
        width = _per_image(fwhm[:, i] / math.sqrt(8 * math.log(2)), white)
        power = power - 2 * (math.pi * frequency.reshape(shape) * width) ** 2
    response = power.exp()
    norm = response.square().mean(dim=axes, keepdim=True).sqrt()
    coloured: Tensor = torch.fft.ifftn(spectrum * (response / norm), dim=axes).real
    return coloured


def textured(white: Tensor, texture: Texture) -> Tensor:
    """White unit noise (B, *spatial) given the spectrum of ``texture``, at unit variance."""
    axes = _spatial(white)
    gain = torch.as_tensor(texture.power(tuple(white.shape[1:])) ** 0.5, dtype=white.dtype, device=white.device)
    result: Tensor = torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * gain, dim=axes).real
    return result


def add_gaussian(clean: Tensor, sigma: Tensor, generator: torch.Generator, texture: Tensor | None = None) -> Tensor:
    """``clean + sigma n``; ``sigma`` broadcasts against ``clean``; ``texture`` replaces the white unit noise."""
    return clean + sigma * (_normal(clean, generator) if texture is None else texture)


def add_rician(
    clean: Tensor, sigma: Tensor, generator: torch.Generator, textures: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Magnitude of ``clean + sigma (n1 + i n2)`` (Gudbjartsson and Patz 1995)."""
    real, imaginary = textures or (_normal(clean, generator), _normal(clean, generator))
    return torch.hypot(clean + sigma * real, sigma * imaginary)


def add_noncentral_chi(clean: Tensor, sigma: Tensor, coils: int, generator: torch.Generator) -> Tensor:
    """Root sum of squares over ``coils`` channels, each with complex noise ``sigma`` (Constantinides et al. 1997)."""
    part = clean / math.sqrt(coils)
    total = torch.zeros_like(clean)
    for _ in range(coils):
        total += (part + sigma * _normal(clean, generator)).square() + (sigma * _normal(clean, generator)).square()
    return total.sqrt()


def vary(sigma: Tensor, like: Tensor, amplitude: Tensor, generator: torch.Generator) -> Tensor:
    """A noise map ``sigma exp(amplitude field)`` of mean square ``sigma^2``, as parallel imaging gives (g-factor)."""
    field = torch.exp(_per_image(amplitude, like) * smooth_field(like.shape, generator, like.device))
    return _per_image(sigma, like) * field / field.square().mean(dim=_spatial(like), keepdim=True).sqrt()


def hole(shape: torch.Size, generator: torch.Generator, device: torch.device, radius: tuple[float, float]) -> Tensor:
    """A random hole in each image (B, *spatial), boolean: rough ellipsoids like lesions, cuboids, or missing slices.

    Args:
        shape: (B, *spatial).
        generator: on ``device``.
        device: where to make it.
        radius: smallest and largest radius in voxels.
    """
    spatial = shape[1:]
    grids = torch.meshgrid(*(torch.arange(n, device=device, dtype=torch.float32) for n in spatial), indexing="ij")
    rough = smooth_field(shape, generator, device, cells=7)
    # of each image: kind, number of lobes, axis; then for three lobes their centres, radii and offsets
    draws = torch.rand((shape[0], 3 + 9 * len(spatial)), generator=generator, device=device).cpu()
    found = torch.stack([_one_hole(grids, rough[i], draws[i], radius) for i in range(shape[0])])
    share = found.flatten(1).float().mean(dim=1)
    useless = ((share > 0.6) | (share == 0)).reshape(-1, *(1,) * len(spatial))
    middle = [(g - n // 2).abs() <= min(radius[0], n / 4) for g, n in zip(grids, spatial, strict=True)]
    return torch.where(useless, torch.stack(middle).all(dim=0), found)


def _one_hole(grids: tuple[Tensor, ...], rough: Tensor, draws: Tensor, radius: tuple[float, float]) -> Tensor:
    kind, lobes, axis = float(draws[0]), 1 + int(2.99 * draws[1]), int(len(grids) * 0.999 * draws[2])
    centres, sizes, offsets = draws[3:].reshape(3, 3, len(grids)).tolist()
    sizes = [[radius[0] + (radius[1] - radius[0]) * each for each in lobe] for lobe in sizes]
    first = [n * (0.25 + 0.5 * each) for n, each in zip(rough.shape, centres[0], strict=True)]
    if kind < _SLAB:
        slab: Tensor = (grids[axis] - first[axis]).abs() < 0.5 + 2.5 * offsets[0][0]
        return slab
    if kind < _SLAB + _CUBOID:
        return torch.stack([(g - c).abs() < r for g, c, r in zip(grids, first, sizes[0], strict=True)]).all(dim=0)
    inside = torch.zeros_like(rough, dtype=torch.bool)
    for lobe in range(lobes):
        away = [(lobe > 0) * r * (2 * each - 1) for r, each in zip(sizes[0], offsets[lobe], strict=True)]
        parts = zip(grids, first, away, sizes[lobe], strict=True)
        distance = torch.stack([((g - c - a) / r).square() for g, c, a, r in parts]).sum(dim=0)
        inside |= distance + 0.5 * rough < 1
    return inside
