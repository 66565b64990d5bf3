"""``medidiff info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from medidiff.cli.options import PathParam, as_json, counted, printable, show_json
from medidiff.errors import ExitCode, NoScanFound, ScanError

if TYPE_CHECKING:
    from medidiff.scans.volume import Scan, ScanRef, Volume


@click.command("info")
@click.argument("scans", nargs=-1, required=True, metavar="SCAN...", type=PathParam())
@as_json
def command(scans: tuple[Path, ...], as_json: bool) -> int:
    """Show what medidiff sees in a scan: shape, spacing, orientation, modality, units and noise.

    SCAN is a NIfTI file, a DICOM folder, or a folder of scans. Nothing is written.
    """
    from medidiff.scans import discover

    found = discover.find_scans(scans)
    if not found.cases:
        raise NoScanFound(nothing_in(scans, found.skipped))
    trees, failures = [], []
    for ref in found.cases:
        try:
            trees.append(describe(ref))
        except ScanError as error:
            failures.append(error)
            trees.append({"path": str(ref.path), "kind": ref.kind, "error": str(error)})
        if not as_json:
            click.echo("\n".join(map(printable, lines(trees[-1]))))
    if as_json:
        show_json(trees)
    if not failures:
        return int(ExitCode.OK)
    if len(failures) == len(trees):
        raise failures[0]
    return int(ExitCode.SOME_FAILED)


def nothing_in(scans: tuple[Path, ...], skipped: tuple[Any, ...]) -> str:
    """One sentence on an input without a scan."""
    where = ", ".join(map(str, scans))
    reason = f" ({skipped[0].path.name}: {skipped[0].reason})" if skipped else ""
    return f"No scan was found in {where}{reason}; give a NIfTI file (.nii, .nii.gz) or a DICOM folder."


def describe(ref: ScanRef) -> dict[str, Any]:
    """All that is shown of a scan, as JSON.

    Raises:
        ScanError: the scan cannot be read.
    """
    from medidiff.scans import read

    scan: Scan = read(ref)
    return {
        "path": str(ref.path),
        "kind": ref.kind,
        "files": len(ref.files),
        "dtype": stored_type(scan),
        "volumes": [describe_volume(volume) for volume in scan.volumes],
        "notes": list(scan.notes),
    }


def describe_volume(volume: Volume) -> dict[str, Any]:
    """Geometry, units, range and noise of one volume."""
    import nibabel

    return {
        "label": volume.label,
        "shape": list(volume.array.shape),
        "spacing_mm": [round(size, 4) for size in volume.spacing],
        "orientation": "".join(map(str, nibabel.aff2axcodes(volume.affine))),
        "modality": volume.modality,
        "units": volume.units,
        "range": [float(volume.array.min()), float(volume.array.max())],
        "noise": noise_of(volume),
    }


def noise_of(volume: Volume) -> dict[str, Any]:
    """The noise that ``denoise --noise auto`` starts from: percent of the bright foreground, and the scan's units."""
    from medidiff.physics import noise
    from medidiff.survey import seen

    _, scaling, unit, stack = seen(volume)
    found = noise.of_scan(unit, volume.modality, stack)
    percent, sigma = 100 * found.sigma / scaling.bright, found.sigma * scaling.scale
    return {
        "percent": round(percent, 2),
        "sigma": float(f"{sigma:.4g}"),
        "law": found.law,
        "varies": found.map is not None,
    }


def stored_type(scan: Scan) -> str:
    """The number type in the file: ``int16``, ``float32``; bits for DICOM, as its header gives them."""
    if scan.ref.kind == "nifti":
        return str(scan.source.header.get_data_dtype())
    import pydicom

    wanted = ["BitsStored", "PixelRepresentation"]
    header = pydicom.dcmread(scan.ref.files[0], stop_before_pixels=True, specific_tags=wanted)
    return f"{header.BitsStored}-bit {'signed' if header.PixelRepresentation else 'unsigned'}"


def lines(tree: dict[str, Any]) -> list[str]:
    """The description as text."""
    if "error" in tree:
        return [tree["path"], f"  cannot be read: {tree['error']}"]
    files = f", {tree['files']} files" if tree["files"] > 1 else ""
    volumes = counted(len(tree["volumes"]), "volume")
    text = [tree["path"], f"  {tree['kind']}{files}, stored as {tree['dtype']}, {volumes}"]
    for volume in tree["volumes"]:
        label = f"{volume['label']}: " if volume["label"] else ""
        shape = " x ".join(map(str, volume["shape"]))
        spacing = " x ".join(f"{size:g}" for size in volume["spacing_mm"])
        low, high = volume["range"]
        noise = volume["noise"]
        varies = ", varies over the scan" if noise["varies"] else ""
        text += [
            f"  {label}{shape} voxels of {spacing} mm, orientation {volume['orientation']}",
            f"  {label}{volume['modality']}, {low:g} to {high:g} {volume['units']}",
            f"  {label}noise {noise['percent']:g} % (sigma {noise['sigma']:g}, {noise['law']}{varies})",
        ]
    return text + [f"  note: {note}" for note in tree["notes"]]
