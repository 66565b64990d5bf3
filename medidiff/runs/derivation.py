"""The sentence that a restored file carries in its own header."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medidiff.config import RunConfig
from medidiff.scans.volume import Derivation

VERB = {"denoise": "Denoised"}
TEXT_LIMIT = 1024
SHORT_LIMIT = 79


def derive(config: RunConfig, pipeline: dict[str, str], records: Sequence[dict[str, Any]], version: str) -> Derivation:
    """Say how an image came about: method, version, pipeline, strength and noise level.

    Args:
        config: the run's settings.
        pipeline: ``name``, ``version`` and ``weights_sha256``.
        records: what the pipeline recorded for each volume.
        version: medidiff's version.
    """
    options = config.restore
    verb = VERB[config.task]
    weights = pipeline["weights_sha256"][:12]
    text = (
        f"{verb} by medidiff {version}, pipeline {pipeline['name']} {pipeline['version']} (weights {weights}): "
        f"posterior mean of a conditional diffusion network, strength {options.strength:g}{noise_level(records)}. "
        "Not for diagnostic use."
    )
    short = f"medidiff {version} {config.task} {pipeline['name']} {pipeline['version']} {weights}"
    return Derivation(
        task=config.task,
        text=text[:TEXT_LIMIT],
        short=short.encode("ascii", "replace").decode("ascii")[:SHORT_LIMIT],
        version=version,
    )


def noise_level(records: Sequence[dict[str, Any]]) -> str:
    """The noise of the volumes in percent, as a phrase; empty when it was not recorded."""
    levels = [
        float(record["noise_percent"]) for record in records if isinstance(record.get("noise_percent"), int | float)
    ]
    if not levels:
        return ""
    low, high = min(levels), max(levels)
    return f", noise {low:.3g} percent" if high - low < 0.05 else f", noise {low:.3g} to {high:.3g} percent"
