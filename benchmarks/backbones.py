"""Measures whether a transformer, or a latent space, restores better than the product's network at the same cost.

    python -m benchmarks.backbones PACK.npz                  patches of 32^3 voxels, six processor minutes each
    python -m benchmarks.backbones PACK.npz --dims 2 --minutes 2

Every network learns the same task from the same kind of patches for the same processor time on one thread, and is
judged on volumes of subjects that none learnt from: Rician noise of 9 %, and slices four times too thick. The time is
that of forward, backward and optimiser; posing the problems costs the same for all and is left out. Networks take
turns, so that a busy machine slows all alike. The pack is that of ``medidiff.training.build_pack``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import backbone_document, cases, report
from benchmarks.backbone_data import EDGE, SIGMA, Image, Judged, Patches, held_out, pose
from benchmarks.backbone_networks import Autoencoder, DiT, LatentNet
from medidiff.diffusion import schedule
from medidiff.diffusion.network import Backbone, MedUNet
from medidiff.physics.fidelity import foreground, psnr
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, Problem, parameter_names
from medidiff.training import objective, pack
from medidiff.training.simulator import Example

# (factor along each axis, channels) of the autoencoders: 1/16 and 1/2 of the numbers in 3-D, 1/4 and 1/2 in 2-D
SPACES = {3: ((4, 4), (2, 4)), 2: ((4, 4), (2, 2))}
TRANSFORMER = {3: {"width": 192, "depth": 5, "heads": 6}, 2: {"width": 128, "depth": 4, "heads": 4}}
LEARNING_RATE, WARM = 1e-3, 0.05
Row = dict[str, Any]
PAGE = cases.ROOT / "docs/explanation/experiments.md"
UNET, DIT = "convolutional U-Net (the product's)", "transformer (DiT)"


@dataclass
class Learner:
    """A network in training.

    Attributes:
        name: in words.
        network: what learns.
        loss: of a posed batch.
        seconds: processor time spent so far.
        iterations: steps taken so far.
    """

    name: str
    network: nn.Module
    loss: Callable[[Example], Tensor]
    seconds: float = 0.0
    iterations: int = 0
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(self.network.parameters(), LEARNING_RATE, betas=(0.9, 0.99))

    def step(self, example: Example, budget: float) -> None:
        """One iteration of a run that takes ``budget`` processor seconds."""
        begin = time.process_time()
        done = min(1.0, self.seconds / budget)
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (done + 1e-3) / WARM) * 0.5 * (1 + math.cos(math.pi * done))
        self.optimiser.zero_grad(set_to_none=True)
        self.loss(example).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.iterations += 1
        self.seconds += time.process_time() - begin


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(1)
    data = pack.load(options.pack)
    budget = 60 * options.minutes
    found = compare(data, options.dims, budget, options.seed)
    result = {
        "environment": report.environment(None, 1),
        "dims": options.dims,
        "seed": options.seed,
        "processor_seconds_each": budget,
        "pack_sha256": pack.digest(options.pack),
        **found,
    }
    text, name = backbone_document.document(result), f"backbones_{options.dims}d"
    print("\n" + text)
    report.write(name, result, f"# Backbones, {options.dims}-D\n\n{text}", options.results)
    if options.docs:
        report.update_block(PAGE, name, text)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("pack", type=Path, help="of medidiff.training.build_pack")
    found.add_argument("--dims", type=int, choices=(2, 3), default=3)
    found.add_argument("--minutes", type=float, default=6.0, help="of processor time for each network (default: 6)")
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--docs", action="store_true", help="also put the tables into docs/explanation/experiments.md")
    found.add_argument("--results", type=Path, default=report.RESULTS)
    return found


def compare(data: pack.Pack, dims: int, budget: float, seed: int) -> dict[str, Any]:
    """Train all, judge all."""
    torch.manual_seed(seed)
    source, judged = Patches(data, dims, seed), list(held_out(data, dims, seed))
    if not judged:
        raise SystemExit("The pack has no validation volume that is large enough and has nearly cubic voxels.")
    spoken = {"in_channels": STATE_CHANNELS + len(VIEWS), "parameters": len(parameter_names(dims))}
    unet = MedUNet(dims, **spoken, channels=(32, 64, 128), encoder_blocks=(1, 2, 2), decoder_blocks=(1, 1))
    backbones = {UNET: unet, DIT: DiT(dims, **spoken, **TRANSFORMER[dims])}
    spaces = [Autoencoder(dims, *space) for space in SPACES[dims]]
    learners = [Learner(name, network, posterior_mean(network, seed)) for name, network in backbones.items()]
    learners += [Learner(space_name(space), space, partial(reproduction, space)) for space in spaces]
    train(learners, source, budget)
    restorers = [latent_network(space, dims, source) for space in spaces]
    latent = [
        Learner(f"latent, {space_name(space)}", network, partial(latent_loss, space, network))
        for space, network in zip(spaces, restorers, strict=True)
    ]
    train(latent, source, budget)
    rows = []
    for learner in learners[:2]:
        restore = partial(objective.predict_mean, backbones[learner.name])
        rows.append(row(learner, judged, restore, cost(backbones[learner.name], None, dims), None))
    for learner, space, network, built in zip(latent, spaces, restorers, learners[2:], strict=True):
        rows.append(row(learner, judged, partial(restored, space, network), cost(network, space, dims), space))
        rows[-1] |= {"autoencoder": ceiling(space, judged) | {"iterations": built.iterations}}
    return {"volumes": [case.name for case in judged], "subjects": len({c.subject for c in judged}), "rows": rows}


def space_name(space: Autoencoder) -> str:
    """An autoencoder in words."""
    return f"factor {space.factor}, {space.latents} channels"


def train(learners: Sequence[Learner], source: Patches, budget: float) -> None:
    """Let the network that has had the least time take the next step, until all had ``budget`` seconds."""
    told = 0.0
    while (next_one := min(learners, key=lambda each: each.seconds)).seconds < budget:
        next_one.step(source.draw(), budget)
        if next_one.seconds > told + 30:
            told = next_one.seconds
            print(f"{told:.0f} s: " + ", ".join(f"{each.name} {each.iterations}" for each in learners), flush=True)


def posterior_mean(network: Backbone, seed: int) -> Callable[[Example], Tensor]:
    """The product's loss of the posterior mean."""
    generator = torch.Generator().manual_seed(seed)

    def loss(example: Example) -> Tensor:
        null = torch.ones(len(example.target), dtype=torch.bool)
        return objective.loss(network, example, null, generator, variance_weight=0.05)[0]

    return loss


