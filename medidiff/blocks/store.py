"""Arrays on disk of which memory holds no more than what is looked at."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.blocks.cutting import Box, slices
from medidiff.physics import slabs
from medidiff.physics.slabs import Image, Slabs
from medidiff.scans import geometry, mapped
from medidiff.scans.volume import Volume


@dataclass(frozen=True)
class Store:
    """Float32 arrays of the scan's shape, each in a file; nothing of them stays in memory between two calls.

    Attributes:
        folder: where the files lie.
        shape: of each array, on the model's grid.
    """

    folder: Path
    shape: tuple[int, ...]

    def make(self, *names: str) -> None:
        """Make arrays."""
        for name in names:
            mapped.make(self._file(name), self.shape, np.float32)

    def read(self, name: str, box: Box) -> Image:
        """A copy of a part."""
        return mapped.take(mapped.opened(self._file(name)), box)

    def write(self, name: str, box: Box, values: Image) -> None:
        """Put a part in its place."""
        mapped.put(mapped.opened(self._file(name), write=True), box, values)

    def remove(self, *names: str) -> None:
        """Remove arrays that are needed no more."""
        for name in names:
            self._file(name).unlink(missing_ok=True)

    def array(self, name: str) -> Image:
        """All of an array, mapped into memory as it is looked at."""
        return mapped.opened(self._file(name))

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"


@dataclass(frozen=True)
class Source:
    """The scan on the model's grid: in memory, mapped from a file, or the file itself for workers to open.

    Attributes:
        scan: in its own units.
        valid: where it was measured; ``None`` for everywhere.
        low: what stands for values that were not measured; the smallest that was.
    """

    scan: Image | Path
    valid: NDArray[np.bool_] | Path | None = None
    low: float = 0.0

    def read(self, box: Box) -> Image:
        """A copy of a part, in the scan's units."""
        return mapped.take(_there(self.scan), box)

    def measured(self, box: Box) -> NDArray[np.bool_] | None:
        """Which of it was measured."""
        return None if self.valid is None else mapped.take(_there(self.valid), box)

    def filled(self, box: Box) -> Image:
        """A part without values that were not measured."""
        values, valid = self.read(box), self.measured(box)
        return values if valid is None else np.where(valid, values, np.float32(self.low))

    def slabs(self, shape: tuple[int, ...], edge: int) -> Slabs:
        """All of it in slabs, without values that were not measured."""
        rest = tuple(slice(0, n) for n in shape[1:])
        return Slabs(shape, lambda planes: self.filled((planes, *rest)), edge)


def source_of(volume: Volume, grid: geometry.Grid, folder: Path | None) -> Source:
    """The scan on the model's grid.

    Args:
        volume: the scan.
        grid: the model's grid.
        folder: where other processes look for it; ``None`` when there is none.
    """
    scan = grid.view(volume.array)
    valid = None if volume.valid is None else grid.view(volume.valid)
    source = Source(scan, valid)
    boxes = [block.core for block in slices(scan.shape, slabs.edge(scan.shape))]
    if valid is not None:
        lows = (source.read(box)[np.asarray(source.measured(box))].min(initial=np.inf) for box in boxes)
        source = replace(source, low=float(min(lows)))
    if folder is None:
        return source
    for name, array in (("scan", scan), ("valid", valid)):
        if array is not None:
            copy = mapped.make(folder / f"{name}.npy", array.shape, array.dtype.type)
            for box in boxes:
                mapped.put(copy, box, mapped.take(array, box))
    return replace(source, scan=folder / "scan.npy", valid=None if valid is None else folder / "valid.npy")


def _there(array: NDArray[Any] | Path) -> NDArray[Any]:
    return mapped.opened(array) if isinstance(array, Path) else array


@dataclass(frozen=True)
class Folder:
    """Where the files of a restoration in blocks lie.

    Attributes:
        path: the folder.
        own: whether it was made for them alone.
    """

    path: Path
    own: bool

    def goes_with(self, result: object) -> None:
        """Remove the folder when the result is no longer used."""
        if self.own:
            weakref.finalize(result, shutil.rmtree, self.path, ignore_errors=True)


def is_on_disk(volume: Volume) -> bool:
    """Whether a scan is mapped from a file."""
    return mapped.file_of(volume.array) is not None


def folder_for(volume: Volume, needed: float) -> Folder:
    """A folder beside the file that the scan is mapped from, or a new one in the temporary folder.

    Raises:
        CannotWrite: the disk has less than the bytes needed.
    """
    there = mapped.file_of(volume.array)
    if there is not None:
        folder = there.with_suffix("")
        folder.mkdir(exist_ok=True)
        return Folder(folder, own=False)
    mapped.refuse_small_disk(Path(tempfile.gettempdir()), needed)
    return Folder(Path(tempfile.mkdtemp(prefix="medidiff-")), own=True)
