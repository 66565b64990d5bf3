"""One restored scan of an evaluation: what is read for it, its figures, and how the report sees it."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medidiff import scans
from medidiff.errors import ScanError, UsageError
from medidiff.evaluation import alignment, judge, pairing, uncertainty, unreferenced
from medidiff.evaluation.judge import WINDOW, Truth
from medidiff.evaluation.pairing import Pair
from medidiff.evaluation.results import EvaluatedCase, Figure, Image, Shown
from medidiff.scans import convert, nifti
from medidiff.scans.volume import Scan, ScanRef, Volume

Mask = NDArray[np.bool_]

LABEL_WORDS = ("_labels", "_label", "_seg", "_dseg")


@dataclass(frozen=True)
class Options:
    """How scans are evaluated.

    Attributes:
        labels: a label map, or a folder of them named like the scans.
        mask: voxels to judge (for inpainting: the holes), or a folder of masks named like the scans.
        resample: bring references onto the grid of the restored scans.
        window: HU from and to that CT is compared in.
    """

    labels: Path | None = None
    mask: Path | None = None
    resample: bool = False
    window: tuple[float, float] = WINDOW


@dataclass(frozen=True)
class _Volumes:
    """The volumes of a pair at one place of the scans' order."""

    restored: Volume
    reference: Volume | None
    before: Volume | None
    std: Image | None
    quantile: float
    hole: Mask | None


def figures_of(pair: Pair, method: str, options: Options) -> Iterator[Figure]:
    """Every figure of a pair; of a scan of several volumes the means over them, so that one scan counts once.

    Raises:
        ScanError: a scan cannot be read, or does not fit.
        UsageError: a mask or a label map is missing.
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for each in volumes_of(pair, options):
        for row in _rows(pair, each, method, options):
            found.setdefault((row.method, row.metric, row.region), []).append(row.value)
    if not found:
        if any(each.hole is not None for each in volumes_of(pair, options)):
            raise ScanError(f"{pair.name} was filled, which only a reference can judge; give --reference.")
        raise ScanError(f"{pair.name} has neither a reference nor its input; give --reference or --input.")
    for (who, metric, region), values in found.items():
        known = [value for value in values if np.isfinite(value)]
        yield Figure(pair.name, who, metric, region, float(np.mean(known)) if known else float("nan"))


def _rows(pair: Pair, each: _Volumes, method: str, options: Options) -> Iterator[Figure]:
    image = each.restored.array
    if each.reference is not None:
        truth = truth_of(pair, each, options)
        yield from judge.figures(method, image, truth)
        if each.std is not None:
            yield from judge.uncertain(method, image, each.std, truth, each.quantile)
        if each.before is not None and truth.hole is None:
            yield from judge.figures("input", _input_on(each.before, each.restored), truth)
    if each.before is not None and each.hole is None:
        found = unreferenced.figures(each.before.array, image, each.restored.modality)
        yield from (Figure(pair.name, method, metric, "full", value) for metric, value in found.items())


def _input_on(before: Volume, restored: Volume) -> Image:
    """The scan as it was; a coarser one interpolated by a cubic B-spline."""
    return alignment.onto(before, restored, resample=True, what="input")[0]


def truth_of(pair: Pair, each: _Volumes, options: Options) -> Truth:
    """What a volume is compared with.

    Raises:
        ScanError: the reference does not fit, nor may be resampled.
    """
    assert each.reference is not None
    image, valid = alignment.onto(each.reference, each.restored, resample=options.resample, what="reference")
    if each.restored.valid is not None:
        valid = each.restored.valid if valid is None else valid & each.restored.valid
    mask = None if options.mask is None or each.hole is not None else _mask(pair, each.restored, options.mask)
    labels = None
    if options.labels is not None:
        name = pair.name.rpartition("/")[2]
        near = pair.restored.relative.with_name(name).as_posix()
        file = pairing.named_file(options.labels, [near, name], LABEL_WORDS)
        if file is None:
            raise UsageError(f"There is no label map for {pair.name}; call it {pair.name}_labels.nii.gz.")
        labels = alignment.labels_on(file, each.restored)
    units = each.reference.units
    return Truth(pair.name, image, each.restored.spacing, units, valid, mask, each.hole, labels, options.window)


def _mask(pair: Pair, volume: Volume, path: Path) -> Mask:
    """A mask on a volume's grid, found by the name of the case."""
    name = pair.name.rpartition("/")[2]
    ref = replace(pair.restored, stem=name, relative=pair.restored.relative.with_name(name))
    return scans.read_mask(path, Scan(ref, (volume,), None)).holes[0]


def volumes_of(pair: Pair, options: Options) -> Iterator[_Volumes]:
    """The volumes of a pair, one after the other.

    Raises:
        ScanError: a scan cannot be read, or the numbers of volumes differ.
    """
    restored = scans.read(pair.restored).volumes
    references = _as_many(pair.reference, pair, restored, "reference")
    inputs = _as_many(pair.input, pair, restored, "input")
    stds = _deviations(pair, restored)
    order = _order(pair) if pair.restored.kind == "nifti" else ()
    for index, volume in enumerate(restored):
        hole = _hole(pair, volume, inputs[index], options) if pair.task == "inpaint" else None
        quantile = _quantile(pair.sidecar, order[index] if order else index)
        yield _Volumes(volume, references[index], inputs[index], stds[index], quantile, hole)


