"""Every setting of a run, as one frozen tree that is validated, saved beside the result and read back.

A misspelt or unknown key is an error. Import costs no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Frozen(BaseModel):
    """A settings object: immutable, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RestoreOptions(Frozen):
    """How one volume is restored; the same object serves the command line and Python.

    ``noise`` is ``"auto"`` (estimated from the scan) or the noise standard deviation in percent of the volume's bright
    foreground level (its 99.5th percentile). ``samples = 0`` gives the posterior mean only.
    """

    noise: Literal["auto"] | Annotated[float, Field(gt=0, le=100)] = "auto"
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    samples: Annotated[int, Field(ge=0, le=1024)] = 0
    steps: Annotated[int, Field(ge=1, le=1000)] = 8
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class ComputeOptions(Frozen):
    """Where and how the network is evaluated; none of these changes the result beyond rounding."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    tile: Annotated[int, Field(ge=32, multiple_of=8)] | None = None
    batch: Annotated[int, Field(ge=1)] = 1


class RunConfig(Frozen):
    """A run over files and folders: what, where to, how."""

    task: Literal["denoise"] = "denoise"
    inputs: tuple[Path, ...]
    output: Path
    pipeline: str = "auto"
    restore: RestoreOptions = RestoreOptions()
    compute: ComputeOptions = ComputeOptions()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    recursive: bool = True
    existing: Literal["resume", "overwrite"] = "resume"
    fail_fast: bool = False


def describe(error: ValidationError) -> str:
    """One sentence for a person out of pydantic's findings (first finding only)."""
    finding = error.errors()[0]
    where = ".".join(str(part) for part in finding["loc"]) or "settings"
    return f"{where}: {finding['msg']} (got {finding.get('input')!r})"
