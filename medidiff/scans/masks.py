"""Reads what is to be restored: a NIfTI mask, a DICOM segmentation, or the one that fits in a folder of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import OutOfMemory, ScanError, UsageError
from medidiff.scans import bids, limits, links, outputs
from medidiff.scans.outputs import NIFTI_SUFFIXES, nifti_stem
from medidiff.scans.volume import Mask, Scan, ScanRef, Volume

SEGMENTATION = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # segmentation; label map
SAME_GRID = 0.01  # voxels that the corners of two grids may lie apart


@dataclass(frozen=True)
class _Grid:
    """A boolean array, shape (I, J, K), and its affine to RAS+ millimetres.

    ``partial``: the file leaves out slices that hold nothing, so that another shape or origin means nothing.
    """

    array: NDArray[np.bool_]
    affine: NDArray[np.float64]
    partial: bool = False


def read_mask(path: Path, scan: Scan) -> Mask:
    """Read what is to be restored, on the grids of a scan's volumes.

    Voxels that are not zero are to be restored; of a DICOM segmentation, those in any segment. A mask on another grid
    is resampled to the scan's by nearest neighbour, through both affines. One 3-D mask serves every volume of the scan,
    a 4-D mask with as many volumes as the scan serves them one by one. Slices that the scan lacks (`Volume.missing`)
    are always part of the hole.

    Args:
        path: a NIfTI file, a DICOM segmentation, a folder that holds one segmentation of the series, or a folder of
            masks named like the scans: for ``sub/t1w.nii.gz`` it is ``sub/t1w.nii.gz`` or ``sub/t1w_mask.nii.gz`` in
            the folder, or the same without ``sub``; or named as BIDS asks, see `bids.masks_in`. The folders of a scan
            in a BIDS dataset are also those below the dataset, whatever part of it is the input.
        scan: the case.

    Returns:
        The holes, one a volume of the scan.

    Raises:
        UsageError: there is no such file, or the folder holds none, or several, for the scan.
        ScanError: the mask is damaged, is not a scalar image, holds NaN, marks nothing, nothing of the scan, or all
            of it.
    """
    file = find_mask(path, scan.ref)
    try:
        grids = _nifti(file) if nifti_stem(file.name) is not None else [_segmentation(file)]
        if not any(grid.array.any() for grid in grids):
            raise ScanError(f"The mask {file} is empty: it marks no voxel to restore.")
        if len(grids) not in (1, len(scan.volumes)):
            raise ScanError(
                f"The mask {file} has {len(grids)} volumes, the scan {scan.ref.path} has {len(scan.volumes)}; "
                "give a 3-D mask or one with as many volumes."
            )
        many = grids if len(grids) > 1 else grids * len(scan.volumes)
        placed = [_on(volume, grid) for volume, grid in zip(scan.volumes, many, strict=True)]
    except MemoryError as error:
        raise OutOfMemory(f"The mask {file} does not fit the memory.") from error
    _check(file, scan, [hole for hole, _ in placed])
    notes = []
    if not all(same for _, same in placed):
        notes.append(f"The mask {file.name} lies on another grid; it was resampled to the scan's by nearest neighbour.")
    holes = []
    for volume, (hole, _) in zip(scan.volumes, placed, strict=True):
        holes.append(hole if volume.missing is None else hole | volume.missing)
    return Mask(tuple(holes), tuple(notes), (file,))


def mask_hash(path: Path, ref: ScanRef) -> str:
    """SHA-256 over the bytes of the mask that belongs to a case, as hexadecimal text.

    Args:
        path: as for `read_mask`.
        ref: the case.

    Raises:
        UsageError: there is no mask for the case.
        ScanError: it cannot be read.
    """
    file = find_mask(path, ref)
    try:
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise ScanError(f"The mask {file} cannot be read ({error.strerror or type(error).__name__}).") from error


def find_mask(path: Path, ref: ScanRef) -> Path:
    """The file that holds the mask of a case.

    Args:
        path: as for `read_mask`.
        ref: the case.

    Raises:
        UsageError: there is no mask for the case, or it is not clear which.
    """
    if not path.exists():
        raise UsageError(f"The mask {path} does not exist.")
    if path.is_file():
        return path
    if not path.is_dir():  # who reads a pipe waits for its writer
        raise UsageError(f"The mask {path} is neither a file nor a folder.")
    for place in _places(path, ref):
        named = [file for file in _names(place, ref) if _belongs(file, path) and not _is_source(file, ref)]
        if named:
            return _only(named, path, ref)
    segmentations = _segmentations(path)
    if ref.kind == "dicom":
        of_series = [file for file, series in segmentations if ref.series_uid and ref.series_uid in series]
        if of_series:
            return _only(of_series, path, ref)
    if len(segmentations) == 1 and not segmentations[0][1]:  # it does not say which series it belongs to
        return segmentations[0][0]
    if len(segmentations) == 1 and ref.kind == "nifti":
        return segmentations[0][0]
    raise UsageError(f"{path} holds no mask for {ref.relative.as_posix()}; call it {ref.stem}_mask.nii.gz.")


def _places(folder: Path, ref: ScanRef) -> Iterable[Path]:
    """Where below a folder of masks that of a case may lie: as below the input, as in its BIDS dataset, or on top."""
    root = bids.root_of(ref.path) if ref.kind == "nifti" else None
    of_dataset = () if root is None else (folder / bids.inside(ref.path, root).parent,)
    return dict.fromkeys((folder / ref.relative.parent, *of_dataset, folder))


def _names(folder: Path, ref: ScanRef) -> list[Path]:
    """Where the NIfTI mask of a case may lie in a folder."""
    own = ref.relative.name
    stems = dict.fromkeys((nifti_stem(own) or own, ref.stem))
    named = [folder / f"{stem}{word}{end}" for stem in stems for word in ("", "_mask") for end in NIFTI_SUFFIXES]
    return named if any(file.is_file() for file in named) else bids.masks_in(folder, ref.stem)


def _belongs(file: Path, folder: Path) -> bool:
    """Whether there is a file that really lies in the folder that the user named."""
    return file.is_file() and not links.leads_out(file, [Path(os.path.realpath(folder))])


def _is_source(file: Path, ref: ScanRef) -> bool:
    return any(file.resolve() == source.resolve() for source in ref.files)


def _only(files: Sequence[Path], path: Path, ref: ScanRef) -> Path:
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise UsageError(f"{path} holds several masks for {ref.relative.as_posix()} ({names}); name one of them.")
    return files[0]


def _segmentations(folder: Path) -> list[tuple[Path, frozenset[str]]]:
    """The DICOM segmentations below a folder, each with the SeriesInstanceUIDs that it says it belongs to."""
    import pydicom

    from medidiff.scans.dicom_headers import looks_like_dicom, quiet

    found = []
    tags: list[Any] = ["SOPClassUID", "ReferencedSeriesSequence"]
    files = outputs.entries(folder, "*", below=True)
    for file in (file for file in files if _belongs(file, folder) and not file.name.startswith(".")):
        try:
            with limits.Bounded(file) as handle, quiet():
                if not looks_like_dicom(handle.read(132)):
                    continue
                handle.seek(0)
                limits.check_deflated(file)
                dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True, specific_tags=tags)
                if str(dataset.get("SOPClassUID", "")) not in SEGMENTATION:
                    continue
                series = [str(item.SeriesInstanceUID) for item in dataset.get("ReferencedSeriesSequence") or []]
        except Exception:  # pydicom raises many kinds on damaged files; they are no masks
            continue
        found.append((file, frozenset(series)))
    return found


def _nifti(file: Path) -> list[_Grid]:
    from medidiff.scans import nifti

    volumes, affine = nifti.read_values(file)
    if any(np.isnan(values).any() for values in volumes):
        raise ScanError(f"The mask {file} holds NaN; set every voxel to zero or to a number.")
    return [_Grid(np.asarray(values != 0, dtype=np.bool_), affine) for values in volumes]


def _class_of(file: Path) -> str:
    """The SOPClassUID of a DICOM file; call it inside `quiet`.

    Raises:
        Exception: whatever pydicom raises on a damaged file.
    """
    import pydicom

    limits.check_deflated(file)
    with limits.Bounded(file) as handle:
        dataset = pydicom.dcmread(handle, stop_before_pixels=True, force=True, specific_tags=["SOPClassUID"])
        return str(dataset.get("SOPClassUID", ""))


def _segmentation(file: Path) -> _Grid:
    """The union of all segments of a DICOM segmentation."""
    import highdicom as hd
    from pydicom.uid import UID

    from medidiff.scans.dicom_headers import looks_like_dicom, quiet
    from medidiff.scans.dicom_pixels import is_panic
    from medidiff.scans.dicom_stacks import LPS_TO_RAS

    with file.open("rb") as handle:
        start = handle.read(132)
    if not looks_like_dicom(start):
        raise ScanError(f"The mask {file} is neither a NIfTI file nor a DICOM segmentation.")
    try:
        with quiet():
            kind = _class_of(file)
            if kind not in SEGMENTATION:
                raise ScanError(
                    f"The mask {file} is not a DICOM segmentation but {UID(kind).name or 'without a SOP class'}; "
                    "give a DICOM segmentation or a NIfTI file."
                )
            with limits.Bounded(file) as handle:
                segments = hd.seg.segread(handle)
            fractional = str(segments.SegmentationType) == "FRACTIONAL"
            how: dict[str, Any] = {"rescale_fractional": False} if fractional else {"combine_segments": True}
            volume = segments.get_volume(skip_overlap_checks=True, **how)
    except (MemoryError, ScanError):
        raise
    except BaseException as error:  # pydicom and highdicom raise many kinds
        if not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = type(error).__name__
        raise ScanError(f"The mask {file} is not a DICOM segmentation with a regular geometry ({reason}).") from error
    marked = volume.array != 0
    array: NDArray[np.bool_] = np.any(marked, axis=-1) if marked.ndim == 4 else marked
    affine = (LPS_TO_RAS @ volume.affine)[:, [2, 1, 0, 3]]  # highdicom's axes are slice, row, column
    return _Grid(array.transpose(2, 1, 0), np.asarray(affine, dtype=np.float64), partial=True)


def _on(volume: Volume, grid: _Grid) -> tuple[NDArray[np.bool_], bool]:
    """The mask on a volume's grid, and whether it lay on it already."""
    shape = volume.array.shape
    if grid.array.shape == shape and np.array_equal(grid.affine, volume.affine):
        return grid.array.copy(), True
    hole = np.zeros(shape, dtype=np.bool_)
    try:
        across = np.linalg.inv(grid.affine) @ volume.affine
    except np.linalg.LinAlgError:
        return hole, False
    on_voxels = _apart(across, np.rint(across), shape) < SAME_GRID
    if grid.array.shape == shape and on_voxels and np.array_equal(np.rint(across), np.eye(4)):
        return grid.array.copy(), True
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    limits = np.array(grid.array.shape).reshape(3, 1, 1)
    for k in range(shape[2]):
        place = np.einsum("ab,bij->aij", across[:3, :2], np.stack([i, j]))
        place += (across[:3, 2] * k + across[:3, 3]).reshape(3, 1, 1)
        index = np.floor(place + 0.5 + 1e-6).astype(np.int64)
        inside = ((index >= 0) & (index < limits)).all(axis=0)
        index = np.where(inside, index, 0)
        hole[:, :, k] = grid.array[index[0], index[1], index[2]] & inside
    return hole, on_voxels and (grid.partial or _is_turned(np.rint(across), shape, grid.array.shape))


