"""Every setting of a run, as one frozen tree that is validated, saved beside the result and read back.

A misspelt or unknown key is an error. Import costs no torch.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from medidiff.errors import UsageError

LONGEST_NAME, LONGEST_PATH = 255, 4096  # bytes, on every file system that is in use
SHOWN = 80  # characters of a value that a sentence quotes


class Frozen(BaseModel):
    """A settings object: immutable, and strict about unknown keys.

    Raises:
        UsageError: a setting is wrong, where one is made by name; `model_validate` raises pydantic's own error.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise UsageError(describe(error)) from error

    # settings within settings are validated with the outer ones, so that a finding says where it lies
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def taken(cls, given: Self | None) -> Self:
        """The settings that are given, or the usual ones for none.

        Raises:
            UsageError: it is something else.
        """
        if given is not None and not isinstance(given, cls):
            raise UsageError(f"Give a medidiff.config.{cls.__name__}, not {type(given).__name__}.")
        return given or cls()


def plain(value: Any) -> Any:
    """A number or an array of numpy as Python's own."""
    return value.tolist() if hasattr(value, "tolist") else value


def each_axis(value: Any) -> Any:
    """One figure for all three axes, as three."""
    value = plain(value)
    return (value,) * 3 if isinstance(value, int | float) and not isinstance(value, bool) else value


def in_percent(value: Any) -> Any:
    """``auto``, or the figure of a noise.

    Raises:
        ValueError: it is neither; a union of pydantic would tell of one of its branches alone.
    """
    value = plain(value)
    if value is None or value == "auto":
        return value
    try:
        percent = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        percent = math.nan
    if not 0 <= percent <= 100:
        raise ValueError(f"noise is auto, or a number from 0 to 100 percent, not {shortened(str(value))}.")
    return percent


