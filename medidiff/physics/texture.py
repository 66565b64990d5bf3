"""The power spectrum of noise that is not white, as that of CT is not, and how it is measured on the scan itself.

Filtered back-projection amplifies noise in proportion to frequency and the reconstruction kernel cuts it off, so in the
plane the spectrum is ``f^a exp(-(f / c)^2)`` (Riederer, Pelc and Chesler, Phys Med Biol 1978; Kijewski and Judy, Phys
Med Biol 1987); overlapping or interpolated slices correlate across the plane, which is one more Gaussian.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics import slabs
from medidiff.physics.shrinkage import block_basis, block_shape, dct_matrix

WHITE = 8.0  # a cut-off so far beyond the Nyquist frequency that nothing is cut
SPECTRUM_GRID = 32  # frequencies an axis that integrals over the spectrum are taken from
_LOWEST = 1e-3  # of the Nyquist frequency: added to f, so that the mean of the noise is not lost altogether
_EXPONENTS = (0.0, 0.3, 0.6, 0.9, 1.2)
_CUTOFFS = (0.3, 0.36, 0.43, 0.52, 0.62, 0.75, 0.9, 1.1, 1.5, WHITE)
_ACROSS = (0.3, 0.43, 0.62, 0.9, 1.3, WHITE)
_QUIET = 0.2  # share of the blocks, those with least anatomy, that tell of noise
_FEWEST, _ENOUGH = 50, 200_000  # blocks
MAD_OF_NORMAL = 0.67448975
Part = tuple[NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True)
class Texture:
    """Spectrum of noise of unit variance; frequencies in units of the Nyquist frequency.

    Attributes:
        exponent: a, the growth with frequency in the plane.
        cutoff: c, in the plane.
        across: cut-off across slices.
        axis: of an image, that which slices follow one another along; ``None`` where all axes lie in the plane.
    """

    exponent: float
    cutoff: float
    across: float = WHITE
    axis: int | None = None

    def in_plane(self) -> Texture:
        """The spectrum of one slice."""
        return Texture(self.exponent, self.cutoff)

    def power(self, spatial: tuple[int, ...]) -> NDArray[np.float64]:
        """The spectrum on the frequencies of a discrete Fourier transform of shape ``spatial``, mean 1."""
        planar, total = np.zeros(spatial), np.ones(spatial)
        for axis, size in enumerate(spatial):
            f = (2 * np.fft.fftfreq(size)).reshape([-1 if a == axis else 1 for a in range(len(spatial))])
            if axis == self.axis:
                total = total * np.exp(-((f / self.across) ** 2))
            else:
                planar = planar + f**2
        f = np.sqrt(planar)
        total = total * (f + _LOWEST) ** self.exponent * np.exp(-((f / self.cutoff) ** 2))
        return np.asarray(total / total.mean())

    def lag1(self, dims: int) -> list[float]:
        """Correlation of neighbouring voxels along each axis."""
        power = self.power((SPECTRUM_GRID,) * dims)
        angle = 2 * np.pi * np.fft.fftfreq(SPECTRUM_GRID)
        return [
            float((power * np.cos(angle).reshape([-1 if a == axis else 1 for a in range(dims)])).mean())
            for axis in range(dims)
        ]

    def coarse(self, shape: tuple[int, ...], edge: int) -> float:
        """Variance of means over ``edge`` voxels along every axis that is that long, over that of white noise."""
        along = [size >= edge for size in shape]
        return self.passed((SPECTRUM_GRID,) * len(shape), along, [1 / edge] * edge) * math.prod(
            edge for long in along if long
        )

    def passed(self, grid: tuple[int, ...], along: Sequence[bool], kernel: Sequence[float]) -> float:
        """Variance that a kernel along some axes leaves of the noise, on a grid of SPECTRUM_GRID frequencies there."""
        power, angle = self.power(grid), 2 * np.pi * np.fft.fftfreq(SPECTRUM_GRID)
        gain = np.abs(np.exp(1j * np.outer(angle, np.arange(len(kernel)))) @ np.asarray(kernel)) ** 2
        for axis, filtered in enumerate(along):
            if filtered:
                power = power * gain.reshape([-1 if a == axis else 1 for a in range(len(grid))])
        return float(power.mean())


@lru_cache(maxsize=512)
def block_variances(texture: Texture, block: tuple[int, ...]) -> Tensor:
    """Variance of each coefficient of a block's orthonormal DCT-II, shape (voxels of the block,), mean 1."""
    power = texture.power(tuple(SPECTRUM_GRID if n > 1 else 1 for n in block))
    for axis, size in enumerate(block):
        basis = np.fft.fft(dct_matrix(size).numpy(), SPECTRUM_GRID if size > 1 else 1, axis=1)
        gain = np.abs(basis) ** 2 / basis.shape[1]
        power = np.moveaxis(np.tensordot(power, gain, axes=(axis, 1)), -1, axis)
    return torch.as_tensor(power.reshape(-1), dtype=torch.float32)


