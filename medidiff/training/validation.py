"""How good the network is while it trains: PSNR on volumes of subjects that it never learns from.

Every task is judged against its own base, on identical input and in one pass: denoising and super-resolution over the
foreground, inpainting inside the hole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics import degradations, tasks
from medidiff.physics.fidelity import foreground, psnr
from medidiff.physics.intensity import CT_BRIGHT
from medidiff.physics.operators import Acquisition, Axis
from medidiff.physics.rician import Law
from medidiff.physics.tasks import Problem
from medidiff.physics.texture import Texture
from medidiff.training.pack import Pack

CT_TEXTURE = Texture(0.9, 0.55, axis=2)  # of a smooth kernel, slices independent
HOLE_RADIUS = (5.0, 11.0)  # voxels
ISOTROPIC = 1.5  # spacing over the finest: what super-resolution is judged on
_EDGE = {3: (64, 64, 64), 2: (128, 128)}
_SLICES = 3


@dataclass(frozen=True)
class Case:
    """One posed problem with its truth.

    Attributes:
        name: the setting: ``denoise_9``, ``superres_4``, ``inpaint``.
        problem: a batch of one.
        clean: the truth, (*spatial).
        inside: what is judged, same shape.
        known: figures in dB that need no network: the noisy input, non-local means.
    """

    name: str
    problem: Problem
    clean: NDArray[np.float32]
    inside: NDArray[np.bool_]
    known: dict[str, float]


def percentages(modality: str) -> tuple[int, ...]:
    """The strengths of noise that networks are judged at, in percent of the bright level."""
    return (2, 4, 8) if modality == "CT" else (3, 9, 15)


def noise_of(modalities: Sequence[str]) -> str:
    """The modality whose noise a network of ``modalities`` is for: that of CT only where it knows nothing else."""
    return "CT" if set(modalities) == {"CT"} else "MR"


def sigma_of(percent: float, modality: str) -> float:
    """Normalised standard deviation of noise of ``percent`` of the bright level."""
    return percent / 100 * (CT_BRIGHT if modality == "CT" else 1.0)


def noisy_version(
    clean: NDArray[np.float32],
    percent: float,
    seed: int = 0,
    modality: str = "MR",
    field: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Rician noise, for CT Gaussian noise of ``CT_TEXTURE``, of ``percent`` of the bright level times a ``field``."""
    rng = np.random.default_rng([seed, round(percent * 100)])
    sigma = np.float32(sigma_of(percent, modality)) * (np.float32(1) if field is None else field)
    if modality == "CT":
        white = torch.from_numpy(rng.standard_normal((1, *clean.shape), dtype=np.float32))
        return np.asarray(clean + sigma * degradations.textured(white, CT_TEXTURE)[0].numpy(), dtype=np.float32)
    real = clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    return np.asarray(np.hypot(real, imaginary), dtype=np.float32)


def evaluate(
    pack: Pack,
    predict: Callable[[Problem], Tensor],
    device: torch.device,
    modalities: tuple[str, ...] = ("MR",),
    spatial_dims: int = 3,
) -> dict[str, dict[str, float]]:
    """Mean PSNR over the validation volumes in one pass.

    Args:
        pack: with entries of split ``validation``.
        predict: posed problem -> image, both (1, *spatial).
        device: where to pose the problem.
        modalities: DICOM codes to judge on.
        spatial_dims: 3, or 2 for slices.

    Returns:
        setting -> {"noisy", "nlm", "base", "network"} -> dB; empty without validation volumes.
    """
    rows: dict[str, list[dict[str, float]]] = {}
    for case in cases(pack, device, modalities, spatial_dims):
        restored = predict(case.problem)[0].float().cpu().numpy()
        base = case.problem.image(torch.zeros_like(case.problem.base))[0].float().cpu().numpy()
        figures = {"base": psnr(base, case.clean, case.inside), "network": psnr(restored, case.clean, case.inside)}
        rows.setdefault(case.name, []).append({**case.known, **figures})
    return {
        name: {method: round(float(np.mean([row[method] for row in found])), 3) for method in found[0]}
        for name, found in rows.items()
    }


