"""How the voxels of a finer (or coarser) grid lie on the grid of the scan that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import ScanError
from medidiff.scans.volume import Volume

Value = TypeVar("Value", bound=np.generic)

TURN_TOLERANCE = 1e-3  # voxels of the scan: how far the new axes may lead from the old ones over the whole image


@dataclass(frozen=True)
class Regrid:
    """A new grid along the axes of an old one: old index = scale * new index + offset, axis by axis.

    Attributes:
        shape: voxels of the new grid along each axis.
        source: voxels of the old grid along each axis.
        scale: size of a new voxel in old voxels, shape (3,).
        offset: old index of the centre of the first new voxel, shape (3,).
    """

    shape: tuple[int, int, int]
    source: tuple[int, int, int]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """4 x 4, new voxel index to old voxel index; ``old affine @ matrix`` is the new affine."""
        matrix = np.diag([*self.scale, 1.0])
        matrix[:3, 3] = self.offset
        return matrix

    @property
    def unchanged(self) -> bool:
        """Whether the two grids are one."""
        return self.shape == self.source and bool(np.allclose(self.scale, 1) and np.allclose(self.offset, 0, atol=1e-6))

    def places(self, axis: int) -> NDArray[np.float64]:
        """Old index, with fraction, of the centre of every new voxel along an axis."""
        return np.asarray(self.scale[axis] * np.arange(self.shape[axis]) + self.offset[axis], dtype=np.float64)

    def nearest(self, axis: int) -> NDArray[np.intp]:
        """Old voxel that each new voxel's centre lies in along an axis, or the one at the border."""
        return np.clip(np.floor(self.places(axis) + 0.5 + 1e-9), 0, self.source[axis] - 1).astype(np.intp)

    def spread(self, array: NDArray[Value]) -> NDArray[Value]:
        """The value of the old voxel nearest to each new voxel; shape (I, J, K, ...) of the old grid to the new."""
        for axis in range(3):
            array = np.take(array, self.nearest(axis), axis=axis)
        return array


def regrid(volume: Volume, shape: tuple[int, ...], affine: NDArray[np.float64]) -> Regrid:
    """Relate a new grid to a volume's.

    Args:
        volume: the scan.
        shape: of the new grid, three axes in the order of the volume's.
        affine: 4 x 4, new voxel index to millimetres in RAS+.

    Raises:
        ScanError: the grid is not three-dimensional, or its axes do not run along the volume's.
    """
    if len(shape) != 3 or 0 in shape:
        raise ScanError(f"The result has the shape {'x'.join(map(str, shape))}, which is not a volume.")
    try:
        matrix = np.linalg.inv(volume.affine) @ affine
    except np.linalg.LinAlgError as error:
        raise ScanError("The scan's affine has no inverse, so its voxels have no place in space.") from error
    scale, offset = np.diag(matrix)[:3].copy(), matrix[:3, 3].copy()
    turned = np.abs(matrix[:3, :3] - np.diag(scale)) @ np.array(shape)
    if not np.isfinite(matrix).all() or scale.min() <= 0 or turned.max() > TURN_TOLERANCE:
        raise ScanError("The result's voxel axes do not run along those of the scan.")
    i, j, k = shape
    return Regrid((i, j, k), volume.array.shape, scale, offset)
