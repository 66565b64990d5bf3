"""The value objects that pass between reading, restoring and writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["nifti", "dicom"]


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Voxel size in millimetres along each axis of an array; 1 where a degenerate affine gives none."""
    i, j, k = (affine[:3, :3] ** 2).sum(axis=0) ** 0.5
    return float(i) or 1.0, float(j) or 1.0, float(k) or 1.0


@dataclass(frozen=True)
class ScanRef:
    """One case as discovery found it: which files, and what its outputs are called. Nothing has been decoded yet.

    Attributes:
        kind: the file format.
        path: the NIfTI file, or the folder that holds the DICOM series.
        files: the files of the case (one for NIfTI), in no particular order.
        relative: where the case lies below the input the user named, name included (its folder is kept in the output).
        stem: the case's name without extension: ``t1w`` for ``t1w.nii.gz``; ``301_Ax_T1`` for a DICOM series.
        series_uid: the DICOM SeriesInstanceUID, empty for NIfTI.
        output_series_number: a SeriesNumber that no series found in the study uses, for the output; 0 when not known.
    """

    kind: Kind
    path: Path
    files: tuple[Path, ...]
    relative: Path
    stem: str
    series_uid: str = ""
    output_series_number: int = 0


@dataclass(frozen=True)
class Volume:
    """A 3-D scan (a 2-D image has one voxel along its last axis) in physical units.

    Attributes:
        array: float32, shape (I, J, K), values in ``units`` (rescale slope and intercept already applied).
        affine: 4 x 4, voxel index to millimetres in RAS+ world space.
        modality: DICOM modality code: ``MR``, ``CT``, ``PT``; ``OT`` when not known.
        units: ``HU`` for CT, ``BQML`` and the like for PET, ``a.u.`` otherwise.
        label: tells the volumes of one scan apart (``""`` for the only one, ``t=3`` and the like in 4-D).
        valid: boolean mask of voxels that hold measured data, or ``None`` when all do (padding, NaN-free by contract).
        slice_axis: the array axis along which slices were stacked (2 for a DICOM series); ``None`` when not known.
        thickness: millimetres that a slice integrates over along ``slice_axis`` (DICOM SliceThickness), which is less
            than the spacing where there are gaps; ``None`` when not known.
        missing: boolean mask of whole slices that a DICOM series lacks, which only ``read(..., fill_gaps=True)`` gives;
            they are not ``valid`` either, and inpainting restores them. ``None`` when no slice is missing.
        irregular: why the neighbours along the last axis are not known although the series holds some (gantry tilt, a
            missing slice): a clause such as ``the slice step leans 14.0 degrees from the slice normal (gantry tilt)``.
            Empty for a regular volume and for an image that has no neighbours.
    """

    array: NDArray[np.float32]
    affine: NDArray[np.float64]
    modality: str = "OT"
    units: str = "a.u."
    label: str = ""
    valid: NDArray[np.bool_] | None = None
    slice_axis: int | None = None
    thickness: float | None = None
    missing: NDArray[np.bool_] | None = None
    irregular: str = ""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in millimetres along each array axis; 1 where the affine gives none."""
        return spacing_of(self.affine)


def mean_of(volumes: Sequence[Volume]) -> Volume:
    """The mean of a repeated acquisition, which is nearly free of noise; valid where all repeats are."""
    import numpy as np

    mean = np.asarray(np.mean([volume.array for volume in volumes], axis=0), dtype=np.float32)
    masks = [volume.valid for volume in volumes if volume.valid is not None]
    return replace(volumes[0], array=mean, valid=np.logical_and.reduce(masks) if masks else None)


@dataclass(frozen=True)
class Scan:
    """A decoded case: one volume, or several (4-D, or a stack that had to be split), and what the writer needs.

    Attributes:
        ref: the case.
        volumes: every volume, in the order in which ``source`` expects them back.
        source: opaque undo record of the reader, ``NiftiSource`` or ``DicomSource``: header, scaling, slice order.
        notes: one sentence each on what the user should know (a duplicate left out, slices treated one by one, ...).
    """

    ref: ScanRef
    volumes: tuple[Volume, ...]
    source: Any
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mask:
    """What is to be restored, on the grids of a scan.

    Attributes:
        holes: one boolean array a volume, of the shape of its array; True = restore.
        notes: one sentence each on what the user should know (resampled to the scan's grid, ...).
        files: the files that the mask was read from.
    """

    holes: tuple[NDArray[np.bool_], ...]
    notes: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Skipped:
    """A file that is not processed, and the reason in one sentence."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Derivation:
    """How an output came about, for labels inside files (NIfTI descrip, DICOM DerivationDescription).

    Attributes:
        task: ``denoise``, ``superres`` or ``inpaint``.
        text: one sentence, at most 1024 characters, no patient data: method, version, bundle, strength, noise level.
        short: at most 79 ASCII characters for NIfTI's ``descrip``.
        version: medidiff's version.
        sample: True when the image is a posterior sample, not the posterior mean.
    """

    task: str
    text: str
    short: str
    version: str
    sample: bool = False
    extra: dict[str, str] = field(default_factory=dict)