def cases(pack: Pack, device: torch.device, modalities: tuple[str, ...], spatial_dims: int) -> Iterator[Case]:
    """Every validation volume (or some slices of it) in every setting."""
    for index in pack.of("validation"):
        entry = pack.entries[index]
        if entry.modality not in modalities:
            continue
        images = [pack.normalised(index)]
        if spatial_dims == 2:
            count = images[0].shape[2]
            images = [images[0][:, :, k] for k in np.linspace(0, count - 1, _SLICES + 2).astype(int)[1:-1]]
        spacing = torch.tensor([entry.spacing[:spatial_dims]], device=device)
        for number, clean in enumerate(images):
            yield from _denoise(clean, spacing, entry.nlm if spatial_dims == 3 else {}, device, noise_of(modalities))
            if max(entry.spacing[:spatial_dims]) < ISOTROPIC * min(entry.spacing[:spatial_dims]):
                yield from _superresolve(_middle(clean, spatial_dims), spacing, device)
            yield from _inpaint(_middle(clean, spatial_dims), spacing, index + 100 * number, device)


def _tensor(image: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image))[None].to(device)


def _middle(clean: NDArray[np.float32], spatial_dims: int) -> NDArray[np.float32]:
    window = [
        slice((n - min(n, edge)) // 2, (n + min(n, edge)) // 2)
        for n, edge in zip(clean.shape, _EDGE[spatial_dims], strict=True)
    ]
    return np.ascontiguousarray(clean[tuple(window)])


def _denoise(
    clean: NDArray[np.float32], spacing: Tensor, nlm: dict[str, float], device: torch.device, modality: str
) -> Iterator[Case]:
    inside = foreground(clean)
    law: Law = "gaussian" if modality == "CT" else "rician"
    texture = (CT_TEXTURE if clean.ndim == 3 else CT_TEXTURE.in_plane()) if modality == "CT" else None
    for percent in percentages(modality):
        noisy = noisy_version(clean, percent, modality=modality)
        known = {"noisy": psnr(noisy, clean, inside)}
        known |= {"nlm": nlm[str(percent)]} if str(percent) in nlm else {}
        sigma = torch.full((1,) * (clean.ndim + 1), sigma_of(percent, modality), device=device)
        problem = tasks.denoise(_tensor(noisy, device), sigma, law, spacing, texture)
        yield Case(f"denoise_{percent}", problem, clean, inside, known)


def _superresolve(clean: NDArray[np.float32], spacing: Tensor, device: torch.device) -> Iterator[Case]:
    """Slices of four and six voxels along the last axis, and a k-space of half the size."""
    shape = clean.shape
    thick = {f"superres_{factor}": {len(shape) - 1: factor} for factor in (4, 6)}
    for name, factors in (thick | {"superres_2x2x2": dict.fromkeys(range(len(shape)), 2)}).items():
        axes = tuple(
            Axis(max(min(2, size), size // factors.get(axis, 1)), size, "gaussian" if len(factors) == 1 else "kspace")
            for axis, size in enumerate(shape)
        )
        acquisition = Acquisition(axes)
        problem = tasks.superresolve(acquisition.forward(_tensor(clean, device)), acquisition, spacing)
        yield Case(name, problem, clean, foreground(clean), {})


def _inpaint(clean: NDArray[np.float32], spacing: Tensor, seed: int, device: torch.device) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(seed)
    hole = degradations.hole(torch.Size((1, *clean.shape)), generator, torch.device("cpu"), HOLE_RADIUS)
    # smoothly filled, as in training, which needs no scikit-image and shows the network no other side
    problem = tasks.inpaint(_tensor(clean, device), hole.to(device), spacing)
    yield Case("inpaint", problem, clean, hole[0].numpy(), {})
