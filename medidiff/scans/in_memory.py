"""Scans and masks in the forms that scripts hold them in: paths, nibabel images, arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import ScanError, UsageError
from medidiff.scans import open_scan, read_mask
from medidiff.scans.nifti import guess_modality, kind_of, units_of
from medidiff.scans.volume import Scan, ScanRef, Volume

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

Source: TypeAlias = "str | Path | Volume | SpatialImage | tuple[NDArray[Any], NDArray[Any]]"
MaskSource: TypeAlias = "str | Path | SpatialImage | NDArray[Any]"  # tensors are taken for arrays


def to_scan(source: Source) -> Scan:
    """A scan in any of the forms that scripts hold it in, as a ``Scan`` of one volume.

    Raises:
        UsageError: if a path holds no scan or several volumes, or the object is none of the known forms.
        ScanError: if the array is not an image of two or three dimensions with finite real values, or is a masked one,
            or its affine is none or singular.
    """
    if isinstance(source, str | Path):
        scan = open_scan(Path(source))
        if len(scan.volumes) != 1:
            raise UsageError(f"{source} holds {len(scan.volumes)} volumes; pass them one by one as (array, affine).")
        return scan
    volume = source if isinstance(source, Volume) else _volume(source)
    if np.shape(volume.affine) != (4, 4) or not np.isfinite(volume.affine).all():
        raise ScanError(
            "The scan's affine is not a matrix of 4 x 4 finite numbers, voxel index to millimetres in RAS+; "
            "np.eye(4) stands for voxels of 1 mm."
        )
    if _is_singular(volume.affine):
        raise ScanError(
            "The scan's affine is singular: no axis of it has a length, or two run along each other; "
            "np.eye(4) stands for voxels of 1 mm."
        )
    return Scan(ScanRef("nifti", Path("array"), (), Path("array"), "array"), (volume,), None)


def to_hole(mask: MaskSource, scan: Scan) -> NDArray[np.bool_]:
    """A mask in any of the forms that scripts hold it in, as a hole in a scan of one volume.

    Raises:
        UsageError: if the object is none of the known forms.
        ScanError: if the mask cannot be read, is not of real numbers, holds NaN, does not fit the scan, or is empty.
    """
    if isinstance(mask, str | Path):
        return read_mask(Path(mask), scan).holes[0]
    volume = scan.volumes[0]
    if isinstance(mask, np.ndarray) or _is_tensor(mask):
        return hole_of(mask, volume)
    if hasattr(mask, "get_fdata") and hasattr(mask, "affine"):
        return hole_of(mask.dataobj, volume, np.asarray(mask.affine))
    raise UsageError(f"A mask is a path, a nibabel image or an array, not {type(mask).__name__}.")


def hole_of(mask: Any, volume: Volume, affine: NDArray[np.float64] | None = None) -> NDArray[np.bool_]:
    """The values of a mask, not 0 where a volume is to be filled, as a hole in it.

    Args:
        mask: an array of the volume's shape.
        volume: the scan.
        affine: of the mask; that of the volume by default.

    Raises:
        ScanError: if the mask is not of real numbers, holds NaN, does not lie on the volume's grid, or is empty.
    """
    values = _real(mask, "mask")
    if np.isnan(values).any():
        raise ScanError("The mask holds NaN; set every voxel to zero or to a number.")
    apart = affine is not None and not np.allclose(affine, volume.affine, atol=1e-3)
    if values.shape != volume.array.shape or apart:
        raise ScanError(
            f"The mask of shape {values.shape} does not lie on the grid of the scan, {volume.array.shape}; "
            "resample it, or give the path of its file."
        )
    hole = np.asarray(values != 0)
    if not hole.any():
        raise ScanError("The mask is empty, so there is nothing to fill; mark the hole with values other than 0.")
    return hole


def blank(scan: Scan, hole: NDArray[np.bool_] | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Voxels of a result whose nearest voxel in the scan held no finite value and was not filled; ``None`` for none.

    Args:
        scan: of one volume, as ``to_scan`` gives it.
        hole: what was filled.
        shape: of the result.
    """
    volume = scan.volumes[0]
    if scan.ref.kind != "nifti" or volume.valid is None:
        return None
    gone = ~volume.valid if hole is None else ~(volume.valid | hole)
    # finer voxels fill the same field of view
    nearest = ((np.arange(fine) + 0.5) * coarse / fine for fine, coarse in zip(shape, gone.shape, strict=True))
    return gone[np.ix_(*(places.astype(int) for places in nearest))]


