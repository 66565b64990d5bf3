"""The training data as one file: a compressed ``.npz`` of 8-bit volumes and a table that says what each is.

It needs numpy alone to read, so it travels to a training machine that has no medical readers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Entry:
    """One volume of the pack.

    Attributes:
        name: file name in the manifest.
        subject: no subject is in two splits.
        split: ``train``, ``calibration`` or ``validation``.
        modality: DICOM code, ``MR`` or ``CT`` or ``OT``.
        spacing: voxel size in millimetres.
        ceiling: normalised intensity of the highest level, 255 or 32767.
        sigma: noise already in the volume, normalised.
        nlm: foreground PSNR in dB of non-local means on this volume's validation noise, by percent; empty for training.
        licence: in the manifest's words; empty where it does not tell.
    """

    name: str
    subject: str
    split: str
    modality: str
    spacing: tuple[float, float, float]
    ceiling: float
    sigma: float
    nlm: dict[str, float]
    licence: str = ""


@dataclass(frozen=True)
class Pack:
    """Volumes with their table: uint8, or int16 where 256 levels are too coarse (CT)."""

    entries: tuple[Entry, ...]
    arrays: tuple[NDArray[np.uint8] | NDArray[np.int16], ...]

    def normalised(self, index: int) -> NDArray[np.float32]:
        """Volume ``index`` in normalised intensity, float32."""
        return self.arrays[index].astype(np.float32) * np.float32(self.step(index))

    def step(self, index: int) -> float:
        """Normalised intensity of one level of volume ``index``."""
        return self.entries[index].ceiling / np.iinfo(self.arrays[index].dtype).max

    def of(self, split: str) -> list[int]:
        """Indices of the entries of a split."""
        return [i for i, entry in enumerate(self.entries) if entry.split == split]

    @cached_property
    def content(self) -> str:
        """SHA-256 of what there is to learn from, however it is ordered, compressed, described or measured."""
        found = []
        for entry, array in zip(self.entries, self.arrays, strict=True):
            told = {key: value for key, value in asdict(entry).items() if key not in ("nlm", "licence", "sigma")}
            words = json.dumps([told, array.dtype.name, array.shape])
            found.append(hashlib.sha256(words.encode() + np.ascontiguousarray(array).tobytes()).hexdigest())
        return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the pack; no pickled objects."""
        table = json.dumps([asdict(entry) for entry in self.entries])
        arrays = {f"volume_{i:04d}": array for i, array in enumerate(self.arrays)}
        np.savez_compressed(path, allow_pickle=False, table=np.frombuffer(table.encode(), dtype=np.uint8), **arrays)


def quantise(unit: NDArray[np.float32], modality: str) -> tuple[NDArray[np.uint8] | NDArray[np.int16], float]:
    """A volume of normalised intensity in the levels of a pack, and the intensity of the highest one."""
    ceiling = float(np.percentile(unit, 99.99))
    ceiling = ceiling if ceiling > 0 else 1.0
    dtype = np.int16 if modality == "CT" else np.uint8  # a step of 8 HU would be too coarse
    top = np.iinfo(dtype).max
    return np.clip(np.rint(unit * (top / ceiling)), 0, top).astype(dtype), ceiling


def load(path: Path) -> Pack:
    """Read a pack; refuses pickled content."""
    with np.load(path, allow_pickle=False) as file:
        table = json.loads(file["table"].tobytes().decode())
        arrays = tuple(file[f"volume_{i:04d}"] for i in range(len(table)))
    entries = tuple(Entry(**{**row, "spacing": tuple(row["spacing"])}) for row in table)
    return Pack(entries, arrays)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
