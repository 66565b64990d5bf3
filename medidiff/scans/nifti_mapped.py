"""NIfTI files that memory cannot hold: read into arrays on disk, and written from them, slab by slab."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import CannotWrite, ScanError
from medidiff.scans import geometry, mapped, nifti
from medidiff.scans.nifti_sizes import check_end, opened
from medidiff.scans.volume import Derivation, Scan, ScanRef, Volume

SLAB = 64_000_000  # voxels that are read at once: the thicker a slab, the fewer times the array on disk is gone over
PIECE = 8_000_000  # voxels that are converted at once


@dataclass(frozen=True)
class MappedSource(nifti.NiftiSource):
    """Undo record of a file whose voxels lie in arrays on disk.

    Attributes:
        dtype: of the stored values.
        offset: where they begin in the file, unpacked.
    """

    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype(np.int16))
    offset: int = 0


def shape_of(ref: ScanRef) -> tuple[int, ...]:
    """The shape of a file's data; only its header is read.

    Raises:
        ScanError: the file is damaged or is not a scalar image.
    """
    with nifti.reading(ref.path):
        return tuple(nifti.headed(ref.path, in_memory=False)[0].shape)


def read(ref: ScanRef, folder: Path) -> Scan:
    """Decode a NIfTI file as `nifti.read` does, into arrays that are mapped from files in ``folder``.

    The arrays lie there in the order of the model's grid, so that planes along its first axis are read in one go.

    Raises:
        ScanError: the file is damaged or is not a scalar image.
        CannotWrite: the disk is full.
    """
    with nifti.reading(ref.path):
        plain, image = nifti.headed(ref.path, in_memory=False)
    dtype, offset = image.header.get_data_dtype(), int(image.dataobj.offset)
    source = MappedSource(plain.header, plain.shape, plain.slope, plain.intercept, dtype, offset)
    affine = np.asarray(source.header.get_best_affine(), dtype=np.float64)
    slice_axis = source.header.get_dim_info()[2]
    spatial = _spatial(source.shape)
    labels = _labels(source.shape)
    with nifti.reading(ref.path):
        targets = [_Target(folder, index, affine, spatial) for index in range(len(labels))]
        for index, planes, stored in _slabs(ref.path, source):
            targets[index].add(planes, nifti.physical(stored, source))
    blind = sum(target.blind for target in targets)
    if blind == math.prod(spatial) * len(targets):
        raise ScanError(f"{ref.path} holds no finite value (all voxels are NaN or infinite); check the file.")
    extent = np.array(targets[0].extent, dtype=np.float32)
    modality = nifti.stated_modality(ref.path) or nifti.guess_modality(extent)
    volumes = (
        Volume(target.array, affine, modality, nifti.units_of(modality), label, target.valid, slice_axis)
        for target, label in zip(targets, labels, strict=True)
    )
    return Scan(ref, tuple(volumes), source, nifti.notes_on(blind, source.header))


def write(scan: Scan, arrays: Sequence[NDArray[np.float32]], path: Path, derivation: Derivation) -> tuple[Path, ...]:
    """Write restored volumes as `nifti.write` does, on the grid of the scan.

    Raises:
        CannotWrite: the file cannot be written.
        ScanError: the input changed since it was read, or the arrays do not fit it.
    """
    if path.exists() and path.resolve() == scan.ref.path.resolve():
        raise CannotWrite(f"{path} is the input itself; choose another output.")
    source: MappedSource = scan.source
    with nifti.reading(scan.ref.path):
        now, _ = nifti.headed(scan.ref.path, in_memory=False)
    if now.shape != source.shape:
        raise ScanError(f"{scan.ref.path} changed while it was processed; run again.")
    _refuse_other_shapes(scan, arrays)

    def pieces() -> Iterator[NDArray[Any]]:
        for index, planes, stored in _slabs(scan.ref.path, source):
            values = mapped.take(arrays[index], (slice(None), slice(None), planes))
            for few in _planes(stored.shape, PIECE):
                yield nifti.restored_values(values[..., few], stored[..., few], source)

    nifti.save(source.header.copy(), pieces(), path, derivation)
    return (path,)


def write_map(
    scan: Scan, arrays: Sequence[NDArray[np.float32]], path: Path, derivation: Derivation
) -> tuple[Path, ...]:
    """Write float32 maps as `nifti.write_map` does, on the grid of the scan.

    Raises:
        CannotWrite: the file cannot be written.
        ScanError: the maps do not fit the scan.
    """
    _refuse_other_shapes(scan, arrays)
    steps = _planes(_spatial(scan.source.shape), SLAB)
    pieces = (mapped.take(array, (slice(None), slice(None), planes)) for array in arrays for planes in steps)
    nifti.save(nifti.map_header(scan.source.header.copy()), pieces, path, derivation)
    return (path,)


class _Target:
    """A volume on disk that is filled slab by slab."""

    def __init__(self, folder: Path, index: int, affine: NDArray[np.float64], shape: tuple[int, ...]) -> None:
        like = Volume(np.broadcast_to(np.float32(0), shape), affine)
        self._grid = geometry.grid_of(like)
        self._turned = self._grid.view(like.array).shape
        self._folder, self._index = folder, index
        self.array = self._grid.undone(mapped.make(folder / f"volume{index}.npy", self._turned, np.float32))
        self.valid: NDArray[np.bool_] | None = None
        self.extent = (math.inf, -math.inf)
        self.blind = 0

    def add(self, planes: slice, values: NDArray[np.float32]) -> None:
        """Put some planes in their place."""
        finite = np.isfinite(values)
        if not finite.all():
            self.blind += int(finite.size - np.count_nonzero(finite))
            values = np.where(finite, values, np.float32(0))
            if self.valid is None:
                made = mapped.make(self._folder / f"valid{self._index}.npy", self._turned, np.bool_)
                for box in mapped.boxes(made):
                    made[box] = True
                self.valid = self._grid.undone(made)
        box = (slice(None), slice(None), planes)
        mapped.put(self.array, box, values)
        if self.valid is not None:
            mapped.put(self.valid, box, finite)
        self.extent = min(self.extent[0], float(values.min())), max(self.extent[1], float(values.max()))


def _spatial(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape of one volume; a 2-D image has one voxel along its third axis."""
    first, second, *rest = shape
    return first, second, rest[0] if rest else 1


