"""The sentence that a restored file carries in its own header."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medidiff.config import RunConfig, Task
from medidiff.scans.volume import Derivation

TEXT_LIMIT = 1024
SHORT_LIMIT = 79
SAMPLE = "generated sample"


@dataclass(frozen=True)
class Made:
    """What the sentence says of one restored volume.

    Attributes:
        record: what the pipeline recorded.
        factors: voxels of the result in one of the scan along each axis of the array.
        filled: voxels of the scan that were filled.
    """

    record: dict[str, Any]
    factors: tuple[float, float, float]
    filled: int


def derive(
    config: RunConfig, pipeline: dict[str, str], volumes: Sequence[Made], version: str, *, sample: bool = False
) -> Derivation:
    """Say how an image came about: method, version, pipeline, what was done to the data, strength and noise level.

    Args:
        config: the run's settings.
        pipeline: ``name``, ``version`` and ``weights_sha256``.
        volumes: the volumes of the result.
        version: medidiff's version.
        sample: whether the image is a posterior sample, or on the way to one.
    """
    weights = pipeline["weights_sha256"][:12]
    facts = (*WHAT[config.task](volumes), f"strength {config.restore.strength:g}", *kept(config.task, volumes))
    text = (
        f"{VERB[config.task]} by medidiff {version}, pipeline {pipeline['name']} {pipeline['version']} "
        f"(weights {weights}): {method(config, sample)} of a conditional diffusion network, {', '.join(facts)}. "
        "Not for diagnostic use."
    )
    kind = f" {SAMPLE}" if sample else ""
    short = f"medidiff {version} {config.task}{kind} {pipeline['name']} {pipeline['version']} {weights}"
    return Derivation(
        task=config.task,
        text=text[:TEXT_LIMIT],
        short=short.encode("ascii", "replace").decode("ascii")[:SHORT_LIMIT],
        version=version,
        sample=sample,
    )


def finer(volumes: Sequence[Made]) -> list[str]:
    """What super-resolution did: the factors, the shape of a voxel, and what was filled in the same step."""
    factors = dict.fromkeys(" x ".join(f"{part:.3g}" for part in each.factors) for each in volumes)
    profiles = dict.fromkeys(name for each in volumes for name in each.record.get("profile", ()) if name)
    facts = [f"{' and '.join(factors)} voxels for one"]
    facts += [f"voxel profile {' and '.join(profiles)}"] if profiles else []
    return facts + (filled(volumes) if any(each.filled for each in volumes) else [])


def filled(volumes: Sequence[Made]) -> list[str]:
    """How much was filled."""
    count = sum(each.filled for each in volumes)
    return ["1 voxel filled" if count == 1 else f"{count} voxels filled"]


VERB: dict[Task, str] = {"denoise": "Denoised", "superres": "Super-resolved", "inpaint": "Inpainted"}
WHAT: dict[Task, Callable[[Sequence[Made]], list[str]]] = {
    "denoise": lambda volumes: [],
    "superres": finer,
    "inpaint": filled,
}


def method(config: RunConfig, sample: bool) -> str:
    """Whether an image is the mean or a generated sample of the posterior."""
    if not sample:
        return "posterior mean"
    share = "" if config.restore.gamma == 1 else f", {config.restore.gamma:g} of the way from the posterior mean,"
    return f"{SAMPLE}{share}"


def kept(task: Task, volumes: Sequence[Made]) -> list[str]:
    """The noise that was found, and with it how far the result keeps to the measured data; nothing if not recorded."""
    levels = [
        float(each.record["noise_percent"])
        for each in volumes
        if isinstance(each.record.get("noise_percent"), int | float)
    ]
    if not levels:
        return []
    low, high = min(levels), max(levels)
    if task != "denoise" and high <= 0:
        return ["measured data kept exactly"]
    noise = f"noise {low:.3g} percent" if high - low < 0.05 else f"noise {low:.3g} to {high:.3g} percent"
    return [{"denoise": noise, "superres": f"measured data kept within {noise}", "inpaint": f"{noise} around"}[task]]
