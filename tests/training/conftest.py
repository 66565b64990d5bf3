"""A small pack of made-up heads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.training.pack import Entry, Pack

CEILING = 1.25


def blobs(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """Smooth random tissue in air, 0 to about 1."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), 2, mode="wrap")
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    body = sum(axis**2 for axis in axes) < 0.9
    return np.where(body, np.clip(0.6 + 0.25 * field / field.std(), 0.1, 1.2), 0)


@pytest.fixture(scope="session")
def pack() -> Pack:
    rows = [
        ("one", "a", "train", "MR", "CC0-1.0", (40, 36, 30)),
        ("two", "b", "train", "MR", "CC-BY-4.0 (Doe 2020)", (24, 30, 3)),
        ("ct", "c", "train", "CT", "MIT", (20, 20, 20)),
        ("judge", "d", "validation", "MR", "none", (24, 22, 18)),
        ("scale", "e", "calibration", "MR", "", (20, 20, 20)),
    ]
    entries = tuple(
        Entry(
            name,
            subject,
            split,
            modality,
            (1.0, 1.0, 3.0),
            CEILING,
            0.01,
            {"9": 25.0} if name == "judge" else {},
            words,
        )
        for name, subject, split, modality, words, _ in rows
    )
    volumes = [blobs(row[-1], seed) for seed, row in enumerate(rows)]
    return Pack(entries, tuple(np.rint(v * 255 / CEILING).astype(np.uint8) for v in volumes))
