"""What a scanner with large voxels measured of a finer image: ``y = A x``, one matrix an axis, and its inverse.

Each coarse voxel is a weighted mean of fine ones along every axis: the slice profile of thick slices, or the limited
band of k-space. The operator is the Kronecker product of these small matrices, and so is its right inverse R, the
Gaussian-process interpolator ``R = C A^T (A C A^T)^-1`` with a smooth prior covariance C: of all images that explain
the measurement it gives the most probable one, so that ``A R y = y`` exactly, ``x + R (y - A x)`` moves any image to
the nearest one that explains y, and with noise the same formula with ``+ lambda I`` moves it as far as the noise
allows (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapter 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf
from torch import Tensor

Profile = Literal["gaussian", "box", "kspace"]
Matrix = NDArray[np.float64]
CORRELATION_LENGTH = 3.0  # coarse voxels, of the Matern 3/2 prior; 2 to 4 differ by 0.1 dB on T1w, T2w and FLAIR brains
_GAUSSIAN = 2.3548200450309493  # full width at half maximum over standard deviation


@dataclass(frozen=True)
class Axis:
    """How one axis was measured.

    Attributes:
        coarse: voxels measured.
        fine: voxels wanted over the same field of view; equal to ``coarse`` for an axis that stays as it is.
        profile: shape of a coarse voxel's sensitivity.
        width: its full width at half maximum in coarse voxels; below 1 there are gaps between slices.
    """

    coarse: int
    fine: int
    profile: Profile = "gaussian"
    width: float = 1.0

    @property
    def factor(self) -> float:
        """Fine voxels in a coarse one."""
        return self.fine / self.coarse

    @property
    def trivial(self) -> bool:
        """Whether the axis stays as it is."""
        return self.fine == self.coarse


@lru_cache(maxsize=512)
def forward_matrix(axis: Axis) -> Matrix:
    """A along one axis, shape (coarse, fine), every row adds up to 1."""
    if axis.trivial:
        return np.eye(axis.fine)
    centres: Matrix = (np.arange(axis.coarse, dtype=np.float64)[:, None] + 0.5) * axis.factor - 0.5
    distance = np.arange(axis.fine)[None, :] - centres
    if axis.profile == "kspace":
        return _band_limited(axis, centres)
    width = axis.width * axis.factor
    if axis.profile == "gaussian":
        sigma = width / _GAUSSIAN * np.sqrt(2)
        rows = erf((distance + 0.5) / sigma) - erf((distance - 0.5) / sigma)
    else:
        rows = np.clip(np.minimum(distance + 0.5, width / 2) - np.maximum(distance - 0.5, -width / 2), 0, None)
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def _band_limited(axis: Axis, centres: Matrix) -> Matrix:
    """The fine image's lowest frequencies, sampled at the coarse centres (a centred crop of k-space)."""
    frequency = 2 * np.pi / axis.fine * np.arange(1, (axis.coarse - 1) // 2 + 1)
    out, into = centres * frequency, np.arange(axis.fine) * frequency[:, None]
    rows = 1 + 2 * (np.cos(out) @ np.cos(into) + np.sin(out) @ np.sin(into))  # sums of cos(frequency distance)
    if axis.coarse % 2 == 0:  # the Nyquist frequency of the coarse grid, of which a real image keeps the even part
        rows = rows + np.cos(np.pi * np.arange(axis.coarse))[:, None] * np.cos(
            np.pi * axis.coarse / axis.fine * (np.arange(axis.fine)[None, :] + 0.5) - np.pi / 2
        )
    return np.asarray(rows / axis.fine)


@lru_cache(maxsize=512)
def _inner(axis: Axis) -> tuple[Matrix, Matrix]:
    """``C A^T`` (fine, coarse) and ``A C A^T`` (coarse, coarse); the prior is white along an axis that stays."""
    if axis.trivial:
        return np.eye(axis.fine), np.eye(axis.fine)
    A = forward_matrix(axis)
    position = np.arange(axis.fine) / axis.factor
    lag = np.sqrt(3) * np.abs(position[:, None] - position) / CORRELATION_LENGTH
    CAt = ((1 + lag) * np.exp(-lag)) @ A.T
    return CAt, A @ CAt


@lru_cache(maxsize=512)
def right_inverse(axis: Axis) -> Matrix:
    """R along one axis, shape (fine, coarse), with ``A R = I``; a constant comes back as that constant."""
    CAt, ACAt = _inner(axis)
    R = np.linalg.solve(ACAt, CAt.T).T
    if not axis.trivial:  # the prior's mean, fitted by generalised least squares as in universal kriging
        rest, weight = 1 - R.sum(axis=1), np.linalg.solve(ACAt, np.ones(axis.coarse))
        R = R + rest[:, None] * weight / weight.sum()
    return np.asarray(R)


@lru_cache(maxsize=512)
def _spectrum(axis: Axis) -> tuple[Matrix, Matrix]:
    """Eigenvalues and eigenvectors of ``A C A^T`` along one axis."""
    values, vectors = np.linalg.eigh(_inner(axis)[1])
    return values, vectors


@dataclass(frozen=True)
class Acquisition:
    """``A``: every axis measured as ``axes`` says; images have shape (B, *spatial)."""

    axes: tuple[Axis, ...]

    @property
    def coarse(self) -> tuple[int, ...]:
        """Shape of what was measured."""
        return tuple(axis.coarse for axis in self.axes)

    @property
    def fine(self) -> tuple[int, ...]:
        """Shape of what is wanted."""
        return tuple(axis.fine for axis in self.axes)

    def forward(self, image: Tensor) -> Tensor:
        """``A x``: fine to coarse."""
        return self._apply([None if axis.trivial else forward_matrix(axis) for axis in self.axes], image)

    def lift(self, data: Tensor) -> Tensor:
        """``R y``: the smooth fine image with ``A R y = y``."""
        return self._apply([None if axis.trivial else right_inverse(axis) for axis in self.axes], data)

    def spread(self, data: Tensor) -> Tensor:
        """Each coarse voxel's value on the fine voxels whose centres it holds: for maps of noise and for masks."""
        for index, axis in enumerate(self.axes, start=1):
            if not axis.trivial:
                nearest = ((torch.arange(axis.fine, device=data.device) + 0.5) / axis.factor).long()
                data = data.index_select(index, nearest)
        return data

    def project(self, image: Tensor, data: Tensor, trusted: Tensor | None = None, damping: float = 0.0) -> Tensor:
        """``x + R W (y - A x)``: the image moved to explain the data.

        Args:
            image: x, (B, *fine).
            data: y, (B, *coarse).
            trusted: W, 1 where y was measured and 0 where it was not (B, *coarse); all of it when ``None``.
            damping: variance of the noise in y over that of ``A x`` about it; 0 gives ``A P(x) = y`` exactly, more
                moves x only as far as such noise allows.
        """
        missing = data - self.forward(image)
        if trusted is not None:
            missing = missing * trusted
        if damping > 0:
            missing = self._damp(missing, damping)
        return image + self.lift(missing)

    def known(self, like: Tensor) -> Tensor:
        """``diag(R A)`` in [0, 1]: the share of each fine voxel that the data determine, shape (1, *fine)."""
        share = torch.ones((1, *self.fine), dtype=like.dtype, device=like.device)
        for index, axis in enumerate(self.axes):
            if not axis.trivial:
                line = np.einsum("fc,cf->f", right_inverse(axis), forward_matrix(axis)).clip(0, 1)
                shape = [1] * share.ndim
                shape[index + 1] = -1
                share = share * torch.as_tensor(line, dtype=like.dtype, device=like.device).reshape(shape)
        return share

    def _damp(self, missing: Tensor, damping: float) -> Tensor:
        """``(A C A^T) (A C A^T + damping I)^-1`` in the basis in which it is diagonal."""
        spectra = [_spectrum(axis) for axis in self.axes]
        power = torch.ones((1, *self.coarse), dtype=missing.dtype, device=missing.device)
        for index, (values, _) in enumerate(spectra):
            shape = [1] * power.ndim
            shape[index + 1] = -1
            power = power * torch.as_tensor(values, dtype=missing.dtype, device=missing.device).reshape(shape)
        bases = [None if axis.trivial else V for axis, (_, V) in zip(self.axes, spectra, strict=True)]
        rotated = self._apply([None if V is None else V.T for V in bases], missing)
        return self._apply(bases, rotated * (power / (power + damping)))

    @staticmethod
    def _apply(matrices: Sequence[Matrix | None], image: Tensor) -> Tensor:
        for index, matrix in enumerate(matrices, start=1):
            if matrix is not None:
                factor = torch.as_tensor(matrix, dtype=image.dtype, device=image.device)
                image = torch.movedim(torch.movedim(image, index, -1) @ factor.T, -1, index)
        return image.contiguous()
