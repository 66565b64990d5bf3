"""Make a MONAI Bundle of a training run: ``python -m medidiff.training.bundle RUN PACK BUNDLE --version V``."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from medidiff.errors import UsageError
from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.training import calibration, card, pack, phantoms
from medidiff.training.card import CARD, LOG, METADATA
from medidiff.training.checkpoint import STATE

WEIGHTS = Path("models/model.safetensors")
HALO = 24


def make(
    run: Path,
    data: Path,
    bundle: Path,
    *,
    version: str,
    description: str = "",
    halo: int = HALO,
    licence: str = "Apache-2.0",
) -> None:
    """Write weights, metadata, the configuration that MONAI runs, the training log and the model card.

    Args:
        run: folder of a training run.
        data: the pack that it was trained on.
        bundle: folder to write; its ``LICENSE`` is left as it is.
        version: of the bundle.
        description: one sentence; by default what it does to what.
        halo: voxels of context that tiles need.
        licence: of the weights.

    Raises:
        UsageError: the run learned from another pack.
    """
    state = json.loads((run / STATE).read_text(encoding="utf-8"))
    recipe, packed = state["recipe"], pack.load(data)
    if state.get("data", packed.content) != packed.content:
        raise UsageError(f"{data} is not what the run in {run} learned from; give the pack that it was trained on.")
    for part in ("configs", "models", "docs"):
        (bundle / part).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "model.safetensors", bundle / WEIGHTS)
    shutil.copyfile(run / "log.csv", bundle / LOG)
    entries = [entry for entry in packed.entries if entry.split == "train" and entry.modality in recipe["modalities"]]
    network = {
        "in_channels": STATE_CHANNELS + len(VIEWS),
        "parameters": len(parameter_names(recipe["network"]["spatial_dims"])),
        **recipe["network"],
    }
    digest = pack.digest(bundle / WEIGHTS)
    description = description or _described(recipe)
    metadata = _metadata(version, description, network, halo, digest, state, entries, data)
    metadata["medidiff"]["licence"] = licence
    trained = metadata["medidiff"]["trained_on"]
    bodies = phantoms.make(recipe["data"].get("phantoms", 0), phantoms.EDGE, recipe["seed"])
    trained["phantoms"] = len(bodies)
    trained["spacing_mm"] = [
        pick([trained["spacing_mm"][end], *(size for _, size in bodies)]) for end, pick in enumerate((min, max))
    ]
    trained |= calibration.trained_range(packed, trained["noise_percent"], tuple(recipe["modalities"]), bodies)
    _write(bundle / METADATA, metadata)
    _write(bundle / "configs/inference.json", _inference(bundle.resolve().name))
    (bundle / CARD).write_text(card.of(bundle), encoding="utf-8")


def _write(path: Path, tree: dict[str, Any]) -> None:
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def _metadata(
    version: str,
    description: str,
    network: dict[str, Any],
    halo: int,
    digest: str,
    state: dict[str, Any],
    entries: Sequence[pack.Entry],
    data: Path,
) -> dict[str, Any]:
    recipe = state["recipe"]
    tasks = _tasks(recipe["data"])
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR" if list(recipe["modalities"]) == ["MR"] else "n/a",
        "num_channels": 1,
        "spatial_shape": ["*"] * network["spatial_dims"],
        "dtype": "float32",
    }
    values = {"value_range": [], "is_patch_data": False, "channel_def": {"0": "image"}}
    return {
        "version": version,
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"medidiff": "0.1.0", "safetensors": "0.5"},
        "task": f"{', '.join(tasks)} of {', '.join(recipe['modalities'])} images",
        "description": description,
        "authors": "The medidiff contributors",
        "copyright": "Copyright the medidiff contributors",
        "intended_use": "Research only. Not a medical device; not for diagnosis.",
        "changelog": {version: "see CHANGELOG.md of medidiff"},
        "network_data_format": {"inputs": {"image": {**image, **values}}, "outputs": {"pred": {**image, **values}}},
        "medidiff": {
            "tasks": tasks,
            "modalities": list(recipe["modalities"]),
            "network": network,
            "halo": halo,
            "weights": {"file": WEIGHTS.as_posix(), "sha256": digest},
            "trained_on": {
                "volumes": [entry.name for entry in entries],
                "subjects": sorted({entry.subject for entry in entries}),
                "licences": dict(Counter(entry.licence for entry in entries if entry.licence).most_common()),
                "pack_sha256": pack.digest(data),
                "noise_percent": [round(100 * bound, 6) for bound in recipe["data"]["sigma"]],
                "spacing_mm": [min(min(e.spacing) for e in entries), max(max(e.spacing) for e in entries)],
                "factor": list(recipe["data"]["factor"]),
                "iterations": state["iteration"],
                "seconds": round(state["seconds"]),
                "device": state["rows"][-1]["device"],
                "recipe": recipe,
            },
        },
    }


def _described(recipe: dict[str, Any]) -> str:
    """One sentence on what a network trained by a recipe does."""
    does = {"denoise": "denoises", "superres": "super-resolves", "inpaint": "inpaints"}
    verbs = [does[task] for task in _tasks(recipe["data"])]
    listed = f"{', '.join(verbs[:-1])} and {verbs[-1]}" if len(verbs) > 1 else verbs[0]
    what = "3-D scans" if recipe["network"]["spatial_dims"] == 3 else "2-D images"
    modalities = ", ".join(recipe["modalities"])
    return f"{listed.capitalize()} {what} ({modalities}): posterior mean of a conditional diffusion model."


def _tasks(data: dict[str, Any]) -> list[str]:
    """The tasks that a recipe's data section trains."""
    shares = {
        "denoise": 1 - data["superres"] - data["inpaint"] - data["combined"],
        "superres": data["superres"] + data["combined"],
        "inpaint": data["inpaint"],
    }
    return [task for task, share in shares.items() if share > 1e-9]  # shares that add up to 1 do so but for rounding


def _inference(name: str) -> dict[str, Any]:
    """The configuration that MONAI runs: reads ``image``, writes into ``output_dir``.

    ``python -m monai.bundle run`` takes ``run``; MONAI Label and MONAI Deploy take ``network_def``, ``preprocessing``,
    ``inferer`` and ``postprocessing``, and leave out what reads or writes files. The grid is kept, so there is nothing
    to invert.
    """
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "bundle": {"_target_": "medidiff.bundles.root", "given": "@bundle_root", "name": name},
        "image": "image.nii.gz",
        "output_dir": "output",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "medidiff.bundles.load_network", "bundle": "@bundle"},
        "network": "$@network_def.to(@device)",
        "inferer": {"_target_": "medidiff.bundles.RestorationInferer", "bundle": "@bundle"},
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
            ],
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "denoised",
                    "separate_folder": False,
                    "print_log": False,
                }
            ],
        },
        "data": "$@preprocessing({'image': @image})",
        "restored": "$@inferer(@data['image'][None], @network)[0]",
        "run": ["$@postprocessing({**@data, 'pred': @restored})"],
    }


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--version", required=True)
    parser.add_argument("--description", default="", help="one sentence (default: what it does to what)")
    parser.add_argument("--halo", type=int, default=HALO)
    arguments = parser.parse_args()
    make(
        arguments.run,
        arguments.pack,
        arguments.bundle,
        version=arguments.version,
        description=arguments.description,
        halo=arguments.halo,
    )


if __name__ == "__main__":
    main()