def _is_turned(across: NDArray[np.float64], shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether a map of voxel indices, of whole numbers, turns one box into another: axes are swapped or reversed."""
    ends = across[:3, :3] @ np.diag(np.array(shape) - 1)  # of the axes, from the first voxel
    corners = across[:3, 3] + np.array([np.minimum(ends, 0).sum(axis=1), np.maximum(ends, 0).sum(axis=1)])
    square = np.array_equal(across[:3, :3] @ across[:3, :3].T, np.eye(3))
    return square and np.array_equal(corners, [np.zeros(3), np.array(other) - 1])


def _apart(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """The most that two maps of voxel indices differ over an image, in voxels."""
    off = np.abs(one - other)[:3]
    return float((off[:, :3] @ np.array(shape) + off[:, 3]).max())


def _check(file: Path, scan: Scan, holes: Sequence[NDArray[np.bool_]]) -> None:
    if not any(hole.any() for hole in holes):
        raise ScanError(f"The mask {file} does not overlap the scan {scan.ref.path}: it marks no voxel of it.")
    for volume, hole in zip(scan.volumes, holes, strict=True):
        left = ~hole if volume.valid is None else ~hole & volume.valid
        if not left.any():
            which = f" (volume {volume.label})" if volume.label else ""
            raise ScanError(f"The mask {file} covers the whole scan {scan.ref.path}{which}; nothing measured is left.")
