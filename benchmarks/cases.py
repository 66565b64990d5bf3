"""The images that benchmarks judge on, and the noise they add to them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff import scans
from medidiff.evaluation import degrade
from medidiff.physics import intensity
from medidiff.physics.rician import Law
from medidiff.scans.volume import mean_of
from medidiff.training.build_pack import of_split
from medidiff.training.validation import noisy_version, sigma_of

Image = NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = (ROOT / "sample_data/phantom_t1w_truth.nii.gz", ROOT / "sample_data/icbm152_2mm_truth.nii.gz")


@dataclass(frozen=True)
class Case:
    """One reference image.

    Attributes:
        name: the file's name without extension.
        subject: images of one person share it.
        modality: DICOM code.
        spacing: voxel size in millimetres.
        clean: the reference in medidiff's normalised intensity, in which noise percentages count from 1 (MR).
        scaling: leads from the file's units to the normalised ones.
    """

    name: str
    subject: str
    modality: str
    spacing: tuple[float, float, float]
    clean: Image
    scaling: intensity.Intensity

    @property
    def law(self) -> Law:
        """Which noise is added: Rician to MR, Gaussian to all else; that of CT has a texture."""
        return "rician" if self.modality == "MR" else "gaussian"

    def sigma(self, percent: float) -> float:
        """Standard deviation of noise of ``percent`` of the bright level, in normalised intensity."""
        return sigma_of(percent, "CT") if self.modality == "CT" else percent / 100 * self.scaling.bright

    def noisy(self, percent: float, seed: int = 0, field: Image | None = None) -> Image:
        """The reference with noise that is the same on every machine, times a ``field`` in MR and CT."""
        if self.modality in ("MR", "CT"):
            return noisy_version(self.clean, percent, seed, self.modality, field)
        rng = np.random.default_rng([seed, round(percent * 100)])
        return self.clean + np.float32(self.sigma(percent)) * rng.standard_normal(self.clean.shape, dtype=np.float32)


def parallel_imaging(shape: tuple[int, ...], most: float = 3.0) -> Image:
    """How noise varies over a scan from 1 at its faces to ``most`` amid it (a g-factor); its mean square is 1."""
    field = np.ones(shape, np.float32)
    for axis, n in enumerate(shape):
        along = np.sin(np.pi * (np.arange(n, dtype=np.float32) + 0.5) / n)
        field *= along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    field = 1 + np.float32(most - 1) * field
    return np.asarray(field / np.sqrt(np.mean(np.square(field))), np.float32)


def real_data() -> Path | None:
    """The folder of real scans that ``MEDIDIFF_REAL_DATA`` names, if any."""
    folder = os.environ.get("MEDIDIFF_REAL_DATA")
    return Path(folder) / "data" if folder else None


def from_manifest(manifest: Path, split: str, modality: str, crop: int | None) -> Iterator[Case]:
    """The volumes of one split and DICOM modality that a manifest lists, read one by one."""
    for path, subject in of_split(manifest, split, (modality,)):
        yield load(path, crop, modality, subject)


def load(path: Path, crop: int | None, modality: str | None = None, subject: str = "") -> Case:
    """Read one reference image; of a repeated acquisition the mean over the repeats.

    Args:
        path: a NIfTI file or a DICOM series.
        crop: largest edge in voxels of the central part to keep; ``None`` keeps everything.
        modality: DICOM code; ``None`` believes the file.
        subject: who it shows; the file's name when empty.
    """
    volumes = scans.open_scan(path).volumes
    mean = mean_of(volumes)
    code = modality or mean.modality
    scaling, unit = intensity.normalise(mean.array, code, mean.valid)
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    return Case(name, subject or name, code, volumes[0].spacing, central(unit, crop), scaling)


def central(image: Image, edge: int | None) -> Image:
    """The middle of the body, at most ``edge`` voxels along each axis."""
    return image if edge is None else np.ascontiguousarray(image[degrade.middle(image, edge)])
