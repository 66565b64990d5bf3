"""Pipelines: a task, a network and its bundle's defaults, ready to call.

from medidiff.pipelines import DenoisePipeline

denoise = DenoisePipeline.load("mr")
restoration = denoise("scan.nii.gz")
restoration.save("scan_denoised.nii.gz")
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from medidiff import bundles, scans
from medidiff.config import ComputeOptions, RestoreOptions, describe
from medidiff.errors import PipelineError, ScanError, UsageError
from medidiff.scans.volume import Volume

if TYPE_CHECKING:
    from nibabel.spatialimages import SpatialImage

    from medidiff.restore import Engine, Progress, Restoration

Source: TypeAlias = "str | Path | Volume | SpatialImage | tuple[NDArray[Any], NDArray[Any]]"
DEFAULT = "auto"


@dataclass(frozen=True)
class PipelineInfo:
    """What ``medidiff list`` tells of a pipeline."""

    name: str
    version: str
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    summary: str
    path: Path
    licence: str
    weights_sha256: str


def available() -> list[PipelineInfo]:
    """All installed pipelines; imports no torch."""
    return [_info(bundle) for bundle in bundles.every()]


def find(name_or_path: str | Path = DEFAULT, *, task: str = "denoise") -> PipelineInfo:
    """The pipeline that ``load`` would load, from its description alone; imports no torch.

    Raises:
        PipelineError: if there is no such pipeline, or it does not do the task.
    """
    return _info(_choose(name_or_path, task))


def _info(bundle: bundles.Bundle) -> PipelineInfo:
    return PipelineInfo(
        name=bundle.name,
        version=bundle.version,
        tasks=tuple(bundle.settings["tasks"]),
        modalities=tuple(bundle.settings.get("modalities", ())),
        summary=str(bundle.metadata.get("description", "")),
        path=bundle.path,
        licence=str(bundle.settings.get("licence", "")),
        weights_sha256=bundle.weights_sha256,
    )


def _choose(name_or_path: str | Path, task: str) -> bundles.Bundle:
    """The named bundle, or with ``auto`` the first one that does the task."""
    if str(name_or_path) != DEFAULT:
        bundle = bundles.locate(name_or_path)
        if task not in bundle.settings["tasks"]:
            raise PipelineError(
                f"Pipeline {bundle.name} does not {task}; it does: {', '.join(bundle.settings['tasks'])}."
                " `medidiff list` shows what each can do."
            )
        return bundle
    for bundle in bundles.every():
        if task in bundle.settings["tasks"]:
            return bundle
    raise PipelineError(f"No installed pipeline can {task}; set MEDIDIFF_BUNDLES to a folder of bundles.")


class Pipeline:
    """A loaded pipeline; make one with ``load``.

    Attributes:
        task: what it does.
        name: the bundle's name.
        version: the bundle's version.
        summary: one sentence.
        path: the bundle's folder.
        weights_sha256: identity of the weights.
        device: where it runs.
    """

    task = "denoise"

    def __init__(self, bundle: bundles.Bundle, engine: Engine) -> None:
        self.name, self.version, self.path = bundle.name, bundle.version, bundle.path
        self.summary = str(bundle.metadata.get("description", ""))
        self.weights_sha256 = bundle.weights_sha256
        self.device = str(engine.device)
        self._engine = engine
        self._identity = {"pipeline": bundle.name, "version": bundle.version, "weights_sha256": bundle.weights_sha256}
        self._modalities = tuple(bundle.settings.get("modalities", ()))

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT, *, compute: ComputeOptions | None = None) -> Pipeline:
        """Load a pipeline for this class's task.

        Args:
            name_or_path: a name that ``medidiff list`` shows, a bundle's folder, or ``auto`` for the task's default.
            compute: device, precision, threads, tile size.

        Raises:
            PipelineError: if there is no such pipeline, it is damaged, or it does not do the task.
            UsageError: if the device does not exist, or the tile is too small for the network.
        """
        from medidiff.diffusion import device as devices
        from medidiff.restore import Engine

        compute = compute or ComputeOptions()
        bundle = _choose(name_or_path, cls.task)
        halo = int(bundle.settings["halo"])
        if compute.tile is not None and compute.tile <= 2 * halo:
            raise UsageError(
                f"--tile {compute.tile} is too small: pipeline {bundle.name} needs more than {2 * halo} voxels,"
                f" its context of {halo} on both sides."
            )
        device = devices.resolve(compute)
        network = devices.on_device(bundle.network(), device)
        return cls(bundle, Engine(network, device, halo, compute.tile, compute.batch, _noise_range(bundle)))

    def restore(
        self, volume: Volume, options: RestoreOptions | None = None, *, progress: Progress | None = None
    ) -> Restoration:
        """Restore one volume.

        Args:
            volume: the scan.
            options: noise level, strength, samples, steps, seed.
            progress: called with (tiles done, all tiles).

        Raises:
            OutOfMemory: if it does not fit the memory.
        """
        from dataclasses import replace

        from medidiff.restore import restore

        restoration = restore(volume, self._engine, options or RestoreOptions(), progress)
        warnings = list(restoration.record["warnings"])
        if self._modalities and volume.modality not in self._modalities:
            warnings.append(
                f"Pipeline {self.name} was trained on {', '.join(self._modalities)} scans, not on {volume.modality}."
            )
        return replace(restoration, record={**self._identity, **restoration.record, "warnings": warnings})

    def __call__(self, source: Source, **options: Any) -> Restoration:
        """Restore a scan given as a path, a nibabel image, an (array, affine) pair or a ``Volume``.

        Args:
            source: the scan; it must hold one volume.
            **options: fields of ``medidiff.config.RestoreOptions``: ``noise``, ``strength``, ``samples``, ``steps``,
                ``seed``.

        Raises:
            UsageError: if an option is wrong or the path holds no scan, or several.
            ScanError: if the scan cannot be read.
        """
        try:
            settings = RestoreOptions(**options)
        except ValidationError as error:
            raise UsageError(describe(error)) from error
        return self.restore(to_volume(source), settings)


class DenoisePipeline(Pipeline):
    """Takes noise away; keeps the grid."""

    task = "denoise"


def load(name_or_path: str | Path = DEFAULT, *, compute: ComputeOptions | None = None) -> Pipeline:
    """Load a pipeline by name or by its bundle's folder; see ``Pipeline.load``."""
    return DenoisePipeline.load(name_or_path, compute=compute)


