"""Make a MONAI Bundle of a training run: ``python -m medidiff.training.bundle RUN PACK BUNDLE --version V``."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from medidiff.physics.tasks import STATE_CHANNELS, VIEWS, parameter_names
from medidiff.training import calibration, pack, phantoms
from medidiff.training.checkpoint import STATE
from medidiff.training.validation import noise_of

WEIGHTS = Path("models/model.safetensors")
LOG = Path("docs/training_log.csv")
CARD = Path("docs/README.md")
HALO = 24
_METHODS = {
    "noisy": "noisy",
    "nlm": "non-local means (DIPY's default)",
    "base": "classical base",
    "network": "network",
}


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
    """
    state = json.loads((run / STATE).read_text(encoding="utf-8"))
    recipe, packed = state["recipe"], pack.load(data)
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
    _write(bundle / "configs/metadata.json", metadata)
    _write(bundle / "configs/inference.json", _inference(bundle.resolve().name))
    (bundle / CARD).write_text(_card(recipe["name"], metadata, state["rows"][-1]), encoding="utf-8")


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


def _setting(name: str) -> str:
    """What a setting of the training log is, in words."""
    task, _, level = name.partition("_")
    if task == "denoise":
        return f"denoise, {level} % noise"
    return "inpaint" if task == "inpaint" else f"super-resolve {level}{'' if 'x' in level else 'x through plane'}"


def _table(row: dict[str, Any]) -> str:
    """The figures of a row of the training log as a table: a line a setting, a column a method that has figures."""
    settings = [key.removesuffix("_network") for key in row if key.endswith("_network")]
    methods = {key: name for key, name in _METHODS.items() if any(f"{setting}_{key}" in row for setting in settings)}
    lines = [["setting", *methods.values()], ["---"] * (1 + len(methods))]
    for setting in settings:
        values = [row.get(f"{setting}_{key}") for key in methods]
        lines.append([_setting(setting), *("" if value is None else f"{value:.2f}" for value in values)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


_WHITE_NOISE = "Rician and Gaussian, white, some of it varying over the scan or correlated"


def _card(name: str, metadata: dict[str, Any], row: dict[str, Any]) -> str:
    """The model card; its figures are those of the training log's last row."""
    trained = metadata["medidiff"]["trained_on"]
    low, high = trained["noise_percent"]
    near, far = trained["spacing_mm"]
    data = trained["recipe"]["data"]
    volumes = "\n".join(f"- {volume}" for volume in trained["volumes"])
    bodies = trained.get("phantoms", 0)
    synthetic = (
        f"\n\nAnd {bodies} synthetic bodies, which are no person's (`medidiff.training.phantoms`)." if bodies else ""
    )
    of_ct = noise_of(metadata["medidiff"]["modalities"]) == "CT"
    law = "Gaussian with the spectrum of CT" if of_ct else "Rician"
    noise = f"{law}, some of it varying over the scan" if of_ct else _WHITE_NOISE
    return f"""# {name} {metadata["version"]}

{metadata["description"]} Licence of the weights: {metadata["medidiff"]["licence"]}.

**Intended use.** {metadata["intended_use"]}

**Range.** {", ".join(metadata["medidiff"]["modalities"])}; tasks: {", ".join(metadata["medidiff"]["tasks"])}. Simulated
noise of {low:g} to {high:g} % of the bright level ({noise});
one thick axis {data["factor"][0]:g} to {data["factor"][1]:g} times as coarse as others, or two or three axes
{data["in_plane_factor"][0]:g} to {data["in_plane_factor"][1]:g} times; holes of {data["hole_radius"][0]:g} to
{data["hole_radius"][1]:g} voxels radius; voxels of {near:.3g} to {far:.3g} mm. What lies somewhat outside gives a
warning; what lies far outside is refused unless forced.

**Training.** {trained["iterations"]} iterations in {trained["seconds"]} s on {trained["device"]}; `training_log.csv`
has the curve, `configs/metadata.json` the recipe and the SHA-256 of the data pack. {len(trained["volumes"])} volumes of
{len(trained["subjects"])} subjects, all under licences that allow derived works:

{volumes}{synthetic}

**Result.** PSNR in dB (peak: the reference's maximum), mean over central crops of the validation volumes, whose
subjects are in no training volume; over the foreground (above 10/255 of the peak), for inpainting inside the hole. One
pass; noise is {law} and its strength known. The references are real scans with noise of their own, which caps all
figures. The base is what the result would be without the network.

{_table(row)}

**Known failures.** Motion, metal and folding are not noise and stay. Noise that interpolation or filtering has made
smooth is removed in part. What fills a hole is an average of what fits around it: pathology inside the hole is not
guessed. Detail finer than the scan's voxels is likely, not measured; the map of what the prior supplied shows where.
"""


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
