"""The files of a finished case, found through its record and sidecar, and read when somebody asks for them."""

from __future__ import annotations

import glob
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from medidiff import scans
from medidiff.errors import MedidiffError
from medidiff.evaluation.results import Image
from medidiff.runs import sidecar
from medidiff.scans import convert, discover
from medidiff.scans.outputs import TASK_SUFFIX, nifti_stem
from medidiff.scans.regrid import regrid
from medidiff.scans.volume import Scan, ScanRef, Volume

NOTHING = np.empty((0, 0, 0), dtype=np.float32)


class Shelf:
    """The scans that were read last; a folder of scans does not fit the memory."""

    def __init__(self, room: int = 5) -> None:
        self.room = room
        self._scans: OrderedDict[object, Scan] = OrderedDict()

    def get(self, key: object, read: Callable[[], Scan]) -> Scan:
        """The scan of a key, read if it is not there."""
        if key in self._scans:
            self._scans.move_to_end(key)
        else:
            self._scans[key] = read()
            while len(self._scans) > self.room:
                self._scans.popitem(last=False)
        return self._scans[key]


class ResultFiles:
    """What lies on disk of one finished case.

    Attributes:
        tree: the sidecar; ``None`` when it cannot be read.
        task: ``denoise``, ``superres`` or ``inpaint``; empty without a sidecar.
        name: the scan's name, behind its folder in the run.
        pattern: what ``--exclude`` takes to leave the scan out.
        ref: the scan that was restored; ``None`` when it is gone or changed.
        missing: one sentence each on what is no longer there.
    """

    def __init__(self, entry: Mapping[str, Any], folder: Path, shelf: Shelf) -> None:
        outputs: Mapping[str, Any] = entry["outputs"]
        self._shelf = shelf
        self._restored = folder / str(outputs["restored"])
        self._maps = {role: outputs.get(role) for role in ("uncertainty", "supplied")}
        self._folder = folder
        tree = sidecar.load(folder / str(outputs.get("sidecar")))
        self.tree = tree if tree is not None and sidecar.is_ours(tree) else None
        self._parts = convert.told(self.tree or {})
        self.task = str((tree or {}).get("task", ""))
        base = nifti_stem(self._restored.name) or self._restored.name
        stem = base.removesuffix(f"_{TASK_SUFFIX.get(self.task, '')}")
        inside = PurePosixPath(str(outputs["restored"])).parent
        given = PurePosixPath(str(entry.get("input")))
        self.name = (inside / stem).as_posix()
        self.pattern = glob.escape(self.name if entry.get("kind") == "dicom" else (inside / given.name).as_posix())
        self.missing: list[str] = []
        self.ref = self._find(folder / given, stem)
        if not self._restored.exists():
            self.missing.append(f"{self.name}: the restored image is no longer where it was.")

    def _find(self, source: Path, stem: str) -> ScanRef | None:
        """The scan that was restored, if it still is what it was."""
        wanted = (self.tree or {"input": {}})["input"].get("content_sha256")
        found: tuple[ScanRef, ...] = ()
        try:
            found = discover.find_scans([source]).cases
            for ref in sorted(found, key=lambda each: each.stem != stem):
                if discover.content_hash(ref) == wanted:
                    return ref
        except (MedidiffError, OSError):
            pass
        why = "was changed since" if found else "is no longer where it was"
        self.missing.append(f"{self.name}: the scan {why}, so that only the restored image is shown.")
        return None

    @property
    def roles(self) -> tuple[str, ...]:
        """Which images there are, by the roles of an evaluation."""
        if not self._restored.exists():
            return ()
        maps = [role for role, path in self._maps.items() if path and (self._folder / path).exists()]
        before = ["input"] if self.ref is not None else []
        hole = ["hole"] if self.task == "inpaint" and "supplied" in maps else []
        return ("restored", *before, *maps, *hole)

    def image(self, role: str, index: int) -> Image:
        """The image of a role on the grid of the restored volume; an empty one when the file does not hold it.

        Args:
            role: one of `roles`.
            index: which volume of the scan.
        """
        match role:
            case "input":
                return self._before(index)
            case "restored":
                return self.volume(index).array
            case "hole":
                return (self._map("supplied", index) > 0.5).astype(np.float32)
            case _:
                return self._map(role, index)

    def volume(self, index: int) -> Volume:
        """A restored volume, with the axes of the scan."""
        if self._parts and nifti_stem(self._restored.name) is not None:
            return self._converted(self._restored, index)
        return self._shelf.get(self._restored, lambda: scans.open_scan(self._restored)).volumes[index]

    def _converted(self, first: Path, index: int) -> Volume:
        """A volume out of the NIfTI files that a series became, with the axes of the series."""
        part, path = next(each for each in convert.numbered(self._parts, first) if index in each[0].volumes)
        volumes = self._shelf.get(path, lambda: scans.open_scan(path)).volumes
        return part.back.volume(volumes[part.volumes.index(index)])

    def scan(self) -> Scan | None:
        """The scan as it was given."""
        ref = self.ref
        if ref is None:
            return None
        return self._shelf.get(ref, lambda: scans.read(ref, fill_gaps=self.task == "inpaint"))

    def orientation(self, index: int) -> str:
        """Where the axes of a restored volume lead, as in ``RAS``; empty when the affine does not tell."""
        codes = nib.aff2axcodes(self.volume(index).affine)
        return "" if None in codes else "".join(codes)

    def _before(self, index: int) -> Image:
        """The scan on the grid of the restored volume, by cubic splines where that is finer."""
        scan, target = self.scan(), self.volume(index)
        if scan is None or index >= len(scan.volumes):
            return NOTHING
        volume = scan.volumes[index]
        grid = regrid(volume, target.array.shape, target.affine)
        if grid.unchanged:
            return volume.array
        finer = ndimage.affine_transform(
            volume.array, np.diag(grid.scale), grid.offset, output_shape=grid.shape, order=3, mode="nearest"
        )
        return np.asarray(finer, dtype=np.float32)

    def _map(self, role: str, index: int) -> Image:
        """A map; the volumes of a series on several grids lie in ``NAME.nii.gz``, ``NAME_2.nii.gz``, ..."""
        first = self._folder / str(self._maps[role])
        stem = nifti_stem(first.name)
        shape = self.volume(index).array.shape
        if self._parts:
            found = self._converted(first, index).array
            return found if found.shape == shape else NOTHING
        place, path, number = index, first, 1
        while path.exists():
            volumes = self._shelf.get(path, lambda path=path: scans.open_scan(path)).volumes  # type: ignore[misc]
            if place < len(volumes):
                return volumes[place].array if volumes[place].array.shape == shape else NOTHING
            place, number = place - len(volumes), number + 1
            path = first.with_name(f"{stem}_{number}.nii.gz")
        return NOTHING
