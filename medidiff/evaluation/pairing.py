"""Which reference and which input belong to a restored scan: by the sidecar where there is one, else by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medidiff.errors import NoScanFound, UsageError
from medidiff.scans import bids, discover, limits, records
from medidiff.scans.outputs import TASK_SUFFIX, nifti_stem
from medidiff.scans.volume import ScanRef

BESIDE = ("uncertainty", "supplied", "sample")  # what medidiff lays beside a restored image
_WORDS = "|".join(TASK_SUFFIX.values())
_SUFFIX = re.compile(rf"_({_WORDS})$|_desc-[A-Za-z0-9]*?(?i:({_WORDS}))(?=_|$)")
_NUMBER = re.compile(r"^\d+_(?=.)")


@dataclass(frozen=True)
class Pair:
    """A restored scan and what belongs to it.

    Attributes:
        name: of the case: that of the scan before it was restored.
        restored: the restored scan.
        reference: what it is compared with; ``None`` without a reference.
        input: the scan before; ``None`` where it was not found.
        sidecar: what medidiff wrote about it; empty when it wrote nothing.
        folder: of the sidecar, to which its paths are relative.
        uncertainty: the map of standard deviations beside it, if there is one.
    """

    name: str
    restored: ScanRef
    reference: ScanRef | None
    input: ScanRef | None
    sidecar: dict[str, Any]
    folder: Path
    uncertainty: Path | None

    @property
    def task(self) -> str:
        """What medidiff did; empty when no sidecar tells and the name does not."""
        told = str(self.sidecar.get("task", ""))
        found = _SUFFIX.search(_own_name(self.restored))
        if told or found is None:
            return told
        word = (found.group(1) or found.group(2)).lower()
        return next(task for task, suffix in TASK_SUFFIX.items() if suffix == word)


def find(restored: Path, reference: Path | None, before: Path | None) -> tuple[list[Pair], list[str]]:
    """Pair restored scans with references and inputs.

    A single restored scan belongs to a reference that is named itself (a file, a DICOM folder), whatever it is called.
    In folders names decide, without the suffixes that medidiff adds and without the number of a DICOM series; a scan of
    the same subfolder goes before others.

    Args:
        restored: a scan, a folder of scans, or the folder of a run.
        reference: a scan or a folder of scans; ``None`` without references.
        before: the scans as they were, likewise; ``None`` to look for the sidecar's input.

    Returns:
        The pairs, and one sentence on each restored scan that has no partner.

    Raises:
        UsageError: a path does not exist.
        NoScanFound: a path holds no scan.
    """
    refs = list(restored_scans(restored))
    if not refs:
        raise NoScanFound(f"No restored scan was found in {restored}; give a NIfTI file, a DICOM folder, or a folder.")
    partners = None if reference is None else scans_in(reference, "reference")
    earlier = None if before is None else scans_in(before, "input")
    pairs, missing, alone = [], [], len(refs) == 1
    for ref in refs:
        sidecar, folder = sidecar_of(ref)
        names = names_of(ref, sidecar)
        partner = None if partners is None else partner_of(ref, names, partners, alone=alone and names_one(reference))
        if partners is not None and partner is None:
            missing.append(f"{_own_name(ref)} has no reference named {names[0]}.")
            continue
        was = None if earlier is None else partner_of(ref, names, earlier, alone=alone and names_one(before))
        was = was or input_of(sidecar, folder)
        pairs.append(Pair(names[0], ref, partner, was, sidecar, folder, beside(ref, "uncertainty")))
    return pairs, missing


def restored_scans(path: Path) -> Iterator[ScanRef]:
    """The restored scans below a path: those that a run's record lists and those of sidecars that it does not name.

    Without a record they are all scans but maps and samples.

    Raises:
        UsageError: there is no such path.
    """
    record = read_json(path / "run.json") if path.is_dir() else {}
    if record and not records.why_no_run(record):
        listed = [(case.get("outputs") or {}).get("restored") for case in record["cases"]]
        of_run = [path / name for name in filter(None, listed)]
        beside = (image_of(sidecar) for sidecar, _ in records.sidecars_below(path))
        for place in dict.fromkeys([*of_run, *beside]):
            if place.exists():
                yield from (_below(path, place, ref) for ref in discover.find_scans([place]).cases)
        return
    found = discover.find_scans([path]).cases
    names = {_own_name(ref) for ref in found}
    for ref in found:
        base, _, last = _own_name(ref).rpartition("_")
        if not (last in BESIDE and base in names):
            yield ref


def _below(folder: Path, place: Path, ref: ScanRef) -> ScanRef:
    """A result with the subfolder of the run that it lies in, which is the one that its scan lay in."""
    return replace(ref, relative=place.parent.relative_to(folder) / ref.relative.name)


def image_of(sidecar: Path) -> Path:
    """The restored scan beside a sidecar: the folder of a series, else a NIfTI file, which may be gone."""
    stem = sidecar.name.removesuffix(".json")
    places = [sidecar.with_name(f"{stem}{end}") for end in ("", ".nii.gz", ".nii")]
    return next((place for place in places if place.exists()), places[-1])


def scans_in(path: Path, what: str) -> tuple[ScanRef, ...]:
    """All scans below a path.

    Raises:
        UsageError: there is no such path.
        NoScanFound: it holds no scan.
    """
    found = discover.find_scans([path]).cases
    if not found:
        raise NoScanFound(f"No {what} was found in {path}; give a NIfTI file, a DICOM folder, or a folder of scans.")
    return found


def names_one(path: Path | None) -> bool:
    """Whether a path is itself a scan: a file, or a folder with nothing but one DICOM series."""
    if path is None or path.is_file():
        return path is not None
    found = discover.find_scans([path]).cases
    return len(found) == 1 and found[0].kind == "dicom"


def names_of(ref: ScanRef, sidecar: dict[str, Any]) -> list[str]:
    """What the scan may have been called before it was restored, the likeliest first."""
    told = str((sidecar.get("input") or {}).get("path") or "")
    before = [nifti_stem(Path(told).name) or Path(told).name] if told else []
    if not of_nifti(ref, sidecar):
        before = []  # a sidecar names the folder of a series, which may hold several
    stems = [_SUFFIX.sub("", name) for name in (_own_name(ref), ref.stem)]
    return list(dict.fromkeys([*before, *stems]))


def of_nifti(ref: ScanRef, sidecar: dict[str, Any]) -> bool:
    """Whether a restored scan was made of a NIfTI file."""
    return ref.kind == "nifti" and (sidecar.get("input") or {}).get("kind", "nifti") == "nifti"


def partner_of(ref: ScanRef, names: Sequence[str], among: Sequence[ScanRef], *, alone: bool) -> ScanRef | None:
    """The scan that belongs to a restored one; ``None`` when there is none, or more than one.

    Args:
        ref: the restored scan.
        names: what it may have been called.
        among: the scans to choose from.
        alone: whether it is the only one, and its partner was named itself: then they belong together.
    """
    if alone and len(among) == 1:
        return among[0]
    for simplify in (_same, _numberless):
        for name in names:
            wanted = simplify(name).casefold()
            fitting = [one for one in among if wanted in {simplify(each).casefold() for each in _all_names(one)}]
            near = [one for one in fitting if one.relative.parent == ref.relative.parent]
            for chosen in (near, fitting):
                if len(chosen) == 1:
                    return chosen[0]
    return None


def sidecar_of(ref: ScanRef) -> tuple[dict[str, Any], Path]:
    """The sidecar beside a restored scan, and its folder; empty when there is none."""
    folder = ref.path.parent
    tree = read_json(folder / f"{_own_name(ref)}.json")
    return ({} if records.why_no_sidecar(tree) else tree), folder


def input_of(sidecar: dict[str, Any], folder: Path) -> ScanRef | None:
    """The scan that a sidecar says was restored, if it lies where it lay and holds the same bytes."""
    told = sidecar.get("input") or {}
    path = folder / str(told.get("path") or "")
    if not told.get("path") or not path.exists():
        return None
    for ref in discover.find_scans([path]).cases:
        if discover.content_hash(ref) == told.get("content_sha256"):
            return ref
    return None


def beside(ref: ScanRef, what: str) -> Path | None:
    """A map that medidiff laid beside a restored scan."""
    own = _own_name(ref)
    name = bids.parse(own)
    described = name is not None and "desc" in name.entities
    file = ref.path.parent / f"{bids.derived(own, what) if described else f'{own}_{what}'}.nii.gz"
    return file if file.is_file() else None


def named_file(path: Path, names: Sequence[str], words: Sequence[str]) -> Path | None:
    """The file of a case: the path itself, or in a folder NAME.nii.gz, NAME_WORD.nii.gz or the like.

    Raises:
        UsageError: there is no such path.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist.")
    if path.is_file():
        return path
    tried = (path / f"{name}{word}{end}" for name in names for word in ("", *words) for end in (".nii.gz", ".nii"))
    return next((file for file in tried if file.is_file()), None)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is none that can be read."""
    try:
        tree = limits.read_json(path)
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _own_name(ref: ScanRef) -> str:
    """What the file or the folder of a series is called."""
    return nifti_stem(ref.path.name) or ref.path.name


def _all_names(ref: ScanRef) -> list[str]:
    return list(dict.fromkeys([_own_name(ref), ref.stem]))


def _same(name: str) -> str:
    return name


def _numberless(name: str) -> str:
    """Without the number of a series, which differs between a series and what was made from it."""
    return _NUMBER.sub("", name)
