"""How good the network is while it trains: foreground PSNR on volumes of subjects that it never learns from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics.tasks import Denoise, Problem
from medidiff.training.pack import Pack

PERCENTAGES = (3, 9, 15)
FOREGROUND = 10 / 255  # of the reference's maximum: the convention of the MRI denoising literature


def noisy_version(clean: NDArray[np.float32], percent: float, seed: int = 0) -> NDArray[np.float32]:
    """Rician noise of ``percent`` of the bright level, the same on every machine."""
    rng = np.random.default_rng([seed, round(percent * 100)])
    sigma = np.float32(percent / 100)
    real = clean + sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(clean.shape, dtype=np.float32)
    return np.asarray(np.hypot(real, imaginary), dtype=np.float32)


def foreground_psnr(restored: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """PSNR in dB over voxels above 10/255 of the reference's maximum, which is also the peak."""
    peak = float(reference.max())
    inside = reference > FOREGROUND * peak
    error = np.mean(np.square(restored[inside].astype(np.float64) - reference[inside]))
    return float(10 * np.log10(peak**2 / error))


def evaluate(pack: Pack, predict: Callable[[Problem], Tensor], device: torch.device) -> dict[str, dict[str, float]]:
    """Mean foreground PSNR over the validation volumes, known sigma, one pass.

    Args:
        pack: with entries of split ``validation``.
        predict: posed problem -> image, both (1, *spatial).
        device: where to pose the problem.

    Returns:
        noise percent -> {"noisy", "nlm", "base", "network"} -> dB; empty without validation volumes.
    """
    table: dict[str, dict[str, float]] = {}
    chosen = [i for i in pack.of("validation") if pack.entries[i].modality == "MR"]
    if not chosen:
        return table
    for percent in PERCENTAGES:
        rows = []
        for index in chosen:
            entry, clean = pack.entries[index], pack.normalised(index)
            noisy = noisy_version(clean, percent)
            sigma = torch.full((1, 1, 1, 1), percent / 100, device=device)
            problem = Denoise.pose(
                torch.from_numpy(noisy)[None].to(device), sigma, "rician", torch.tensor([entry.spacing], device=device)
            )
            restored = predict(problem)[0].float().cpu().numpy()
            rows.append(
                [
                    foreground_psnr(noisy, clean),
                    entry.nlm.get(str(percent), float("nan")),
                    foreground_psnr(problem.base[0].cpu().numpy(), clean),
                    foreground_psnr(restored, clean),
                ]
            )
        table[str(percent)] = dict(
            zip(("noisy", "nlm", "base", "network"), np.mean(rows, axis=0).round(3).tolist(), strict=True)
        )
    return table
