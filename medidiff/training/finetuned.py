"""The bundle of fine-tuned weights: the one that they came from, with what changed, and without its calibration."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from medidiff.training import calibration, pack
from medidiff.training.calibration import Reference
from medidiff.training.checkpoint import METADATA
from medidiff.training.finetune import Outcome

SUFFIX = "finetuned"
_CARD = Path("docs/README.md")


@dataclass(frozen=True)
class Scans:
    """What the weights were fine-tuned on.

    Attributes:
        references: the scans as they were, or the classical estimate of them where they are noisy.
        modality: of all of them.
        noise_percent: least and most noise found in them, in percent of the bright level; ``None`` for clean scans.
    """

    references: Sequence[Reference]
    modality: str
    noise_percent: tuple[float, float] | None


def write(base: Path, folder: Path, outcome: Outcome, scans: Scans) -> str:
    """Write the bundle; a copy of the old one where nothing better was found.

    Args:
        base: folder of the bundle that was fine-tuned.
        folder: of the new one.
        outcome: of the fine-tuning.
        scans: that it was fine-tuned on.

    Returns:
        The version of what was written.

    Raises:
        ValueError: the folders are the same.
        OSError: it cannot be written.
    """
    if folder.resolve() == base.resolve():
        raise ValueError("the new bundle would replace the one that it comes from")
    shutil.copytree(base, folder, dirs_exist_ok=True)
    metadata: dict[str, Any] = json.loads((base / METADATA).read_text(encoding="utf-8"))
    if outcome.weights is None:
        return str(metadata["version"])
    settings = metadata["medidiff"]
    weights = folder / settings["weights"]["file"]
    _save(outcome.weights, weights)
    story = {
        "from": {
            "name": base.resolve().name,
            "version": metadata["version"],
            "weights_sha256": settings["weights"]["sha256"],
        },
        "scans": len(scans.references),
        "clean": scans.noise_percent is None,
        "modality": scans.modality,
        "seconds": round(outcome.seconds),
        "iterations": outcome.iterations,
        "gain_db": {"estimate": round(outcome.judged.gain, 3), "standard_error": round(outcome.judged.error, 3)},
    }
    metadata["version"] = _next(str(metadata["version"]))
    metadata.setdefault("changelog", {})[metadata["version"]] = f"fine-tuned on {len(scans.references)} scans"
    settings["weights"] = {**settings["weights"], "sha256": pack.digest(weights)}
    settings["finetuned"] = [*settings.get("finetuned", []), story]
    settings["modalities"] = sorted({*settings.get("modalities", []), scans.modality})
    settings["trained_on"] = widened(settings.get("trained_on", {}), scans)
    # what errors are worth was measured with the old weights
    settings.pop("calibration", None)
    (folder / METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    _tell(folder / _CARD, metadata, story)
    return str(metadata["version"])


def _save(weights: Mapping[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.part")
    save_file({key: value.to(torch.float16).cpu().contiguous() for key, value in weights.items()}, temporary)
    temporary.replace(path)


def _next(version: str) -> str:
    """``0.3.0`` -> ``0.3.0+finetuned`` -> ``0.3.0+finetuned.2``."""
    plain, found, count = version.partition(f"+{SUFFIX}")
    return f"{version}+{SUFFIX}" if not found else f"{plain}+{SUFFIX}.{int(count.lstrip('.') or 1) + 1}"


def widened(trained_on: Mapping[str, Any], scans: Scans) -> dict[str, Any]:
    """What scans may look like, now that the network has learned from some more.

    Ranges reach as far as the new scans; of each intensity statistic the mean and the deviation are those of the old
    and the new scans taken half and half.
    """
    result = dict(trained_on)
    noise = scans.noise_percent or tuple(trained_on.get("noise_percent", (1.0, 15.0)))
    found = calibration.range_of(scans.references, (noise[0], noise[1]))
    spacing = [size for reference in scans.references for size in reference.spacing]
    bounds = {"spacing_mm": [min(spacing), max(spacing)], "anisotropy": found["anisotropy"]}
    if scans.noise_percent:
        bounds["noise_percent"] = [round(percent, 4) for percent in scans.noise_percent]
    for name, (low, high) in bounds.items():
        old = trained_on.get(name, (low, high))
        result[name] = [min(old[0], low), max(old[1], high)]
    if "intensity" in trained_on:
        result["intensity"] = {
            name: _mixed(old, found["intensity"].get(name, old)) for name, old in trained_on["intensity"].items()
        }
    return result


def _mixed(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Mean and standard deviation of two kinds of scan, half and half."""
    mean = (one[0] + other[0]) / 2
    power = (one[1] ** 2 + other[1] ** 2) / 2 + ((one[0] - other[0]) / 2) ** 2
    return [round(mean, 5), round(math.sqrt(power), 5)]


def _tell(card: Path, metadata: dict[str, Any], story: dict[str, Any]) -> None:
    """Put what was done before the old card."""
    kind = "clean" if story["clean"] else "noisy"
    gain = story["gain_db"]
    error = "" if story["clean"] else f" (standard error {gain['standard_error']:.2f}, estimated without the truth)"
    text = f"""# {story["from"]["name"]} {metadata["version"]}

**Fine-tuned** from {story["from"]["name"]} {story["from"]["version"]} on {story["scans"]} {kind} {story["modality"]}
scans, {story["iterations"]} iterations in {story["seconds"]} s. On parts of these scans that were held out it gains
{gain["estimate"]:+.2f} dB{error}. Whether it is better on other scans is not known; for tasks and scans unlike
these it may be worse. Its uncertainty is **not calibrated**: `medidiff calibrate` does that. What follows is the card
of the pipeline that it comes from; figures in it are not those of these weights.

---

"""
    old = card.read_text(encoding="utf-8") if card.is_file() else ""
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(text + old, encoding="utf-8")
