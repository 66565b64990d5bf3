"""How fast this machine is: its dense convolution, the network next to it, and each stage of a restoration.

Everything is measured on a noisy ellipsoid made here, so that it needs no scan and says nothing of one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.utils.flop_counter import FlopCounterMode

from medidiff import scans
from medidiff.config import RestoreOptions
from medidiff.diffusion import consistency, sampler
from medidiff.engine import Engine
from medidiff.physics import intensity, posing, slabs
from medidiff.pipelines import Pipeline
from medidiff.restore import restore
from medidiff.scans import geometry, nifti
from medidiff.scans.volume import Volume
from medidiff.survey import survey, voxels_of

Clock = Callable[[], float]
STAGES = ("read", "estimate", "base", "network", "checks", "write")
NOISE = 0.06  # of the bright level
DENSE = ((64, 48), (128, 32), (32, 48))  # channels and edge of the convolutions that are tried
OPTIONS = RestoreOptions(force=True)  # no scan of a patient: nothing is to be refused
_TRIED = 3


def phantom(shape: tuple[int, int, int], modality: str = "MR") -> Volume:
    """An ellipsoid with smooth structure in noise, of 1 mm voxels."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(
        *(np.linspace(-1.1, 1.1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij", sparse=True
    )
    inside = sum(axis**2 for axis in axes) < 1
    rough = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), [3 if n > 8 else 0 for n in shape])
    clean = np.where(inside, 0.6 + 0.15 * rough / max(float(rough.std()), 1e-6), 0).clip(0, 1).astype(np.float32)
    parts = rng.standard_normal((2, *shape), dtype=np.float32) * np.float32(NOISE)
    array = 1100 * clean + 1000 * parts[0] - 1000 if modality == "CT" else 1000 * np.hypot(clean + parts[0], parts[1])
    return Volume(array.astype(np.float32), np.eye(4), modality, "HU" if modality == "CT" else "a.u.")


def best_of(function: Callable[[], object], clock: Clock, times: int = _TRIED) -> float:
    """The shortest of several runs in seconds, after one that does not count."""
    function()
    found = []
    for _ in range(times):
        begin = clock()
        function()
        found.append(clock() - begin)
    return min(found)


def synchronised(device: torch.device, clock: Clock) -> Clock:
    """A clock that waits for the device."""
    if device.type != "cuda":
        return clock

    def read() -> float:
        torch.cuda.synchronize(device)
        return clock()

    return read


def convolution_rate(
    device: torch.device, precision: torch.dtype = torch.float32, clock: Clock = time.perf_counter
) -> float:
    """Arithmetic operations a second of dense 3x3x3 convolutions: the best of a few widths and layouts."""
    clock, best = synchronised(device, clock), 0.0
    for channels, edge in DENSE:
        layer = torch.nn.Conv3d(channels, channels, 3, padding=1).to(device, precision).requires_grad_(False)
        image = torch.randn(1, channels, edge, edge, edge, device=device, dtype=precision)
        for layout in (torch.channels_last_3d, torch.contiguous_format):
            run = partial(layer.to(memory_format=layout), image.to(memory_format=layout))  # type: ignore[call-overload]
            with torch.inference_mode():
                best = max(best, 2 * 27 * channels**2 * edge**3 / best_of(run, clock))
    return best


