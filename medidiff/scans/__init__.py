"""Reading and writing scans: files to `Volume`, restored arrays back to the same kind of files.

    find_scans -> ScanRef -> read -> Scan (volumes + undo record) -> write

Importing this package imports neither nibabel nor pydicom; the functions do when they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import NoScanFound, UsageError
from medidiff.scans.volume import Derivation, Scan, ScanRef, Skipped, Volume

__all__ = ["Derivation", "Scan", "ScanRef", "Skipped", "Volume", "open_scan", "read", "write", "write_map"]


def read(ref: ScanRef) -> Scan:
    """Decode one case.

    Raises:
        ScanError: the case cannot be read; the message names the file and the reason.
    """
    if ref.kind == "nifti":
        from medidiff.scans import nifti

        return nifti.read(ref)
    from medidiff.scans import dicom

    return dicom.read(ref)


def write(scan: Scan, arrays: Sequence[NDArray[np.float32]], target: Path, derivation: Derivation) -> tuple[Path, ...]:
    """Write restored arrays in the format of the input, in the place of the measured ones.

    Args:
        scan: the case as `read` returned it.
        arrays: one array a volume of `scan`, same shape, physical units.
        target: the NIfTI file, or the folder for a DICOM series.
        derivation: how the result came about, for labels inside the files.

    Returns:
        The files written.

    Raises:
        CannotWrite: the target cannot be written.
        ScanError: the source files changed since they were read.
    """
    if scan.ref.kind == "nifti":
        from medidiff.scans import nifti

        return nifti.write(scan, arrays, target, derivation)
    from medidiff.scans import dicom_write

    return dicom_write.write(scan, arrays, target, derivation)


def write_map(
    scan: Scan, arrays: Sequence[NDArray[np.float32]], target: Path, derivation: Derivation
) -> tuple[Path, ...]:
    """Write one float32 map a volume (an uncertainty, say) as NIfTI on the scan's grid; see `nifti.write_map`."""
    from medidiff.scans import nifti

    return nifti.write_map(scan, arrays, target, derivation)


def open_scan(path: Path) -> Scan:
    """Read the one scan at ``path`` (a NIfTI file, a DICOM file, or a folder with one series).

    Raises:
        UsageError: the path is missing or holds several scans.
        NoScanFound: it holds none.
        ScanError: the scan cannot be read.
    """
    from medidiff.scans.discover import find_scans

    found = find_scans([path])
    if not found.cases:
        reason = f" ({found.skipped[0].path.name}: {found.skipped[0].reason})" if found.skipped else ""
        raise NoScanFound(f"{path} holds no scan that can be read{reason}; give a NIfTI file or a DICOM series.")
    if len(found.cases) > 1:
        names = ", ".join(case.stem for case in found.cases[:5])
        raise UsageError(f"{path} holds {len(found.cases)} scans ({names}); name one of them.")
    return read(found.cases[0])
