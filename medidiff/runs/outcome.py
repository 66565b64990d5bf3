"""What the restoration of a scan gave: what is kept of each volume, and the checks that it must pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medidiff.config import RunConfig
from medidiff.errors import ScanError
from medidiff.runs.derivation import Made
from medidiff.scans import mapped
from medidiff.scans.volume import ScanRef, Volume, spacing_of

if TYPE_CHECKING:
    from medidiff.restore import Restoration

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Restored:
    """What is kept of a volume's restoration until the scan is written: a long 4-D scan has many.

    Attributes:
        mean: the restored volume, in the scan's units.
        affine: 4 x 4, its voxel index to millimetres in RAS+.
        std: the standard deviation of each voxel; ``None`` when no maps are wanted.
        supplied: the share of each voxel that the prior supplied; ``None`` when no maps are wanted.
        sample: the generated sample; ``None`` when none is wanted.
        filled: voxels of the scan that were filled.
        record: what determined the result.
        checks: the figures of the guard.
        verdicts: the sentences of the guard.
    """

    mean: Image
    affine: NDArray[np.float64]
    std: Image | None
    supplied: Image | None
    sample: Image | None
    filled: int
    record: dict[str, Any]
    checks: dict[str, Any]
    verdicts: tuple[str, ...]

    def made(self, volume: Volume) -> Made:
        """What the header's sentence says of this volume."""
        i, j, k = (old / new for old, new in zip(volume.spacing, spacing_of(self.affine), strict=True))
        return Made(self.record, (i, j, k), self.filled)


def keep(restoration: Restoration, config: RunConfig, ref: ScanRef, filled: int) -> Restored:
    """Check a restoration and keep what the run writes of it.

    Raises:
        ScanError: it is not an image of finite values, or lies on a grid that the task does not have.
    """
    mean = restoration.mean
    same_grid = config.task == "superres" or mean.shape == restoration.volume.array.shape
    if mean.ndim != 3 or not same_grid or not mapped.all_finite(mean):
        raise ScanError(f"The result for {ref.path} is not an image of finite values; nothing was written.")
    return Restored(
        mean=mean,
        affine=restoration.affine,
        std=restoration.std if config.maps else None,
        supplied=restoration.supplied if config.maps else None,
        sample=restoration.sample if config.restore.gamma > 0 else None,
        filled=filled,
        record=restoration.record,
        checks=restoration.checks,
        verdicts=restoration.verdicts,
    )


def untouched(volume: Volume, config: RunConfig) -> Restored:
    """A volume in which there was nothing to do."""
    nothing = np.zeros_like(volume.array) if config.maps else None
    sample = volume.array if config.restore.gamma > 0 else None
    return Restored(volume.array, volume.affine, nothing, nothing, sample, 0, {}, {}, ())