def clean_of(example: Example) -> Tensor:
    """The truth of a posed batch."""
    return torch.addcmul(example.problem.base, example.problem.scale, example.target)


def reproduction(space: Autoencoder, example: Example) -> Tensor:
    """Mean squared error of an autoencoder on clean patches."""
    clean = clean_of(example)
    return (space(clean) - clean).square().mean() / SIGMA**2


def latent_network(space: Autoencoder, dims: int, source: Patches) -> LatentNet:
    """A network for a finished latent space, its answers scaled to the size of what is missing there."""
    space.requires_grad_(False)
    network = LatentNet(dims, len(VIEWS), len(parameter_names(dims)), space.latents, space.factor)
    off = [space.encode(clean_of(each)) - space.encode(each.problem.base) for each in (source.draw() for _ in range(8))]
    axes = (0, *range(2, dims + 2))
    network.size.copy_(torch.cat(off).square().mean(dim=axes, keepdim=True).sqrt())
    return network


def latents_of(space: Autoencoder, network: LatentNet, problem: Problem) -> Tensor:
    """The restored latents of a posed batch."""
    theta = torch.full((len(problem.base), 1), schedule.TERMINAL)
    found: Tensor = network(problem.views(), torch.cat([theta, problem.parameters], dim=1), space.encode(problem.base))
    return found


def latent_loss(space: Autoencoder, network: LatentNet, example: Example) -> Tensor:
    """Mean squared error of the latents, each channel in units of what is missing there."""
    off = latents_of(space, network, example.problem) - space.encode(clean_of(example))
    return (off / network.size).square().mean()


def restored(space: Autoencoder, network: LatentNet, problem: Problem) -> Tensor:
    """The image that a latent network makes, before it is made to explain the measurement."""
    return space.decode(latents_of(space, network, problem))


def row(
    learner: Learner,
    judged: Sequence[Judged],
    restore: Callable[[Problem], Tensor],
    price: Row,
    space: Autoencoder | None,
) -> Row:
    """What a trained network does on every held-out volume: PSNR by task, of the base too."""
    volumes = []
    for case in judged:
        for task, problem in case.problems.items():
            with torch.inference_mode():
                image = restore(problem)
                kept = problem.image(problem.residual(image)) if space else image
                base = problem.image(torch.zeros_like(problem.base))
            volumes.append(
                {
                    "volume": case.name,
                    "subject": case.subject,
                    "task": task,
                    "base": decibels(base, case.clean),
                    "psnr": decibels(kept, case.clean),
                    "unprojected": decibels(image, case.clean),
                    "data_residual": residual(image, problem),
                }
            )
    spent = {"iterations": learner.iterations, "seconds": round(learner.seconds, 1)}
    return {"method": learner.name, **spent, **price, "volumes": volumes}


def decibels(image: Tensor, clean: Image) -> float:
    """PSNR over the foreground of all patches of a volume."""
    return psnr(image.numpy(), clean, foreground(clean))


def residual(image: Tensor, problem: Problem) -> float:
    """Largest difference from what was measured, of the bright level; 0 for denoising, which keeps no voxel."""
    if problem.acquisition is None or problem.data is None:
        return 0.0
    return float((problem.acquisition.forward(image) - problem.data).abs().max())


def ceiling(space: Autoencoder, judged: Sequence[Judged]) -> Row:
    """What an autoencoder leaves of clean volumes: PSNR of each, and the largest change of a voxel."""
    figures, change = [], 0.0
    for case in judged:
        with torch.inference_mode():
            back = space(torch.from_numpy(case.clean))
        figures.append(decibels(back, case.clean))
        change = max(change, float(np.abs(back.numpy() - case.clean).max()))
    parameters = sum(weight.numel() for weight in space.parameters())
    return {"psnr": figures, "largest_change": change, "parameters": parameters}


def cost(network: nn.Module, space: Autoencoder | None, dims: int) -> Row:
    """Parameters, operations a voxel (a multiplication and an addition are two) and processor time a million voxels."""
    generator = torch.Generator().manual_seed(0)
    problem = pose(torch.rand((1, *(EDGE[dims],) * dims), generator=generator), "denoise", generator).problem
    restore = partial(objective.predict_mean, network) if space is None else partial(restored, space, network)
    voxels = problem.base.numel()
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            restore(problem)
        restore(problem)
        begin = time.process_time()
        for _ in range(4):
            restore(problem)
    seconds = (time.process_time() - begin) / 4
    parts = [network] if space is None else [network, space]
    return {
        "parameters": sum(weight.numel() for part in parts for weight in part.parameters()),
        "kflop_a_voxel": counter.get_total_flops() / voxels / 1000,
        "seconds_a_million_voxels": 1e6 * seconds / voxels,
    }


if __name__ == "__main__":
    main()
