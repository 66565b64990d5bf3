"""In which formats a result is written, what it is called then, and which scans cannot be written so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medidiff import scans
from medidiff.config import RunConfig
from medidiff.errors import ScanError, UsageError
from medidiff.runs import bids
from medidiff.scans import bids as names_of_bids
from medidiff.scans import outputs
from medidiff.scans.outputs import OutputNames
from medidiff.scans.volume import Scan, ScanRef

NO_DICOM = "NIfTI holds no patient, study or modality, which a DICOM series needs; leave out --format dicom."


def names(ref: ScanRef, config: RunConfig) -> OutputNames:
    """What the results of a case are called.

    Raises:
        UsageError: the output is a file name that does not fit the case, or the case is in no BIDS dataset.
    """
    if config.bids:
        return bids.output_names(ref, config)
    return outputs.output_names(ref, config.output, config.task, config.kinds(ref.kind))


def names_again(ref: ScanRef, config: RunConfig, base: str, output: str, folder: Path) -> OutputNames:
    """The names of an earlier result, in another folder.

    Args:
        ref: the case.
        config: its settings.
        base: the earlier sidecar's name without extension.
        output: the earlier output's own name, as the sidecar's settings hold it.
        folder: where to write.
    """
    kinds = config.kinds(ref.kind)
    if config.bids:
        return names_of_bids.beside(folder / f"{base}.nii.gz")
    if "dicom" not in kinds:
        return outputs.output_names(ref, folder / output, config.task, kinds)
    stem = base.removesuffix(f"_{outputs.TASK_SUFFIX[config.task]}")
    return outputs.output_names(replace(ref, stem=stem, relative=Path(stem)), folder, config.task, kinds)


def refuse(config: RunConfig, refs: Sequence[ScanRef]) -> None:
    """Stop when none of the scans can be written in the format that is asked for.

    Raises:
        UsageError: so it is.
    """
    if all(refusal(ref, config) for ref in refs):
        raise UsageError(f"All scans are NIfTI. {NO_DICOM}")


def refusal(ref: ScanRef, config: RunConfig) -> str:
    """Why a case cannot be written in the format that is asked for, in a sentence; empty when it can."""
    return f"{ref.path} cannot become DICOM: {NO_DICOM}" if config.format == "dicom" and ref.kind == "nifti" else ""


def refuse_unfit(scan: Scan, config: RunConfig) -> None:
    """Stop before a series would get an affine that is not true of all of its slices.

    Raises:
        ScanError: the series is no regular volume, and NIfTI is asked for.
    """
    if converts(scan.ref, config):
        why = scans.no_nifti(scan)
        if why:
            raise ScanError(f"{scan.ref.path} cannot be written as NIfTI ({why}); use --format dicom.")


def notes(scan: Scan, config: RunConfig) -> tuple[str, ...]:
    """What the user should know of a changed format."""
    return scans.lost_in_nifti(scan) if converts(scan.ref, config) else ()


def converts(ref: ScanRef, config: RunConfig) -> bool:
    """Whether a DICOM series is written as NIfTI."""
    return ref.kind == "dicom" and "nifti" in config.kinds(ref.kind)


def describe(scan: Scan, config: RunConfig) -> dict[str, Any]:
    """The sidecar's section on NIfTI files that are made of a series; empty when none are.

    Each file is told by the volumes that it holds, and by where the axes of the series went (nibabel's orientations).
    """
    if not converts(scan.ref, config):
        return {}
    return {"nifti": [{"volumes": list(part.volumes), "turn": part.turn.tolist()} for part in scans.layout(scan)]}
