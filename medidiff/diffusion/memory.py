"""When a window of the network does not fit the memory, smaller ones may: the answer does not depend on their size."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from medidiff.errors import OutOfMemory

EDGES = (192, 128, 96, 64)  # voxels along a window, tried one after the other
Result = TypeVar("Result")


class WindowTooLarge(OutOfMemory):
    """The network does not fit the memory with windows of this size.

    Args:
        edge: the longest edge of the window, voxels.
    """

    def __init__(self, edge: int) -> None:
        super().__init__(f"The memory is not enough for windows of {edge} voxels; choose a smaller --tile.")
        self.edge = edge

    def __reduce__(self) -> tuple[type[WindowTooLarge], tuple[int]]:
        return type(self), (self.edge,)


@dataclass(frozen=True)
class Fitted(Generic[Result]):
    """What was computed, and the windows that it took.

    Attributes:
        result: of the computation.
        warnings: one sentence when smaller windows were needed than planned.
    """

    result: Result
    warnings: tuple[str, ...] = ()


def fit(compute: Callable[[int | None], Result], halo: int) -> Fitted[Result]:
    """Compute with the windows as planned, and with smaller and smaller ones while they do not fit the memory.

    Args:
        compute: called with the largest edge of a window, voxels; ``None`` for that of the plan.
        halo: voxels of context on each side of a window's core.

    Raises:
        OutOfMemory: not even the smallest windows fit.
    """
    edge: int | None = None
    while True:
        try:
            result = compute(edge)
        except WindowTooLarge as error:
            failed = error.edge
        else:
            return Fitted(result, () if edge is None else (smaller_windows(edge),))
        release()
        edge = next((each for each in EDGES if 2 * halo < each < failed), None)
        if edge is None:
            raise OutOfMemory(
                f"The network does not fit the memory, not even in windows of {failed} voxels; free some memory, use a "
                "machine with more, or another --device."
            )


def smaller_windows(edge: int) -> str:
    """What the user should know; the result is the same."""
    return f"The memory ran out; the scan was gone over again in windows of at most {edge} voxels, which is slower."


def release() -> None:
    """Give back what a failed attempt holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
