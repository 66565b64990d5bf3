"""Makes thick slices of the sample head, refines them again, and draws the result beside the truth.

    python examples/superres.py [FOLDER] [--pipeline NAME|PATH] [--image FILE.png]

Every slice is three voxels thick, with a Gaussian profile. PSNR is taken over the head (true value above 4 % of its
maximum) with the maximum of the true values as peak.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from panels import Image, Panel, draw, print_table, psnr, stated
from scipy import ndimage
from torch import Tensor

import medidiff
from medidiff import Restoration
from medidiff.physics.operators import Acquisition, Axis
from medidiff.physics.resolution import fine_affine

TRUTH = Path(__file__).resolve().parents[1] / "sample_data" / "phantom_t1w_truth.nii.gz"
THICK = 3  # voxels in a slice
SLICES = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo_output"), help="where the results go")
    parser.add_argument("--pipeline", default="auto", help="pretrained pipeline (default: auto)")
    parser.add_argument("--image", type=Path, help="where the picture goes (default: superres.png in the folder)")
    arguments = parser.parse_args()
    picture = arguments.image or arguments.folder / "superres.png"
    scan, result = (arguments.folder / f"phantom_thick{end}.nii.gz" for end in ("", "_superres"))

    fine = nib.load(TRUTH).slicer[:, :, : SLICES * THICK]
    truth = fine.get_fdata(dtype=np.float32)
    i, j, k = truth.shape
    scanner = Acquisition((Axis(i, i), Axis(j, j), Axis(SLICES, k)))
    thick = through(scanner.forward, truth)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(thick, fine.affine @ np.linalg.inv(fine_affine(np.eye(4), scanner))), scan)

    restoration = medidiff.superresolve(scan, pipeline=arguments.pipeline)  # voxels become cubes
    restoration.save(result)

    spline = ndimage.zoom(thick, (1, 1, THICK), order=3, mode="reflect", grid_mode=True)
    images = {
        "cubic spline": spline,
        "smooth, explains the scan": through(scanner.lift, thick),
        "medidiff": restoration.mean,
    }
    print_table(f"PSNR against the known truth, {THICK}x through-plane", images, truth, truth > 0.04 * truth.max())
    again = float(np.abs(through(scanner.forward, restoration.mean) - thick).max() / np.ptp(thick))
    print(f"Measured again, the result differs from the scan by at most {again:.0e} of its range.")
    print(stated(restoration, truth, truth > 0.04 * truth.max()))
    draw(panels(restoration, spline, truth), picture)
    print(f"\nThe scan is {scan}, the result {result}, the picture {picture}")


def through(operator: Callable[[Tensor], Tensor], image: Image) -> Image:
    """An operator on one image."""
    return operator(torch.from_numpy(image)[None].double())[0].float().numpy()


def panels(restoration: Restoration, spline: Image, truth: Image) -> list[list[Panel]]:
    """A sagittal slice: the images in the first row, what is wrong with them and what was said of it in the second."""
    place = truth.shape[0] // 2 - 8
    bright = float(np.percentile(truth, 99.5))
    thick = np.repeat(restoration.volume.array, THICK, axis=2)
    wrong = 0.3 * bright
    grey, signed = (0.0, bright), (-wrong, wrong)
    return [
        [
            Panel(f"scan: slices {THICK} voxels thick", thick[place], *grey),
            Panel(f"cubic spline\n{psnr(spline, truth):.1f} dB", spline[place], *grey),
            Panel(f"medidiff\n{psnr(restoration.mean, truth):.1f} dB", restoration.mean[place], *grey),
            Panel("truth", truth[place], *grey),
        ],
        [
            Panel("supplied by the prior\nblack 0, white 100 %", restoration.supplied[place], 0, 1),
            Panel("error of the spline", (spline - truth)[place], *signed),
            Panel("error of medidiff", (restoration.mean - truth)[place], *signed),
            Panel("standard deviation\nas medidiff states it", restoration.std[place], 0, wrong),
        ],
    ]


if __name__ == "__main__":
    main()
