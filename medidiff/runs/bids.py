"""A BIDS derivatives dataset as the output of a run: its files, and what its sidecars say in the words of BIDS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medidiff._version import __version__
from medidiff.config import RunConfig
from medidiff.errors import CannotWrite, UsageError
from medidiff.runs.paths import discreet, real
from medidiff.scans import bids, limits, outputs
from medidiff.scans.outputs import OutputNames, nifti_stem
from medidiff.scans.volume import ScanRef, Skipped

VERSION = "1.10.1"  # of the BIDS specification
LINK = "source"  # what BIDS URIs call the dataset of the scans
IGNORED = ("run.json", "*.html", "*.log")
GRADIENTS = (".bval", ".bvec")
DONE = {"denoise": "Denoised", "superres": "Voxels made finer", "inpaint": "Holes filled"}
BESIDE = {
    "": "posterior mean of a conditional diffusion model",
    "Uncertainty": "standard deviation of each voxel, in the units of the image",
    "Supplied": "share of each voxel, 0 to 1, that the prior supplied and not its own measurement",
    "Sample": "a generated sample: for looking at, not for measuring",
}
# What stays true of an image when its voxels are restored; no names, dates or numbers of devices.
KEPT = (
    "Manufacturer",
    "ManufacturersModelName",
    "MagneticFieldStrength",
    "MRAcquisitionType",
    "ScanningSequence",
    "SequenceVariant",
    "PulseSequenceType",
    "RepetitionTime",
    "VolumeTiming",
    "EchoTime",
    "InversionTime",
    "FlipAngle",
    "TaskName",
    "PhaseEncodingDirection",
    "TotalReadoutTime",
    "B0FieldSource",
)
OF_THE_GRID = ("SliceTiming", "EffectiveEchoSpacing")
README = """# Restored images

The images of a BIDS dataset, restored with medidiff {version}. For research only, not for diagnosis.

