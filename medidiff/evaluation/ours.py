"""medidiff itself as one of the methods that a benchmark compares, on the path that users take."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medidiff.config import RestoreOptions
from medidiff.diffusion.network import Backbone
from medidiff.engine import Engine
from medidiff.evaluation.baselines import classical_base
from medidiff.evaluation.degrade import Degraded
from medidiff.evaluation.results import Image
from medidiff.physics import intensity
from medidiff.physics.intensity import Intensity
from medidiff.pipelines import Pipeline, Restorer
from medidiff.restore import Restoration
from medidiff.scans.volume import Volume


class Silent(Backbone):
    """A network that adds nothing to the classical base."""

    def __init__(self, like: Backbone) -> None:
        super().__init__()
        self.spatial_dims, self.stride = like.spatial_dims, like.stride

    def forward(self, windows: Tensor, _: Tensor) -> Tensor:
        """Zeros for velocity and log-variance."""
        return torch.zeros((windows.shape[0], 2, *windows.shape[2:]), dtype=windows.dtype, device=windows.device)


def classical(pipeline: Pipeline) -> Pipeline:
    """The same pipeline with its network switched off: all that the classical base does, on the same path."""
    twin = copy.copy(pipeline)
    twin._engine = silent(pipeline._engine)
    return twin


def silent(engine: Engine) -> Engine:
    """The same engine with its network switched off."""
    return replace(engine, network=Silent(engine.network))


def volume_of(degraded: Degraded) -> Volume:
    """The degraded image as a scan in its own units, with what its header would say."""
    slices = degraded.slices
    return Volume(
        degraded.scaling.undo(degraded.measured),
        degraded.affine,
        degraded.modality,
        "HU" if degraded.modality == "CT" else "a.u.",
        slice_axis=slices,
        thickness=None if slices is None else degraded.spacing[slices],
    )


def options_for(degraded: Degraded, volume: Volume, *, told: bool) -> RestoreOptions:
    """The options that a user would give: the acquisition, and the noise if it is told.

    Args:
        degraded: the problem.
        volume: the same as a scan.
        told: whether medidiff is told the true noise, or estimates it.
    """
    noise: float | str = 0.0
    if degraded.sigma > 0:
        seen = percent_for(volume.array, degraded.modality, degraded.scaling, degraded.sigma)
        noise = seen if told else "auto"
    if degraded.acquisition is None:
        return RestoreOptions(noise=noise)
    axes = degraded.acquisition.axes
    refined = next(axis for axis in axes if not axis.trivial)
    return RestoreOptions(noise=noise, factor=tuple(axis.factor for axis in axes), profile=refined.profile)


def percent_for(measured: Image, modality: str, scaling: Intensity, sigma: float) -> float:
    """The percentage that tells medidiff a normalised sigma: it counts from the bright level of the noisy image."""
    seen, _ = intensity.normalise(measured, modality)
    return min(100.0, 100 * sigma * scaling.scale / (seen.bright * seen.scale))


def restore(
    name: str, degraded: Degraded, restorer: Restorer | None, *, force: bool = False
) -> tuple[Image, Restoration | None]:
    """One of ``baselines.OWN``.

    Args:
        name: which.
        degraded: the problem.
        restorer: the pipeline; not needed for the base of denoising.
        force: restore a scan outside of what the pipeline was trained for.

    Returns:
        The image in the scan's units on the truth's grid, and medidiff's own account of it, if it has one.
    """
    if name == "base" and degraded.task == "denoise":
        return degraded.scaling.undo(classical_base(degraded.measured, degraded.sigma, degraded.law)), None
    assert restorer is not None
    volume = volume_of(degraded)
    pipeline = restorer.choose(volume)
    if name == "base":
        pipeline = classical(pipeline)
    options = options_for(degraded, volume, told=name != "medidiff").model_copy(update={"force": force})
    found = pipeline.restore(volume, options, hole=degraded.hole)
    return np.asarray(found.mean, dtype=np.float32), None if name == "base" else found
