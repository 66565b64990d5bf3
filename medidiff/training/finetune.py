"""Fine-tune a trained network on a few scans of another kind, with or without clean ones.

Without clean scans it learns the posterior mean from pairs of noisier copies (``recorrupt``), and between these steps
to answer as before in the other tasks (``objective.drift``). A part of every scan is held out; what comes out are the
weights with the least estimated error there, and none if they are not surely better than those that went in.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medidiff.diffusion.network import Backbone
from medidiff.training import objective, pack, validation
from medidiff.training.held_out import OBJECT, Judged, NoisyJudge, cut, part
from medidiff.training.recipe import Data
from medidiff.training.recorrupt import Noisy, recorrupt
from medidiff.training.simulator import Simulator

JUDGEMENTS = 10  # times that the held-out parts are looked at
PATIENCE = 5  # judgements in a row without a better one: then the second half ends early
CERTAIN, WORTH = 2.0, 0.01  # standard errors, and dB, that a gain has to exceed
_STRENGTHS = (0.5, 1.0)  # a of ``recorrupt``
_EDGE, _BATCH = {3: 32, 2: 96}, {3: 4, 2: 6}
_EMA, _WARMUP, _CLIP, _REPLAYED = 0.98, 20, 1.0, 2


@dataclass(frozen=True)
class Settings:
    """How to fine-tune.

    Attributes:
        seconds: of training, judgements included.
        learning_rate: at its highest.
        replay: after so many steps one that keeps the other answers; 0 for none.
        seed: of the random sequence.
    """

    seconds: float = 600.0
    learning_rate: float = 7e-4
    replay: int = 4
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        weights: the better ones; ``None`` when no surely better ones were found.
        judged: of the best weights that were found, better or not.
        iterations: that were made.
        seconds: that they took.
    """

    weights: dict[str, Tensor] | None
    judged: Judged
    iterations: int
    seconds: float


