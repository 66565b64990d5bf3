"""What is done to one block in each pass, and the order of the passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.blocks.cutting import Block, Box, cut, slices
from medidiff.blocks.run import Run
from medidiff.blocks.store import Source, Store
from medidiff.config import RestoreOptions
from medidiff.diffusion import sampler, uncertainty, windows
from medidiff.diffusion.schedule import TERMINAL
from medidiff.engine import Engine, Progress
from medidiff.physics import noise, posing
from medidiff.physics.slabs import Image
from medidiff.physics.tasks import SMALLEST_SIGMA, Problem
from medidiff.restore import Part, untouchable
from medidiff.survey import Survey

SPREAD_REACH = 4  # voxels that the deviation of samples is smoothed over


@dataclass(frozen=True)
class Work:
    """Everything that a block needs to know; it travels to workers.

    Attributes:
        source: the scan.
        store: what passes between blocks.
        found: the survey.
        engine: the network.
        options: the user's.
        voxels: what the header says.
        levels: median noise, of the whole scan or of each plane, which the network is told; ``None`` where it is the
            same everywhere.
    """

    source: Source
    store: Store
    found: Survey
    engine: Engine
    options: RestoreOptions
    voxels: posing.Voxels
    levels: NDArray[np.float64] | None = None

    @property
    def planes(self) -> int | None:
        """The axis along which planes are images of their own; ``None`` for a volume."""
        dims = self.engine.network.spatial_dims
        return None if dims == 3 else posing.stack_axis(self.store.shape, self.voxels)

    @property
    def interval(self) -> uncertainty.Interval | None:
        """What the calibration says at the noise of the scan."""
        return self.engine.calibration.interval("denoise", self.found.percent)

    def unit(self, box: Box) -> Image:
        """The normalised scan in a box."""
        return self.found.scaling.apply(self.source.filled(box))

    def posed(self, box: Box, classical: bool = True) -> posing.Posed:
        """The problem in a box, with the classical base of an earlier pass if there is one."""
        known = (self.store.read("base", box), self.store.read("scale", box)) if classical else None
        level, dims = self.found.level.within(box), self.engine.network.spatial_dims
        posed = posing.pose("denoise", self.unit(box), self.voxels, level, None, self.options, dims, known)
        if self.levels is None:
            return posed
        parameters = posed.problem.parameters.clone()
        planes = self.planes
        told = self.levels if planes is None else self.levels[box[planes]]
        parameters[:, 0] = torch.from_numpy(np.log10(np.maximum(told, SMALLEST_SIGMA)) + 2)
        return replace(posed, problem=replace(posed.problem, parameters=parameters))

    def still(self, core: Box) -> NDArray[np.bool_]:
        """Voxels of a box where nothing fluctuates; slices see each other here, whatever the network."""
        around = [(max(part.start - noise.STILL_REACH, 0), part) for part in core]
        wide = tuple(
            slice(start, min(part.stop + noise.STILL_REACH, n))
            for (start, part), n in zip(around, self.store.shape, strict=True)
        )
        inside = tuple(slice(part.start - start, part.stop - start) for start, part in around)
        return noise.still(self.unit(wide))[inside]

    def part(self, block: Block, posed: posing.Posed) -> Part:
        """The core of a block, posed in its window, as it becomes an image."""
        inside = _image_box(block.inside, posed.planes)
        core = replace(posed, problem=_cropped(posed.problem, inside), unit=posed.unit[block.inside], box=block.core)
        keep = untouchable(self.still(block.core), self.source.measured(block.core))
        return Part("denoise", core, self.source.read(block.core), keep, self.found, self.options)

    def ask(self, block: Block, state: str | None, theta: float) -> tuple[posing.Posed, Tensor, Tensor]:
        """A block posed in its window, and the network's answer in its core."""
        posed = self.posed(block.window)
        z = None if state is None else posed.images(torch.from_numpy(self.store.read(state, block.window)))
        gain = self.engine.calibration.gain(self.interval)
        denoise = self.engine.denoiser(posed.problem, None, flips=self.options.flips, gain=gain)
        residual, log_variance = denoise(z, theta)
        inside = _image_box(block.inside, posed.planes)
        return posed, residual[inside], log_variance[inside]


def _image_box(box: Box, planes: int | None) -> Box:
    """A box of an array as one of the images that it is to the network."""
    if planes is None:
        return (slice(None), *box)
    return (box[planes], *(part for axis, part in enumerate(box) if axis != planes))


