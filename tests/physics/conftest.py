"""Objects whose true values are known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from medidiff.physics import intensity


@pytest.fixture(scope="session")
def head(sample_data: Path) -> NDArray[np.float32]:
    """The middle of the shipped phantom of a head, without noise; bright level 1."""
    values = np.asarray(nib.load(sample_data / "phantom_t1w_truth.nii.gz").dataobj, dtype=np.float32)
    return np.ascontiguousarray(intensity.normalise(values, "MR")[1][20:76, 30:86, 20:68])


@pytest.fixture(scope="session")
def shells() -> NDArray[np.float32]:
    """Concentric spheres of value 0 to 1.3 in air, as a scanner with a Hamming window in k-space would see them."""
    fine, kept = 128, 64
    radius = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*[np.linspace(-1, 1, fine)] * 3, indexing="ij")))
    sharp = 1.0 * (radius < 0.85) - 0.4 * (np.abs(radius - 0.5) < 0.1) + 0.3 * (radius < 0.2)
    window = np.fft.ifftshift(np.hamming(kept + 1)[:-1])
    low = np.r_[0 : kept // 2, fine - kept // 2 : fine]
    spectrum = np.fft.fftn(sharp)[np.ix_(low, low, low)]
    for axis in range(3):
        spectrum *= np.expand_dims(window, tuple(a for a in range(3) if a != axis))
    return (np.abs(np.fft.ifftn(spectrum)) * (kept / fine) ** 3).astype(np.float32)


Image = NDArray[np.floating]


def rician_noise(clean: Image, sigma: float | Image, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    real, imaginary = rng.standard_normal((2, *clean.shape))
    return np.hypot(clean + sigma * real, sigma * imaginary).astype(np.float32)


def gaussian_noise(clean: Image, sigma: float | Image, seed: int = 0) -> NDArray[np.float32]:
    return (clean + sigma * np.random.default_rng(seed).standard_normal(clean.shape)).astype(np.float32)


@pytest.fixture(scope="session")
def add_noise():
    """``add_noise(law, clean, sigma, seed=0)``."""
    makers = {"rician": rician_noise, "gaussian": gaussian_noise}
    return lambda law, *args, **more: makers[law](*args, **more)
