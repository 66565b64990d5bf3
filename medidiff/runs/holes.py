"""What a run fills: the voxels of a mask, or the slices that a DICOM series lacks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff import scans
from medidiff.config import RunConfig
from medidiff.errors import ScanError, UsageError
from medidiff.runs.paths import discreet, exists
from medidiff.scans import masks
from medidiff.scans.volume import Scan, ScanRef, Skipped

Hole = NDArray[np.bool_]


@dataclass(frozen=True)
class Holes:
    """What is to be filled in a scan.

    Attributes:
        arrays: one for each volume, of its shape, True = fill; ``None`` when nothing is.
        files: the files of the mask; none for missing slices.
        sha256: the hash of the mask's bytes; empty for missing slices.
        notes: one sentence each on what the user should know.
    """

    arrays: tuple[Hole, ...] | None = None
    files: tuple[Path, ...] = ()
    sha256: str = ""
    notes: tuple[str, ...] = ()

    def of(self, scan: Scan) -> Sequence[Hole | None]:
        """The hole of each volume of a scan; ``None`` for a volume without one."""
        arrays = self.arrays or (None,) * len(scan.volumes)
        return [hole if hole is not None and hole.any() else None for hole in arrays]

    def describe(self, folder: Path) -> dict[str, Any] | None:
        """The sidecar's entry; paths are relative to ``folder``."""
        if self.arrays is None:
            return None
        return {
            "path": [discreet(path, folder) for path in self.files] if len(self.files) > 1 else self._name(folder),
            "sha256": self.sha256 or None,
            "voxels": int(sum(np.count_nonzero(array) for array in self.arrays)),
            "notes": list(self.notes),
        }

    def _name(self, folder: Path) -> str | None:
        return discreet(self.files[0], folder) if self.files else None


def find(scan: Scan, config: RunConfig) -> Holes:
    """What is to be filled in a scan.

    Raises:
        ScanError: the mask cannot be read, does not fit the scan, or there is neither a mask nor a missing slice.
    """
    if config.mask is not None:
        mask = scans.read_mask(config.mask, scan)
        return Holes(mask.holes, mask.files, scans.mask_hash(config.mask, scan.ref), mask.notes)
    if config.task != "inpaint":
        return Holes()
    missing = [volume.missing for volume in scan.volumes]
    if all(each is None for each in missing):
        reasons = dict.fromkeys(volume.irregular for volume in scan.volumes if volume.irregular)
        why = f"has no gap that can be filled ({'; '.join(reasons)})" if reasons else "lacks no slice"
        raise ScanError(f"{scan.ref.path} {why}; name what is to be filled with --mask.")
    arrays = (
        np.zeros(volume.array.shape, dtype=np.bool_) if hole is None else hole
        for volume, hole in zip(scan.volumes, missing, strict=True)
    )
    return Holes(tuple(arrays))


def foresee(outline: Scan, config: RunConfig) -> None:
    """Stop where `find` would, as far as headers and names of files tell.

    Args:
        outline: the scan without its voxels.
        config: the run's settings.

    Raises:
        UsageError: there is no mask for the scan.
        ScanError: there is neither a mask nor a missing slice.
    """
    if config.mask is not None:
        masks.find_mask(config.mask, outline.ref)
    else:
        find(outline, config)


def without_masks(refs: Sequence[ScanRef], config: RunConfig) -> tuple[tuple[ScanRef, ...], tuple[Skipped, ...]]:
    """The cases without those that are masks: a folder may hold both."""
    found = mask_files(refs, config)
    those = [ref for ref in refs if any(file.resolve() in found for file in ref.files)]
    skipped = tuple(Skipped(ref.path, "it is a mask") for ref in those)
    return tuple(ref for ref in refs if ref not in those), skipped


def mask_files(refs: Sequence[ScanRef], config: RunConfig) -> set[Path]:
    """The files among the inputs that belong to the mask that was named."""
    if config.mask is None:
        return set()
    mask = config.mask.resolve()
    inputs = [given.resolve() for given in config.inputs]
    files = {file.resolve() for ref in refs for file in ref.files}
    if mask not in inputs and any(mask.is_relative_to(given) for given in inputs):
        return {file for file in files if file.is_relative_to(mask)}
    if not any(file.is_relative_to(mask) for file in files):
        return set()
    found = set()
    for ref in refs:  # scans and masks side by side
        with suppress(UsageError):
            found.add(masks.find_mask(config.mask, ref).resolve())
    return found


def refuse_absent_mask(config: RunConfig) -> None:
    """Stop when the mask that was named is not there.

    Raises:
        UsageError: so it is.
    """
    if config.mask is not None and not exists(config.mask):
        raise UsageError(f"The mask {config.mask} does not exist; give a NIfTI file, a DICOM segmentation or a folder.")


def refuse_missing_mask(config: RunConfig, refs: Sequence[ScanRef]) -> None:
    """Stop when a mask is needed and none was named.

    Raises:
        UsageError: so it is.
    """
    if config.task == "inpaint" and config.mask is None and all(ref.kind == "nifti" for ref in refs):
        raise UsageError("inpaint needs --mask; only DICOM series that lack slices can be filled without one.")