def _cropped(problem: Problem, inside: Box) -> Problem:
    names = ("measured", "base", "scale", "sigma")
    known = problem.known[(slice(None), *inside[1:])]
    return replace(problem, known=known, **{name: getattr(problem, name)[inside].contiguous() for name in names})


def classical(work: Work, block: Block) -> None:
    """The base, and the expected size of its error."""
    posed = work.posed(block.window, classical=False)
    for name in ("base", "scale"):
        work.store.write(name, block.core, posed.array(getattr(posed.problem, name))[block.inside])


def mean(work: Work, block: Block) -> None:
    """The posterior mean, its deviation, and the share that the prior supplied."""
    posed, residual, log_variance = work.ask(block, None, TERMINAL)
    part = work.part(block, posed)
    work.store.write("mean", block.core, part.image(residual))
    work.store.write("deviation", block.core, part.deviation(log_variance))
    work.store.write("supplied", block.core, part.supplied())
    if work.options.samples:
        work.store.write("first", block.core, posed.array(residual))


def start(work: Work, block: Block, sample: int, state: str) -> None:
    """The state that a sample starts with: the posterior mean, diffused."""
    drawn = sampler.position_noise(work.store.shape, work.options.seed, sample, block.core)
    residual = torch.from_numpy(work.store.read("first", block.core))
    work.store.write(state, block.core, _path(work)[0].start(residual, drawn).numpy())


def step(work: Work, block: Block, sample: int, index: int) -> None:
    """One step of the solver; the last makes the sample."""
    here = _path(work)[index]
    posed, current, _ = work.ask(block, _state(index), here.theta)
    if here.following == 0:
        work.store.write(f"sample{sample}", block.core, work.part(block, posed).image(current))
        return
    answer = torch.from_numpy(posed.array(current))
    z, previous = (torch.from_numpy(work.store.read(name, block.core)) for name in (_state(index), _answer(index - 1)))
    work.store.write(_state(index + 1), block.core, here.advance(z, answer, previous).numpy())
    work.store.write(_answer(index), block.core, posed.array(current))


def spread(work: Work, block: Block) -> None:
    """The standard deviation at each voxel, of the prediction and of the samples."""
    samples = [work.store.read(f"sample{index}", block.window) for index in range(work.options.samples)]
    predicted = work.store.read("deviation", block.window)
    values = uncertainty.combine(predicted, samples, work.interval, work.found.scaling.scale)[block.inside]
    part = work.part(block, work.posed(block.window))
    work.store.write("std", block.core, part.where_restored(part.mixed(values)))


def _path(work: Work) -> list[sampler.Step]:
    return sampler.solver(work.options.steps, posing.KAPPA["denoise"])


def _state(index: int) -> str:
    """Where the state before a step lies; the step reads one of two and writes the other."""
    return f"z{index % 2}"


def _answer(index: int) -> str:
    """Where a step's answer lies; before the first that is the posterior mean."""
    return "first" if index < 0 else f"x{index % 2}"


def passes(work: Work, tile: int, edge: int, run: Run, progress: Progress | None) -> Iterator[None]:
    """All passes, one after another."""
    shape, planes, options = work.store.shape, work.planes, work.options
    network, path = work.engine.network, _path(work)
    dims = network.spatial_dims
    near = cut(shape, windows.classical(tile, dims), windows.REACH[dims], windows.ALIKE[dims], planes)
    wide = cut(shape, tile, work.engine.halo, network.stride, planes)
    whole = slices(shape, edge)
    work.store.make("base", "scale", "mean", "deviation", "supplied", "std")
    stages: list[tuple[Callable[..., None], list[Block], dict[str, Any]]] = [(classical, near, {}), (mean, wide, {})]
    if options.samples:
        work.store.make("first", "z0", "z1", "x0", "x1", *(f"sample{index}" for index in range(options.samples)))
    for index in range(options.samples):
        stages.append((start, whole, {"sample": index, "state": _state(0)}))
        stages += [(step, wide, {"sample": index, "index": number}) for number in range(len(path))]
    stages.append((spread, cut(shape, tile, SPREAD_REACH, 8), {}))
    total, done = sum(len(blocks) for _, blocks, _ in stages), 0
    for job, blocks, more in stages:
        for _ in run(job, work, blocks, **more):
            done += 1
            if progress:
                progress(done, total)
            yield
