"""Batches made on the device: crop, augment, degrade, pose. There is no data loader to wait for."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics import degradations, tasks
from medidiff.physics.extend import extend
from medidiff.physics.intensity import CT_BRIGHT
from medidiff.physics.operators import Acquisition, Axis, Profile
from medidiff.physics.rician import Law
from medidiff.physics.tasks import Problem
from medidiff.physics.texture import WHITE, Texture
from medidiff.training import phantoms
from medidiff.training.pack import Entry, Pack
from medidiff.training.recipe import Data
from medidiff.training.validation import noise_of

_OBJECT = 0.05  # normalised intensity of what counts as object
_THIN_SLICES = (1, 1, 2, 3, 5)
_KNOTS = 6
_POOL, _FEWEST = 256, 16  # late batches that may come again, and how many there must be
_SHARP = 1.5  # spacing over the finest: what counts as well resolved


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
        spatial_dims: 3 for patches of volumes, 2 for patches of their slices in all three planes.
    """

    def __init__(
        self,
        pack: Pack,
        data: Data,
        device: torch.device,
        seed: int,
        modalities: tuple[str, ...],
        spatial_dims: int = 3,
    ) -> None:
        chosen = [i for i in pack.of("train") if pack.entries[i].modality in modalities]
        if not chosen:
            raise ValueError(f"the pack holds no training volume of {', '.join(modalities)}")
        self._entries = [pack.entries[i] for i in chosen]
        self._volumes = [torch.from_numpy(pack.arrays[i].copy()).to(device) for i in chosen]
        self._steps = [pack.step(i) for i in chosen]
        self._add(phantoms.make(data.phantoms, phantoms.EDGE, seed), device)
        self._of_ct = noise_of(modalities) == "CT"
        # a subject with many contrasts or a large volume is drawn more often, but less than in proportion
        self._weights = torch.tensor([float(v.numel()) ** 0.5 for v in self._volumes])
        self._data, self._device, self._dims = data, device, spatial_dims
        self._pool: deque[Example] = deque(maxlen=_POOL)
        self._pooled = (0, 0)
        self.cpu = torch.Generator().manual_seed(seed)
        self.generator = torch.Generator(device).manual_seed(seed)

    def _add(self, bodies: list[tuple[NDArray[np.float32], float]], device: torch.device) -> None:
        """Make synthetic bodies part of the data."""
        top = np.iinfo(np.int16).max
        for number, (body, size) in enumerate(bodies):
            step = float(body.max()) / top
            name = f"phantom {number}"
            self._entries.append(Entry(name, name, "train", "CT", (size,) * 3, step * top, 0.0, {}))
            self._volumes.append(torch.from_numpy(np.rint(body / step).astype(np.int16)).to(device))
            self._steps.append(step)

    def draw(self, edge: int, count: int) -> Example:
        """A batch of ``count`` patches of about ``edge`` voxels an axis, of one task drawn by the recipe's shares.

        With an ``echo`` in the recipe, batches come again out of a pool of late ones (data echoing, Choi et al., 2019);
        never those of inpainting, which take no time to make, and what was in a hole would be learned by heart.
        """
        data = self._data
        if self._chance(data.inpaint):
            return self._inpaint(edge, count)
        if (edge, count) != self._pooled:
            self._pool.clear()
            self._pooled = (edge, count)
        if len(self._pool) >= _FEWEST and not self._chance(1 / data.echo):
            return self._pool[self._integer(len(self._pool))]
        chance = float(torch.rand((), generator=self.cpu)) * (1 - data.inpaint)
        if chance < data.superres + data.combined:
            example = self._superresolve(edge, count, combined=chance >= data.superres)
        else:
            example = self._denoise(edge, count)
        if data.echo > 1:
            self._pool.append(example)
        return example

    def _patches(
        self, shape: tuple[int, ...], count: int, sharp: tuple[int, ...] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented crops (B, *shape), their spacing (B, dims), and the noise that they already have (B,)."""
        crops = [self._crop(shape, sharp) for _ in range(count)]
        clean = self._augment(torch.stack([crop for crop, _, _ in crops]))
        spacing = torch.tensor([spacing for _, spacing, _ in crops], device=self._device)
        return clean, spacing, torch.tensor([sigma for _, _, sigma in crops], device=self._device)

    def _denoise(self, edge: int, count: int) -> Example:
        """Noisy patches; now and then thin stacks of the same number of voxels."""
        shape: tuple[int, ...] = (edge,) * self._dims
        if self._dims == 3 and self._chance(self._data.thin):
            shape = (2 * edge, 2 * edge, _THIN_SLICES[self._integer(len(_THIN_SLICES))])
        return self._degrade(*self._patches(shape, count))

    def _inpaint(self, edge: int, count: int) -> Example:
        clean, spacing, _ = self._patches((edge,) * self._dims, count)
        hole = degradations.hole(clean.shape, self.generator, self._device, self._data.hole_radius)
        problem = tasks.inpaint(clean, hole, spacing)
        return Example(problem, problem.residual(torch.where(hole, clean, problem.base)))

    def _superresolve(self, edge: int, count: int, *, combined: bool) -> Example:
        """Patches seen through thick slices or a narrow band of k-space; combined: with noise, some with a hole."""
        shape, acquisition = self._acquisition(edge)
        refined = tuple(index for index, axis in enumerate(acquisition.axes) if not axis.trivial)
        clean, spacing, _ = self._patches(shape, count, sharp=refined)
        measured = acquisition.forward(clean)
        if not combined:
            problem = tasks.superresolve(measured, acquisition, spacing)
            return Example(problem, problem.residual(clean))
        level = self._level(count, 0.4)
        sigma = level.reshape(-1, *(1,) * self._dims)
        rician = not self._of_ct and self._chance(self._data.rician)
        add = degradations.add_rician if rician else degradations.add_gaussian
        measured = add(measured, sigma, self.generator)
        hole = None
        if self._chance(0.4):
            low_radius = self._data.hole_radius[0] / 2
            hole = degradations.hole(
                measured.shape, self.generator, self._device, (low_radius, min(measured.shape[1:]) / 4 + low_radius)
            )
        problem = tasks.superresolve(
            measured, acquisition, spacing, sigma=sigma, law="rician" if rician else "gaussian", hole=hole
        )
        return Example(problem, problem.residual(clean))

    def _acquisition(self, edge: int) -> tuple[tuple[int, ...], Acquisition]:
        """A random acquisition and the patch shape that suits it: long along a single thick axis."""
        data = self._data
        if self._chance(data.through_plane):
            thick = self._integer(self._dims)
            short = max(8, round(edge / 2 ** (1 / (self._dims - 1)) / 8) * 8)
            shape = tuple(2 * edge if axis == thick else short for axis in range(self._dims))
            refined, limits = [thick], data.factor
        else:
            shape = (edge,) * self._dims
            out = self._integer(2 * self._dims)  # half of the time all axes, else all but one
            refined, limits = [axis for axis in range(self._dims) if axis != out], data.in_plane_factor
        factor = float(torch.exp(self._uniform(1, math.log(limits[0]), math.log(limits[1]))))
        kind = float(torch.rand((), generator=self.cpu))
        gaussian, box = (0.6, 0.9) if len(refined) == 1 else (0.1, 0.3)
        profile: Profile = "gaussian" if kind < gaussian else "box" if kind < box else "kspace"
        width = 1.0 if profile == "kspace" else 0.7 + 0.05 * self._integer(9)
        axes = [
            Axis(max(3, round(size / factor)) if axis in refined else size, size, profile, width)
            for axis, size in enumerate(shape)
        ]
        return shape, Acquisition(tuple(axes))

    def _chance(self, probability: float) -> bool:
        return float(torch.rand((), generator=self.cpu)) < probability

    def _integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.cpu))

    def _noisy(self, clean: Tensor, sigma: Tensor) -> tuple[Tensor, Law, Texture | None]:
        """Noise of a random kind: the image, what law its reader takes it for, and what spectrum."""
        if self._of_ct:
            true, read = self._spectrum()
            white = torch.randn(clean.shape, generator=self.generator, device=self._device)
            noise = degradations.textured(white, true)
            return degradations.add_gaussian(clean, sigma, self.generator, noise), "gaussian", read
        kind = float(torch.rand((), generator=self.cpu))
        if kind < self._data.rician:
            textures = None
            if self._chance(self._data.correlated):
                fwhm = self._uniform(self._dims * len(clean), 0.0, 1.5).reshape(len(clean), self._dims)
                parts = [torch.randn(clean.shape, generator=self.generator, device=self._device) for _ in range(2)]
                textures = (degradations.colour(parts[0], fwhm), degradations.colour(parts[1], fwhm))
            return degradations.add_rician(clean, sigma, self.generator, textures), "rician", None
        if kind < self._data.rician + self._data.gaussian:
            return degradations.add_gaussian(clean, sigma, self.generator), "gaussian", None
        coils = 2 + self._integer(3)
        return degradations.add_noncentral_chi(clean, sigma, coils, self.generator), "rician", None

    def _level(self, count: int, most: float) -> Tensor:
        """Noise strengths, the logarithm uniform up to a part ``most`` of the recipe's largest."""
        low, high = self._data.sigma
        level = torch.exp(self._uniform(count, math.log(low), math.log(max(low, most * high))))
        return level * CT_BRIGHT if self._of_ct else level

    def _spectrum(self) -> tuple[Texture, Texture]:
        """A spectrum of CT noise, and what a reader of the scan would measure of it."""
        draws = torch.rand(5, generator=self.cpu).tolist()
        exponent, cutoff = 1.1 * draws[0], 0.35 * 4 ** draws[1]
        across = WHITE if draws[2] < 0.5 else 0.4 * 3 ** draws[3]
        axis = int(draws[4] * self._dims) if self._dims == 3 else None
        wrong = torch.randn(2, generator=self.cpu).tolist()
        read = Texture(max(0.0, exponent + 0.1 * wrong[0]), cutoff * math.exp(0.08 * wrong[1]), across, axis)
        return Texture(exponent, cutoff, across, axis), read

    def _uniform(self, count: int, low: float, high: float) -> Tensor:
        return (torch.rand(count, generator=self.cpu) * (high - low) + low).to(self._device)

    def _crop(self, shape: tuple[int, ...], sharp: tuple[int, ...]) -> tuple[Tensor, list[float], float]:
        """A random crop in a random orientation, mostly of the object; its spacing; the noise it already has.

        Along the axes ``sharp`` the volume's own resolution is needed: those never lie along its thick slices.
        """
        dims, full = self._dims, (*shape, *(1,) * (3 - len(shape)))
        index, order = self._oriented(sharp)
        entry, view, step = self._entries[index], self._volumes[index].permute(order), self._steps[index]
        level = _OBJECT / step
        for _ in range(6):
            corner = [self._integer(max(n - m, 0) + 1) for n, m in zip(view.shape, full, strict=True)]
            crop = view[tuple(slice(c, c + m) for c, m in zip(corner, full, strict=True))]
            if float((crop > level).float().mean()) > 0.2 or self._chance(0.05):
                break
        patch = crop.float() * step
        for axis, size in enumerate(full):  # a volume thinner than the patch is mirrored
            if patch.shape[axis] < size:
                patch = extend(patch, [0] * 3, [size - n if a == axis else 0 for a, n in enumerate(patch.shape)])
        flips = [axis for axis in range(3) if self._chance(0.5)]
        return patch.flip(flips).reshape(shape), [entry.spacing[i] for i in order[:dims]], entry.sigma

    def _oriented(self, sharp: tuple[int, ...]) -> tuple[int, list[int]]:
        """A volume, and an order of its axes that puts well-resolved ones where ``sharp`` asks for them."""
        for _ in range(100):
            index = int(torch.multinomial(self._weights, 1, generator=self.cpu))
            spacing = self._entries[index].spacing
            order = torch.randperm(3, generator=self.cpu).tolist()
            if all(spacing[order[axis]] <= _SHARP * min(spacing) for axis in sharp):
                break
        return index, order

    def _augment(self, clean: Tensor) -> Tensor:
        """Other contrasts, coil sensitivities and scalings of the same anatomy; zero stays zero."""
        count = clean.shape[0]
        gamma = torch.exp(0.15 * torch.randn(count, generator=self.cpu)).to(self._device)
        clean = clean.clamp(min=0) ** gamma.reshape(-1, *(1,) * self._dims)
        if self._chance(0.5):
            clean = clean * torch.exp(
                0.3 * degradations.smooth_field(clean.shape, self.generator, self._device, cells=2)
            )
        for i in range(count):
            if self._chance(0.3):
                clean[i] = _remap(clean[i], torch.rand(_KNOTS, generator=self.cpu).to(self._device))
        return clean * self._uniform(count, 0.7, 1.2).reshape(-1, *(1,) * self._dims)

    def _degrade(self, clean: Tensor, spacing: Tensor, inherent: Tensor) -> Example:
        """Noise of a random kind and strength, and what the scan's reader would assume of it."""
        count = clean.shape[0]
        each = (-1, *(1,) * self._dims)
        level = self._level(count, 1.0)
        amplitude = self._uniform(count, 0.0, 0.7) * float(self._chance(self._data.varying))
        sigma = degradations.vary(level, clean, amplitude, self.generator)
        measured, law, texture = self._noisy(clean, sigma)
        # at run time sigma is known, or estimated with an error and with the noise that the reference scan already had
        assumed = sigma
        if self._chance(self._data.inherent):
            assumed = (sigma.square() + inherent.reshape(each).square()).sqrt()
        jitter = torch.exp(self._data.sigma_jitter * torch.randn(count, generator=self.cpu)).to(self._device)
        problem = tasks.denoise(measured, assumed * jitter.reshape(each), law, spacing, texture)
        return Example(problem, problem.residual(clean))


def _remap(image: Tensor, levels: Tensor) -> Tensor:
    """A random piecewise-linear intensity curve through zero: contrasts that the training scans do not have."""
    levels = torch.cat([levels.new_zeros(1), levels])
    position = (image / image.max().clamp(min=1e-6) * (levels.numel() - 1)).clamp(0, levels.numel() - 1.001)
    index = position.long()
    return torch.lerp(levels[index], levels[index + 1], position - index)
