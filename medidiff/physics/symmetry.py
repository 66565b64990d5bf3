"""What a scan shows at the other side of the body: a better guess of what a hole hides than any smooth one.

Heads and trunks are nearly their own mirror images. The plane about which a scan is most like its reflection is found
on a coarse copy (correlation, Powell's method); close to a hole the reflection is aligned to the scan by optical flow
(iterative Lucas and Kanade, Le Besnerais and Champagnat, ICIP 2005). How far it is to be believed is measured beside
the hole, for coarse and fine detail apart: the slope of the scan's on the reflection's, times their correlation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, optimize
from torch import Tensor

from medidiff.physics import intensity

Image = NDArray[np.float32]
Points = NDArray[np.float64]

_LEAST = 0.5  # correlation with the reflection below which there is no plane of symmetry
_COARSE = 40  # voxels along the longest axis of the copy on which the plane is sought
_DARK = 1.0  # percentile: air, with what noise adds to it
_OBJECT = 0.25  # of the way from there to Otsu's threshold, where the object begins
_OVERLAP = 0.3  # of the object that its reflection must lie over
_SHIFTS = np.linspace(-0.2, 0.2, 11)  # of the longest axis: where the plane is sought first, from the object's centre
_TILT, _SHIFT = 0.4, 0.1  # how far it is sought from the best of those
_SWEEPS, _TOLERANCE = 6, 1e-2
_RADIUS, _SMOOTH, _FARTHEST = 6, 4.0, 4.0  # voxels: windows of the flow, its smoothing, its length along an axis
_BANDS = (1.0, 2.0, 4.0)  # voxels: detail between these scales is believed differently
_AROUND, _RIM = 10.0, 2  # voxels: how far beside a hole belief is measured, and how near not
_TINY = 1e-12


@dataclass(frozen=True)
class Reflection:
    """A plane of symmetry.

    Attributes:
        normal: unit vector, in the order of the array's axes.
        offset: of the plane along it in millimetres, from the outer corner of the first voxel.
        correlation: of the object with its reflection.
    """

    normal: Points
    offset: float
    correlation: float

    def points(self, points: Points) -> Points:
        """Reflected points, (axes, ...) in millimetres."""
        beyond = np.tensordot(self.normal, points, axes=1) - self.offset
        return points - 2 * self.normal.reshape(-1, *(1,) * (points.ndim - 1)) * beyond

    def reflected(self, image: Image, spacing: Sequence[float], box: Sequence[slice]) -> Image:
        """The reflection of an image in a box of its grid; what lies beyond the image is continued."""
        size = np.reshape(spacing, (-1, *(1,) * image.ndim))
        voxels = np.stack(np.meshgrid(*(np.arange(part.start, part.stop) for part in box), indexing="ij"))
        places = self.points((voxels + 0.5) * size) / size - 0.5
        return np.asarray(ndimage.map_coordinates(image, places, order=1, mode="nearest"), dtype=np.float32)


def find(image: Image, measured: NDArray[np.bool_], spacing: Sequence[float]) -> Reflection | None:
    """The plane about which an image is most like its reflection; ``None`` where it is not like any.

    Args:
        image: normalised, of two or three axes (others of one voxel).
        measured: voxels that count, same shape.
        spacing: voxel size in millimetres.
    """
    axes = [axis for axis, size in enumerate(image.shape) if size > 1]
    coarse = _Coarse.of(image, measured, spacing)
    if coarse is None or len(axes) < 2:
        return None
    level = [0.0] * (len(axes) - 1)
    starts = [(axis, [*level, shift]) for axis in axes for shift in _SHIFTS]
    axis, start = max(starts, key=lambda one: coarse.likeness(coarse.reflection(one[0], axes, one[1])))
    found = optimize.minimize(
        lambda values: -coarse.likeness(coarse.reflection(axis, axes, values)),
        start,
        method="Powell",
        bounds=[(-_TILT, _TILT)] * len(level) + [(start[-1] - _SHIFT, start[-1] + _SHIFT)],
        options={"xtol": _TOLERANCE, "ftol": _TOLERANCE, "maxiter": _SWEEPS},
    )
    plane, likeness = coarse.reflection(axis, axes, found.x), -float(found.fun)
    return Reflection(plane.normal, plane.offset, likeness) if likeness >= _LEAST else None


@dataclass(frozen=True)
class _Coarse:
    """A coarse copy of an image, of nearly cubic voxels.

    Attributes:
        image: means of measured voxels.
        share: of each voxel that was measured.
        inside: its voxels in the object.
        points: its voxels' centres in millimetres.
        size: its voxels' edges in millimetres.
        centre: of the object.
    """

    image: Image
    share: Image
    inside: NDArray[np.bool_]
    points: Points
    size: Points
    centre: Points

    @classmethod
    def of(cls, image: Image, measured: NDArray[np.bool_], spacing: Sequence[float]) -> _Coarse | None:
        extent = np.multiply(image.shape, spacing)
        shape = [
            int(min(n, max(1, round(_COARSE * e / extent.max())))) for n, e in zip(image.shape, extent, strict=True)
        ]
        share = _pooled(measured.astype(np.float32), shape)
        means = _pooled(np.where(measured, image, np.float32(0)), shape) / np.maximum(share, np.float32(_TINY))
        smooth = ndimage.gaussian_filter(means, 1.0)  # noisy air is no object
        known = smooth[share > 0]
        if not known.size:
            return None
        dark = float(np.percentile(known, _DARK))
        inside = (smooth >= dark + _OBJECT * (max(intensity.threshold_of(lambda: [known]), dark) - dark)) & (share > 0)
        size = extent / shape
        points = (np.indices(shape) + 0.5) * size.reshape(-1, *(1,) * image.ndim)
        return cls(means, share, inside, points, size, points[:, inside].mean(axis=1))

    def reflection(self, axis: int, axes: Sequence[int], values: Sequence[float]) -> Reflection:
        """A plane across an axis, tilted along the others, and shifted along its normal from the object's centre.

        The last of the values is the shift, in extents of the image along its longest axis.
        """
        *tilts, shift = values
        normal = np.zeros(len(self.size))
        normal[axis] = 1
        normal[[other for other in axes if other != axis]] = tilts
        normal /= np.linalg.norm(normal)
        longest = np.max(self.size * self.image.shape)
        return Reflection(normal, float(normal @ self.centre + shift * longest), 0.0)

    def likeness(self, reflection: Reflection) -> float:
        """The correlation of the object with its reflection, where both were measured."""
        shape = (-1, *(1,) * self.image.ndim)
        places = reflection.points(self.points) / self.size.reshape(shape) - 0.5
        there = ndimage.map_coordinates(self.image, places, order=1, cval=0.0)
        weight = self.share * ndimage.map_coordinates(self.share, places, order=1, cval=0.0)
        weight *= self.inside | (
            ndimage.map_coordinates(self.inside.astype(np.float32), places, order=1, cval=0.0) > 0.5
        )
        if weight.sum() < _OVERLAP * (self.share * self.inside).sum():
            return 0.0
        return _regression(self.image, there, weight)[1]


def drift(found: Tensor, across: Tensor, hole: Tensor) -> Tensor:
    """What the other side makes expect beyond a smooth filling: an external drift for kriging, all three (B, *spatial).

    Args:
        found: the image with its holes filled.
        across: its reflection; a first guess where each voxel's counterpart lies.
        hole: boolean.
    """
    result = np.zeros(tuple(found.shape), dtype=np.float32)
    images = zip(result, found.cpu().numpy(), across.cpu().numpy(), hole.cpu().numpy(), strict=True)
    for one, image, reflection, gap in images:
        if gap.any():
            one[...] = _believed(image.astype(np.float32), _aligned(reflection, image), gap)
    return torch.from_numpy(result).to(found)


def _aligned(reflection: Image, image: Image) -> Image:
    """A reflection with each voxel's counterpart where it belongs."""
    from skimage.registration import optical_flow_ilk  # here, for machines that only train need none of it

    thick = [axis for axis, size in enumerate(image.shape) if size > 1]
    flat = [tuple(n for n in image.shape if n > 1)] * 2
    flow = optical_flow_ilk(
        *(a.reshape(s).astype(np.float32) for a, s in zip((image, reflection), flat, strict=True)),
        radius=_RADIUS,
        num_warp=3,
    )
    places = np.indices(image.shape).astype(np.float64)
    for axis, each in zip(thick, flow, strict=True):
        smooth = ndimage.gaussian_filter(each, _SMOOTH).clip(-_FARTHEST, _FARTHEST)
        places[axis] += smooth.reshape(image.shape)
    return np.asarray(ndimage.map_coordinates(reflection, places, order=1, mode="nearest"), dtype=np.float32)


