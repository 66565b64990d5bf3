"""Batches made on the device: crop, augment, degrade, pose. There is no data loader to wait for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.physics import degradations
from medidiff.physics.extend import extend
from medidiff.physics.rician import Law
from medidiff.physics.tasks import Denoise, Problem
from medidiff.training.pack import LEVELS, Pack
from medidiff.training.recipe import Data

_OBJECT = 0.05  # normalised intensity of what counts as object
_THIN_SLICES = (1, 1, 2, 3, 5)
_KNOTS = 6


@dataclass(frozen=True)
class Example:
    """A posed batch and the residual to predict: ``target = (x - b) / s``."""

    problem: Problem
    target: Tensor


class Simulator:
    """Draws batches from the training volumes of a pack.

    Args:
        pack: the data; only its ``train`` entries are used.
        data: the recipe's data section.
        device: where volumes live and batches are made.
        seed: start of the random sequence.
        modalities: DICOM codes to draw from.
    """

    def __init__(self, pack: Pack, data: Data, device: torch.device, seed: int, modalities: tuple[str, ...]) -> None:
        chosen = [i for i in pack.of("train") if pack.entries[i].modality in modalities]
        if not chosen:
            raise ValueError(f"the pack holds no training volume of {', '.join(modalities)}")
        self._entries = [pack.entries[i] for i in chosen]
        self._volumes = [torch.from_numpy(pack.arrays[i].copy()).to(device) for i in chosen]
        # a subject with many contrasts or a large volume is drawn more often, but less than in proportion
        self._weights = torch.tensor([float(v.numel()) ** 0.5 for v in self._volumes])
        self._data, self._device = data, device
        self.cpu = torch.Generator().manual_seed(seed)
        self.generator = torch.Generator(device).manual_seed(seed)

    def draw(self, edge: int, count: int) -> Example:
        """A batch of ``count`` patches of ``edge`` voxels; now and then thin stacks of the same number of voxels."""
        if self._chance(self._data.thin):
            slices = _THIN_SLICES[self._integer(len(_THIN_SLICES))]
            wide = 2 * edge
            shape = (wide, wide, slices)
        else:
            shape = (edge, edge, edge)
        crops = [self._crop(shape) for _ in range(count)]
        clean = self._augment(torch.stack([crop for crop, _, _ in crops]))
        spacing = torch.tensor([spacing for _, spacing, _ in crops], device=self._device)
        inherent = torch.tensor([sigma for _, _, sigma in crops], device=self._device)
        return self._degrade(clean, spacing, inherent)

    def _chance(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.cpu)) < probability

    def _integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.cpu))

    def _uniform(self, count: int, low: float, high: float) -> Tensor:
        return (torch.rand(count, generator=self.cpu) * (high - low) + low).to(self._device)

    def _crop(self, shape: tuple[int, int, int]) -> tuple[Tensor, list[float], float]:
        """A random crop in a random orientation, mostly of the object; its spacing; the noise it already has."""
        index = int(torch.multinomial(self._weights, 1, generator=self.cpu))
        entry, volume = self._entries[index], self._volumes[index]
        order = torch.randperm(3, generator=self.cpu).tolist()
        view = volume.permute(order)
        level = _OBJECT * LEVELS / entry.ceiling
        for _ in range(6):
            corner = [self._integer(max(n - m, 0) + 1) for n, m in zip(view.shape, shape, strict=True)]
            crop = view[tuple(slice(c, c + m) for c, m in zip(corner, shape, strict=True))]
            if float((crop > level).float().mean()) > 0.2 or self._chance(0.05):
                break
        patch = crop.float() * (entry.ceiling / LEVELS)
        for axis, size in enumerate(shape):  # a volume thinner than the patch is mirrored
            if patch.shape[axis] < size:
                patch = extend(patch, [0] * 3, [size - n if a == axis else 0 for a, n in enumerate(patch.shape)])
        flips = [axis for axis in range(3) if self._chance(0.5)]
        return patch.flip(flips), [entry.spacing[i] for i in order], entry.sigma

    def _augment(self, clean: Tensor) -> Tensor:
        """Other contrasts, coil sensitivities and scalings of the same anatomy; zero stays zero."""
        count = clean.shape[0]
        gamma = torch.exp(0.15 * torch.randn(count, generator=self.cpu)).to(self._device)
        clean = clean.clamp(min=0) ** gamma.reshape(-1, 1, 1, 1)
        if self._chance(0.5):
            clean = clean * torch.exp(
                0.3 * degradations.smooth_field(clean.shape, self.generator, self._device, cells=2)
            )
        for i in range(count):
            if self._chance(0.3):
                clean[i] = _remap(clean[i], torch.rand(_KNOTS, generator=self.cpu).to(self._device))
        return clean * self._uniform(count, 0.7, 1.2).reshape(-1, 1, 1, 1)

    def _degrade(self, clean: Tensor, spacing: Tensor, inherent: Tensor) -> Example:
        count = clean.shape[0]
        low, high = self._data.sigma
        level = torch.exp(self._uniform(count, math.log(low), math.log(high)))
        amplitude = self._uniform(count, 0.0, 0.7) * float(self._chance(self._data.varying))
        sigma = degradations.vary(level, clean, amplitude, self.generator)
        kind = float(torch.rand((), generator=self.cpu))
        law: Law = "rician"
        if kind < self._data.rician:
            textures = None
            if self._chance(self._data.correlated):
                fwhm = self._uniform(3 * count, 0.0, 1.5).reshape(count, 3)
                white = [torch.randn(clean.shape, generator=self.generator, device=self._device) for _ in range(2)]
                textures = (degradations.colour(white[0], fwhm), degradations.colour(white[1], fwhm))
            measured = degradations.add_rician(clean, sigma, self.generator, textures)
        elif kind < self._data.rician + self._data.gaussian:
            law = "gaussian"
            measured = degradations.add_gaussian(clean, sigma, self.generator)
        else:
            measured = degradations.add_noncentral_chi(clean, sigma, 2 + self._integer(3), self.generator)
        # at run time sigma is known, or estimated with an error and with the noise that the reference scan already had
        assumed = sigma
        if self._chance(self._data.inherent):
            assumed = (sigma.square() + inherent.reshape(-1, 1, 1, 1).square()).sqrt()
        jitter = torch.exp(self._data.sigma_jitter * torch.randn(count, generator=self.cpu)).to(self._device)
        problem = Denoise.pose(measured, assumed * jitter.reshape(-1, 1, 1, 1), law, spacing)
        return Example(problem, problem.residual(clean))


def _remap(image: Tensor, levels: Tensor) -> Tensor:
    """A random piecewise-linear intensity curve through zero: contrasts that the training scans do not have."""
    levels = torch.cat([levels.new_zeros(1), levels])
    position = (image / image.max().clamp(min=1e-6) * (levels.numel() - 1)).clamp(0, levels.numel() - 1.001)
    index = position.long()
    return torch.lerp(levels[index], levels[index + 1], position - index)
