"""What a training run leaves behind besides weights: its recipe and data, its log, its curve and a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.physics.fidelity import psnr
from medidiff.physics.tasks import Problem
from medidiff.training import pack as packs
from medidiff.training import validation
from medidiff.training.recipe import Recipe

CONFIG, LOG, CURVE, PICTURE = "config.json", "log.csv", "curve.png", "picture.png"
_SHOWN = ("denoise_9", "superres_4", "inpaint")  # one setting a task, as validation names them
_COLUMNS = ("measured", "base", "network", "truth")


@dataclass(frozen=True)
class Shown:
    """One row of the picture.

    Attributes:
        name: the setting.
        images: planes of what was measured, the base, the network's image and the truth.
        figures: PSNR in dB of base and network over what is judged.
    """

    name: str
    images: tuple[NDArray[np.float32], ...]
    figures: tuple[float, float]


def write_log(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the log; rows of a resumed run may have columns that earlier ones lack, or the other way round."""
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def write_config(folder: Path, settings: Recipe, data: packs.Pack, source: Path) -> None:
    """Write what determines the run: the recipe, the hash of the pack and what is in it, the versions."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {
        "recipe": settings.as_dict(),
        "data": {
            "pack": source.name,
            "sha256": packs.digest(source),
            "volumes": {
                split: [data.entries[index].name for index in data.of(split)]
                for split in ("train", "calibration", "validation")
            },
        },
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }
    (folder / CONFIG).write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")


def examples(
    pack: packs.Pack,
    predict: Callable[[Problem], Tensor],
    device: torch.device,
    modalities: tuple[str, ...],
    spatial_dims: int,
) -> list[Shown]:
    """The first validation volume that has them in a setting of each task; see ``validation.evaluate``."""
    found: dict[str, Shown] = {}
    for case in validation.cases(pack, device, modalities, spatial_dims):
        if case.name in _SHOWN and case.name not in found:
            restored = predict(case.problem)[0].float().cpu().numpy()
            base = case.problem.image(torch.zeros_like(case.problem.base))[0].float().cpu().numpy()
            images = (_measured(case.problem), base, restored, case.clean)
            figures = tuple(psnr(image, case.clean, case.inside) for image in (base, restored))
            found[case.name] = Shown(case.name, tuple(_plane(image) for image in images), (figures[0], figures[1]))
        if len(found) == len(_SHOWN):
            break
    return [found[name] for name in _SHOWN if name in found]


def _measured(problem: Problem) -> NDArray[np.float32]:
    """What was measured, on the grid of the answer: thick voxels as blocks, holes black."""
    measured = problem.measured
    if problem.data is not None:
        measured = torch.nn.functional.interpolate(problem.data[:, None], size=problem.base.shape[1:])[:, 0]
    if problem.support is not None:
        measured = torch.where(problem.support, torch.zeros_like(measured), measured)
    return np.asarray(measured[0].float().cpu().numpy())


def _plane(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The image itself in 2-D; of a volume the middle plane across its first axis, which shows thick slices."""
    return image if image.ndim == 2 else image[image.shape[0] // 2]


def draw(folder: Path, rows: Sequence[dict[str, Any]], shown: Sequence[Shown]) -> bool:
    """Draw ``curve.png`` and ``picture.png``; False where matplotlib is missing, which a training machine may lack."""
    try:
        import matplotlib.figure
    except ModuleNotFoundError:
        return False
    gains = {
        key.removesuffix("_network"): [
            row[key] - row[key.replace("_network", "_base")] if key in row else np.nan for row in rows
        ]
        for key in dict.fromkeys(key for row in rows for key in row if key.endswith("_network"))
    }
    figure = matplotlib.figure.Figure((9, 4))
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.13, top=0.9)
    losses, decibels = figure.subplots(1, 2)
    iterations = [row["iteration"] for row in rows]
    for name, label in (("null_loss", "posterior mean"), ("v_loss", "other diffusion times")):
        losses.plot(iterations, [row.get(name) or np.nan for row in rows], ".-", label=label)
    losses.set(xlabel="iterations", title="loss relative to the base")
    for name, values in gains.items():
        decibels.plot(iterations, values, ".-", label=name)
    decibels.axhline(0, color="0.7", zorder=0)
    decibels.set(xlabel="iterations", title="dB above the base, validation volumes")
    for axes in (losses, decibels):
        axes.legend(fontsize="x-small")
    figure.savefig(folder / CURVE, dpi=110)
    if shown:
        figure = matplotlib.figure.Figure((9, 2.6 * len(shown)))
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=1 - 0.1 / len(shown), wspace=0.03)
        for line, one in zip(figure.subplots(len(shown), len(_COLUMNS), squeeze=False), shown, strict=True):
            top = float(one.images[-1].max())
            notes = ("", f", {one.figures[0]:.2f} dB", f", {one.figures[1]:.2f} dB", "")
            for axes, image, column, note in zip(line, one.images, _COLUMNS, notes, strict=True):
                axes.imshow(image.T, cmap="gray", vmin=0, vmax=top, origin="lower", interpolation="nearest")
                axes.set_title(f"{one.name}: {column}{note}", fontsize="small")
                axes.axis("off")
        figure.savefig(folder / PICTURE, dpi=110)
    return True
