"""The methods that a benchmark compares; each takes a degraded image in normalised intensity, sigma told.

A peer's package is imported when the peer runs. To add one, write a function and yield it at the end of this page.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.config import Task
from medidiff.errors import ScanError, UsageError
from medidiff.evaluation.degrade import Degraded
from medidiff.evaluation.results import Image
from medidiff.physics.operators import Acquisition, forward_matrix
from medidiff.physics.rician import Law

Mask = NDArray[np.bool_]

GAUSSIAN = 1.0  # voxels
MEDIAN = 3  # voxels
MIRRORED = 4  # voxels beyond the faces of what ANTs sees: the reach of its windows
RIM = 3  # voxels around a hole
AROUND = 6  # voxels around a hole that biharmonic filling sees; it reaches 2
SKIMAGE = {"patch_size": 5, "patch_distance": 6}  # as in scikit-image's example, with h 0.8 sigma


@dataclass(frozen=True)
class Peer:
    """A method to compare with.

    Attributes:
        name: as in ``--against`` and in figures.
        title: what it is, with its settings.
        tasks: what it can do.
        run: the method: (degraded, threads) -> image on the truth's grid, normalised.
        package: what must be installed; empty when medidiff needs it anyway.
        module: what is imported of it, or of what medidiff needs; empty when nothing but scipy is.
        install: how to get it.
    """

    name: str
    title: str
    tasks: tuple[Task, ...]
    run: Callable[[Degraded, int | None], Image]
    package: str = ""
    module: str = ""
    install: str = ""

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return not self.package or has(self.module.partition(".")[0])

    @property
    def version(self) -> str:
        """Version of its package; empty when it has none of its own."""
        return metadata.version(self.package) if self.package else ""


def has(module: str) -> bool:
    """Whether an optional module is installed."""
    return importlib.util.find_spec(module) is not None


def find(name: str, task: Task) -> Peer:
    """The peer of a name.

    Raises:
        UsageError: there is none, or it cannot do the task.
    """
    if name not in PEERS:
        raise UsageError(f"There is no method {name!r} to compare with; there are {', '.join(of(task))}.")
    peer = PEERS[name]
    if task not in peer.tasks:
        raise UsageError(f"{name} cannot {task}; these can: {', '.join(of(task))}.")
    return peer


def of(task: Task) -> tuple[str, ...]:
    """Names of the peers that can do a task."""
    return tuple(name for name, peer in PEERS.items() if task in peer.tasks)


@dataclass(frozen=True)
class Nlm:
    """A setting of DIPY's non-local means."""

    method: str
    block_radius: int
    patch_radius: int

    def __str__(self) -> str:
        return f"{self.method}, block_radius {self.block_radius}, patch_radius {self.patch_radius}"

    def __call__(self, noisy: Image, sigma: float, law: Law, threads: int | None = None) -> Image:
        """Denoise with known sigma."""
        from dipy.denoise.nlmeans import nlmeans

        restored = nlmeans(
            noisy,
            sigma=sigma,
            patch_radius=self.patch_radius,
            block_radius=self.block_radius,
            rician=law == "rician",
            num_threads=threads,
            method=self.method,
        )
        return np.asarray(restored, dtype=np.float32)


# DIPY 1.12's default, and what `python -m benchmarks.quality --tune-nlm` finds best on T1w, T2w and EPI brains at 3
# to 15 % Rician noise: within 0.1 dB of the best setting in the mean, up to 4 dB above the default at 3 %.
NLM_DEFAULT = Nlm("blockwise", 2, 1)
NLM_BEST = Nlm("classic", 3, 1)


def nlm_skimage(noisy: Image, sigma: float, law: Law) -> Image:
    """Scikit-image's fast non-local means; the mean of Rician noise is inverted afterwards."""
    from skimage.restoration import denoise_nl_means

    flat = np.squeeze(noisy)
    found = denoise_nl_means(flat, h=0.8 * sigma, sigma=sigma, fast_mode=True, preserve_range=True, **SKIMAGE)
    return without_bias(np.asarray(found, dtype=np.float32).reshape(noisy.shape), sigma, law)


