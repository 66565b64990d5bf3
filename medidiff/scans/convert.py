"""DICOM results as NIfTI, with shape, affine and order of voxels as dcm2niix gives them for the source.

DICOM counts rows downwards; dcm2niix turns them round, so that an axial volume runs left, anterior, superior. A volume
that was acquired in three dimensions (MRAcquisitionType 3D) it turns further, to the axes nearest to right, anterior,
superior. Repetitions and b-values become the fourth dimension; echoes, image types and grids become files of their own.
Voxels keep the stored value, slope and intercept of the source where one pair serves all slices, else float32 holds
physical values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from nibabel import orientations
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medidiff.errors import ScanError
from medidiff.scans import dicom_pixels, nifti
from medidiff.scans.dicom import DicomSource
from medidiff.scans.dicom_headers import Header, quiet
from medidiff.scans.dicom_pixels import Coding
from medidiff.scans.dicom_stacks import Stack
from medidiff.scans.outputs import nifti_stem
from medidiff.scans.regrid import Regrid, regrid
from medidiff.scans.volume import Derivation, Scan, Volume

Affine = NDArray[np.float64]
AS_IT_IS = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
DOWNWARDS = np.array([[0.0, 1.0], [1.0, -1.0], [2.0, 1.0]])  # columns, rows turned round, slices
STORED = (np.int16, np.uint16, np.int32, np.int64)  # the first that holds all values
SAME_PLACE = 1e-4


@dataclass(frozen=True)
class Part:
    """One NIfTI file out of a series.

    Attributes:
        volumes: which volumes of the scan it holds, in the order of its last axis.
        turn: where each axis of such a volume goes and whether it is turned round, as nibabel's orientations say it.
    """

    volumes: tuple[int, ...]
    turn: NDArray[np.float64]

    @property
    def back(self) -> Part:
        """What brings a volume of the file back to the axes of the series."""
        return Part(self.volumes, orientations.ornt_transform(AS_IT_IS, self.turn))

    def array(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of one of the volumes (or of a finer grid along its axes) with the axes of the file."""
        return np.asarray(orientations.apply_orientation(array, self.turn))

    def affine(self, affine: Affine, shape: tuple[int, ...]) -> Affine:
        """The affine of such an array: index in the file to millimetres in RAS+."""
        return np.asarray(affine @ orientations.inv_ornt_aff(self.turn, shape), dtype=np.float64)

    def volume(self, volume: Volume) -> Volume:
        """A volume as the file holds it."""
        return replace(
            volume,
            array=self.array(volume.array),
            affine=self.affine(volume.affine, volume.array.shape),
            valid=None if volume.valid is None else self.array(volume.valid),
            missing=None if volume.missing is None else self.array(volume.missing),
            slice_axis=None if volume.slice_axis is None else int(self.turn[volume.slice_axis, 0]),
        )


def refusal(scan: Scan) -> str:
    """Why a series cannot be a NIfTI file, as a clause; empty when it can."""
    reasons = dict.fromkeys(volume.irregular for volume in scan.volumes if volume.irregular)
    if reasons:
        return f"it is not a regular volume: {'; '.join(reasons)}"
    source: DicomSource = scan.source
    return "" if all(image.has_geometry for image in source.images) else "its images do not say where they lie in space"


def lost(scan: Scan) -> tuple[str, ...]:
    """One sentence each on what NIfTI files of a series do not hold."""
    source: DicomSource = scan.source
    if any(value > 0 for image in source.images for value in image.facts["b"]):
        text = "b-values and gradients are not written beside the NIfTI file; those that dcm2niix makes of the series"
        return (f"{text} belong to it, for the volumes have the same order.",)
    return ()


def layout(scan: Scan) -> tuple[Part, ...]:
    """Which NIfTI files a series becomes, in the order of the scan's volumes.

    Args:
        scan: as `dicom.read` returned it.
    """
    source: DicomSource = scan.source
    groups: list[list[int]] = []
    for index, (volume, stack) in enumerate(zip(scan.volumes, source.stacks, strict=True)):
        for group in groups:
            if _together(scan.volumes[group[0]], source.stacks[group[0]], volume, stack):
                group.append(index)
                break
        else:
            groups.append([index])
    return tuple(_part(scan, group) for group in groups)


