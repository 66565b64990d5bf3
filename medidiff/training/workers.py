"""Several processes that train one network: ``accelerate launch ... -m medidiff.training.trainer ...``.

A process alone needs nothing of this, and not the package accelerate either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SEEDS_APART = 1_000_003  # between the batches of two processes; far more than a run has iterations


@dataclass(frozen=True)
class Crew:
    """The processes of a run, seen from one of them.

    Attributes:
        accelerator: what they speak through; ``None`` for a process alone.
    """

    accelerator: Any = None

    @property
    def rank(self) -> int:
        """Which process this is."""
        return 0 if self.accelerator is None else int(self.accelerator.process_index)

    @property
    def size(self) -> int:
        """How many there are."""
        return 1 if self.accelerator is None else int(self.accelerator.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this process evaluates, saves and speaks for all."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Where the random sequence of this process starts."""
        return seed + SEEDS_APART * self.rank

    def agree(self, parameters: Iterable[Tensor], value: float) -> float:
        """Give all processes the mean of their gradients, and of one figure more.

        Args:
            parameters: whose ``grad`` is replaced by the mean.
            value: this process's figure, such as the seconds that it has worked: what follows from it must be the same
                for all.

        Returns:
            The mean of the figures.
        """
        if self.accelerator is None:
            return value
        gradients = [one.grad for one in parameters if one.grad is not None]
        figure = torch.full((1,), value, dtype=torch.float32, device=self.accelerator.device)
        flat = torch.cat([figure, *(gradient.reshape(-1).float() for gradient in gradients)])
        flat = self.accelerator.reduce(flat, reduction="mean")
        torch._foreach_copy_(
            gradients,
            [
                part.reshape(gradient.shape)
                for part, gradient in zip(
                    flat[1:].split([gradient.numel() for gradient in gradients]), gradients, strict=True
                )
            ],
        )
        return float(flat[0])


ALONE = Crew()


def assemble(device: torch.device) -> tuple[Crew, torch.device]:
    """The crew that this process was launched in, and the device that is its own.

    Args:
        device: where a process alone would run; ``cpu`` keeps the others on the processor too.

    Raises:
        ModuleNotFoundError: there are several processes, and accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE, device
    try:
        from accelerate import Accelerator
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Several processes need the package accelerate: pip install accelerate") from error
    # bf16 inside the network is the objective's own business
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    return Crew(accelerator), accelerator.device
