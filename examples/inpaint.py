"""Cuts a tumour-shaped hole into the sample head, fills it, and draws the result beside the truth.

    python examples/inpaint.py [FOLDER] [--pipeline NAME|PATH] [--image FILE.png]

PSNR is taken in the hole with the maximum of the true values as peak.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from panels import Image, Mask, Panel, draw, print_table, psnr, stated

import medidiff
from medidiff import Restoration
from medidiff.physics.holes import fill

TRUTH = Path(__file__).resolve().parents[1] / "sample_data" / "phantom_t1w_truth.nii.gz"
CENTRES = ((62.0, 40.0, 55.0), (66.0, 46.0, 57.0), (60.0, 47.0, 51.0))  # voxels; three balls grown together
RADII = (7.0, 5.5, 5.0)
MARGIN = 16  # voxels around the hole in the picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo_output"), help="where the results go")
    parser.add_argument("--pipeline", default="auto", help="pretrained pipeline (default: auto)")
    parser.add_argument("--image", type=Path, help="where the picture goes (default: inpaint.png in the folder)")
    arguments = parser.parse_args()
    picture = arguments.image or arguments.folder / "inpaint.png"
    scan, mask, result = (arguments.folder / f"phantom_hole{end}.nii.gz" for end in ("", "_mask", "_inpainted"))

    image = nib.load(TRUTH)
    truth = image.get_fdata(dtype=np.float32)
    hole = tumour(truth.shape)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.where(hole, np.float32(0), truth), image.affine), scan)
    nib.save(nib.Nifti1Image(hole.astype(np.uint8), image.affine), mask)

    restoration = medidiff.inpaint(scan, mask, pipeline=arguments.pipeline)
    restoration.save(result)

    spacing = torch.tensor([image.header.get_zooms()])
    batch = torch.from_numpy(restoration.volume.array)[None]
    smooth = fill(batch, torch.from_numpy(hole)[None], spacing)[0].numpy()
    images = {"smooth filling": smooth, "medidiff": restoration.mean}
    print_table(f"PSNR in a hole of {hole.sum()} voxels", images, truth, hole)
    changed = int(np.count_nonzero((restoration.mean != restoration.volume.array) & ~hole))
    print(f"Voxels outside of the hole that changed: {changed}")
    print(stated(restoration, truth, hole))
    draw(panels(restoration, smooth, truth, hole), picture)
    print(f"\nThe scan is {scan}, the result {result}, the picture {picture}")


def tumour(shape: tuple[int, ...]) -> Mask:
    """Three balls that overlap."""
    index = np.indices(shape)
    distances = (np.sqrt(sum((x - c) ** 2 for x, c in zip(index, centre, strict=True))) for centre in CENTRES)
    return np.any([distance <= radius for distance, radius in zip(distances, RADII, strict=True)], axis=0)


def panels(restoration: Restoration, smooth: Image, truth: Image, hole: Mask) -> list[list[Panel]]:
    """An axial slice around the hole: the images in the first row, what is wrong and what was said in the second."""
    place = int(np.argmax(hole.sum(axis=(0, 1))))
    spans = (np.flatnonzero(hole.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    part = (*(slice(max(span[0] - MARGIN, 0), span[-1] + 1 + MARGIN) for span in spans), place)
    bright = float(np.percentile(truth, 99.5))
    wrong = 0.3 * bright
    grey, signed, border = (0.0, bright), (-wrong, wrong), hole[part]
    mean = restoration.mean
    return [
        [
            Panel("scan with a hole", restoration.volume.array[part], *grey, border),
            Panel(f"smooth filling\n{psnr(smooth, truth, hole):.1f} dB in the hole", smooth[part], *grey, border),
            Panel(f"medidiff\n{psnr(mean, truth, hole):.1f} dB in the hole", mean[part], *grey, border),
            Panel("truth", truth[part], *grey, border),
        ],
        [
            Panel("supplied by the prior\nblack 0, white 100 %", restoration.supplied[part], 0, 1),
            Panel("error of the filling", (smooth - truth)[part], *signed, border),
            Panel("error of medidiff", (mean - truth)[part], *signed, border),
            Panel("standard deviation\nas medidiff states it", restoration.std[part], 0, wrong, border),
        ],
    ]


if __name__ == "__main__":
    main()
