"""How the smooth image that explains coarse voxels should be made: ``python -m benchmarks.interpolation [SCAN ...]``.

Prints foreground PSNR of a cubic spline, of the spline moved by the least norm to explain the data, and of the
Gaussian-process right inverse that medidiff uses, with the correlation length of its prior and with others. All see
the same coarse voxels; no network takes part.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.cases import SAMPLES, Image, real_data
from benchmarks.report import figure, table
from medidiff import scans
from medidiff.physics import operators
from medidiff.physics.fidelity import foreground_psnr
from medidiff.physics.operators import Acquisition, Axis, Profile

SCANS = (
    "t1w_adi.nii.gz",
    "t1w_philips_mprage.nii.gz",
    "ms_cs07_t2.nii.gz",
    "ms_cs07_flair.nii.gz",
    "t1w_eun_stripped.nii.gz",
)
EDGE = 96
BRIGHT = 99.5  # percentile that becomes 1
SETTINGS: dict[str, tuple[int, Profile, tuple[int, ...]]] = {
    "4x through-plane, Gaussian": (4, "gaussian", (2,)),
    "6x through-plane, Gaussian": (6, "gaussian", (2,)),
    "2x2x2, k-space": (2, "kspace", (0, 1, 2)),
    "2x2x2, box": (2, "box", (0, 1, 2)),
}
LENGTHS = (1.0, 2.0, 4.0)  # coarse voxels, beside medidiff's own
Method = Callable[[Acquisition, Image], Image]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*", type=Path)
    arguments = parser.parse_args()
    folder = real_data()
    paths = arguments.scans or ([folder / name for name in SCANS] if folder else list(SAMPLES))
    images = [central(path) for path in paths]
    methods: dict[str, Method] = {
        "cubic spline": spline,
        "cubic spline, moved by the least norm": moved,
        f"Gaussian process, length {operators.CORRELATION_LENGTH:g} (medidiff's)": lifted,
    }
    methods |= {f"Gaussian process, length {length:g}": of_length(length) for length in LENGTHS}
    rows = []
    for name, method in methods.items():
        found = [[judged(method, image, *setting) for image in images] for setting in SETTINGS.values()]
        rows.append([name, *(figure(float(np.mean(one))) for one in found)])
    print(f"Mean foreground PSNR in dB over {', '.join(path.name for path in paths)}.\n")
    print(table(["interpolation", *SETTINGS], rows))


def central(path: Path) -> Image:
    """The middle of a volume, in units of its bright level."""
    (volume,) = scans.open_scan(path).volumes
    starts = [max(n // 2 - EDGE // 2, 0) for n in volume.array.shape]
    part = volume.array[tuple(slice(start, start + EDGE) for start in starts)]
    whole = tuple(slice(0, n - n % 12) for n in part.shape)  # every factor divides it
    return np.asarray(part[whole] / np.percentile(part, BRIGHT), dtype=np.float32)


def judged(method: Method, image: Image, factor: int, profile: Profile, refined: tuple[int, ...]) -> float:
    """PSNR of an image that was measured coarsely and interpolated."""
    axes = (Axis(n // factor if axis in refined else n, n, profile) for axis, n in enumerate(image.shape))
    acquisition = Acquisition(tuple(axes))
    measured = acquisition.forward(torch.from_numpy(image)[None].double())[0].numpy()
    return foreground_psnr(method(acquisition, measured).astype(np.float32), image)


def along_axes(measured: Image, matrices: list[NDArray[np.float64] | None]) -> Image:
    """One matrix an axis, applied one after the other."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            measured = np.moveaxis(np.tensordot(matrix, measured, (1, axis)), 0, axis)
    return measured


def spline(acquisition: Acquisition, measured: Image) -> Image:
    """Cubic B-spline through the coarse centres, mirrored at the faces."""
    return along_axes(measured, [None if axis.trivial else spline_matrix(axis) for axis in acquisition.axes])


def spline_matrix(axis: Axis) -> NDArray[np.float64]:
    """The spline along one axis as a matrix (fine, coarse)."""
    place = (np.arange(axis.fine) + 0.5) / axis.factor - 0.5
    columns = [ndimage.map_coordinates(unit, [place], order=3, mode="mirror") for unit in np.eye(axis.coarse)]
    return np.stack(columns, axis=1)


def moved(acquisition: Acquisition, measured: Image) -> Image:
    """The image nearest to the spline, by the plain norm, that explains the data: ``x + A^+ (y - A x)``."""
    forward = [None if axis.trivial else operators.forward_matrix(axis) for axis in acquisition.axes]
    image = spline(acquisition, measured)
    missing = measured - along_axes(image, forward)
    return image + along_axes(missing, [None if matrix is None else np.linalg.pinv(matrix) for matrix in forward])


def lifted(acquisition: Acquisition, measured: Image) -> Image:
    """``R y`` with medidiff's right inverse."""
    return acquisition.lift(torch.from_numpy(measured)[None])[0].numpy()


def of_length(length: float) -> Method:
    """The same with another correlation length."""

    def method(acquisition: Acquisition, measured: Image) -> Image:
        with mock.patch.object(operators, "CORRELATION_LENGTH", length), forgotten():
            return lifted(acquisition, measured)

    return method


@contextmanager
def forgotten() -> Iterator[None]:
    """Without matrices that were made for another correlation length."""
    kept = (operators._inner, operators.right_inverse)
    for each in kept:
        each.cache_clear()
    try:
        yield
    finally:
        for each in kept:
            each.cache_clear()


if __name__ == "__main__":
    main()
