"""Names in BIDS datasets: which files are images that medidiff restores, and what their derivatives are called.

A dataset is a folder with ``dataset_description.json``. Names follow the Brain Imaging Data Structure:
``sub-01_ses-1_task-rest_bold.nii.gz`` holds entities and a suffix; what is said in a JSON file with fewer of the
entities, nearer to the root, holds for it too (the inheritance principle).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.scans import limits
from medidiff.scans.outputs import TASK_SUFFIX, OutputNames, nifti_stem

DESCRIPTION = "dataset_description.json"
IMAGES = {
    "anat": {
        *("T1w", "T2w", "PDw", "T2starw", "FLAIR", "PDT2", "inplaneT1", "inplaneT2", "angio"),
        *("VFA", "IRT1", "MP2RAGE", "MPM", "MTS", "MTR", "MESE", "MEGRE"),
        *("T2star", "FLASH", "PD"),  # in old datasets
    },
    "dwi": {"dwi", "sbref"},
    "func": {"bold", "cbv", "sbref"},
}
NO_MAGNITUDE = {"phase", "real", "imag"}
OTHER = "it does not hold the images of the BIDS dataset; name it as the input to restore what is in it"
MAPS = ("Uncertainty", "Supplied", "Sample")  # the ends of the descriptions of what lies beside a restored image
MASKS = {"mask", "roi"}
OF_MASKS = {"label", "desc", "mod"}  # what the name of a mask may say more than that of its image
LABEL = re.compile(r"^[a-zA-Z0-9]+$")


@dataclass(frozen=True)
class Name:
    """A file name taken apart.

    Attributes:
        entities: as in ``{"sub": "01", "task": "rest"}``, in their order.
        suffix: as ``bold``.
    """

    entities: dict[str, str]
    suffix: str

    def __str__(self) -> str:
        return "_".join([*(f"{key}-{value}" for key, value in self.entities.items()), self.suffix])


def is_root(folder: Path) -> bool:
    """Whether a folder is a BIDS dataset."""
    return (folder / DESCRIPTION).is_file()


def root_of(path: Path) -> Path | None:
    """The dataset that a file lies in; ``None`` when it lies in none. Links are not followed."""
    return next((folder for folder in _plain(path).parents if is_root(folder)), None)


def inside(path: Path, root: Path) -> Path:
    """Where a file lies below the root of its dataset."""
    return _plain(path).relative_to(root)


def parse(stem: str) -> Name | None:
    """A file name without extension, taken apart; ``None`` when it is none of BIDS."""
    *pairs, suffix = stem.split("_")
    found = dict(pair.partition("-")[::2] for pair in pairs)
    words = (*found, *(value.replace("+", "") for value in found.values()), suffix)
    return Name(found, suffix) if len(found) == len(pairs) and all(map(LABEL.match, words)) else None


def left_out(relative: Path) -> str | None:
    """Why a file of a dataset is not restored, in a clause; empty for what is no image, ``None`` for what is restored.

    Args:
        relative: its path below the root.
    """
    stem = nifti_stem(relative.name)
    if stem is None:
        return ""
    name, folder = parse(stem), relative.parent.name
    if name is None or "sub" not in name.entities:
        return "it is not named as BIDS asks; name it as the input to restore it"
    if folder not in IMAGES:
        return f"it is of datatype {folder}; of a BIDS dataset {', '.join(IMAGES)} are restored, others when named"
    if name.suffix not in IMAGES[folder]:
        return f"{name.suffix} is no image that is restored in a BIDS dataset; name it as the input to restore it"
    if name.entities.get("part") in NO_MAGNITUDE:
        return f"it holds the {name.entities['part']} part of the signal, and medidiff restores magnitudes"
    return "it lies beside a restored image and is none" if name.entities.get("desc", "").endswith(MAPS) else None


def derived(stem: str, word: str) -> str:
    """The name of a derivative: ``sub-01_desc-denoised_T1w`` of ``sub-01_T1w``.

    Args:
        stem: the name of the source without extension.
        word: what was done; it is added to a description that the source has: ``desc-preprocDenoised``.

    Raises:
        ValueError: the name is none of BIDS.
    """
    name = parse(stem)
    if name is None:
        raise ValueError(stem)
    before = name.entities.get("desc", "")
    label = f"{before}{word[0].upper()}{word[1:]}" if before else word
    rest = {key: value for key, value in name.entities.items() if key != "desc"}
    return str(Name({**rest, "desc": label}, name.suffix))


def output_names(path: Path, root: Path, output: Path, task: str) -> OutputNames:
    """Where the results of an image of a dataset go in a derivatives dataset.

    Args:
        path: the image.
        root: its dataset.
        output: the derivatives dataset.
        task: ``denoise``, ``superres`` or ``inpaint``.

    Raises:
        ValueError: the name is none of BIDS.
    """
    stem = derived(nifti_stem(path.name) or "", TASK_SUFFIX[task])
    return beside(output / inside(path, root).parent / f"{stem}.nii.gz")


def beside(restored: Path) -> OutputNames:
    """The names that go with a restored image that has a description."""
    stem = nifti_stem(restored.name) or ""

    def more(word: str) -> Path:
        return restored.with_name(f"{derived(stem, word)}.nii.gz")

    sidecar = restored.with_name(f"{stem}.json")
    return OutputNames(restored, sidecar, more("uncertainty"), more("sample"), more("supplied"))


def masks_in(folder: Path, stem: str) -> list[Path]:
    """The masks in a folder that belong to an image by the names of BIDS.

    ``sub-01_label-lesion_mask.nii.gz`` belongs to ``sub-01_T1w``; with ``mod-FLAIR`` in its name it does not, nor with
    another space or resolution than the image has.

    Args:
        folder: where to look.
        stem: the name of the image without extension.
    """
    image, found = parse(stem), []
    if image is None or "sub" not in image.entities or not folder.is_dir():
        return []
    for file in sorted(folder.iterdir()):
        name = parse(nifti_stem(file.name) or "")
        if name is None or name.suffix not in MASKS:
            continue
        more = dict(name.entities.items() - image.entities.items())
        missing = image.entities.items() - name.entities.items() - {("desc", image.entities.get("desc"))}
        if not missing and more.keys() <= OF_MASKS and more.get("mod", image.suffix) == image.suffix:
            found.append(file)
    return found


def metadata(path: Path, root: Path) -> dict[str, Any]:
    """What the JSON files of a dataset say of an image, the nearest and most special last; damaged ones say nothing."""
    found: dict[str, Any] = {}
    for file in applicable(path, root, ".json"):
        try:
            tree = limits.read_json(file)
        except (OSError, ValueError):
            continue
        found |= tree if isinstance(tree, dict) else {}
    return found


def applicable(path: Path, root: Path, extension: str) -> Iterator[Path]:
    """The files of an extension that hold for an image, from the root down, those with fewer entities first.

    Args:
        path: the image.
        root: its dataset.
        extension: as ``.json`` or ``.bval``.
    """
    place = inside(path, root)
    image = parse(nifti_stem(place.name) or "")
    if image is None:
        return
    for folder in (root / up for up in reversed(place.parents)):
        fitting = []
        for file in folder.glob(f"*{extension}"):
            name = parse(file.name.removesuffix(extension))
            if name is not None and name.suffix == image.suffix and name.entities.items() <= image.entities.items():
                fitting.append((len(name.entities), file))
        yield from (file for _, file in sorted(fitting))


def _plain(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link into git-annex
