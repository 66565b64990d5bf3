"""Reading and writing scans: files to `Volume`, restored arrays back to the same kind of files.

    find_scans -> ScanRef -> read -> Scan (volumes + undo record) -> write

Importing this package imports neither nibabel nor pydicom; the functions do when they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medidiff.errors import NoScanFound, UsageError
from medidiff.scans.volume import Derivation, Kind, Mask, Scan, ScanRef, Skipped, Volume

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medidiff.scans.convert import Part

__all__ = [
    "Derivation",
    "Mask",
    "Scan",
    "ScanRef",
    "Skipped",
    "Volume",
    "as_nifti",
    "check_finer",
    "guessed",
    "layout",
    "lost_in_nifti",
    "mask_hash",
    "no_nifti",
    "on_disk",
    "open_scan",
    "outline",
    "read",
    "read_mapped",
    "read_mask",
    "shape_of",
    "with_modality",
    "write",
    "write_map",
]


def read(ref: ScanRef, fill_gaps: bool = False) -> Scan:
    """Decode one case.

    Args:
        ref: the case.
        fill_gaps: give a DICOM stack that lacks slices as one volume on the full regular grid, whose missing slices are
            marked in `Volume.missing` and not ``valid``; else its images come one by one. At most half of the slices
            may be missing. NIfTI files have no gaps.

    Raises:
        ScanError: the case cannot be read; the message names the file and the reason.
    """
    if ref.kind == "nifti":
        from medidiff.scans import nifti

        return nifti.read(ref)
    from medidiff.scans import dicom

    return dicom.read(ref, fill_gaps)


def outline(ref: ScanRef, fill_gaps: bool = False) -> Scan:
    """A case as `read` gives it, but without voxels: only headers are read, and the arrays hold zeros.

    Raises:
        ScanError: the case cannot be read, as far as headers tell; the message names the file and the reason.
    """
    if ref.kind == "nifti":
        from medidiff.scans import nifti

        return nifti.outline(ref)
    from medidiff.scans import dicom

    return dicom.outline(ref, fill_gaps)


def read_mapped(ref: ScanRef, folder: Path) -> Scan:
    """Decode a NIfTI file that memory cannot hold, into arrays in ``folder``; see `nifti_mapped.read`."""
    from medidiff.scans import nifti_mapped

    return nifti_mapped.read(ref, folder)


def shape_of(ref: ScanRef) -> tuple[int, ...]:
    """The shape of a NIfTI file's data; only its header is read.

    Raises:
        ScanError: the file is damaged or is not a scalar image.
    """
    from medidiff.scans import nifti_mapped

    return nifti_mapped.shape_of(ref)


def on_disk(scan: Scan) -> bool:
    """Whether the voxels of a scan lie on disk rather than in memory."""
    from medidiff.scans import nifti_mapped

    return isinstance(scan.source, nifti_mapped.MappedSource)


def guessed(scan: Scan, holes: Sequence[NDArray[np.bool_] | None], modalities: Sequence[str]) -> Scan:
    """A NIfTI scan whose modality is guessed without its holes, for a pipeline; see ``nifti.guessed``."""
    from medidiff.scans import nifti

    return nifti.guessed(scan, holes, modalities)


def with_modality(scan: Scan, modality: str) -> Scan:
    """A NIfTI scan of another modality."""
    from medidiff.scans import nifti

    return nifti.with_modality(scan, modality)


def write(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    target: Path,
    derivation: Derivation,
    affines: Sequence[NDArray[np.float64]] | None = None,
    holes: Sequence[NDArray[np.bool_]] | None = None,
    kind: Kind | None = None,
) -> tuple[Path, ...]:
    """Write restored arrays in the place of the measured ones, in the format of the input if no other is asked for.

    A voxel that equals the value read keeps its stored value bit for bit. Slices that `read` filled in become images.

    Args:
        scan: the case as `read` returned it.
        arrays: one array a volume of `scan`, physical units; of the volume's shape unless ``affines`` are given.
        target: the NIfTI file, or the folder for a DICOM series.
        derivation: how the result came about, for labels inside the files.
        affines: 4 x 4, voxel index to RAS+ millimetres, one a volume: the grids of arrays that are finer than the scan,
            with axes along the scan's. Volumes of one NIfTI file must share a grid.
        holes: boolean, one array a volume of its shape: voxels of a NIfTI file to write although they hold no finite
            value. Everywhere else such voxels stay as they are, and so does DICOM padding, which lies outside the field
            of view.
        kind: ``nifti`` for a DICOM series as NIfTI; ``target`` is then the first file, see `convert.write`.

    Returns:
        The files written.

    Raises:
        CannotWrite: the target cannot be written.
        ScanError: the source files changed since they were read, or the arrays do not fit the scan.
    """
    if scan.ref.kind == "nifti" and on_disk(scan):
        from medidiff.scans import nifti_mapped

        return nifti_mapped.write(scan, arrays, target, derivation)
    if scan.ref.kind == "nifti":
        from medidiff.scans import nifti

        return nifti.write(scan, arrays, target, derivation, affines, holes)
    if kind == "nifti":
        from medidiff.scans import convert

        return convert.write(scan, arrays, target, derivation, affines)
    from medidiff.scans import dicom_write

    return dicom_write.write(scan, arrays, target, derivation, affines)


def write_map(
    scan: Scan,
    arrays: Sequence[NDArray[np.float32]],
    target: Path,
    derivation: Derivation,
    affines: Sequence[NDArray[np.float64]] | None = None,
    quantity: str = "uncertainty",
    kinds: Sequence[Kind] = (),
) -> tuple[Path, ...]:
    """Write one float32 map a volume as NIfTI, and for a DICOM series as DICOM Parametric Maps too.

    Args:
        scan: the case as `read` returned it.
        arrays: one map a volume.
        target: the NIfTI file; volumes on further grids get ``NAME_2.nii.gz``, ... A Parametric Map is called like it,
            ``NAME.dcm``, that of the second volume ``NAME_2.dcm``, ...
        derivation: how the maps came about.
        affines: 4 x 4, RAS+, one a volume: the grids of maps that are finer than the scan.
        quantity: ``uncertainty`` (standard deviation in the units of the scan) or ``supplied`` (a share from 0 to 1).
        kinds: the formats in which the image is written; that of the scan when empty. With ``nifti`` the maps of a
            DICOM series lie on the grid of that file, and without ``dicom`` there are no Parametric Maps.

    Returns:
        The files written, NIfTI first. A series without a frame of reference gets no Parametric Map.

    Raises:
        CannotWrite: a file cannot be written.
        ScanError: the maps do not fit the scan.
    """
    from medidiff.scans import nifti, nifti_mapped

    if on_disk(scan):
        return nifti_mapped.write_map(scan, arrays, target, derivation)
    kinds = kinds or (scan.ref.kind,)
    if scan.ref.kind == "dicom" and "nifti" in kinds:
        from medidiff.scans import convert

        files = convert.write_map(scan, arrays, target, derivation, affines)
    else:
        files = nifti.write_map(scan, arrays, target, derivation, affines)
    if "dicom" not in kinds:
        return files
    from medidiff.scans import dicom_maps

    return (*files, *dicom_maps.write(scan, arrays, target, derivation, affines, quantity))


def no_nifti(scan: Scan) -> str:
    """Why a DICOM series cannot be NIfTI files, as a clause; empty when it can."""
    from medidiff.scans import convert

    return convert.refusal(scan)


def lost_in_nifti(scan: Scan) -> tuple[str, ...]:
    """One sentence each on what the NIfTI files of a DICOM series do not hold."""
    from medidiff.scans import convert

    return convert.lost(scan)


def layout(scan: Scan) -> tuple[Part, ...]:
    """Which NIfTI files a DICOM series becomes; see `convert.layout`."""
    from medidiff.scans import convert

    return convert.layout(scan)


def as_nifti(scan: Scan) -> tuple[tuple[Volume, ...], ...]:
    """The volumes of a DICOM series as its NIfTI files hold them, file after file."""
    from medidiff.scans import convert

    return convert.as_nifti(scan)


def check_finer(scan: Scan) -> None:
    """See, before anything is restored, whether a result with more slices could be written in the scan's own format.

    Raises:
        ScanError: it could not: multi-frame DICOM whose dimensions have no place for new slices.
    """
    if scan.ref.kind == "dicom":
        from medidiff.scans import dicom_dimensions

        dicom_dimensions.check_finer(scan.source.stacks)


def read_mask(path: Path, scan: Scan) -> Mask:
    """Read what is to be restored, on the grids of a scan; see `masks.read_mask`."""
    from medidiff.scans import masks

    return masks.read_mask(path, scan)


def mask_hash(path: Path, ref: ScanRef) -> str:
    """SHA-256 over the bytes of the mask that belongs to a case; see `masks.mask_hash`."""
    from medidiff.scans import masks

    return masks.mask_hash(path, ref)


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