def ants(noisy: Image, sigma: float, law: Law) -> Image:
    """ANTs DenoiseImage (Manjon et al. 2010), which estimates the noise itself, place by place.

    The image is mirrored at its faces first, near which ANTs darkens it otherwise.
    """
    import ants as library

    flat = np.squeeze(noisy)
    wider = library.from_numpy(np.pad(flat.astype(np.float32), MIRRORED, mode="symmetric"))
    found = library.denoise_image(wider, noise_model="Rician" if law == "rician" else "Gaussian").numpy()
    inside = found[tuple(slice(MIRRORED, MIRRORED + n) for n in flat.shape)]
    return np.asarray(inside, dtype=np.float32).reshape(noisy.shape)


def bm4d(noisy: Image, sigma: float, law: Law) -> Image:
    """BM4D with known sigma; for Rician noise the mean that it estimates is inverted afterwards."""
    from bm4d import bm4d as run

    return without_bias(np.asarray(run(noisy.astype(np.float64), sigma), dtype=np.float32), sigma, law)


def bm3d(noisy: Image, sigma: float) -> Image:
    """BM3D with known sigma, on an image (I, J, 1) with Gaussian noise."""
    from bm3d import bm3d as run

    return np.asarray(run(noisy[:, :, 0].astype(np.float64), sigma), dtype=np.float32).reshape(noisy.shape)


def without_bias(estimate: Image, sigma: float, law: Law) -> Image:
    """What lies under an estimate of the mean of magnitudes."""
    if law != "rician" or sigma <= 0:
        return estimate
    import torch

    from medidiff.physics.rician import remove_rician_bias

    return (remove_rician_bias(torch.from_numpy(estimate / np.float32(sigma))) * sigma).numpy().astype(np.float32)


def smoothed(noisy: Image) -> Image:
    """A Gaussian of 1 voxel."""
    return np.asarray(ndimage.gaussian_filter(noisy, [GAUSSIAN if n > 1 else 0.0 for n in noisy.shape]))


def median(noisy: Image) -> Image:
    """The median of 3 voxels an axis."""
    return np.asarray(ndimage.median_filter(noisy, [MEDIAN if n > 1 else 1 for n in noisy.shape]))


def classical_base(noisy: Image, sigma: float, law: Law) -> Image:
    """What medidiff starts from: sliding-DCT shrinkage without the network."""
    import torch

    from medidiff.physics import tasks

    image = torch.from_numpy(np.ascontiguousarray(noisy))[None]
    base = tasks.denoise(image, torch.full((1, 1, 1, 1), sigma), law, torch.ones(1, 3)).base[0].numpy()
    return np.maximum(base, 0) if law == "rician" else base


def interpolated(measured: Image, shape: Sequence[int], order: int) -> Image:
    """Interpolate between voxel centres of the same field of view, mirrored at its faces (order 3: cubic B-spline)."""
    factors = [fine / rough for fine, rough in zip(shape, measured.shape, strict=True)]
    return np.asarray(ndimage.zoom(measured, factors, order=order, mode="reflect", grid_mode=True), dtype=np.float32)


def zero_filled(measured: Image, acquisition: Acquisition) -> Image:
    """The scanner's own interpolation: the least-norm image with the measured k-space.

    Raises:
        ScanError: the voxels were not cut out of k-space.
    """
    if any(not axis.trivial and axis.profile != "kspace" for axis in acquisition.axes):
        raise ScanError("Zero filling needs voxels of a limited band of k-space; use --profile kspace.")
    found = measured.astype(np.float64)
    for index, axis in enumerate(acquisition.axes):
        if not axis.trivial:
            found = np.moveaxis(np.tensordot(np.linalg.pinv(forward_matrix(axis)), found, (1, index)), 0, index)
    return found.astype(np.float32)


def mean_of_rim(scan: Image, hole: Mask) -> Image:
    """The mean of the voxels around the hole."""
    rim = ndimage.binary_dilation(hole, iterations=RIM) & ~hole
    return np.where(hole, np.float32(scan[rim].mean()), scan)