def improve(
    network: Backbone,
    step: Callable[[Backbone, int], None],
    judge: Callable[[Backbone], Judged],
    settings: Settings,
    tell: Callable[[float, int, Judged | None], None],
) -> Outcome:
    """Make steps and keep the best weights.

    Args:
        network: is changed.
        step: leaves gradients in the network's parameters; told the number of the iteration.
        judge: compares a network with the one that went in.
        settings: how long and how fast.
        tell: told the fraction that is done, the iterations, and now and then what was judged.
    """
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    parameters: list[Tensor] = list(network.parameters())
    optimiser = torch.optim.AdamW(parameters, settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    begin, iteration, since, judged_at = time.monotonic(), 0, 0, 0.0
    best, weights = Judged(-math.inf), dict[str, Tensor]()
    while (fraction := (time.monotonic() - begin) / settings.seconds) < 1 and (fraction < 0.5 or since < PATIENCE):
        for group in optimiser.param_groups:
            warm, cosine = min(1.0, (iteration + 1) / _WARMUP), 0.5 * (1 + math.cos(math.pi * fraction))
            group["lr"] = settings.learning_rate * warm * max(cosine, 0.02)
        optimiser.zero_grad(set_to_none=True)
        step(network, iteration)
        nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimiser.step()
        iteration += 1
        with torch.no_grad():
            decay = min(_EMA, (1 + iteration) / (10 + iteration))
            torch._foreach_lerp_(list(ema.parameters()), parameters, 1 - decay)
        fraction = (time.monotonic() - begin) / settings.seconds
        tell(min(fraction, 1.0), iteration, None)
        if fraction >= 1 or fraction - judged_at > 1 / JUDGEMENTS:
            found, judged_at, since = judge(ema), fraction, since + 1
            tell(min(fraction, 1.0), iteration, found)
            if found.gain > best.gain:
                best, since = found, 0
                weights = {key: value.detach().clone() for key, value in ema.state_dict().items()}
    certain = math.isfinite(best.gain) and best.gain > max(CERTAIN * best.error, WORTH)
    return Outcome(weights if certain else None, best, iteration, time.monotonic() - begin)


def without_truth(
    network: Backbone,
    scans: Sequence[Noisy],
    replayed: pack.Pack,
    data: Data,
    modality: str,
    settings: Settings,
    tell: Callable[[float, int, Judged | None], None],
) -> Outcome:
    """Fine-tune on noisy scans alone.

    Args:
        network: is changed; on the device of the scans.
        scans: what was measured.
        replayed: volumes on which the network is to answer as before what it is not fine-tuned for.
        data: how these are degraded.
        modality: of the volumes.
        settings: how.
        tell: see ``improve``.

    Raises:
        ValueError: a scan is too small.
    """
    parts = [part(scan) for scan in scans]
    device = scans[0].images.device
    learn, dims = [first for first, _ in parts], network.spatial_dims
    generator = torch.Generator(device).manual_seed(settings.seed)
    chance = np.random.default_rng(settings.seed)
    teacher = copy.deepcopy(network).requires_grad_(False).eval()
    others = data.superres + data.inpaint + data.combined
    every = settings.replay if others > 0 else 0
    scale = 1 / others if others > 0 else 0.0
    shares = {name: scale * getattr(data, name) for name in ("superres", "inpaint", "combined")}
    simulator = Simulator(replayed, replace(data, **shares), device, settings.seed, (modality,), dims)

    def replay(tuned: Backbone) -> None:
        example = simulator.draw(_EDGE[dims], _REPLAYED)
        null = torch.full((_REPLAYED,), chance.random() < 0.7, device=device)
        objective.drift(tuned, teacher, example, null, simulator.generator).backward()

    def learned(tuned: Backbone) -> None:
        crops = _crops(learn[chance.integers(len(learn))], _EDGE[dims], _BATCH[dims], chance)
        pair = recorrupt(crops, math.exp(chance.uniform(*np.log(_STRENGTHS))), generator)
        pair.error(objective.mean_residual(tuned, pair.problem)).square().mean().backward()

    def step(tuned: Backbone, iteration: int) -> None:
        turn = every > 0 and iteration % (every + 1) == every
        (replay if turn else learned)(tuned)

    judge = NoisyJudge(teacher, [held for _, held in parts], settings.seed + 1)
    return improve(network.train(), step, judge, settings, tell)


def _crops(scan: Noisy, edge: int, count: int, chance: np.random.Generator) -> Noisy:
    """Random crops, mostly of the object, all with their axes in one random order."""
    dims = scan.images.ndim - 1
    # a texture belongs to its axes
    order = list(range(dims)) if scan.texture is not None else [int(axis) for axis in chance.permutation(dims)]
    pairs = []
    for _ in range(count):
        window = _window(scan, edge, chance)
        flips = [axis for axis in range(dims) if chance.random() < 0.5]
        pairs.append([array[window].permute(order).flip(flips) for array in (scan.images, scan.sigma)])
    images, sigma = (torch.stack(arrays) for arrays in zip(*pairs, strict=True))
    return replace(scan, images=images, sigma=sigma, spacing=tuple(scan.spacing[axis] for axis in order))


def _window(scan: Noisy, edge: int, chance: np.random.Generator) -> tuple[int | slice, ...]:
    """Where to crop one of the images."""
    index = int(chance.integers(len(scan.images)))
    for _ in range(6):
        starts = [int(chance.integers(max(size - edge, 0) + 1)) for size in scan.images.shape[1:]]
        window: tuple[int | slice, ...] = (index, *(slice(start, start + edge) for start in starts))
        if float((scan.images[window] > OBJECT + 2 * scan.sigma[window]).float().mean()) > 0.2:
            break
    return window


def with_truth(
    network: Backbone,
    clean: pack.Pack,
    data: Data,
    modality: str,
    settings: Settings,
    tell: Callable[[float, int, Judged | None], None],
    device: torch.device,
) -> Outcome:
    """Fine-tune on clean scans, degraded as in training; all tasks learn.

    Args:
        network: is changed; on ``device``.
        clean: parts to learn from (split ``train``) and to judge by (``validation``), see ``clean_pack``.
        data: how they are degraded.
        modality: of the volumes.
        settings: how; ``replay`` is not needed.
        tell: see ``improve``.
        device: where batches are made.
    """
    dims = network.spatial_dims
    simulator = Simulator(clean, data, device, settings.seed, (modality,), dims)
    edge, count = _EDGE[dims], 2 * _BATCH[dims]

    def step(tuned: Backbone, _: int) -> None:
        example = simulator.draw(edge, count)
        null = (torch.rand(count, generator=simulator.cpu) < 0.7).to(device)
        objective.loss(tuned, example, null, simulator.generator, 0.05)[0].backward()

    def figures(judged: Backbone) -> dict[str, float]:
        with torch.inference_mode():
            table = validation.evaluate(
                clean, lambda problem: objective.predict_mean(judged, problem), device, (modality,), dims
            )
        wanted = {"denoise": True, "superres": data.superres + data.combined > 0, "inpaint": data.inpaint > 0}
        return {case: row["network"] for case, row in table.items() if wanted[case.partition("_")[0]]}

    before = figures(network.eval())

    def judge(tuned: Backbone) -> Judged:
        return Judged(float(np.mean([value - before[case] for case, value in figures(tuned).items()])))

    return improve(network.train(), step, judge, settings, tell)


def clean_pack(
    volumes: Sequence[tuple[NDArray[np.float32], tuple[float, float, float], str]], modality: str, *, held: bool = True
) -> pack.Pack:
    """A pack of arrays.

    Args:
        volumes: normalised intensity (I, J, K), voxel size in millimetres, and whose it is.
        modality: of all.
        held: hold out a part of each to judge by.

    Raises:
        ValueError: a volume is too small for two parts.
    """
    entries, arrays = [], []
    for index, (volume, spacing, subject) in enumerate(volumes):
        axis = int(np.argmax(volume.shape))
        learn = cut(volume.shape[axis]) if held else volume.shape[axis]
        for split, half in zip(("train", "validation"), np.split(volume, [learn], axis=axis), strict=True):
            if half.shape[axis]:
                levels, ceiling = pack.quantise(np.maximum(half, 0), modality)
                entries.append(pack.Entry(f"scan {index + 1}", subject, split, modality, spacing, ceiling, 0.0, {}))
                arrays.append(levels)
    return pack.Pack(tuple(entries), tuple(arrays))