def device_name(text: str) -> str:
    """The name of a device, or of several GPUs.

    Raises:
        ValueError: it is none; whether the machine has it is found out later.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?|cuda:\d+(,cuda:\d+)+", text):
        more = "cuda:N, or cuda:N,cuda:M for several GPUs"
        raise ValueError(f"{shortened(text)} is not a device; use auto, cpu, mps, cuda, {more}.")
    return text


Task = Literal["denoise", "superres", "inpaint"]
Preset = Literal["fast", "balanced", "best"]
PRESETS: dict[str, dict[str, Any]] = {  # what each sets, unless it is given
    "fast": {"steps": 4, "flips": False},
    "balanced": {"steps": 8, "flips": False},
    "best": {"steps": 16, "flips": True},
}
BALANCED = PRESETS["balanced"]
Kind = Literal["nifti", "dicom"]
LOCAL, SLURM = "local", "slurm"
Factor = Annotated[float, Field(ge=1, le=16)]
Millimetres = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RestoreOptions(Frozen):
    """How one volume is restored; the same object serves the command line and Python.

    ``noise`` is ``"auto"`` (estimated from the scan), the noise standard deviation in percent of the volume's bright
    foreground level (its 99.5th percentile), or ``None`` for the task's default: estimated for denoising, and 0 for
    super-resolution and inpainting, where 0 means that what was measured is kept exactly. ``samples = 0`` gives the
    posterior mean only. ``preset`` sets ``steps`` and ``flips`` where they are not given (``None``), see ``PRESETS``;
    with ``flips`` the posterior mean is the mean over all mirror images of the scan, at 8 times the network's cost (4
    times in 2-D). ``gamma`` is the perception dial: with ``gamma > 0`` an image ``mean + gamma (sample - mean)``
    is made beside the mean, never in its place. ``factor`` (voxels out per voxel in) and ``spacing`` (millimetres) say
    how fine super-resolution becomes: three figures, one an axis of the array, or one for all axes that have more than
    one voxel; neither: isotropic voxels. ``profile`` is the sensitivity of a voxel along the axes that super-resolution
    refines; ``force`` restores scans that lie outside of what the pipeline was trained for.
    """

    noise: Annotated[Literal["auto"] | Annotated[float, Field(ge=0, le=100)] | None, BeforeValidator(in_percent)] = None
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    preset: Preset = "balanced"
    samples: Annotated[int, Field(ge=0, le=1024)] = 0
    steps: Annotated[int, Field(ge=1, le=1000)] = BALANCED["steps"]
    flips: bool = BALANCED["flips"]
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    factor: Annotated[tuple[Factor, Factor, Factor], BeforeValidator(each_axis)] | None = None
    spacing: Annotated[tuple[Millimetres, Millimetres, Millimetres], BeforeValidator(each_axis)] | None = None
    profile: Literal["auto", "gaussian", "box", "kspace"] = "auto"
    force: bool = False

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        """What is given, over what the preset sets."""
        if not isinstance(given, dict):
            return given
        preset = PRESETS.get(str(given.get("preset")), BALANCED)  # a wrong one is found further on
        return {**preset, **{name: value for name, value in given.items() if name not in preset or value is not None}}

    @model_validator(mode="after")
    def _fit_together(self) -> RestoreOptions:
        if self.factor is not None and self.spacing is not None:
            raise ValueError("factor and spacing both say how fine the result becomes; give one of them.")
        if self.gamma > 0 and self.samples < 1:
            raise ValueError("gamma mixes a posterior sample in; it needs samples of 1 or more.")
        if self.samples > 0 and self.steps < 2:
            raise ValueError("a sample of one step is the posterior mean; samples need steps of 2 or more.")
        return self

    def mirrored(self, spatial_dims: int) -> int:
        """Mirror images that the posterior mean is taken over; 1 for the scan alone."""
        return 2**spatial_dims if self.flips else 1

    def evaluations(self, spatial_dims: int) -> int:
        """How often the network goes over a scan."""
        return self.mirrored(spatial_dims) + self.samples * (self.steps - 1)

    def unsuited(self, task: Task) -> str:
        """Why a task cannot take these options, in one sentence; empty when it can."""
        if task != "superres" and (self.factor, self.spacing, self.profile) != (None, None, "auto"):
            return f"factor, spacing and profile belong to superres; {task} keeps the grid."
        return ""


class ComputeOptions(Frozen):
    """Where and how the network is evaluated; none of these changes the result beyond rounding.

    ``memory`` is how much a process may take, in GB (1e9 bytes); ``None`` for what the machine has free. What does not
    fit it as a whole is restored in tiles, or in blocks on disk.
    """

    device: Annotated[str, AfterValidator(device_name)] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    tile: Annotated[int, Field(ge=32, multiple_of=8)] | None = None
    batch: Annotated[int, Field(ge=1)] = 1
    memory: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def devices(self) -> tuple[str, ...]:
        """The device, or each of several (``cuda:0,cuda:1``), which are for as many workers."""
        return tuple(self.device.split(","))


class RunConfig(Frozen):
    """A run over files and folders: what, where to, how.

    ``cluster`` spreads the scans over Dask workers: ``local`` (on this machine), ``slurm``, or the address of a running
    scheduler; ``jobs`` is the number of workers, and alone means local ones. One process does all when both are absent.
    """

    task: Task = "denoise"
    inputs: tuple[Path, ...]
    output: Path
    mask: Path | None = None
    uncertainty: bool | None = None
    pipeline: str = "auto"
    restore: RestoreOptions = RestoreOptions()
    compute: ComputeOptions = ComputeOptions()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    recursive: bool = True
    existing: Literal["resume", "overwrite"] = "resume"
    fail_fast: bool = False
    report: bool = False
    format: Literal["same", "nifti", "dicom", "both"] = "same"
    bids: bool = False
    jobs: Annotated[int, Field(ge=1)] | None = None
    cluster: str | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> RunConfig:
        for path in (*self.inputs, self.output, self.mask, Path(self.pipeline)):
            if path is not None and not is_possible(path):
                raise ValueError(f"{shortened(str(path))} cannot be the name of a file.")
        if why := self.restore.unsuited(self.task):
            raise ValueError(why)
        if self.mask is not None and self.task == "denoise":
            raise ValueError("denoise takes no mask; inpaint and superres do.")
        if self.bids and self.format in ("dicom", "both"):
            raise ValueError("A BIDS dataset holds NIfTI files; leave out --format with --bids.")
        if why := self._misplaced():
            raise ValueError(why)
        return self

    def _misplaced(self) -> str:
        """Why the scans cannot be spread over workers so; empty when they can."""
        if self.cluster is None or self.cluster == LOCAL:
            return ""
        if len(self.compute.devices) > 1:
            return f"several devices belong to workers on this machine; --cluster {self.cluster} takes one device."
        if self.cluster == SLURM:
            return "" if self.jobs else "--cluster slurm needs --jobs, the number of workers."
        if not re.fullmatch(r"(\w+://)?[^\s/]+:\d+", self.cluster):
            return f"{self.cluster!r} is no cluster; use local, slurm, or an address such as tcp://10.0.0.1:8786."
        return "--jobs belongs to local and slurm; a running scheduler has its workers." if self.jobs else ""

    @property
    def spread(self) -> bool:
        """Whether workers share the scans: a cluster, several jobs or several devices are asked for."""
        return self.cluster is not None or (self.jobs or 1) > 1 or len(self.compute.devices) > 1

    def kinds(self, kind: Kind) -> tuple[Kind, ...]:
        """The formats in which a case of a kind is written, see `kinds`."""
        return kinds(self.format, kind)

    @property
    def maps(self) -> bool:
        """Whether maps are written beside the result: as asked, else when there are samples."""
        return self.restore.samples > 0 if self.uncertainty is None else self.uncertainty


def kinds(asked: str, kind: Kind) -> tuple[Kind, ...]:
    """The formats in which a case is written; the first one names the result.

    Args:
        asked: ``same``, ``nifti``, ``dicom`` or ``both``.
        kind: the format of the case.
    """
    if kind == "nifti" or asked == "nifti":
        return ("nifti",)
    return ("dicom", "nifti") if asked == "both" else ("dicom",)


def is_possible(path: Path) -> bool:
    """Whether a file could be called so: no NUL, what the file system can encode, and no part that is too long."""
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return False
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    return b"\0" not in encoded and longest <= LONGEST_NAME and len(encoded) < LONGEST_PATH


def shortened(text: str) -> str:
    """A text that may be very long, for a sentence."""
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def describe(error: ValidationError) -> str:
    """One sentence for a person out of pydantic's findings (first finding only)."""
    finding = error.errors()[0]
    if finding["type"] == "value_error":  # one of this module's own sentences
        return str(finding["ctx"]["error"])
    where = ".".join(str(part) for part in finding["loc"]) or "settings"
    if finding["type"] == "extra_forbidden":
        return f"unknown setting {where!r}; known are {', '.join(known_beside(finding['loc'], error.title))}"
    return f"{where}: {finding['msg']} (got {finding.get('input')!r})"


def known_beside(loc: tuple[int | str, ...], name: str) -> list[str]:
    """The settings that there are where an unknown one stands.

    Args:
        loc: its keys from the outside in.
        name: of the class that was to be made.
    """
    model: Any = {each.__name__: each for each in (RestoreOptions, ComputeOptions, RunConfig)}[name]
    for key in loc[:-1]:
        model = model.model_fields[str(key)].annotation
    return sorted(model.model_fields)