def _labels(shape: tuple[int, ...]) -> list[str]:
    """Labels of the volumes, as `nifti.read` gives them."""
    count = math.prod(shape[3:])
    return [f"t={number}" for number in range(count)] if count > 1 else [""]


def _planes(shape: tuple[int, ...], voxels: int) -> list[slice]:
    """The planes of a volume along its slowest axis in the file, some at a time."""
    step = max(1, voxels // (shape[0] * shape[1]))
    return [slice(first, min(first + step, shape[2])) for first in range(0, shape[2], step)]


def _slabs(path: Path, source: MappedSource) -> Iterator[tuple[int, slice, NDArray[Any]]]:
    """Stored values: which volume, which planes of it, and they; a packed file is unpacked as it is read."""
    spatial = _spatial(source.shape)
    with opened(path) as file:
        file.seek(source.offset)
        for index in range(len(_labels(source.shape))):
            for planes in _planes(spatial, SLAB):
                shape = (*spatial[:2], planes.stop - planes.start)
                data = file.read(math.prod(shape) * source.dtype.itemsize)
                stored = np.frombuffer(data, dtype=source.dtype, count=math.prod(shape))
                yield index, planes, stored.reshape(shape, order="F")
        check_end(file)


def _refuse_other_shapes(scan: Scan, arrays: Sequence[NDArray[Any]]) -> None:
    shapes = [array.shape for array in arrays]
    if shapes != [volume.array.shape for volume in scan.volumes]:
        raise ScanError(f"The result does not fit {scan.ref.path}: its volumes have the shapes {shapes}.")
