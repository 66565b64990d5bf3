"""Draws before, after and what was removed for a run over the sample scans, and prints PSNR against the known truth.

    medidiff denoise sample_data/phantom_t1w.nii.gz sample_data/dicom_mr -o demo_output
    python examples/before_after.py demo_output [--image FILE.png]

PSNR is taken over the head (true value above 4 % of its maximum) with the maximum of the true values as peak.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from panels import Image, psnr

from medidiff import scans
from medidiff.scans import discover
from medidiff.scans.volume import Volume

SAMPLES = Path(__file__).resolve().parents[1] / "sample_data"


@dataclass(frozen=True)
class Row:
    """One scan: its title, and the same voxels before, after and as they truly are."""

    title: str
    before: Image
    after: Image
    truth: Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="the output folder of medidiff denoise")
    parser.add_argument("--image", type=Path, help="where the picture goes (default: before_after.png in the folder)")
    arguments = parser.parse_args()
    picture = arguments.image or arguments.folder / "before_after.png"

    rows = [row(case, arguments.folder) for case in restored_cases(arguments.folder)]
    print(f"{'PSNR against the known truth':<32}{'scan':>10}{'restored':>10}")
    for each in rows:
        print(f"{each.title:<32}{psnr(each.before, each.truth):>7.2f} dB{psnr(each.after, each.truth):>7.2f} dB")
    draw(rows, picture)
    print(f"\nThe restored scans and their records are in {arguments.folder}, the picture is {picture}")


def restored_cases(folder: Path) -> list[dict[str, str]]:
    """What run.json says was restored."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return [
        {"input": case["input"], "restored": case["outputs"]["restored"]}
        for case in record["cases"]
        if case["status"] in ("done", "skipped")
    ]


def row(case: dict[str, str], folder: Path) -> Row:
    """Read a scan and its restoration, and find the true value of each voxel by its place in millimetres."""
    before, after = (read((folder / case[name]).resolve()) for name in ("input", "restored"))
    name = Path(case["input"]).name
    truth = read(SAMPLES / ("icbm152_2mm_truth.nii.gz" if "icbm152" in name else "phantom_t1w_truth.nii.gz"))
    return Row(name, before.array, after.array, look_up(truth, before))


def read(path: Path) -> Volume:
    """The one volume of a NIfTI file or a DICOM folder."""
    (ref,) = discover.find_scans([path]).cases
    (volume,) = scans.read(ref).volumes
    return volume


def look_up(source: Volume, grid: Volume) -> Image:
    """The source's values at the voxels of another grid (nearest voxel)."""
    to_source = np.linalg.inv(source.affine) @ grid.affine
    index = np.indices(grid.array.shape).reshape(3, -1)
    i, j, k = np.rint(to_source[:3, :3] @ index + to_source[:3, 3:]).astype(int)
    return source.array[i, j, k].reshape(grid.array.shape)


def draw(rows: list[Row], picture: Path) -> None:
    """One line of images a scan: before, after, what was removed (same grey scale in both signs), and the truth."""
    mpl.use("Agg")
    figure, axes = plt.subplots(len(rows), 4, figsize=(12, 3.9 * len(rows)), squeeze=False, layout="constrained")
    for line, each in zip(axes, rows, strict=True):
        bright, middle = float(np.percentile(each.truth, 99.5)), each.truth.shape[2] // 2
        noise = float(np.std((each.before - each.truth)[each.truth > 0.5 * bright]))
        images = (
            (f"{each.title}\n{psnr(each.before, each.truth):.1f} dB", each.before, 0.0, bright),
            (f"restored\n{psnr(each.after, each.truth):.1f} dB", each.after, 0.0, bright),
            ("removed (scan - restored)\nshould look like noise", each.before - each.after, -3 * noise, 3 * noise),
            ("truth\nbefore noise was added", each.truth, 0.0, bright),
        )
        for axis, (title, image, low, high) in zip(line, images, strict=True):
            axis.imshow(image[:, :, middle].T, cmap="gray", vmin=low, vmax=high, origin="lower")
            axis.set_title(title, fontsize=10)
            axis.axis("off")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