def denoise(
    source: Source, *, pipeline: str | Path = DEFAULT, compute: ComputeOptions | None = None, **options: Any
) -> Restoration:
    """Denoise one scan in one call.

    Args:
        source: a path, a nibabel image, an (array, affine) pair or a ``Volume``.
        pipeline: a name that ``medidiff list`` shows, or a bundle's folder.
        compute: device, precision, threads, tile size.
        **options: see ``Pipeline.__call__``.
    """
    return load(pipeline, compute=compute)(source, **options)


def to_volume(source: Source) -> Volume:
    """A scan in any of the forms that scripts hold it in, as a ``Volume``.

    Raises:
        UsageError: if a path holds no scan or several volumes, or the object is none of the known forms.
        ScanError: if the array is not an image of two or three dimensions with finite values.
    """
    if isinstance(source, Volume):
        return source
    if isinstance(source, str | Path):
        return _read_one(Path(source))
    if isinstance(source, tuple):
        array, affine = source
    elif hasattr(source, "get_fdata") and hasattr(source, "affine"):
        array, affine = source.get_fdata(dtype=np.float32), source.affine
    else:
        raise UsageError(
            f"A scan is a path, a nibabel image, an (array, affine) pair or a Volume, not {type(source).__name__}."
        )
    values = np.asarray(array, dtype=np.float32)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.size == 0:
        raise ScanError(
            f"An image of shape {np.shape(array)} is not one volume; give arrays of two or three dimensions."
        )
    valid = np.isfinite(values)
    if not valid.any():
        raise ScanError("The array holds no finite value.")
    from medidiff.scans.nifti import guess_modality

    filled = np.where(valid, values, np.float32(0))
    modality = guess_modality(filled)
    units = "HU" if modality == "CT" else "a.u."
    return Volume(filled, np.asarray(affine, dtype=np.float64), modality, units, valid=None if valid.all() else valid)


def _read_one(path: Path) -> Volume:
    volumes = scans.open_scan(path).volumes
    if len(volumes) != 1:
        raise UsageError(f"{path} holds {len(volumes)} volumes; pass them one by one as (array, affine).")
    return volumes[0]


def _noise_range(bundle: bundles.Bundle) -> tuple[float, float] | None:
    """Percent of noise that a bundle's network was trained for."""
    limits = bundle.settings.get("trained_on", {}).get("noise_percent")
    return None if limits is None else (float(limits[0]), float(limits[1]))