def _believed(image: Image, reflection: Image, hole: NDArray[np.bool_]) -> Image:
    """As much of a reflection's detail as the image beside the hole bears out."""
    near = ndimage.binary_dilation(hole, iterations=_RIM)
    weight = ndimage.gaussian_filter(hole.astype(np.float32), _AROUND) * ~near
    total = np.zeros_like(image)
    for ours, theirs in zip(_details(image), _details(reflection), strict=True):
        slope, correlation = _regression(ours, theirs, weight)
        total += np.float32(max(slope, 0.0) * max(correlation, 0.0)) * theirs
    return total


def _details(image: Image) -> list[Image]:
    """Detail by scale, finest first, without what is coarser than all."""
    levels = [image, *(ndimage.gaussian_filter(image, sigma) for sigma in _BANDS)]
    return [fine - coarse for fine, coarse in pairwise(levels)]


def _regression(ours: Image, theirs: Image, weight: Image) -> tuple[float, float]:
    """Slope of one image on another, and their correlation, both with weights."""
    total = max(float(weight.sum(dtype=np.float64)), _TINY)
    a, b = (each - (weight * each).sum(dtype=np.float64) / total for each in (ours, theirs))
    ab, aa, bb = (float((weight * one * two).sum(dtype=np.float64)) for one, two in ((a, b), (a, a), (b, b)))
    return ab / max(bb, _TINY), ab / max((aa * bb) ** 0.5, _TINY)


def _pooled(image: Image, shape: Sequence[int]) -> Image:
    """Means over the parts of an image that the voxels of a coarser one cover."""
    pool = {2: torch.nn.functional.adaptive_avg_pool2d, 3: torch.nn.functional.adaptive_avg_pool3d}[image.ndim]
    pooled: Tensor = pool(torch.from_numpy(np.ascontiguousarray(image))[None, None], shape)  # type: ignore[arg-type]
    return np.asarray(pooled[0, 0].numpy(), dtype=np.float32)