def told(sidecar: Mapping[str, Any]) -> tuple[Part, ...]:
    """The files that a series became, as the sidecar of the result tells; none when it became none or is damaged."""
    try:
        parts = [Part(tuple(map(int, each["volumes"])), np.array(each["turn"], float)) for each in sidecar["nifti"]]
    except (KeyError, TypeError, ValueError):
        return ()
    whole = all(part.volumes and sorted(part.turn[:, 0]) == [0, 1, 2] for part in parts if part.turn.shape == (3, 2))
    return tuple(parts) if whole and all(part.turn.shape == (3, 2) for part in parts) else ()


def as_nifti(scan: Scan) -> tuple[tuple[Volume, ...], ...]:
    """The volumes of a series as the NIfTI files hold them, file after file."""
    return tuple(tuple(part.volume(scan.volumes[index]) for index in part.volumes) for part in layout(scan))


def numbered(parts: Iterable[Part], path: Path) -> Iterator[tuple[Part, Path]]:
    """Each part with the name of its file: ``NAME.nii.gz``, ``NAME_2.nii.gz``, ..."""
    stem = nifti_stem(path.name) or path.name
    for number, part in enumerate(parts, start=1):
        yield part, path if number == 1 else path.with_name(f"{stem}_{number}{path.name[len(stem) :]}")


def write(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    path: Path,
    derivation: Derivation,
    affines: Sequence[Affine] | None = None,
) -> tuple[Path, ...]:
    """Write the restored volumes of a DICOM series as NIfTI.

    A voxel that equals the value read keeps its stored value, and so does padding.

    Args:
        scan: as `dicom.read` returned it.
        arrays: one array a volume, physical units; of the volume's shape unless ``affines`` are given.
        path: the first file; further ones are called ``NAME_2.nii.gz``, ``NAME_3.nii.gz``, ...
        derivation: its ``short`` text goes to ``descrip``.
        affines: 4 x 4, voxel index to RAS+ millimetres, one a volume: the grids of arrays that are finer than the scan.

    Returns:
        The files, in the order of `layout`.

    Raises:
        CannotWrite: a file cannot be written.
        ScanError: the series is not a regular volume, a source image is gone, or the arrays do not fit.
    """
    _check(scan, arrays, affines)
    source: DicomSource = scan.source
    places = affines if affines is not None else [volume.affine for volume in scan.volumes]
    files = []
    with quiet():
        for part, file in numbered(layout(scan), path):
            codes = _codes(header for index in part.volumes for header in source.stacks[index].images)
            one = len({(code.slope, code.intercept) for code in codes}) == 1
            stored = [
                part.array(_stored(scan.volumes[index], source.stacks[index], arrays[index], places[index], whole=one))
                for index in part.volumes
            ]
            code = next(iter(codes))
            data = _narrowed(_stacked(stored), code) if one else _stacked(stored)
            first = part.volumes[0]
            affine = part.affine(places[first], arrays[first].shape)
            scaling = (code.slope, code.intercept) if one else (1.0, 0.0)
            step = _repetition(source.stacks[first])
            files.append(nifti.save_stored(data, affine, file, derivation, scaling=scaling, seconds=step))
    return tuple(files)


def write_map(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    path: Path,
    derivation: Derivation,
    affines: Sequence[Affine] | None = None,
) -> tuple[Path, ...]:
    """Write float32 maps on the grids of the files of `write`; arguments, files and errors are those of `write`."""
    _check(scan, arrays, affines)
    places = affines if affines is not None else [volume.affine for volume in scan.volumes]
    files = []
    for part, file in numbered(layout(scan), path):
        data = _stacked([part.array(np.asarray(arrays[index], dtype=np.float32)) for index in part.volumes])
        first = part.volumes[0]
        affine = part.affine(places[first], arrays[first].shape)
        files.append(nifti.save_stored(data, affine, file, derivation))
    return tuple(files)


def _check(scan: Scan, arrays: Sequence[NDArray[np.float32]], affines: Sequence[Affine] | None) -> None:
    why = refusal(scan)
    if why:
        raise ScanError(f"{scan.ref.path} cannot be written as NIfTI: {why}.")
    expected, given = [volume.array.shape for volume in scan.volumes], [array.shape for array in arrays]
    if len(given) != len(expected) or (affines is None and given != expected):
        raise ScanError(f"{scan.ref.stem}: the restored arrays have shapes {given}, the scan has {expected}.")


def _together(one: Volume, its: Stack, other: Volume, their: Stack) -> bool:
    """Whether two volumes go into one file."""
    if one.array.shape != other.array.shape or not np.allclose(one.affine, other.affine, atol=SAME_PLACE):
        return False
    first, second = its.images[0], their.images[0]
    return first.facts["echo"] == second.facts["echo"] and first.image_type[2:] == second.image_type[2:]