def _order(pair: Pair) -> tuple[int, ...]:
    """Which volume of the series each volume of a NIfTI file is that was made of it; empty when none was."""
    parts = convert.told(pair.sidecar)
    return parts[0].volumes if parts else ()


def _as_many(ref: ScanRef | None, pair: Pair, restored: Sequence[Volume], what: str) -> Sequence[Volume | None]:
    """One volume for each restored one, with axes like its own; a single one serves all."""
    if ref is None:
        return [None] * len(restored)
    scan = scans.read(ref)
    converted = ref.kind == "dicom" and pair.restored.kind == "nifti" and not scans.no_nifti(scan)
    volumes = scans.as_nifti(scan)[0] if converted else scan.volumes
    if len(volumes) not in (1, len(restored)):
        raise ScanError(f"The {what} has {len(volumes)} volumes, the restored scan {len(restored)}.")
    many = volumes if len(volumes) == len(restored) else volumes * len(restored)
    return [alignment.turned(volume, like) for volume, like in zip(many, restored, strict=True)]


def _deviations(pair: Pair, restored: Sequence[Volume]) -> Sequence[Image | None]:
    """The map of standard deviations of each volume, where one lies beside the scan and fits."""
    nothing: list[Image | None] = [None] * len(restored)
    if pair.uncertainty is None:
        return nothing
    maps, affine = nifti.read_values(pair.uncertainty)
    if len(maps) != len(restored):
        return nothing
    order = (_order(pair) if pair.restored.kind == "dicom" else ()) or range(len(maps))
    found = nothing.copy()
    for index, values in zip(order, maps, strict=True):
        found[index] = alignment.turned(Volume(values, affine), restored[index]).array
    fits = all(each is not None and each.shape == like.array.shape for each, like in zip(found, restored, strict=True))
    return found if fits else nothing


def _quantile(sidecar: Mapping[str, Any], index: int) -> float:
    """Half width of the stated 90 % interval in standard deviations: the calibrated one, else a normal one."""
    volumes = sidecar.get("volumes") or []
    stated = (volumes[index].get("uncertainty") or {}) if index < len(volumes) else {}
    quantile = stated.get("quantile") if stated.get("calibrated") else None
    return float(quantile or uncertainty.NORMAL_90)


def _hole(pair: Pair, volume: Volume, before: Volume | None, options: Options) -> Mask | None:
    """What was filled: the given mask, the sidecar's if it lies where it lay, else what differs from the input."""
    told = (pair.sidecar.get("mask") or {}).get("path")
    beside = pair.folder / told if isinstance(told, str) else None
    if options.mask is not None:
        return _mask(pair, volume, options.mask)
    if beside is not None and beside.is_file():
        return _mask(pair, volume, beside)
    if before is not None and before.array.shape == volume.array.shape:
        changed = np.asarray(before.array != volume.array, dtype=np.bool_)
        return changed if changed.any() else None
    return None


def case_of(pair: Pair, method: str, options: Options) -> EvaluatedCase:
    """The case with its images, which are read again when they are drawn."""
    first = scans.read(pair.restored).volumes[0]
    images = [Shown("restored", method, partial(_first, pair.restored))]
    if pair.reference is not None:
        images.insert(0, Shown("reference", "", partial(_first_on, pair.reference, pair.restored, "reference")))
    if pair.input is not None:
        images.append(Shown("input", "", partial(_first_on, pair.input, pair.restored, "input")))
    for role in ("uncertainty", "supplied"):
        file = pairing.beside(pair.restored, role)
        if file is not None:
            images.append(Shown(cast("Any", role), method, partial(_map, file, pair.restored)))
    if pair.task == "inpaint":
        images.append(Shown("hole", "", partial(_shown_hole, pair, options)))
    volumes = pair.sidecar.get("volumes") or [{}]
    guards = [volume.get("guard") or {} for volume in volumes]
    told = str((pair.sidecar.get("input") or {}).get("path") or "")
    named = Path(told).name and pairing.of_nifti(pair.restored, pair.sidecar)
    return EvaluatedCase(
        name=pair.name,
        task=pair.task,
        spacing=first.spacing,
        units="HU" if first.units == "HU" else "",
        images=tuple(images),
        verdicts=tuple(dict.fromkeys(text for guard in guards for text in guard.get("verdicts") or ())),
        checks=dict(guards[0].get("figures") or {}),
        sidecar=pair.sidecar or None,
        orientation="".join(map(str, nib.aff2axcodes(first.affine))),
        pattern=glob.escape(pair.restored.relative.with_name(Path(told).name).as_posix()) if named else "",
    )


def _first(ref: ScanRef) -> Image:
    return scans.read(ref).volumes[0].array


def _first_on(ref: ScanRef, target: ScanRef, what: str) -> Image:
    volume, onto = (scans.read(each).volumes[0] for each in (ref, target))
    return alignment.onto(volume, onto, resample=True, what=what)[0]


def _map(file: Path, restored: ScanRef) -> Image:
    values, affine = nifti.read_values(file)
    return alignment.turned(Volume(values[0], affine), scans.read(restored).volumes[0]).array


def _shown_hole(pair: Pair, options: Options) -> Image:
    first = next(volumes_of(pair, options))
    return np.zeros(first.restored.array.shape, np.float32) if first.hole is None else first.hole.astype(np.float32)
