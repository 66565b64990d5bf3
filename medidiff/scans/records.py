"""What a sidecar, the record of a run and the metadata of a bundle must look like before they are believed.

They may come from somebody else, or have been edited. Whoever reads them relies on the types that stand here, and on
paths that stay where they belong: what a run wrote lies below the folder of its record, and no path is absolute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError

from medidiff.config import Task, is_possible
from medidiff.scans import limits


def is_plain(name: str) -> bool:
    """Whether a text can be a relative path: the name of a file, and not absolute on any system."""
    return is_possible(Path(name)) and not PurePosixPath(name).is_absolute() and not PureWindowsPath(name).anchor


def is_inside(name: str) -> bool:
    """Whether a path leads to something below the folder that it is relative to, or to the folder itself."""
    return is_plain(name) and ".." not in PurePosixPath(name.replace("\\", "/")).parts


def _plain(name: str) -> str:
    if not is_plain(name):
        raise ValueError("it is no relative path")
    return name


def _inside(name: str) -> str:
    if not is_inside(name):
        raise ValueError("it leads out of the folder")
    return name


Text = Annotated[str, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Plain = Annotated[Text, AfterValidator(_plain)]
Inside = Annotated[Text, AfterValidator(_inside)]


class _Shape(BaseModel):
    """What is relied on in a JSON object; everything else may be there too."""

    model_config = ConfigDict(extra="allow", frozen=True)


class _File(_Shape):
    path: Inside
    bytes: Whole
    sha256: Text


class _Input(_Shape):
    path: Plain | None = None
    kind: Literal["nifti", "dicom"] = "nifti"
    content_sha256: Text | None = None
    location_sha256: Text | None = None
    files: list[_File] = []


class _Mask(_Shape):
    path: Plain | Annotated[list[Plain], Field(min_length=1)] | None = None
    sha256: Text | None = None


class _Pipeline(_Shape):
    name: Text | None = None
    version: Text | None = None
    weights_sha256: Text | None = None
    settings_sha256: Text | None = None


class _Guard(_Shape):
    verdicts: list[Text] | None = None
    figures: dict[str, Any] | None = None


class _Grid(_Shape):
    spacing_mm: Annotated[list[Number], Field(min_length=3, max_length=3)] | None = None


class _Volume(_Grid):
    label: Text | None = None
    modality: Text | None = None
    units: Text = ""
    record: dict[str, Any] | None = None
    guard: _Guard | None = None
    restored: _Grid | None = None


class _Part(_Shape):
    volumes: Annotated[list[Whole], Field(min_length=1)]
    turn: Annotated[list[Annotated[list[Number], Field(min_length=2, max_length=2)]], Field(min_length=3, max_length=3)]


class _Config(_Shape):
    output: Inside = "."
    mask: Plain | None = None
    pipeline: Plain | None = None
    inputs: list[Plain] = []
    restore: dict[str, Any] | None = None


class _Dicom(_Shape):
    uid_entropy: Text
    datetime: Text
    series_number: Whole | None = None


class _Sidecar(_Shape):
    medidiff: Text
    task: Task | None = None
    input: _Input
    outputs: list[_File]
    mask: _Mask | None = None
    pipeline: _Pipeline = _Pipeline()  # may be absent, but not null
    config: _Config = _Config()
    volumes: list[_Volume] | None = None
    notes: list[Text] | None = None
    packages: dict[str, Any] | None = None
    platform: dict[str, Any] | None = None
    compute: dict[str, Any] | None = None
    dicom: _Dicom = _Dicom(uid_entropy="", datetime="")
    nifti: list[_Part] | None = None


class _Outputs(_Shape):
    restored: Inside | None = None
    uncertainty: Inside | None = None
    supplied: Inside | None = None
    sample: Inside | None = None
    nifti: Inside | None = None
    sidecar: Inside | None = None
    report: Inside | None = None


class _Case(_Shape):
    name: Text | None = None
    input: Text = ""  # on another drive of Windows it is absolute; such a place is not looked at
    kind: Literal["nifti", "dicom"] | None = None
    status: Literal["done", "skipped", "failed"] | None = None
    reason: Text | None = None
    outputs: _Outputs | None = None


class _Run(_Shape):
    medidiff: Text
    command: list[Text] | None = None
    config: dict[str, Any] | None = None
    cases: list[_Case]


Size = Annotated[int, Field(strict=True, ge=1, le=4096)]  # of anything in a network
DECIMAL = r"^[0-9]+([.][0-9]+)?$"
Range = tuple[Number, Number]


class _Weights(_Shape):
    file: Annotated[Inside, Field(min_length=1)]
    sha256: Annotated[Text, Field(pattern=r"^[0-9a-f]{64}$")]


class _Network(_Shape):
    spatial_dims: Literal[2, 3] = 3
    __pydantic_extra__: dict[str, Text | Size | Annotated[list[Size], Field(max_length=16)]]


class _TrainedOn(_Shape):
    noise_percent: Range | None = None
    spacing_mm: Range | None = None
    anisotropy: Range | None = None
    factor: Range | None = None
    intensity: dict[Text, Range] = Field(default_factory=dict)
    recipe: dict[str, Any] = Field(default_factory=dict)


class _Level(_Shape):
    quantile90: Number
    scale: Number
    volumes: Annotated[int, Field(strict=True, ge=0)]
    gain: Annotated[Number, Field(ge=0, le=1)] = 1.0


class _Settings(_Shape):
    tasks: Annotated[list[Text], Field(min_length=1)]  # a later version may have more of them
    modalities: list[Text] = Field(default_factory=list)
    licence: Text = ""
    network: _Network
    halo: Annotated[int, Field(strict=True, ge=0, le=512)] = 0
    weights: _Weights
    trained_on: _TrainedOn = _TrainedOn()
    calibration: dict[Text, dict[Annotated[str, Field(pattern=DECIMAL)], _Level]] = Field(default_factory=dict)
    finetuned: list[dict[str, Any]] = Field(default_factory=list)


class _Metadata(_Shape):
    version: Text
    name: Text | None = None
    description: Text = ""
    medidiff: _Settings


def sidecars_below(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The sidecars in a folder and all that are visible in it, sound or damaged, and their JSON, in a fixed order."""
    for base, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".json") and not name.startswith("."):
                with suppress(OSError, ValueError):
                    tree = limits.read_json(Path(base) / name)
                    if claims_sidecar(tree):
                        yield Path(base) / name, tree


def warnings_of(volume: Mapping[str, Any]) -> list[Any]:
    """What was said of one volume of a sidecar when it was restored."""
    found = (volume.get("record") or {}).get("warnings")
    return found if isinstance(found, list) else []


def claims_sidecar(tree: object) -> bool:
    """Whether parsed JSON says that it is a sidecar of medidiff; it may be damaged."""
    return isinstance(tree, dict) and "medidiff" in tree and "input" in tree


def why_no_sidecar(tree: object) -> str:
    """What keeps parsed JSON from being a sidecar, as a clause; empty when it is one."""
    return _why_not(_Sidecar, tree)


def why_no_run(tree: object) -> str:
    """What keeps parsed JSON from being the record of a run, as a clause; empty when it is one."""
    return _why_not(_Run, tree)


def why_no_bundle(tree: object) -> str:
    """What keeps parsed JSON from being the metadata of a bundle, as a clause; empty when it is one."""
    return _why_not(_Metadata, tree)


def _why_not(shape: type[_Shape], tree: object) -> str:
    try:
        shape.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where or 'the file'}: {first['msg'].removeprefix('Value error, ')}"
    return ""