def _part(scan: Scan, group: Sequence[int]) -> Part:
    source: DicomSource = scan.source
    volume, first = scan.volumes[group[0]], source.stacks[group[0]].images[0]
    order = sorted(group, key=lambda index: _earliest(source.stacks[index]))
    turn = DOWNWARDS
    if len(group) == 1 and volume.array.shape[2] > 1 and _tag(first, "MRAcquisitionType") == "3D":
        turned = volume.affine @ orientations.inv_ornt_aff(DOWNWARDS, volume.array.shape)
        onward = orientations.io_orientation(turned)
        turn = np.stack([onward[:, 0], DOWNWARDS[:, 1] * onward[:, 1]], axis=1)
    return Part(tuple(order), turn)


def _earliest(stack: Stack) -> int:
    """The smallest InstanceNumber of a volume; dcm2niix lets volumes follow each other in that order."""
    return min((image.instance for image in stack.images if image.instance is not None), default=0)


def _stored(
    volume: Volume, stack: Stack, array: NDArray[np.float32], affine: Affine, *, whole: bool
) -> NDArray[np.int64] | NDArray[np.float32]:
    """Stored values of a restored volume (``whole``), else physical ones, with padding as in the source."""
    grid = regrid(volume, array.shape, affine)
    result = np.empty(array.shape, dtype=np.int64 if whole else np.float32, order="F")
    reader = dicom_pixels.Reader()
    pixels = lru_cache(maxsize=1)(lambda number: _pixels(reader, stack.images[number]))
    for k, place in enumerate(grid.places(2)):
        before, code = pixels(stack.nearest(place))
        before = _on(before, grid)
        values = np.asarray(array[:, :, k], dtype=np.float32).T
        if whole:
            result[:, :, k] = dicom_pixels.to_stored(values, before, code).T
        else:
            padded = ~dicom_pixels.measured(before, code)
            result[:, :, k] = np.where(padded, dicom_pixels.to_physical(before, code), values).T
    return result


def _on(stored: NDArray[np.int64], grid: Regrid) -> NDArray[np.int64]:
    """The stored value of the source pixel nearest to each pixel of a plane of the new grid, (rows, columns)."""
    return stored[np.ix_(grid.nearest(1), grid.nearest(0))]


def _pixels(reader: dicom_pixels.Reader, header: Header) -> tuple[NDArray[np.int64], Coding]:
    dataset, stored = reader.read(header)
    if str(dataset.get("SOPInstanceUID", "")).strip() != header.sop_uid:
        raise ScanError(f"{header.path} changed while it was processed; run again.")
    return stored, dicom_pixels.coding(dataset, header)


def _codes(headers: Iterable[Header]) -> set[Coding]:
    """How the values of images are stored, by their headers alone."""
    found, path, dataset = set(), None, Dataset()
    for header in headers:
        if header.path != path:
            try:
                dataset = pydicom.dcmread(header.path, stop_before_pixels=True, force=True)
            except Exception as error:  # pydicom raises many kinds on damaged files
                raise ScanError(f"{header.path} cannot be read as DICOM ({type(error).__name__}).") from error
            path = header.path
        found.add(dicom_pixels.coding(dataset, header))
    return found


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)


def _narrowed(stored: NDArray[Any], code: Coding) -> NDArray[Any]:
    """Stored values in the smallest usual type that holds them, as dcm2niix chooses it."""
    low, high = int(stored.min()), int(stored.max())
    kinds = (np.uint8, *STORED) if code.bits <= 8 and not code.signed else STORED
    kind = next(kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return stored.astype(kind)


def _tag(header: Header, keyword: str) -> Any:
    """One attribute of a source image that the reader does not keep; ``None`` without a sensible value."""
    try:
        with quiet():
            dataset = pydicom.dcmread(header.path, stop_before_pixels=True, force=True, specific_tags=[keyword])
            return dataset.get(keyword)
    except Exception:  # pydicom raises many kinds on damaged values; the value then counts as absent
        return None


def _repetition(stack: Stack) -> float:
    """Seconds between volumes by RepetitionTime; 0 when the images do not tell."""
    try:
        return max(float(_tag(stack.images[0], "RepetitionTime") or 0) / 1000, 0.0)
    except (TypeError, ValueError):
        return 0.0
