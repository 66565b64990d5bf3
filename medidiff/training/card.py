"""The model card of a bundle: what its network learned from, for what, how good it is and what it cannot do.

It follows from the bundle's own files alone, its metadata and the last row of its training log; whoever has measured
more (``python -m benchmarks.cards``) hands in the sections on that.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medidiff.training.validation import noise_of

METADATA = Path("configs/metadata.json")
LOG = Path("docs/training_log.csv")
CARD = Path("docs/README.md")
_METHODS = {
    "noisy": "noisy",
    "nlm": "non-local means (DIPY's default)",
    "base": "classical base",
    "network": "network",
}
_WHITE_NOISE = "Rician and Gaussian, white, some of it varying over the scan or correlated"


def of(bundle: Path, measured: str = "", failures: str = "") -> str:
    """The card of a bundle.

    Args:
        bundle: its folder.
        measured: what an evaluation found, in Markdown.
        failures: failures that it found, as a Markdown list.
    """
    metadata = json.loads((bundle / METADATA).read_text(encoding="utf-8"))
    return text(metadata, last_row(bundle / LOG), measured, failures)


def last_row(log: Path) -> dict[str, float]:
    """The figures of a training log's last row."""
    with log.open(newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    return {key: float(value) for key, value in last.items() if value and key != "device"}


def text(metadata: Mapping[str, Any], row: Mapping[str, Any], measured: str = "", failures: str = "") -> str:
    """The card's text; see ``of``.

    Args:
        metadata: of the bundle.
        row: the training log's last row.
        measured: see ``of``.
        failures: see ``of``.
    """
    settings = metadata["medidiff"]
    trained = settings["trained_on"]
    parts = [
        f"# {trained['recipe']['name']} {metadata['version']}",
        f"{metadata['description']} Licence of the weights: {settings['licence']}.",
        "## Intended use",
        metadata["intended_use"],
        "## Range",
        _range(settings, trained),
        "## What it was trained on",
        _training(trained),
        *([measured] if measured else []),
        "## In training" if measured else "## Result",
        _result(settings, row),
        "## Known failures",
        _FAILURES + (f"\n\n{failures}" if failures else ""),
    ]
    return "\n\n".join(parts) + "\n"


_FAILURES = """Motion, metal and folding are not noise and stay. Noise that interpolation or filtering has made
smooth is removed in part. What fills a hole is an average of what fits around it: pathology inside the hole is not
guessed. Detail finer than the scan's voxels is likely, not measured; the map of what the prior supplied shows where."""


def _of_ct(settings: Mapping[str, Any]) -> bool:
    return noise_of(settings["modalities"]) == "CT"


def _range(settings: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    """What scans it is for."""
    data, (low, high), (near, far) = trained["recipe"]["data"], trained["noise_percent"], trained["spacing_mm"]
    noise = "Gaussian with the spectrum of CT, some of it varying over the scan" if _of_ct(settings) else _WHITE_NOISE
    return f"""{", ".join(settings["modalities"])}; tasks: {", ".join(settings["tasks"])}. Simulated
noise of {low:g} to {high:g} % of the bright level ({noise});
one thick axis {data["factor"][0]:g} to {data["factor"][1]:g} times as coarse as others, or two or three axes
{data["in_plane_factor"][0]:g} to {data["in_plane_factor"][1]:g} times; holes of {data["hole_radius"][0]:g} to
{data["hole_radius"][1]:g} voxels radius; voxels of {near:.3g} to {far:.3g} mm. What lies somewhat outside gives a
warning; what lies far outside is refused unless forced."""


def _training(trained: Mapping[str, Any]) -> str:
    """How long it learned, from which volumes, and under which licences they are."""
    volumes = "\n".join(f"- {volume}" for volume in trained["volumes"])
    bodies = trained.get("phantoms", 0)
    synthetic = f"\n\nAnd {bodies} synthetic bodies, which are no person's (`medidiff.training.phantoms`)."
    licences = "\n".join(f"- {_counted(count)}: {words}" for words, count in trained.get("licences", {}).items())
    told = f"Licences of these volumes, in the words of their sources:\n\n{licences}"
    return f"""{trained["iterations"]} iterations in {trained["seconds"]} s on {trained["device"]}; `training_log.csv`
has the curve, `configs/metadata.json` the recipe and the SHA-256 of the data pack. {_counted(len(trained["volumes"]))}
of {_counted(len(trained["subjects"]), "subject")}, all said to be under licences that allow derived works:

{volumes}{synthetic if bodies else ""}

{told if licences else "The pack does not tell the words of their licences."}"""


def _counted(count: int, what: str = "volume") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _result(settings: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The figures of the training log."""
    law = "Gaussian with the spectrum of CT" if _of_ct(settings) else "Rician"
    return f"""PSNR in dB (peak: the reference's maximum), mean over central crops of the validation volumes, whose
subjects are in no training volume; over the foreground (above 10/255 of the peak), for inpainting inside the hole. One
pass; noise is {law} and its strength known. The references are real scans with noise of their own, which caps all
figures. The base is what the result would be without the network. Means alone, from the last row of the training log.

{_table(row)}"""


def _setting(name: str) -> str:
    """What a setting of the training log is, in words."""
    task, _, level = name.partition("_")
    if task == "denoise":
        return f"denoise, {level} % noise"
    return "inpaint" if task == "inpaint" else f"super-resolve {level}{'' if 'x' in level else 'x through plane'}"


def _table(row: Mapping[str, Any]) -> str:
    """The figures of a row of the training log as a table: a line a setting, a column a method that has figures."""
    settings = [key.removesuffix("_network") for key in row if key.endswith("_network")]
    methods = {key: name for key, name in _METHODS.items() if any(f"{setting}_{key}" in row for setting in settings)}
    lines = [["setting", *methods.values()], ["---"] * (1 + len(methods))]
    for setting in settings:
        values = [row.get(f"{setting}_{key}") for key in methods]
        lines.append([_setting(setting), *("" if value is None else f"{value:.2f}" for value in values)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