def biharmonic(scan: Image, hole: Mask) -> Image:
    """Biharmonic filling (scikit-image) of the hole's box; it knows no voxel size."""
    from skimage.restoration import inpaint_biharmonic

    spans = [(int(hit.min()), int(hit.max()) + 1) for hit in np.nonzero(hole)]
    box = tuple(slice(max(0, low - AROUND), high + AROUND) for low, high in spans)
    found = scan.copy()
    flat = np.squeeze(scan[box])
    found[box] = inpaint_biharmonic(flat, hole[box].reshape(flat.shape)).reshape(scan[box].shape)
    return found


def _hole(degraded: Degraded) -> Mask:
    if degraded.hole is None:
        raise ScanError("There is no hole to fill.")
    return degraded.hole


def _acquisition(degraded: Degraded) -> Acquisition:
    if degraded.acquisition is None:
        raise ScanError("There are no coarse voxels to refine.")
    return degraded.acquisition


_EXTRA = "pip install 'medidiff[baselines]'"
_NONCOMMERCIAL = "pip install bm4d, whose licence is non-commercial"
_SKIMAGE = "skimage.restoration"
_DIPY = {"package": "dipy", "module": "dipy.denoise.nlmeans", "install": _EXTRA}

# what medidiff itself is judged by: as users run it, told the true noise, and without its network
OWN = {
    "medidiff": "medidiff",
    "medidiff-told": "medidiff, told the true noise",
    "base": "medidiff's classical base, told the true noise",
}


def _denoisers() -> Iterator[Peer]:
    def peer(name: str, title: str, run: Callable[[Image, float, Law], Image], **needs: str) -> Peer:
        return Peer(name, title, ("denoise",), lambda d, threads: run(d.measured, d.sigma, d.law), **needs)

    def nlm(name: str, title: str, setting: Nlm) -> Peer:
        title = f"DIPY non-local means, {title} ({setting})"
        return Peer(name, title, ("denoise",), lambda d, n: setting(d.measured, d.sigma, d.law, n), **_DIPY)

    yield nlm("nlm", "its default", NLM_DEFAULT)
    yield nlm("nlm-best", "best setting on MR", NLM_BEST)
    title = "scikit-image non-local means (patches of 5, distance 6, h 0.8 sigma; Rician mean inverted)"
    yield peer("nlm-skimage", title, nlm_skimage, module=_SKIMAGE)
    title = "ANTs DenoiseImage, its default (estimates the noise), faces mirrored"
    yield peer("ants", title, ants, package="antspyx", module="ants", install=_EXTRA)
    yield peer("bm4d", "BM4D, Rician mean inverted", bm4d, package="bm4d", module="bm4d", install=_NONCOMMERCIAL)
    yield peer("gaussian", f"Gaussian filter of {GAUSSIAN:g} voxel", lambda noisy, sigma, law: smoothed(noisy))
    yield peer("median", f"median filter of {MEDIAN} voxels an axis", lambda noisy, sigma, law: median(noisy))


def _interpolators() -> Iterator[Peer]:
    def peer(name: str, title: str, run: Callable[[Image, Acquisition], Image]) -> Peer:
        return Peer(name, title, ("superres",), lambda d, threads: run(d.measured, _acquisition(d)))

    yield peer("spline", "cubic B-spline", lambda measured, how: interpolated(measured, how.fine, 3))
    yield peer("linear", "linear interpolation", lambda measured, how: interpolated(measured, how.fine, 1))
    yield peer("zero-fill", "zero-filled k-space", zero_filled)


def _fillers() -> Iterator[Peer]:
    def peer(name: str, title: str, run: Callable[[Image, Mask], Image], module: str = "") -> Peer:
        return Peer(name, title, ("inpaint",), lambda d, threads: run(d.measured, _hole(d)), module=module)

    title = f"biharmonic filling (scikit-image), {AROUND} voxels around the hole"
    yield peer("biharmonic", title, biharmonic, _SKIMAGE)
    yield peer("rim", f"mean of the {RIM} voxels around the hole", mean_of_rim)


PEERS: dict[str, Peer] = {peer.name: peer for peer in (*_denoisers(), *_interpolators(), *_fillers())}
