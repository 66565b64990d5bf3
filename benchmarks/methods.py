"""The denoisers that are compared; each takes a noisy image and the true sigma in one intensity unit."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.cases import Case, Image
from medidiff.config import RestoreOptions
from medidiff.physics import intensity, tasks
from medidiff.physics.rician import Law, remove_rician_bias
from medidiff.pipelines import Pipeline
from medidiff.restore import Restoration
from medidiff.scans.volume import Volume


@dataclass(frozen=True)
class Nlm:
    """A setting of DIPY's non-local means."""

    method: str
    block_radius: int
    patch_radius: int

    def __str__(self) -> str:
        return f"{self.method}, block_radius {self.block_radius}, patch_radius {self.patch_radius}"

    def __call__(self, noisy: Image, sigma: float, law: Law, threads: int | None = None) -> Image:
        """Denoise with known sigma."""
        from dipy.denoise.nlmeans import nlmeans

        restored = nlmeans(
            noisy,
            sigma=sigma,
            patch_radius=self.patch_radius,
            block_radius=self.block_radius,
            rician=law == "rician",
            num_threads=threads,
            method=self.method,
        )
        return np.asarray(restored, dtype=np.float32)


# DIPY 1.12's default, and what `python -m benchmarks.quality --tune-nlm` finds best on T1w, T2w and EPI brains at 3
# to 15 % Rician noise: within 0.1 dB of the best setting in the mean, up to 4 dB above the default at 3 %.
NLM_DEFAULT = Nlm("blockwise", 2, 1)
NLM_BEST = Nlm("classic", 3, 1)
NLM_CANDIDATES = (
    NLM_DEFAULT,
    Nlm("blockwise", 2, 2),
    Nlm("blockwise", 5, 1),
    Nlm("classic", 5, 1),
    Nlm("classic", 5, 2),
    Nlm("classic", 3, 2),
    NLM_BEST,
    Nlm("classic", 2, 1),
)


def has(package: str) -> bool:
    """Whether an optional package is installed."""
    return importlib.util.find_spec(package) is not None


def bm4d(noisy: Image, sigma: float, law: Law) -> Image:
    """BM4D with known sigma; for Rician noise the mean that it estimates is inverted afterwards."""
    from bm4d import bm4d as run

    estimate = torch.from_numpy(np.asarray(run(noisy.astype(np.float64), sigma), dtype=np.float32))
    if law == "rician":
        estimate = remove_rician_bias(estimate / sigma) * sigma
    return estimate.numpy()


def classical_base(noisy: Image, sigma: float, law: Law) -> Image:
    """What medidiff starts from: sliding-DCT shrinkage without the network."""
    image = torch.from_numpy(np.ascontiguousarray(noisy))[None]
    base = tasks.denoise(image, torch.full((1, 1, 1, 1), sigma), law, torch.ones(1, 3)).base[0].numpy()
    return np.maximum(base, 0) if law == "rician" else base


def medidiff(pipeline: Pipeline, noisy: Image, case: Case, sigma: float | None) -> tuple[Image, Restoration]:
    """One pass of a pipeline; ``sigma`` is the true noise, or ``None`` to let medidiff estimate it."""
    measured = case.scaling.undo(noisy)
    noise = "auto" if sigma is None else percent_for(measured, case, sigma)
    volume = Volume(measured, np.diag([*case.spacing, 1.0]), case.modality)
    restoration = pipeline.restore(volume, RestoreOptions(noise=noise))
    return case.scaling.apply(restoration.mean), restoration


def percent_for(measured: Image, case: Case, sigma: float) -> float:
    """The percentage that tells medidiff a sigma: it counts from the bright level of the noisy image."""
    seen, _ = intensity.normalise(measured, case.modality)
    return min(100.0, 100 * sigma * case.scaling.scale / (seen.bright * seen.scale))
