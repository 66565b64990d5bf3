"""Build a training pack from a manifest of volumes: ``python -m medidiff.training.build_pack MANIFEST.csv PACK.npz``.

The manifest is a CSV file with the columns ``file, modality, subject_id, weights_ok, split``; the words of a further
one, ``licence``, go into the bundle. Training and calibration volumes are taken only where ``weights_ok`` is ``yes``
(or ``true``, ``1``); validation volumes only judge, so all of them may serve. No subject may stand in two splits.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff._version import __version__
from medidiff.errors import NoScanFound, UsageError
from medidiff.physics import intensity, noise
from medidiff.physics.fidelity import foreground_psnr
from medidiff.scans import nifti
from medidiff.scans.volume import ScanRef, Volume, mean_of
from medidiff.training.pack import Entry, Pack, digest, quantise
from medidiff.training.validation import noisy_version, percentages, sigma_of

LARGEST_CROP = 3_000_000  # voxels of a training volume that are kept, unless told otherwise
SMALLEST_CROP = 32**3
VALIDATION_CROP = (96, 96, 64)
BODY = 0.05  # normalised intensity above which a voxel counts for the crop


COLUMNS = ("file", "modality", "subject_id", "weights_ok", "split")
SPLITS = ("train", "calibration", "validation")
YES_OR_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False, "": False}
MODALITIES = {  # DICOM codes, and the words of a manifest that mean them
    "MR": "mr, mri, mra, fmri, t1, t1w, t1c, t1ce, t1gd, t2, t2w, t2*, t2*w, t2star, t2starw, pd, pdw, flair, dwi, "
    "dti, adc, b0, bold, asl, epi, gre, swi, qsm, susceptibility, tof, mprage, mp2rage, stir, t2flair",
    "CT": "ct, cta, cbct, microct",
    "PT": "pt, pet",
    "NM": "nm, spect",
    "US": "us, ultrasound",
    "CR": "cr",
    "DX": "dx, xray",
    "MG": "mg, mammography",
    "XA": "xa",
    "RF": "rf",
    "OT": "ot, microscopy, fluorescence",
}
WORDS = {word: code for code, words in MODALITIES.items() for word in words.split(", ")}
AMBIGUOUS = {"us", "nm", "cr", "dx", "mg", "xa", "rf"}  # a modality only where nothing else is said: 920 nm, RF-spoiled


def read_table(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, each with the number of the line that it ends on; cells that are not there are empty.

    Raises:
        UsageError: it cannot be read, holds no row, is not separated by commas, or lacks one of ``columns``.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins its files with a mark of UTF-8
            reader = csv.DictReader(file, restval="")
            found = list(reader.fieldnames or ())
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as a table of volumes; give a CSV file in UTF-8.") from error
    if not any(found):
        raise UsageError(f"{path} is empty; it needs the columns {', '.join(columns)}.")
    if len(found) == 1 and any(mark in found[0] for mark in ";\t"):
        raise UsageError(f"{path} has other separators than commas between its columns; save it with commas.")
    missing = [column for column in columns if column not in found]
    if missing:
        raise UsageError(f"{path} has no column {missing[0]!r}; it needs {', '.join(columns)}.")
    if not rows:
        raise UsageError(f"{path} lists no volume; it has its first line alone.")
    return rows


def of_split(path: Path, split: str, modalities: Container[str]) -> list[tuple[Path, str]]:
    """Files and subjects of one split of a table whose DICOM modality is among ``modalities``.

    Raises:
        UsageError: see ``read_table``, or a row of the split names no modality.
    """
    return [
        (path.parent / row["file"], row["subject_id"])
        for line, row in read_table(path, ("file", "modality", "subject_id", "split"))
        if row["split"] == split and dicom_code(row["modality"], f"{path}, line {line}") in modalities
    ]


def read_manifest(path: Path) -> list[tuple[int, dict[str, str]]]:
    """The rows of a manifest; see ``read_table``.

    Raises:
        UsageError: it cannot be read, lacks a column, or holds a split, modality or weights_ok
            that is none, or has a subject in two splits.
    """
    rows = read_table(path, COLUMNS)
    splits: dict[str, str] = {}
    for line, row in rows:
        if row["split"] not in SPLITS:
            raise UsageError(f"{path}, line {line}: a split is {', '.join(SPLITS)}, not {row['split']!r}.")
        if splits.setdefault(row["subject_id"], row["split"]) != row["split"]:
            raise UsageError(f"{path}, line {line}: this subject stands in two splits, so nothing could be judged.")
        if row["weights_ok"].strip().lower() not in YES_OR_NO:
            raise UsageError(f"{path}, line {line}: weights_ok is yes or no, not {row['weights_ok']!r}.")
        dicom_code(row["modality"], f"{path}, line {line}")
    return rows


def made_of(manifest: Path, modalities: tuple[str, ...]) -> str:
    """SHA-256 of all that a pack follows from: manifest, modalities, the state of each volume's file, crops, version.

    Places of files go into it, so they are not told to those who get the run.

    Raises:
        UsageError: see ``read_manifest``.
    """
    files = []
    for _, row in read_manifest(manifest):
        path = (manifest.parent / row["file"]).resolve()
        state = path.stat() if path.is_file() else None
        files.append([str(path), state and state.st_size, state and state.st_mtime_ns])
    crops = [LARGEST_CROP, VALIDATION_CROP, BODY]
    told = [__version__, str(manifest.resolve()), digest(manifest), sorted(modalities), files, crops]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def build(
    manifest: Path,
    modalities: tuple[str, ...] = ("MR",),
    progress: Callable[[str], None] | None = None,
    largest: int = LARGEST_CROP,
) -> Pack:
    """Read, normalise and crop the volumes of ``manifest`` whose modality is among ``modalities`` (DICOM codes).

    Args:
        manifest: the table.
        modalities: what to take.
        progress: told each volume, and each row that is left out with its reason, in words.
        largest: voxels that are kept of a training volume, from its middle.

    Raises:
        UsageError: see ``read_manifest``, or a file is not there.
        NoScanFound: no volume to learn from is left.
        ScanError: a volume cannot be read.
    """
    tell = progress or (lambda _: None)
    entries, arrays = [], []
    for row in _chosen(manifest, modalities, tell):
        crop = VALIDATION_CROP if row["split"] == "validation" else None
        for volume in _volumes(manifest.parent / row["file"], dicom_code(row["modality"])):
            entry, array = _entry(row, volume, crop, largest)
            entries.append(entry)
            arrays.append(array)
            tell(f"{entry.split:12}{entry.name:32}{array.shape!s:18} noise {entry.sigma:.2%}  {entry.nlm}")
    return Pack(tuple(entries), tuple(arrays))


def _chosen(manifest: Path, modalities: tuple[str, ...], tell: Callable[[str], None]) -> list[dict[str, str]]:
    """The rows to take; the others are told with their reasons.

    Raises:
        UsageError: see ``read_manifest``, or a file is not there.
        NoScanFound: none of them is to be learned from.
    """
    taken, missed = [], Counter[str]()
    wanted = " or ".join(modalities)
    for line, row in read_manifest(manifest):
        code = dicom_code(row["modality"])
        reason = f"the modality is {code}, not {wanted}" if code not in modalities else ""
        if not reason and row["split"] != "validation" and not YES_OR_NO[row["weights_ok"].strip().lower()]:
            reason = "weights_ok is not yes"
        if reason:
            tell(f"left out: {row['file']} ({row['split']}): {reason}")
            missed[reason] += row["split"] == "train"
            continue
        if not (manifest.parent / row["file"]).is_file():
            raise UsageError(f"{manifest}, line {line}: {manifest.parent / row['file']} is not there, or is no file.")
        taken.append(row)
    if not any(row["split"] == "train" for row in taken):
        reasons = [f"{reason} ({count} of the split train)" for reason, count in missed.items() if count]
        why = ", ".join(reasons) if reasons else "no row has the split train"
        raise NoScanFound(f"{manifest} holds no volume of {wanted} to learn from: {why}.")
    return taken


def dicom_code(description: str, place: str = "a manifest") -> str:
    """The DICOM modality that a manifest's words mean: that of the first word which is known, in any case of letters.

    Args:
        description: in words, such as ``T1w (spine)``.
        place: where it stands, for the error.

    Raises:
        UsageError: no word is known.
    """
    found = re.findall(r"[a-z0-9*]+", description.lower().replace("x-ray", "xray"))
    for word in found:
        if word in WORDS and (word not in AMBIGUOUS or len(found) == 1):
            return WORDS[word]
    known = "; ".join(f"{code}: {words}" for code, words in MODALITIES.items())
    raise UsageError(f"{place}: no modality is known by {description!r}; known are {known}.")


def _volumes(path: Path, modality: str) -> Iterator[Volume]:
    """The volume of a file; of a repeated acquisition the mean over repeats, which is nearly free of noise."""
    ref = ScanRef("nifti", path, (path,), Path(path.name), path.name.removesuffix(".nii.gz"))
    yield replace(mean_of(nifti.read(ref).volumes), modality=modality)


def _entry(
    row: dict[str, str], volume: Volume, crop: tuple[int, int, int] | None, largest: int
) -> tuple[Entry, NDArray[np.uint8] | NDArray[np.int16]]:
    _, unit = intensity.normalise(volume.array, volume.modality, volume.valid)
    sigma = noise.of_scan(unit, volume.modality, 2, with_map=False).sigma
    unit = unit[_box(unit, volume.valid, crop, largest)]
    levels, ceiling = quantise(unit, volume.modality)
    step = np.float32(ceiling / np.iinfo(levels.dtype).max)
    nlm = _nlm(levels.astype(np.float32) * step, volume.modality) if crop else {}
    spacing = (volume.spacing[0], volume.spacing[1], volume.spacing[2])
    licence = row.get("licence") or ""
    known = (row["file"], row["subject_id"], row["split"], volume.modality)
    return Entry(*known, spacing, ceiling, sigma, nlm, licence), levels


def _box(
    unit: NDArray[np.float32], valid: NDArray[np.bool_] | None, crop: tuple[int, int, int] | None, largest: int
) -> tuple[slice, ...]:
    """The box around the measured body; its middle when that is larger than ``crop``, or than ``largest`` voxels."""
    body = unit > BODY if valid is None else (unit > BODY) & valid
    spans = []
    for axis in range(unit.ndim):
        hit = np.flatnonzero(body.any(axis=tuple(a for a in range(unit.ndim) if a != axis)))
        spans.append((int(hit[0]), int(hit[-1]) + 1) if hit.size else (0, unit.shape[axis]))
    sizes = [stop - start for start, stop in spans]
    if crop is None:
        while np.prod(sizes) > largest:
            sizes[int(np.argmax(sizes))] -= 4
    else:
        sizes = [min(size, limit) for size, limit in zip(sizes, crop, strict=True)]
    starts = [(start + stop - size) // 2 for (start, stop), size in zip(spans, sizes, strict=True)]
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


def _nlm(clean: NDArray[np.float32], modality: str) -> dict[str, float]:
    """What DIPY's non-local means reaches on the validation noise; empty when DIPY is not installed."""
    try:
        from dipy.denoise.nlmeans import nlmeans
    except ImportError:
        return {}
    figures = {}
    for percent in percentages(modality):
        noisy = noisy_version(clean, percent, modality=modality)
        sigma = sigma_of(percent, modality)
        restored = nlmeans(noisy, sigma=sigma, patch_radius=1, block_radius=2, rician=modality != "CT")
        figures[str(percent)] = round(foreground_psnr(restored, clean), 3)
    return figures


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--modality", nargs="+", default=["MR"], help="DICOM codes to take (default: MR)")
    parser.add_argument(
        "--voxels",
        type=int,
        default=LARGEST_CROP,
        help=f"most voxels to keep of a training volume, from its middle (default: {LARGEST_CROP})",
    )
    arguments = parser.parse_args()
    told = partial(print, file=sys.stderr)
    if arguments.voxels < SMALLEST_CROP:
        parser.error(f"--voxels takes a count of at least {SMALLEST_CROP}.")
    build(arguments.manifest, tuple(arguments.modality), told, arguments.voxels).save(arguments.pack)


if __name__ == "__main__":
    main()
