"""The short benchmark of ``medidiff doctor --bench``: under a minute on two cores, on a phantom made here."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from medidiff import pipelines
from medidiff.config import ComputeOptions
from medidiff.footprint import peak_gb
from medidiff.runs import pace
from medidiff.runs.estimate import PROBE, duration, evaluated
from medidiff.runs.pace import STAGES

BRAIN = (176, 240, 256)  # voxels of a head at 1 mm
EVALUATIONS = {"in one pass": 1, "with 8 samples of 8 steps": 1 + 8 * 7}
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Figure:
    """One line: a name, a number with its unit, and the same as text."""

    name: str
    number: float
    unit: str
    text: str


def short(name: str | None = None, compute: ComputeOptions | None = None) -> Iterator[Figure]:
    """Measure this machine; figures come as they are found.

    Args:
        name: a pipeline that denoises; one for MR volumes by default.
        compute: device, precision, threads.

    Raises:
        PipelineError: there is no such pipeline, or none that denoises.
        UsageError: the device does not exist.
    """
    info = chosen(name)
    yield _seconds("start of medidiff --help", start_up("--help"))
    pipeline = pipelines.load(info.path, compute=compute or ComputeOptions())
    assert isinstance(pipeline, pipelines.Pipeline)
    device = pipeline.engine.device
    dense = pace.convolution_rate(device.device, FORMATS[device.precision])
    yield Figure(
        "dense convolution", dense / 1e9, "GFLOP/s", f"{dense / 1e9:.0f} GFLOP/s on {device}, {device.precision}"
    )
    volume = pace.phantom(PROBE[info.spatial_dims], info.modalities[0] if info.modalities else "MR")
    found = pace.measure(pipeline, volume)
    share = found.rate / dense
    rate = f"{found.rate / 1e9:.0f} GFLOP/s, {100 * share:.0f} % of it; {found.operations / 1e3:.0f} kFLOP a voxel"
    yield Figure(f"network of {info.name}", found.rate / 1e9, "GFLOP/s", rate)
    for stage in (*STAGES, "rest"):
        each = found.stages[stage]
        yield Figure(f"stage {stage}", 1e6 * each, "µs/voxel", f"{1e6 * each:.3f} µs a voxel")
    voxels = float(BRAIN[0] * BRAIN[1] * BRAIN[2])
    for what, count in EVALUATIONS.items():
        yield _seconds(f"a head at 1 mm {what}, expected", found.seconds(voxels, count * evaluated(pipeline, BRAIN)))
    peak = peak_gb()
    if peak is not None:
        yield Figure("peak memory of this benchmark", peak, "GB", f"{peak:.2f} GB")


def chosen(name: str | None) -> pipelines.PipelineInfo:
    """The pipeline of a name, or one for volumes, if possible of MR."""
    able = pipelines.candidates(name or pipelines.DEFAULT)
    return max(able, key=lambda info: (info.spatial_dims == 3, "MR" in info.modalities))


def start_up(*arguments: str) -> float:
    """Seconds until the command has answered."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "medidiff", *arguments], capture_output=True, check=True)
    return time.perf_counter() - begin


def _seconds(name: str, seconds: float) -> Figure:
    return Figure(name, seconds, "s", duration(seconds))
