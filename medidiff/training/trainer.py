"""Train a network: ``python -m medidiff.training.trainer RECIPE.toml PACK.npz OUT [--max-seconds S] [--resume]``.

It is ``medidiff train`` for machines that have torch, numpy, scipy, monai and safetensors alone; with accelerate,
``accelerate launch`` starts one process a GPU. Writes into OUT: the recipe and what it learns from (``config.json``);
after every minute or two the checkpoint, ``log.csv`` (one row an evaluation) and the fp16 weights of the moving
average; in the end pictures, where matplotlib is installed. A run that is stopped at any moment goes on from its last
checkpoint with ``--resume``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from medidiff.diffusion import network as networks
from medidiff.errors import UsageError
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.training import checkpoint, pack, recipe, records, validation
from medidiff.training.objective import loss, predict_mean
from medidiff.training.simulator import Simulator
from medidiff.training.workers import ALONE, Crew, assemble

CHECKPOINT_SECONDS, EVALUATE_EVERY = 120.0, 300.0


def build_network(settings: dict[str, Any]) -> networks.Backbone:
    """The recipe's network; the number of channels follows from the views and parameters."""
    parameters = len(parameter_names(settings["spatial_dims"]))
    return networks.build(**{"in_channels": STATE_CHANNELS + len(VIEWS), "parameters": parameters, **settings})


class Trainer:
    """One training run in a folder.

    Args:
        settings: the recipe.
        data: what it learns from.
        folder: of the run.
        device: where this process trains.
        crew: the processes that train together.
        on_row: told each row of the log.
        on_step: told of each iteration.
    """

    def __init__(
        self,
        settings: recipe.Recipe,
        data: pack.Pack,
        folder: Path,
        device: torch.device,
        *,
        crew: Crew = ALONE,
        on_row: Callable[[dict[str, Any]], None] | None = None,
        on_step: Callable[[Trainer], None] | None = None,
    ) -> None:
        self.settings, self.pack, self.folder, self.device, self.crew = settings, data, folder, device, crew
        self._on_row, self._on_step = on_row, on_step
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
        """Go on from the folder's checkpoint; False when there is none.

        Raises:
            UsageError: it learned from other data, or by a recipe that differs in more than its length.
        """
        refuse_another(self.folder, self.settings, self.pack.content)
        state = checkpoint.restore(self.folder, self.network, self.ema, self.optimiser)
        if state is None:
            return False
        self.iteration, self.seconds, self.rows = state["iteration"], state["seconds"], state["rows"]
        return True

    def start_from(self, source: Path) -> None:
        """Begin with weights of the same network: a bundle's, or those of a safetensors file.

        Raises:
            RuntimeError: they are those of another network.
            ValueError: the bundle is damaged.
        """
        weights = checkpoint.shipped(source) if source.is_dir() else source
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
        simulator = Simulator(
            self.pack,
            self.settings.data,
            self.device,
            self.crew.seed(self.settings.seed + self.iteration),  # a resumed part must not draw the same batches again
            self.settings.modalities,
            self.network.spatial_dims,
        )
        forward = cast(networks.Backbone, torch.compile(self.network)) if self.device.type == "cuda" else self.network
        begin, before, first = time.monotonic(), self.seconds, self.iteration
        saved = evaluated = before
        totals = torch.zeros(4)
        while self.fraction < 1 and self.seconds - before < max_seconds:
            parts = self._step(forward, simulator, lambda: before + time.monotonic() - begin)
            for i, part in enumerate(parts):
                if torch.isfinite(part):
                    totals[2 * i] += float(part)
                    totals[2 * i + 1] += 1
            if self._on_step:
                self._on_step(self)
            if self.seconds - evaluated > evaluate_every:
                self._log(totals)
                totals.zero_()
                self.save()
                saved = evaluated = before + time.monotonic() - begin
            elif self.seconds - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = before + time.monotonic() - begin
        if self.iteration > first or not self.rows:
            self._log(totals)
            self.save()

    def _step(
        self, forward: networks.Backbone, simulator: Simulator, clock: Callable[[], float]
    ) -> tuple[Tensor, Tensor]:
        """One iteration; the loss of null tokens and that of the others."""
        settings = self.settings.optimiser
        edge, count = (int(n) for n in recipe.staged(self.settings.data.patches, self.fraction))
        example = simulator.draw(edge, count)
        (share,) = recipe.staged(settings.null, self.fraction)
        null = (torch.rand(count, generator=simulator.cpu) < share).to(self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        value, null_part, other_part = loss(forward, example, null, simulator.generator, settings.variance_weight)
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        self.seconds = self.crew.agree(self.network.parameters(), clock())
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip)
        self.optimiser.step()
        self.iteration += 1
        self._average()
        return null_part, other_part

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
        """Evaluate and add a row to the log; the other processes wait at their next gradients."""
        if not self.crew.leads:
            return
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
        if self._on_row:
            self._on_row(row)

    def save(self) -> None:
        """Write the checkpoint, the log and the shippable weights."""
        if not self.crew.leads:
            return
        state = {
            "iteration": self.iteration,
            "seconds": self.seconds,
            "rows": self.rows,
            "recipe": self.settings.as_dict(),
            "data": self.pack.content,
        }
        checkpoint.save(self.folder, self.network, self.ema, self.optimiser, state)
        checkpoint.export_fp16(self.ema, self.folder / "model.safetensors")
        records.write_log(self.folder / records.LOG, self.rows)

    def picture(self) -> bool:
        """Draw the curve and one validation volume in each task; False where matplotlib is missing."""
        if not self.crew.leads:
            return True
        with torch.inference_mode():
            examples = records.examples(
                self.pack,
                lambda problem: predict_mean(self.ema, problem),
                self.device,
                self.settings.modalities,
                self.network.spatial_dims,
            )
        return records.draw(self.folder, self.rows, examples)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} x {torch.get_num_threads()}"


