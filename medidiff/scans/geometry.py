"""The grid on which the network works, and the record that leads back from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medidiff.scans.volume import Volume

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Grid:
    """An array turned so that its axes run as nearly as possible right, anterior and superior (RAS+).

    Only axes are swapped and flipped, so no voxel is interpolated and ``undo(apply(a))`` is ``a`` itself.

    Attributes:
        turn: nibabel orientation, shape (3, 2), from the scan's axes to RAS+.
        back: the same in the other direction.
        spacing: voxel size in millimetres along the turned axes; 1 where the affine gives none.
    """

    turn: NDArray[np.float64]
    back: NDArray[np.float64]
    spacing: tuple[float, float, float]

    def apply(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """From the scan's axes to the model's."""
        return np.ascontiguousarray(self.view(array))

    def view(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """The same without a copy."""
        turned: NDArray[Scalar] = nib.apply_orientation(array, self.turn)
        return turned

    def axis(self, index: int) -> int:
        """Where an axis of the scan lies among the model's."""
        return int(self.turn[index, 0])

    def along(self, values: Sequence[float]) -> tuple[float, float, float]:
        """One figure an axis, from the order of the scan's axes to that of the model's."""
        first, second, third = (float(values[index]) for index in np.argsort(self.turn[:, 0]))
        return first, second, third

    def undo(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """From the model's axes to the scan's."""
        return np.ascontiguousarray(self.undone(array))

    def undone(self, array: NDArray[Scalar]) -> NDArray[Scalar]:
        """The same without a copy."""
        turned: NDArray[Scalar] = nib.apply_orientation(array, self.back)
        return turned


def grid_of(volume: Volume) -> Grid:
    """How a volume is turned to RAS+."""
    turn = nib.io_orientation(volume.affine)
    if np.isnan(turn).any():  # a degenerate affine says nothing about axes: leave them as they are
        turn = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    back = nib.orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), turn)
    order = np.argsort(turn[:, 0])
    spacing = np.asarray(volume.spacing)[order]
    return Grid(turn, back, (float(spacing[0]), float(spacing[1]), float(spacing[2])))


def to_model_grid(volume: Volume) -> tuple[Grid, NDArray[np.float32]]:
    """Turn a volume to RAS+, so that the result does not depend on the order in which a file stores its voxels.

    Args:
        volume: any orientation, oblique ones included.

    Returns:
        The record that leads back, and the turned array.
    """
    grid = grid_of(volume)
    return grid, grid.apply(volume.array)
