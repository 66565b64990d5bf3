"""How far two files of results lie apart: the values that their stored numbers stand for, and their place in space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import ScanError
from medidiff.scans.outputs import nifti_stem

PLACE = {"ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"}
TINY = 1e-300
MILLIMETRES = 1e-3  # places that agree to a micrometre are one


@dataclass(frozen=True)
class Difference:
    """How far two files lie apart.

    Attributes:
        largest: the largest difference of a voxel, in the units of the image; infinite when the shapes differ.
        range: from the smallest to the largest value of the first file, same units.
        step: one step of the stored numbers, same units; 0 when fractions are stored.
        same_place: whether both lie at the same place with voxels of the same size.
    """

    largest: float
    range: float
    step: float
    same_place: bool

    @property
    def relative(self) -> float:
        """The largest difference as a share of the range."""
        return 0.0 if self.largest == 0 else self.largest / max(self.range, TINY)

    def within(self, tolerance: float) -> bool:
        """Whether the files are one image: no voxel differs by more than this share of the range, or by one step."""
        return self.same_place and (self.relative <= tolerance or self.largest <= self.step * (1 + 1e-6))


@dataclass(frozen=True)
class Stored:
    """What a file holds: values in physical units, one step of the stored numbers, and numbers that tell the place."""

    values: NDArray[np.float64]
    step: float
    place: NDArray[np.float64]


def difference(first: Path, second: Path) -> Difference:
    """Compare two NIfTI files, or two DICOM files, voxel by voxel.

    Raises:
        ScanError: one of them cannot be read.
    """
    one, two = load(first), load(second)
    low, high = (float(bound) for bound in extremes(one.values))
    same_place = one.place.shape == two.place.shape and np.allclose(one.place, two.place, atol=MILLIMETRES)
    largest = np.inf
    if one.values.shape == two.values.shape:
        equal = (one.values == two.values) | (np.isnan(one.values) & np.isnan(two.values))
        with np.errstate(invalid="ignore"):
            apart = np.nan_to_num(np.abs(one.values - two.values), nan=np.inf)
        largest = float(np.where(equal, 0.0, apart).max(initial=0.0))
    return Difference(largest, high - low, max(one.step, two.step), bool(same_place))


def extremes(values: NDArray[np.float64]) -> tuple[float, float]:
    """The smallest and the largest finite value; zeros when there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def load(path: Path) -> Stored:
    """What a NIfTI or a DICOM file holds.

    Raises:
        ScanError: it cannot be read.
    """
    return nifti(path) if nifti_stem(path.name) is not None else dicom(path)


def nifti(path: Path) -> Stored:
    """What a NIfTI file holds."""
    import nibabel

    try:
        image: Any = nibabel.load(path)
        values = np.asarray(image.get_fdata(dtype=np.float64, caching="unchanged"))
    except Exception as error:  # nibabel, gzip and numpy raise many kinds on damaged files
        raise ScanError(f"{path} is not a readable NIfTI file.") from error
    whole = image.get_data_dtype().kind in "iu"
    return Stored(values, abs(float(image.dataobj.slope)) if whole else 0.0, np.asarray(image.affine).ravel())


def dicom(path: Path) -> Stored:
    """What a DICOM image or a Parametric Map holds."""
    from medidiff.scans import dicom_pixels

    dataset = dicom_pixels.load(path)
    place = [float(part) for element in dataset.iterall() if element.keyword in PLACE for part in parts(element.value)]
    if "FloatPixelData" in dataset:
        return Stored(np.asarray(dataset.pixel_array, dtype=np.float64), 0.0, np.asarray(place))
    codes = dicom_pixels.codings(dataset, path)
    stored = dicom_pixels.decode(dataset, path)
    if len(codes) != len(stored):
        raise ScanError(f"{path} has {len(stored)} frames but functional groups for {len(codes)}; repair it first.")
    values = [frame * code.slope + code.intercept for frame, code in zip(stored, codes, strict=True)]
    return Stored(np.asarray(values, dtype=np.float64), max(abs(code.slope) for code in codes), np.asarray(place))


def parts(value: Any) -> list[Any]:
    """The numbers of a DICOM value, which may be one, several or none."""
    if value is None or value == "":
        return []
    return [value] if np.isscalar(value) or isinstance(value, str) else list(value)
