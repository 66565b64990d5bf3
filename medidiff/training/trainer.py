"""Train a network: ``python -m medidiff.training.trainer RECIPE.toml PACK.npz OUT [--max-seconds S] [--resume]``.

Writes into OUT after every minute or two: the checkpoint, ``log.csv`` (one row an evaluation) and the fp16 weights
of the moving average. A run that is stopped at any moment goes on from its last checkpoint with ``--resume``.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import math
import time
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medidiff.diffusion import network as networks
from medidiff.diffusion import schedule, tiles
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, Problem, parameter_names
from medidiff.training import checkpoint, pack, recipe, validation
from medidiff.training.simulator import Example, Simulator

CHECKPOINT_SECONDS = 120.0
_LARGEST_WEIGHT = 10.0
_SMALLEST_SIZE = 0.3


def build_network(settings: dict[str, Any]) -> networks.Backbone:
    """The recipe's network; the number of channels follows from the views and parameters."""
    parameters = len(parameter_names(settings["spatial_dims"]))
    return networks.build(**{"in_channels": STATE_CHANNELS + len(VIEWS), "parameters": parameters, **settings})


def loss(
    network: networks.Backbone, example: Example, null: Tensor, generator: torch.Generator, variance_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The training loss, and its two parts for the log.

    Args:
        network: ``(channels, parameters) -> (velocity, log-variance)``.
        example: a posed batch.
        null: (B,) boolean: images that get the null token, i.e. train the posterior mean.
        generator: for the diffusion noise.
        variance_weight: weight of the log-likelihood that trains the variance head alone.

    Returns:
        Loss; mean weighted squared error of null images and of the others, each relative to predicting zero (nan if
        none).
    """
    problem, r0 = example.problem, example.target
    shape, axes = (-1, *(1,) * (r0.ndim - 1)), tuple(range(1, r0.ndim))
    u = torch.rand(len(r0), generator=generator, device=r0.device) * 0.98 + 0.02
    u = torch.where(null, torch.ones_like(u), u)
    theta = schedule.angle(u)
    eps = torch.randn(r0.shape, generator=generator, device=r0.device)
    hide = null.reshape(shape)
    noise = torch.where(hide, torch.ones_like(r0), torch.sin(theta).reshape(shape))  # sin(theta); 1 for the null token
    z = torch.where(hide, torch.zeros_like(r0), problem.confine(schedule.diffuse(r0, eps, theta.reshape(shape))))
    v_hat, log_variance = _forward(network, problem, z, theta)
    r_hat = torch.where(hide, -v_hat, schedule.residual_of(z, v_hat, theta.reshape(shape)))
    # what explains the measurement is all that can come out, so the network is judged by that
    off = problem.consistent(r_hat) - r0
    wrong = off / noise  # minus the error of the velocity
    inside = torch.ones_like(r0) if problem.support is None else problem.support.to(r0.dtype)
    count = inside.sum(dim=axes).clamp(min=1)
    # in units of intensity, not of the base's expected error: the null token's loss is the squared error of the image
    scale2 = problem.scale.square() * inside
    weight = (scale2 / (scale2.sum(dim=axes) / count).reshape(shape)).clamp(max=_LARGEST_WEIGHT)
    weight = torch.where(hide, weight, inside)
    # an image whose base is far off, because its noise is correlated, would rule the gradient: its error counts in part
    v = torch.where(hide, -r0, schedule.velocity(r0, eps, theta.reshape(shape)))
    size = (weight * v.square()).sum(dim=axes) / count
    error = (weight * wrong.square()).sum(dim=axes) / count / size.clamp(min=1)
    unlikely = 0.5 * (off.detach().square() * torch.exp(-log_variance) + log_variance)
    likelihood = (unlikely * inside).sum(dim=axes) / count
    with torch.no_grad():
        relative = error * size.clamp(min=1) / size.clamp(min=_SMALLEST_SIZE)
    return error.mean() + variance_weight * likelihood.mean(), relative[null].mean(), relative[~null].mean()


def _forward(network: networks.Backbone, problem: Problem, z: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """Velocity and log-variance over the problem's own extent; bf16 inside the network on a GPU."""
    channels = torch.cat([z[:, None], problem.views()], dim=1)
    tiling = tiles.plan(z.shape[1:], None, 0, network.stride)
    parameters = torch.cat([theta[:, None], problem.parameters], dim=1)
    with torch.autocast(z.device.type, torch.bfloat16, enabled=z.is_cuda):
        answer = network(tiles.pad(channels, tiling), parameters).float()
    answer = answer[(slice(None), slice(None), *(slice(0, n) for n in tiling.spatial))]
    return answer[:, 0], answer[:, 1].clamp(-12, 12)


def predict_mean(network: networks.Backbone, problem: Problem) -> Tensor:
    """The posterior mean image of a posed problem, whole volume at once."""
    theta = torch.full((problem.base.shape[0],), schedule.TERMINAL, device=problem.base.device)
    v_hat, _ = _forward(network, problem, torch.zeros_like(problem.base), theta)
    return problem.image(-v_hat)


class Trainer:
    """One training run in a folder."""

    def __init__(self, settings: recipe.Recipe, data: pack.Pack, folder: Path, device: torch.device) -> None:
        self.settings, self.pack, self.folder, self.device = settings, data, folder, device
        torch.manual_seed(settings.seed)
        self.network = build_network(settings.network).to(device)
        self.ema = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.optimiser.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=settings.optimiser.weight_decay,
        )
        self.iteration, self.seconds = 0, 0.0
        self.rows: list[dict[str, Any]] = []

    def resume(self) -> bool:
        """Go on from the folder's checkpoint; False when there is none."""
        state = checkpoint.restore(self.folder, self.network, self.ema, self.optimiser)
        if state is None:
            return False
        self.iteration, self.seconds, self.rows = state["iteration"], state["seconds"], state["rows"]
        return True

    def start_from(self, weights: Path) -> None:
        """Begin with weights of the same network, in safetensors."""
        tensors = {key: value.float() for key, value in load_file(weights).items()}
        self.network.load_state_dict(tensors)
        self.ema.load_state_dict(tensors)

    @property
    def fraction(self) -> float:
        """How much of the run is done."""
        if self.settings.seconds:
            return self.seconds / self.settings.seconds
        return self.iteration / self.settings.iterations

    def run(self, max_seconds: float, evaluate_every: float) -> None:
        """Train until the run's end or for ``max_seconds``."""
        settings = self.settings.optimiser
        # a resumed part must not draw the same batches again
        simulator = Simulator(
            self.pack,
            self.settings.data,
            self.device,
            self.settings.seed + self.iteration,
            self.settings.modalities,
            self.network.spatial_dims,
        )
        forward = cast(networks.Backbone, torch.compile(self.network)) if self.device.type == "cuda" else self.network
        begin, before = time.monotonic(), self.seconds
        saved, evaluated = begin, begin
        totals = torch.zeros(4)
        while self.fraction < 1 and time.monotonic() - begin < max_seconds:
            edge, count = (int(n) for n in recipe.staged(self.settings.data.patches, self.fraction))
            example = simulator.draw(edge, count)
            (share,) = recipe.staged(settings.null, self.fraction)
            null = (torch.rand(count, generator=simulator.cpu) < share).to(self.device)
            for group in self.optimiser.param_groups:
                group["lr"] = self._learning_rate()
            value, null_part, other_part = loss(forward, example, null, simulator.generator, settings.variance_weight)
            self.optimiser.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
            self.optimiser.step()
            self.iteration += 1
            self._average()
            for i, part in enumerate((null_part, other_part)):
                if torch.isfinite(part):
                    totals[2 * i] += float(part)
                    totals[2 * i + 1] += 1
            now = time.monotonic()
            self.seconds = before + now - begin
            if now - evaluated > evaluate_every:
                self._log(totals)
                totals.zero_()
                self.save()
                saved = evaluated = time.monotonic()
            elif now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        self._log(totals)
        self.save()

    def _learning_rate(self) -> float:
        settings = self.settings.optimiser
        warm = min(1.0, (self.iteration + 1) / settings.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * min(self.fraction, 1.0)))
        return warm * (settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * cosine)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.settings.optimiser.ema, (1 + self.iteration) / (10 + self.iteration))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.network.parameters()), 1 - decay)

    def _log(self, totals: Tensor) -> None:
        with torch.inference_mode():
            table = validation.evaluate(
                self.pack,
                lambda problem: predict_mean(self.ema, problem),
                self.device,
                self.settings.modalities,
                self.network.spatial_dims,
            )
        row: dict[str, Any] = {
            "iteration": self.iteration,
            "seconds": round(self.seconds, 1),
            "device": _device_name(self.device),
            "null_loss": round(float(totals[0] / totals[1].clamp(min=1)), 4),
            "v_loss": round(float(totals[2] / totals[3].clamp(min=1)), 4),
        }
        row |= {f"{case}_{method}": value for case, methods in table.items() for method, value in methods.items()}
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def save(self) -> None:
        """Write the checkpoint, the log and the shippable weights."""
        state = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "rows": self.rows,
            "recipe": self.settings.as_dict(),
        }
        checkpoint.save(self.folder, self.network, self.ema, self.optimiser, state)
        checkpoint.export_fp16(self.ema, self.folder / "model.safetensors")
        if self.rows:
            with (self.folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} x {torch.get_num_threads()}"


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-seconds", type=float, default=math.inf)
    parser.add_argument("--evaluate-every", type=float, default=300.0, metavar="SECONDS")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--start", type=Path, metavar="WEIGHTS", help="begin with the weights of an earlier run")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = Trainer(recipe.read(arguments.recipe), pack.load(arguments.pack), arguments.out, device)
    if arguments.resume and trainer.resume():
        print(f"resumed at iteration {trainer.iteration}", flush=True)
    elif arguments.start:
        trainer.start_from(arguments.start)
    trainer.run(arguments.max_seconds, arguments.evaluate_every)


if __name__ == "__main__":
    main()
