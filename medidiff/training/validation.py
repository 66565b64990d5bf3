"""How good the network is while it trains: PSNR on volumes of subjects that it never learns from.

Every task is judged against its own base, on identical input and in one pass: denoising and super-resolution over the
foreground, inpainting inside the hole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics import degradations, tasks
from medidiff.physics.fidelity import foreground, psnr
from medidiff.physics.operators import Acquisition, Axis
from medidiff.physics.tasks import Problem
from medidiff.training.pack import Pack

PERCENTAGES = (3, 9, 15)
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


def noisy_version(clean: NDArray[np.float32], percent: float, seed: int = 0) -> NDArray[np.float32]:
    """Rician noise of ``percent`` of the bright level, the same on every machine."""
    rng = np.random.default_rng([seed, round(percent * 100)])
    sigma = np.float32(percent / 100)
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
            yield from _denoise(clean, spacing, entry.nlm if spatial_dims == 3 else {}, device)
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
    clean: NDArray[np.float32], spacing: Tensor, nlm: dict[str, float], device: torch.device
) -> Iterator[Case]:
    inside = foreground(clean)
    for percent in PERCENTAGES:
        noisy = noisy_version(clean, percent)
        known = {"noisy": psnr(noisy, clean, inside)}
        known |= {"nlm": nlm[str(percent)]} if str(percent) in nlm else {}
        sigma = torch.full((1,) * (clean.ndim + 1), percent / 100, device=device)
        problem = tasks.denoise(_tensor(noisy, device), sigma, "rician", spacing)
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
    problem = tasks.inpaint(_tensor(clean, device), hole.to(device), spacing)
    yield Case("inpaint", problem, clean, hole[0].numpy(), {})