def operations(engine: Engine) -> float:
    """Arithmetic operations (two a multiplication and addition) of the network, a voxel and evaluation."""
    network = engine.network
    shape = (4 * network.stride,) * network.spatial_dims
    device = next(network.parameters()).device
    inputs, parameters = (_width(network, part) for part in ("stem.weight", "embed.0.weight"))
    image = torch.zeros(1, inputs // 2**network.spatial_dims, *shape, device=device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image, torch.zeros(1, parameters, device=device))
    return float(counter.get_total_flops() / image[0, 0].numel())


def _width(network: torch.nn.Module, name: str) -> int:
    return int(network.get_parameter(name).shape[1])


@dataclass(frozen=True)
class Pace:
    """Seconds that a restoration takes on this machine.

    Attributes:
        stages: of each stage, a voxel; ``rest`` is what is left of a restoration (maps of what is uncertain).
        operations: of the network, a voxel and evaluation.
        rate: of the network, operations a second.
    """

    stages: dict[str, float]
    operations: float
    rate: float

    def seconds(self, voxels: float, evaluated: float, rounds: int = 1) -> float:
        """Seconds of a scan.

        Args:
            voxels: of the scan.
            evaluated: voxels that the network goes over, halos and all evaluations counted.
            rounds: how often the classical denoiser goes over the voxels.
        """
        others = sum(each for stage, each in self.stages.items() if stage != "network")
        others += (rounds - 1) * self.stages["base"]
        return voxels * others + evaluated * self.operations / self.rate


def measure(pipeline: Pipeline, volume: Volume, clock: Clock = time.perf_counter, *, whole: bool = True) -> Pace:
    """The pace of a pipeline for denoising a volume.

    Args:
        pipeline: loaded.
        volume: what to measure on.
        clock: seconds; ``time.process_time`` counts those of all threads and is not disturbed by other programs.
        whole: also restore the volume in one go, to know what is left beside the stages.
    """
    engine = pipeline.engine
    clock = synchronised(engine.device.device, clock)
    network = operations(engine)
    warm_up(pipeline, volume.modality)
    found = stage_seconds(engine, volume, clock)
    if whole:
        begin = clock()
        restore(volume, engine, OPTIONS)
        inner = sum(found[stage] for stage in ("estimate", "base", "network", "checks"))
        found["rest"] = max(0.0, clock() - begin - inner)
    voxels = float(np.prod(volume.array.shape))
    rate = network * _padded(engine, volume.array.shape) / found["network"]
    return Pace({stage: seconds / voxels for stage, seconds in found.items()}, network, rate)


def warm_up(pipeline: Pipeline, modality: str) -> None:
    """A first denoising of something small, for all that is loaded on first use; whatever the pipeline's task."""
    engine = pipeline.engine
    edge = 4 * engine.network.stride
    restore(phantom((edge, edge, edge if engine.network.spatial_dims == 3 else 1), modality), engine, OPTIONS)


def _padded(engine: Engine, shape: tuple[int, ...]) -> float:
    """Voxels of an image rounded up to what the network takes."""
    stride = engine.network.stride
    planar = engine.network.spatial_dims == 2
    return float(np.prod([n if planar and axis == 2 else -(-n // stride) * stride for axis, n in enumerate(shape)]))


def stage_seconds(engine: Engine, volume: Volume, clock: Clock) -> dict[str, float]:
    """Seconds of each stage of one restoration in one pass, ``STAGES`` in order."""
    found: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        begin = clock()
        yield
        found[name] = clock() - begin

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nifti.save_array(np.round(volume.array), volume.affine, path, "phantom")
        with stage("read"):
            scans.open_scan(path)
        with stage("estimate"):
            grid, on_grid = geometry.to_model_grid(volume)
            scaling, unit = intensity.normalise(on_grid, volume.modality, None)
            seen = survey(slabs.of(unit), scaling, volume, grid, engine, OPTIONS, "denoise")
        level, dims = seen.level, engine.network.spatial_dims
        with stage("base"):
            posed = posing.pose("denoise", unit, voxels_of(volume, grid), level, None, OPTIONS, dims)
        with stage("network"):
            residual, _ = sampler.posterior_mean(engine.denoiser(posed.problem, None))
        mean: NDArray[np.float32] = posed.image(residual, 1.0)
        with stage("checks"):
            consistency.check(unit, mean, level.local, level.law, level.texture)
        with stage("write"):
            nifti.save_array(np.round(scaling.undo(mean)), volume.affine, path, "phantom")
    return found