def blocks(array: NDArray[Any], edges: Sequence[int]) -> NDArray[Any]:
    """Non-overlapping blocks, shape (blocks, voxels of a block); an incomplete rim is left out."""
    counts = [n // e for n, e in zip(array.shape, edges, strict=True)]
    array = array[tuple(slice(0, c * e) for c, e in zip(counts, edges, strict=True))]
    split = array.reshape([size for pair in zip(counts, edges, strict=True) for size in pair])
    order = [*range(0, split.ndim, 2), *range(1, split.ndim, 2)]
    return split.transpose(order).reshape(int(np.prod(counts)), int(np.prod(edges)))


def measure(
    shape: tuple[int, ...], parts: Callable[[], Iterable[Part]], axis: int | None
) -> tuple[Texture, float] | None:
    """Texture and standard deviation of a scan's noise, from the DCT of its blocks.

    Blocks with little in their lowest frequencies hold little anatomy; the robust size of their other coefficients is
    compared with what every spectrum of a table of them gives, in the mean absolute difference of the logarithms.

    Args:
        shape: of the scan, (I, J, K).
        parts: the scan in any units and where to look, cut along the first axis at multiples of the blocks' edge; its
            noise is Gaussian.
        axis: along which slices follow one another; ``None`` when all axes are alike.

    Returns:
        ``None`` when there are too few blocks to tell.
    """
    block = block_shape(shape)
    count = sum(int(blocks(inside, block).all(axis=1).sum()) for _, inside in parts())
    if count < _FEWEST / _QUIET:
        return None
    within = (blocks(values, block)[blocks(inside, block).all(axis=1)] for values, inside in parts())
    found = np.concatenate(slabs.every(within, max(1, count // _ENOUGH)))
    found = found.astype(np.float64) @ block_basis(block).numpy()
    total = np.indices(block).sum(axis=0).reshape(-1)
    slow = total == 1
    chosen = np.argsort((found[:, slow] ** 2).sum(axis=1), kind="stable")[: max(_FEWEST, int(_QUIET * len(found)))]
    fast = total > 1
    seen = 2 * np.log(np.median(np.abs(found[np.ix_(chosen, fast)]), axis=0).clip(1e-12) / MAD_OF_NORMAL)
    best: tuple[float, Texture, float] | None = None
    across = _ACROSS if axis is not None and block[axis] > 1 else (WHITE,)
    for exponent, cutoff, slices in itertools.product(_EXPONENTS, _CUTOFFS, across):
        texture = Texture(exponent, cutoff, slices, axis)
        off = seen - np.log(block_variances(texture, block).numpy()[fast].clip(1e-9))
        level = float(np.median(off))
        cost = float(np.abs(off - level).mean())
        if best is None or cost < best[0]:
            best = cost, texture, level
    assert best is not None
    return best[1], math.exp(best[2] / 2)
