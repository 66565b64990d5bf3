"""Parts of scans that fine-tuning does not learn from, and what a network gains on them when their truth is unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medidiff.diffusion.network import Backbone
from medidiff.physics.rician import rician_variance
from medidiff.training import objective
from medidiff.training.recorrupt import Noisy, Pair, recorrupt

HELD = 5  # one part in so many of a scan is held out
FEWEST = 10  # voxels along the longest axis, for two parts
OBJECT = 0.05  # normalised intensity of what counts as object
_JUDGED = 0.5  # a of ``recorrupt``
_DRAWS = 3  # pairs of each part
_LARGEST_HELD = 200_000  # voxels of a part that are looked at


@dataclass(frozen=True)
class Judged:
    """What fine-tuning gains on held-out parts, by an estimate.

    Attributes:
        gain: in dB of the mean squared error.
        error: standard error of it; 0 where the truth is known.
    """

    gain: float
    error: float = 0.0


def cut(size: int) -> int:
    """How many of the voxels of a scan's longest axis are learned from.

    Raises:
        ValueError: there are too few for two parts.
    """
    if size < FEWEST:
        raise ValueError(f"a scan is too small: it needs {FEWEST} voxels along an axis")
    return size - max(size // HELD, 2)


def part(scan: Noisy) -> tuple[Noisy, Noisy]:
    """A scan in two: what is learned from, and what is held out, the last fifth of the longest axis.

    Raises:
        ValueError: it is too small for two parts.
    """
    sizes = scan.images.shape[1:]
    axis = 1 + int(np.argmax(sizes))
    size = scan.images.shape[axis]
    learn = cut(size)
    first, second = (
        replace(scan, images=scan.images.narrow(axis, *span), sigma=scan.sigma.narrow(axis, *span))
        for span in ((0, learn), (learn, size - learn))
    )
    return first, second


class NoisyJudge:
    """Estimates the error of a network on held-out parts, without their truth.

    Both networks, before and after, answer the same pairs, so that the noise of the second copies, which is far larger
    than the errors, cancels but for what the difference of the answers picks up.
    """

    def __init__(self, network: Backbone, parts: Sequence[Noisy], seed: int) -> None:
        generator = torch.Generator(parts[0].images.device).manual_seed(seed)
        with torch.inference_mode():
            self._pairs = [[recorrupt(_middle(one), _JUDGED, generator) for _ in range(_DRAWS)] for one in parts]
        self._before = [[self._squares(network, pair) for pair in pairs] for pairs in self._pairs]
        self._noise = [float(np.mean([_noise_of_second(pair) for pair in pairs])) for pairs in self._pairs]

    def __call__(self, network: Backbone) -> Judged:
        """Compare a network with the one before."""
        gains, errors, left = [], [], []
        for pairs, before, noise in zip(self._pairs, self._before, self._noise, strict=True):
            saved = torch.cat([old - self._squares(network, pair) for pair, old in zip(pairs, before, strict=True)])
            gains.append(float(saved.mean()))
            errors.append(float(saved.std()) / math.sqrt(saved.numel()))
            left.append(float(torch.cat(before).mean()) - noise)
        gain, error = float(np.mean(gains)), float(np.linalg.norm(errors)) / len(errors)
        whole = max(float(np.mean(left)), 1.01 * max(gain, 0.0), 1e-4)  # the error before, as far as it can be told
        decibels = 10 / math.log(10) / (whole - gain)
        return Judged(-10 * math.log10(1 - gain / whole), error * decibels)

    @staticmethod
    @torch.inference_mode()
    def _squares(network: Backbone, pair: Pair) -> Tensor:
        """Squared differences from the second copy, where there is an object."""
        error = pair.error(objective.mean_residual(network, pair.problem))
        inside = pair.problem.base > OBJECT
        return (error[inside] if bool(inside.any()) else error.reshape(-1)).square().double()


def _middle(scan: Noisy) -> Noisy:
    """The middle slices, as many as are worth looking at."""
    count = max(1, min(len(scan.images), _LARGEST_HELD // max(scan.images[0].numel(), 1)))
    start = (len(scan.images) - count) // 2
    images, sigma = scan.images[start : start + count], scan.sigma[start : start + count]
    for axis in range(1, images.ndim):
        limit = max(1, int(images.shape[axis] * min(1.0, _LARGEST_HELD / images.numel())))
        start = (images.shape[axis] - limit) // 2
        images, sigma = images.narrow(axis, start, limit), sigma.narrow(axis, start, limit)
    return replace(scan, images=images, sigma=sigma)


def _noise_of_second(pair: Pair) -> float:
    """Mean squared noise of the second copy, where there is an object, in the unit of the pair's errors."""
    inside = pair.problem.base > OBJECT
    inside = inside if bool(inside.any()) else torch.ones_like(inside)
    other = pair.unit * (math.sqrt(1 + _JUDGED**-2) / math.sqrt(1 + _JUDGED**2))
    power = (other / pair.unit).square()
    if not bool((pair.slope == 1).all()):  # Rician
        nu = (pair.problem.base / other).clamp(min=0).double().cpu().numpy()
        power = power * torch.from_numpy(rician_variance(nu)).to(power)
    return float(power[inside].mean())