`desc-denoised`, `desc-superres` and `desc-inpainted` name what was done; `descriptions.tsv` tells of all descriptions.
The JSON file beside an image holds its sources, the hashes of input and weights, all settings, the noise that was found
and what the checks say; `medidiff verify` makes the image again from it. `run.json` lists what became of every image of
the latest run.
"""


def select(refs: Sequence[ScanRef], config: RunConfig) -> tuple[tuple[ScanRef, ...], list[Skipped]]:
    """The cases that a derivatives dataset can hold, and the others with the reason.

    Raises:
        UsageError: the cases do not lie in one BIDS dataset, or the output is no folder.
    """
    if outputs.is_file_name(config.output):
        raise UsageError(f"{config.output} is a file name, but --bids writes a dataset; give a folder.")
    roots = {bids.root_of(ref.path) if ref.kind == "nifti" else None for ref in refs}
    if None in roots:
        where = next(ref.path for ref in refs if ref.kind == "dicom" or bids.root_of(ref.path) is None)
        raise UsageError(
            f"{where} lies in no BIDS dataset (no {bids.DESCRIPTION} above it), so its subject is not known; "
            "leave out --bids."
        )
    if len(roots) > 1:
        raise UsageError("The scans lie in several BIDS datasets; restore one at a time with --bids.")
    taken, left = [], []
    for ref in refs:
        why = bids.left_out(bids.inside(ref.path, _root(ref)))
        if why is None:
            taken.append(ref)
        else:
            left.append(Skipped(ref.path, f"with --bids it is left out: {why}"))
    return tuple(taken), left


def output_names(ref: ScanRef, config: RunConfig) -> OutputNames:
    """What the results of a case that `select` took are called."""
    return bids.output_names(ref.path, _root(ref), config.output, config.task)


def begin(config: RunConfig, cases: Sequence[tuple[ScanRef, OutputNames]]) -> None:
    """Write what makes the output folder a derivatives dataset; what is there and the same stays as it is.

    Args:
        config: the run's settings.
        cases: every case of the run with its names.

    Raises:
        CannotWrite: the folder is a dataset of somebody else, or cannot be written.
    """
    folder = config.output
    there = _load(folder / bids.DESCRIPTION)
    if there is not None and not any(each.get("Name") == "medidiff" for each in _generators(there)):
        raise CannotWrite(f"{folder} is a BIDS dataset that medidiff did not write; choose another output folder.")
    described = description(_root(cases[0][0]), folder)
    if there != described:
        outputs.write_json_atomic(folder / bids.DESCRIPTION, described)
    if not any((folder / name).exists() for name in ("README", "README.md", "README.rst", "README.txt")):
        _write(folder / "README.md", README.format(version=__version__))
    ignored = dict.fromkeys([*_lines(folder / ".bidsignore"), *IGNORED])
    _write(folder / ".bidsignore", "".join(f"{name}\n" for name in ignored))
    _write(folder / "descriptions.tsv", descriptions(folder, config, cases))


def description(root: Path, folder: Path) -> dict[str, Any]:
    """``dataset_description.json`` of the derivatives.

    Args:
        root: the dataset of the scans.
        folder: the derivatives dataset.
    """
    source = _load(root / bids.DESCRIPTION) or {}
    doi = source.get("DatasetDOI")
    return {
        "Name": f"{source.get('Name') or root.name}: restored with medidiff",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {"Name": "medidiff", "Version": __version__, "Description": "Restoration with conditional diffusion"}
        ],
        "SourceDatasets": [{"DOI": doi} if isinstance(doi, str) and doi else {"URL": f"bids:{LINK}:"}],
        "DatasetLinks": {LINK: discreet(root, folder)},
    }


def descriptions(folder: Path, config: RunConfig, cases: Iterable[tuple[ScanRef, OutputNames]]) -> str:
    """The table of the descriptions in file names: those of this run, and those that were there before."""
    rows = dict(line.split("\t", 1) for line in _lines(folder / "descriptions.tsv")[1:] if "\t" in line)
    for _, names in cases:
        name = bids.parse(nifti_stem(names.restored.name) or "")
        for word, meaning in BESIDE.items():
            if name is not None:
                rows[f"desc-{name.entities['desc']}{word}"] = f"{DONE[config.task]} by medidiff: {meaning}"
    return "".join(f"{key}\t{text}\n" for key, text in [("desc_id", "description"), *sorted(rows.items())])


def facts(ref: ScanRef, config: RunConfig, masks: Sequence[Path] = ()) -> dict[str, Any]:
    """What a sidecar says in the words of BIDS.

    ``SkullStripped``, which BIDS asks for, is as the source says, else false, as it is for raw images.

    Args:
        ref: the case.
        config: the run's settings.
        masks: the files of the mask.
    """
    root = bids.root_of(ref.path)
    if root is None:
        return {}
    sources = [path for path in (ref.path, *masks) if real(path).is_relative_to(real(root))]
    told = bids.metadata(ref.path, root)
    keys = KEPT if config.task == "superres" else (*KEPT, *OF_THE_GRID)
    return {
        "Description": f"{DONE[config.task]} by medidiff {__version__}: {BESIDE['']}",
        "Sources": [f"bids:{LINK}:{bids.inside(path, root).as_posix()}" for path in sources],
        "SkullStripped": told.get("SkullStripped") is True,
        **{key: told[key] for key in keys if key in told},
    }


def companions(
    ref: ScanRef, config: RunConfig, maps: Mapping[str, Path], masks: Sequence[Path], written: list[Path]
) -> None:
    """Write a JSON file beside each map.

    Args:
        ref: the case.
        config: the run's settings.
        maps: by the word that their description ends in, see `BESIDE`.
        masks: the files of the mask.
        written: gets the files, also when a later one fails.

    Raises:
        CannotWrite: a file cannot be written.
    """
    told = facts(ref, config, masks)
    for word, path in maps.items():
        file = path.with_name(f"{nifti_stem(path.name)}.json")
        outputs.write_json_atomic(file, {**told, "Description": f"{DONE[config.task]} by medidiff: {BESIDE[word]}"})
        written.append(file)


def copy_gradients(ref: ScanRef, names: OutputNames) -> None:
    """Write the b-values and gradients that hold for a diffusion image, once for all results of it.

    Without a description in their names they hold for every description, by the inheritance principle.

    Raises:
        CannotWrite: a file cannot be written.
    """
    root, name = bids.root_of(ref.path), bids.parse(nifti_stem(ref.path.name) or "")
    if root is not None and name is not None:
        plain = bids.Name({key: value for key, value in name.entities.items() if key != "desc"}, name.suffix)
        for end in GRADIENTS:
            for file in [*bids.applicable(ref.path, root, end)][-1:]:
                _write(names.restored.with_name(f"{plain}{end}"), file.read_text(encoding="utf-8"))


def _root(ref: ScanRef) -> Path:
    root = bids.root_of(ref.path)
    if root is None:
        raise UsageError(f"{ref.path} lies in no BIDS dataset; leave out --bids.")
    return root


def _load(file: Path) -> dict[str, Any] | None:
    try:
        tree = limits.read_json(file)
    except (OSError, ValueError):
        return {} if file.exists() else None
    return tree if isinstance(tree, dict) else {}


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _generators(tree: dict[str, Any]) -> list[dict[str, Any]]:
    given = tree.get("GeneratedBy")
    return [each for each in given if isinstance(each, dict)] if isinstance(given, list) else []


def _write(file: Path, text: str) -> None:
    """Write a text, unless it is there already."""
    with suppress(OSError, ValueError):
        if file.read_text(encoding="utf-8") == text:
            return
    with outputs.atomic_file(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