def refuse_another(folder: Path, settings: recipe.Recipe, content: str | None = None) -> None:
    """Stop before two runs are mixed; checkpoints that do not tell their data are believed.

    Args:
        folder: of the run, which may hold no checkpoint yet.
        settings: the recipe.
        content: of the pack; ``None`` while it is not known.

    Raises:
        UsageError: the checkpoint in the folder is of another recipe, or learned from other data.
    """
    told = checkpoint.state_of(folder) or {}
    if "data" not in told:
        return
    differs = settings.differs(told["recipe"])
    if not differs and content in (None, told["data"]):
        return
    what = f"recipe's setting {differs} is not that" if differs else "data are not those"
    raise UsageError(
        f"The {what} of the run in {folder}; begin again with --overwrite (the module: without --resume), or choose"
        " another folder."
    )


def train(
    settings: recipe.Recipe,
    source: Path,
    folder: Path,
    device: torch.device,
    *,
    resume: bool = True,
    start: Path | None = None,
    max_seconds: float = math.inf,
    evaluate_every: float = EVALUATE_EVERY,
    on_start: Callable[[Trainer], None] | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    on_step: Callable[[Trainer], None] | None = None,
) -> Trainer:
    """Train, or go on with training, and leave behind all that a run leaves behind.

    Args:
        settings: the recipe.
        source: the pack's file.
        folder: of the run.
        device: where to train; a process that was launched with others takes its own instead.
        resume: go on from the folder's checkpoint, if there is one.
        start: a bundle or weights to begin with, where nothing is resumed.
        max_seconds: end this part of the run after that time.
        evaluate_every: seconds.
        on_start: told the trainer before its first iteration.
        on_row: told each row of the log.
        on_step: told the trainer after each iteration.

    Raises:
        UsageError: the run to go on with had other data or another recipe.
        ValueError: the pack holds nothing to learn from.
        RuntimeError: the weights to begin with, or to go on with, are those of another network.
    """
    crew, device = assemble(device)
    data = pack.load(source)
    trainer = Trainer(settings, data, folder, device, crew=crew, on_row=on_row, on_step=on_step)
    if not (resume and trainer.resume()) and start is not None:
        trainer.start_from(start)
    if crew.leads:
        records.write_config(folder, settings, data, source)
        if on_start:
            on_start(trainer)
    trainer.run(max_seconds, evaluate_every)
    trainer.picture()
    return trainer


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--max-seconds", type=float, default=math.inf)
    parser.add_argument("--evaluate-every", type=float, default=EVALUATE_EVERY, metavar="SECONDS")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 ...")
    parser.add_argument("--start", type=Path, metavar="BUNDLE|WEIGHTS", help="begin with the weights of an earlier run")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    name = arguments.device
    try:
        settings = recipe.read(arguments.recipe)
    except ValueError as error:
        parser.error(f"{arguments.recipe}: {error}")
    try:
        train(
            settings,
            arguments.pack,
            arguments.out,
            torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name),
            resume=arguments.resume,
            start=arguments.start,
            max_seconds=arguments.max_seconds,
            evaluate_every=arguments.evaluate_every,
            on_start=lambda trainer: print(f"begins at iteration {trainer.iteration}", flush=True),
            on_row=lambda row: print(json.dumps(row), flush=True),
        )
    except UsageError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