def _volume(source: Any) -> Volume:
    """The volume of a nibabel image or of an (array, affine) pair."""
    if isinstance(source, tuple):
        if len(source) != 2:
            raise UsageError(f"A scan is an (array, affine) pair, not {len(source)} things.")
        array, affine = source
    elif hasattr(source, "get_fdata") and hasattr(source, "affine"):
        array, affine = source.dataobj, source.affine
    else:
        raise UsageError(
            f"A scan is a path, a nibabel image, an (array, affine) pair or a Volume, not {type(source).__name__}."
        )
    array = _on_host(array)
    with np.errstate(over="ignore", invalid="ignore"):  # beyond float32 becomes infinite, hence not valid
        values = _real(array, "scan").astype(np.float32, copy=False)
    if values.ndim != 3 or values.size == 0:
        raise ScanError(
            f"An image of shape {np.shape(array)} is not one volume; give arrays of two or three dimensions."
        )
    valid = np.isfinite(values)
    if not valid.any():
        if np.isfinite(array).any():
            raise ScanError("The array's values lie beyond 3e38, so they cannot be restored; scale them down first.")
        raise ScanError("The array holds no finite value.")
    filled = np.where(valid, values, np.float32(0))
    modality = guess_modality(filled)
    return Volume(filled, _numbers(affine), modality, units_of(modality), valid=None if valid.all() else valid)


def _is_singular(affine: NDArray[np.float64]) -> bool:
    """Whether axes do not span a space; one without a length counts as 1 mm beside others (see ``spacing_of``)."""
    axes = affine[:3, :3]
    lengths = np.sqrt((axes**2).sum(axis=0))
    there = axes[:, lengths > 0] / lengths[lengths > 0]
    return there.size == 0 or bool(np.linalg.matrix_rank(there, tol=1e-6) < there.shape[1])


def _real(data: Any, what: str) -> NDArray[Any]:
    """An array of real numbers with axes as a file of it gives them: a third one, and none of one voxel beyond.

    Raises:
        ScanError: they are something else.
    """
    try:
        values: NDArray[Any] = np.asanyarray(_on_host(data))
    except ValueError as error:  # rows of different lengths
        raise ScanError(f"The {what} is not an array; give one number for each voxel.") from error
    if isinstance(values, np.ma.MaskedArray):
        known = "0 where nothing is to be filled" if what == "mask" else "NaN where nothing was measured"
        raise ScanError(f"The {what} is a masked array; give a plain one, with {known}.")
    if values.dtype.kind not in "biuf":
        raise ScanError(f"The {what} holds {kind_of(values.dtype)}, not real numbers; convert it to those first.")
    if values.ndim == 2:
        return values[:, :, None]
    return values.reshape(values.shape[:3]) if set(values.shape[3:]) == {1} else values


def _is_tensor(data: Any) -> bool:
    """Whether something is a tensor of torch, which is not imported for it."""
    return hasattr(data, "detach") and hasattr(data, "cpu")


def _on_host(data: Any) -> Any:
    """A tensor as numpy can read it, wherever it lies and whatever its gradient and kind; all else as it is."""
    if not _is_tensor(data):
        return data
    tensor = data.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def _numbers(affine: Any) -> NDArray[np.float64]:
    """An affine as numbers; an empty array when it is made of something else."""
    try:
        return np.asarray(_on_host(affine), dtype=np.float64)
    except (TypeError, ValueError):
        return np.empty(0)
