"""Brings what is compared onto one grid: refuses another geometry, or resamples when asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import ScanError
from medidiff.evaluation.results import Image
from medidiff.scans import nifti
from medidiff.scans.convert import Part
from medidiff.scans.volume import Volume

Mask = NDArray[np.bool_]
Affine = NDArray[np.float64]

SAME = 0.01  # voxels that the corners of two grids may lie apart
CUBIC, NEAREST = 3, 0


def same_grid(one: Volume, other: Volume) -> bool:
    """Whether two volumes have one shape, and affines that lead to the same places."""
    if one.array.shape != other.array.shape:
        return False
    across = _across(one.affine, other.affine)
    if across is None:
        return bool(np.allclose(one.affine, other.affine))
    off = np.abs(across - np.eye(4))[:3]
    return float((off[:, :3] @ np.array(one.array.shape) + off[:, 3]).max()) < SAME


def turned(volume: Volume, target: Volume) -> Volume:
    """A volume with its axes in the order and direction of another's, where this brings it onto the same grid."""
    across = _across(target.affine, volume.affine)
    if across is None or same_grid(volume, target):
        return volume
    turn = orientations.io_orientation(across)
    if np.isnan(turn).any():
        return volume
    other = Part((), turn).volume(volume)
    return other if same_grid(other, target) else volume


def onto(volume: Volume, target: Volume, *, resample: bool, what: str) -> tuple[Image, Mask | None]:
    """A volume's values on the grid of another.

    Args:
        volume: what is to be brought.
        target: whose grid.
        resample: whether it may be interpolated (cubic B-spline, through both affines).
        what: how to call it in a message.

    Returns:
        The values, and where they are measured; ``None`` when everywhere.

    Raises:
        ScanError: the geometry differs and it may not be interpolated, or the two do not overlap.
    """
    if same_grid(volume, target):
        return volume.array, volume.valid
    if not resample:
        ours, theirs = (" x ".join(map(str, each.array.shape)) for each in (volume, target))
        differs = f"{ours} voxels, not {theirs}" if ours != theirs else "the same shape in another place"
        raise ScanError(f"The {what} has another geometry ({differs}); use --resample to bring it onto the grid.")
    across = _across(volume.affine, target.affine)
    if across is None:
        raise ScanError(f"The {what} cannot be resampled: its affine has no inverse.")
    shape = target.array.shape
    values = moved(volume.array, across, shape, CUBIC)
    known = np.ones(volume.array.shape, np.float32) if volume.valid is None else volume.valid.astype(np.float32)
    valid = moved(known, across, shape, NEAREST, mode="constant") > 0.5
    if not valid.any():
        raise ScanError(f"The {what} does not overlap the restored scan.")
    return values, None if valid.all() else valid


def moved(array: Image, across: Affine, shape: tuple[int, ...], order: int, mode: str = "nearest") -> Image:
    """An array on a grid whose voxel index ``across`` leads to the array's."""
    found = ndimage.affine_transform(
        array, across[:3, :3], across[:3, 3], output_shape=shape, order=order, mode=mode, cval=0.0
    )
    return np.asarray(found, dtype=np.float32)


def labels_on(path: Path, target: Volume) -> NDArray[np.int64]:
    """A label map on a volume's grid, by nearest neighbour where it lies on another.

    Raises:
        ScanError: it is no NIfTI file, is damaged, holds other than whole numbers, or marks nothing of the volume.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise ScanError(f"The label map {path.name} is no NIfTI file.")
    volumes, affine = nifti.read_values(path)
    values = volumes[0]
    if len(volumes) != 1 or not np.array_equal(values, np.round(values)):
        raise ScanError(f"The label map {path.name} is not one volume of whole numbers.")
    own = Volume(values, affine)
    if not same_grid(own, target):
        across = _across(affine, target.affine)
        if across is None:
            raise ScanError(f"The label map {path.name} has an affine without an inverse.")
        values = moved(values, across, target.array.shape, NEAREST, mode="constant")
    labels = values.astype(np.int64)
    if not labels.any():
        raise ScanError(f"The label map {path.name} marks nothing of the scan.")
    return labels


def _across(source: Affine, target: Affine) -> Affine | None:
    """From a voxel index of the target's grid to one of the source's; ``None`` when there is no way."""
    try:
        return np.asarray(np.linalg.inv(source) @ target, dtype=np.float64)
    except np.linalg.LinAlgError:
        return None
