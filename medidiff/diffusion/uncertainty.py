"""The standard deviation of the restored image at each voxel; what it and the network are worth on scans held out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_PRIOR_SAMPLES = 8  # how many samples the variance head is worth
FLOOR = 1e-4  # of the bright level: keeps errors where almost none is expected from counting without bound


@dataclass(frozen=True)
class Interval:
    """What predicted deviations are worth for one task at one level.

    Attributes:
        level: noise in percent, or voxels out per voxel in, or 1 for inpainting.
        quantile90: 90 % of the errors lie within ``quantile90`` calibrated standard deviations.
        scale: root mean square error over root mean square predicted deviation.
        volumes: how many held-out volumes say so.
        gain: share of the network's correction of the base, 0 to 1, that comes nearest to the truth.
    """

    level: float
    quantile90: float
    scale: float
    volumes: int
    gain: float = 1.0


@dataclass(frozen=True)
class Calibration:
    """The table of a bundle, ``{task: intervals}``; empty when it was not calibrated."""

    table: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Calibration:
        """Read ``settings["calibration"]``: {task: {level: {quantile90, scale, volumes, gain, ...}}}.

        Tables without a gain are of networks that were followed wholly.
        """
        return cls(
            {
                task: tuple(
                    Interval(
                        float(level),
                        float(row["quantile90"]),
                        float(row["scale"]),
                        int(row["volumes"]),
                        float(row.get("gain", 1.0)),
                    )
                    for level, row in rows.items()
                )
                for task, rows in settings.get("calibration", {}).items()
            }
        )

    def interval(self, task: str, level: float) -> Interval | None:
        """The interval of the level nearest in ratio; ``None`` when the task was not calibrated.

        Its gain lies between those of the levels below and above, linear in log level: the restored image is a
        continuous function of the noise that was estimated.
        """
        known = sorted(self.table.get(task, ()), key=lambda one: one.level)
        if not known:
            return None
        here, levels = math.log(max(level, 1e-6)), [math.log(one.level) for one in known]
        _, nearest = min(zip(levels, known, strict=True), key=lambda pair: abs(pair[0] - here))
        return replace(nearest, gain=float(np.interp(here, levels, [one.gain for one in known])))

    def gain(self, interval: Interval | None) -> float:
        """What the posterior mean of the residual is multiplied by.

        1 where nothing was calibrated; 0 for a task that a table leaves out, which the network is not known to help.
        """
        if interval is not None:
            return interval.gain
        return 0.0 if self.table else 1.0


def combine(
    predicted: NDArray[np.float32],
    samples: Sequence[NDArray[np.float32]],
    interval: Interval | None = None,
    unit: float = 1.0,
) -> NDArray[np.float32]:
    """Standard deviation from the variance head and, where there are two samples or more, from their spread.

    ``sd^2 = w G(sd_N^2) + (1 - w) sd_head^2`` with ``w = N / (N + 8)`` and G a Gaussian of one voxel, because the
    spread of N samples is itself uncertain by 41 % at N = 4 and 18 % at N = 16. With an interval ``sd_head`` is the
    calibrated ``scale (sd + 1e-4)``, and ``mean +- quantile90 sd`` holds 90 % of the true values on scans like those
    that were held out. That was measured without samples; samples refine where the error lies.

    Args:
        predicted: standard deviation according to the network, shape (I, J, K).
        samples: posterior samples of that shape.
        interval: of the bundle's calibration; ``None`` leaves the prediction as it is.
        unit: size of one normalised unit (the bright level) in the unit of ``predicted``.
    """
    if interval is not None:
        predicted = np.asarray(interval.scale * (predicted + FLOOR * unit), dtype=np.float32)
    count = len(samples)
    if count < 2:
        return predicted
    spread = ndimage.gaussian_filter(
        np.var(np.stack(samples), axis=0, ddof=1), [1.0 if n > 1 else 0.0 for n in predicted.shape]
    )
    weight = count / (count + _PRIOR_SAMPLES)
    return np.asarray(np.sqrt(weight * spread + (1 - weight) * np.square(predicted)), dtype=np.float32)
