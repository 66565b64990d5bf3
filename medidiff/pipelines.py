"""Pipelines: a task, a network and its bundle's defaults, ready to call.

from medidiff.pipelines import DenoisePipeline

denoise = DenoisePipeline.load("mr")
restoration = denoise("scan.nii.gz")
restoration.save("scan_denoised.nii.gz")

With ``auto`` as the name each scan goes to the installed pipeline that suits it best: see ``choose``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medidiff import bundles, footprint
from medidiff.config import ComputeOptions, RestoreOptions, Task
from medidiff.errors import PipelineError, UsageError
from medidiff.footprint import Network, Request

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from medidiff.engine import Engine, Progress
    from medidiff.restore import Restoration
    from medidiff.scans.in_memory import MaskSource, Source
    from medidiff.scans.volume import Volume

DEFAULT = "auto"


@dataclass(frozen=True)
class PipelineInfo:
    """What is known of a pipeline before its weights are read.

    ``anisotropy`` is the largest ratio of voxel edges that it was trained on; ``None`` when not known.
    """

    name: str
    version: str
    tasks: tuple[str, ...]
    modalities: tuple[str, ...]
    summary: str
    path: Path
    licence: str
    weights_sha256: str
    spatial_dims: int
    anisotropy: float | None = None


def available() -> list[PipelineInfo]:
    """All installed pipelines; imports no torch."""
    return [_info(bundle) for bundle in bundles.every()]


def candidates(name_or_path: str | Path = DEFAULT, *, task: Task = "denoise") -> tuple[PipelineInfo, ...]:
    """The pipelines that a name stands for: the one that it names, or with ``auto`` all that do the task.

    Imports no torch.

    Raises:
        PipelineError: if there is no such pipeline, or it does not do the task.
        UsageError: if it is neither a name nor a folder.
    """
    if not isinstance(name_or_path, str | Path):
        raise UsageError(f"A pipeline is the name of one or its bundle's folder, not {type(name_or_path).__name__}.")
    if str(name_or_path) == DEFAULT:
        able = tuple(info for info in available() if task in info.tasks)
        if not able:
            raise PipelineError(f"No installed pipeline can {task}; set MEDIDIFF_BUNDLES to a folder of bundles.")
        return able
    info = _info(bundles.locate(name_or_path))
    if task not in info.tasks:
        raise PipelineError(
            f"Pipeline {info.name} does not {task}; it does: {', '.join(info.tasks)}."
            " `medidiff list` shows what each can do."
        )
    return (info,)


def choose(volume: Volume, among: Sequence[PipelineInfo], task: Task = "denoise") -> PipelineInfo:
    """The pipeline that suits a scan best.

    A 2-D image (one voxel along its last axis) goes to a pipeline for images, if there is one, better to one that was
    trained on its modality; a volume goes to a pipeline that was trained on its modality, better to one for volumes,
    unless that would refuse voxels so long (which super-resolution does not: thick slices are what it is for).
    A series that lacks slices goes to a pipeline for volumes: one for images cannot fill them. Among equals the first
    is taken.

    Args:
        volume: the scan.
        among: one pipeline or more, as ``candidates`` gives them.
        task: what is to be done.
    """
    from medidiff.diffusion.guard import FAR

    ratio = 1.0 if task == "superres" else max(volume.spacing) / min(volume.spacing)
    planar, gaps = volume.array.shape[2] == 1, volume.missing is not None

    def suits(info: PipelineInfo) -> tuple[bool, bool, bool]:
        dims = info.spatial_dims == (2 if planar else 3)
        trained = not info.modalities or volume.modality in info.modalities
        taken = info.spatial_dims == 2 or info.anisotropy is None or ratio <= FAR * info.anisotropy
        return (dims, trained, taken) if planar or gaps else (trained, taken, dims)

    return max(among, key=suits)


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
        spatial_dims=bundle.spatial_dims,
        anisotropy=bundle.anisotropy,
    )


class Restorer(ABC):
    """What takes a scan and gives a restoration: one pipeline, or several of which each scan finds its own.

    Attributes:
        task: what it does.
        modalities: what it was trained on, DICOM codes; empty where each scan finds its own pipeline.
    """

    task: Task
    modalities: tuple[str, ...] = ()

    @abstractmethod
    def choose(self, volume: Volume) -> Pipeline:
        """The pipeline that restores a scan."""

    def on_disk(self, shape: tuple[int, ...], options: RestoreOptions) -> float:
        """Bytes of disk that it takes to denoise a scan of a shape, volumes along its fourth axis; 0 in memory.

        Raises:
            OutOfMemory: the memory is not enough in any way.
        """
        return 0.0

    @abstractmethod
    def restore(
        self,
        volume: Volume,
        options: RestoreOptions | None = None,
        *,
        hole: NDArray[np.bool_] | None = None,
        progress: Progress | None = None,
    ) -> Restoration:
        """Restore one volume.

        Args:
            volume: the scan.
            options: noise level, strength, samples, steps, seed and the like.
            hole: what to fill, not 0 inside, shape of ``volume.array``; needed to inpaint, allowed for superres.
            progress: called with (tiles done, all tiles).

        Raises:
            UsageError: if the hole or the options do not suit the task.
            ScanError: if the hole does not fit the scan, or the scan cannot be restored so.
            OutOfMemory: if it does not fit the memory.
        """

    def __call__(self, source: Source, mask: MaskSource | None = None, **options: Any) -> Restoration:
        """Restore a scan given as a path, a nibabel image, an (array, affine) pair or a ``Volume``.

        Args:
            source: the scan; it must hold one volume.
            mask: what to fill, not 0 inside: a path, a nibabel image, or an array of the scan's shape.
            **options: fields of ``medidiff.config.RestoreOptions``: ``noise``, ``strength``, ``preset``, ``samples``,
                ``steps``, ``flips``, ``gamma``, ``seed``, ``factor``, ``spacing``, ``profile``, ``force``.

        Raises:
            UsageError: if an option is wrong, the path holds no scan, or several, or the mask does not suit the task.
            ScanError: if the scan or the mask cannot be read, or they do not fit.
        """
        settings = RestoreOptions(**options)
        _refuse_unsuited(settings, self.task)
        if mask is None and self.task == "inpaint":
            raise UsageError("inpaint needs a mask: a path, a nibabel image, or an array of the scan's shape.")
        if mask is not None and self.task == "denoise":
            raise UsageError("denoise takes no mask; inpaint and superres do.")
        from medidiff.scans import guessed
        from medidiff.scans.in_memory import blank, to_hole, to_scan
        from medidiff.scans.volume import Volume

        scan = to_scan(source)
        hole = None if mask is None else to_hole(mask, scan)
        if isinstance(source, Volume):
            return self.restore(source, settings, hole=hole)
        if scan.ref.kind == "nifti":
            scan = guessed(scan, [hole], self.modalities)
        found = self.restore(scan.volumes[0], settings, hole=hole)
        gone = blank(scan, hole, found.mean.shape)
        return found if gone is None else found.without(gone)


class Pipeline(Restorer):
    """One loaded pipeline; make one with ``load``.

    Attributes:
        task: what it does.
        name: the bundle's name.
        version: the bundle's version.
        summary: one sentence.
        path: the bundle's folder.
        weights_sha256: identity of the weights.
        device: where it runs.
    """

    def __init__(self, bundle: bundles.Bundle, engine: Engine, memory: float | None = None) -> None:
        self.name, self.version, self.path = bundle.name, bundle.version, bundle.path
        self.summary = str(bundle.metadata.get("description", ""))
        self.weights_sha256 = bundle.weights_sha256
        self.device = str(engine.device)
        self.modalities = engine.modalities
        self._engine, self._memory = engine, memory
        self._network = Network.of(bundle.settings, on_host=engine.device.device.type == "cpu")
        self._identity = {"pipeline": bundle.name, "version": bundle.version, "weights_sha256": bundle.weights_sha256}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} {self.version} on {self.device}>"

    @classmethod
    def load(cls, name_or_path: str | Path = DEFAULT, *, compute: ComputeOptions | None = None) -> Pipeline:
        """Load one pipeline for this class's task.

        Args:
            name_or_path: a name that ``medidiff list`` shows, a bundle's folder, or ``auto`` for the only one that
                does the task.
            compute: device, precision, threads, tile size.

        Raises:
            PipelineError: if there is no such pipeline, it is damaged, or it does not do the task.
            UsageError: if the device does not exist, or the tile is too small for the network.
        """
        from medidiff.diffusion import device as devices

        compute = ComputeOptions.taken(compute)
        able = candidates(name_or_path, task=cls.task)
        if len(able) > 1:
            names = ", ".join(info.name for info in able)
            raise PipelineError(f"auto may mean {names}; name one of them, or let medidiff.load choose for each scan.")
        bundle = bundles.read(able[0].path)
        halo = bundle.halo
        if compute.tile is not None and compute.tile <= 2 * halo:
            raise UsageError(
                f"--tile {compute.tile} is too small: pipeline {bundle.name} needs more than {2 * halo} voxels,"
                f" its context of {halo} on both sides."
            )
        device = devices.resolve(compute)
        network = devices.on_device(bundle.network(), device)
        engine = bundle.engine(network, device, tile=compute.tile, batch=compute.batch)
        return cls(bundle, engine, compute.memory)

    @property
    def engine(self) -> Engine:
        """The network with what it needs to be evaluated on a volume of any size."""
        return self._engine

    def choose(self, volume: Volume) -> Pipeline:
        """This pipeline, whatever the scan."""
        return self

    def on_disk(self, shape: tuple[int, ...], options: RestoreOptions) -> float:
        """Bytes of disk that it takes; see ``Restorer.on_disk``."""
        asked = Request(shape, self._network, self.task, options.samples, tile=self._engine.tile, flips=options.flips)
        return footprint.choose(asked, footprint.room(self._memory)).disk

    def restore(
        self,
        volume: Volume,
        options: RestoreOptions | None = None,
        *,
        hole: NDArray[np.bool_] | None = None,
        progress: Progress | None = None,
    ) -> Restoration:
        """Restore one volume; see ``Restorer.restore``."""
        from medidiff import blocks
        from medidiff.diffusion import memory
        from medidiff.restore import restore
        from medidiff.scans.in_memory import hole_of

        settings = RestoreOptions.taken(options)
        _refuse_unsuited(settings, self.task)
        hole = None if hole is None else hole_of(hole, volume)
        asked = self._asked(volume, settings, hole)
        way = footprint.choose(asked, footprint.room(self._memory), on_disk=blocks.is_on_disk(volume))
        folder = blocks.folder_for(volume, way.disk) if way.way == "blocks" else None

        def attempt(edge: int | None) -> Restoration:
            if folder is not None:
                tile = edge or way.tile or footprint.USUAL
                return blocks.restore(volume, self._engine, settings, folder.path, tile=tile, progress=progress)
            planned = self._engine if way.usual else replace(self._engine, tile=way.tile)
            engine = planned if edge is None else replace(self._engine, tile=edge, batch=1)
            return restore(volume, engine, settings, self.task, hole=hole, progress=progress)

        fitted = memory.fit(attempt, self._engine.halo)
        record = fitted.result.record
        warnings = [*record.get("warnings", ()), *fitted.warnings]
        restoration = replace(fitted.result, record={**self._identity, **record, "warnings": warnings})
        if folder is not None:
            folder.goes_with(restoration)
        return restoration

    def _asked(self, volume: Volume, options: RestoreOptions, hole: NDArray[np.bool_] | None) -> Request:
        """What the memory of a restoration depends on."""
        shape, fine = volume.array.shape, None
        if self.task == "superres":
            fine = footprint.fine_shape(shape, volume.spacing, options)
        elif hole is not None:
            fine = footprint.around(hole)
        return Request(shape, self._network, self.task, options.samples, fine, self._engine.tile, options.flips)


def _refuse_unsuited(options: RestoreOptions, task: Task) -> None:
    if why := options.unsuited(task):
        raise UsageError(why)


class DenoisePipeline(Pipeline):
    """Takes noise away; keeps the grid."""

    task: Task = "denoise"


class SuperResolvePipeline(Pipeline):
    """Makes voxels finer; what was measured stays, seen through the scanner's voxels."""

    task: Task = "superres"


class InpaintPipeline(Pipeline):
    """Fills the hole of a mask; every voxel outside stays as it is."""

    task: Task = "inpaint"


_OF_TASK: dict[Task, type[Pipeline]] = {
    "denoise": DenoisePipeline,
    "superres": SuperResolvePipeline,
    "inpaint": InpaintPipeline,
}


class AutoPipeline(Restorer):
    """Sends each scan to the pipeline that suits it best; a pipeline is loaded when its first scan comes.

    Attributes:
        task: what it does.
        among: the pipelines that it chooses from.
    """

    def __init__(self, task: Task, *, compute: ComputeOptions | None = None) -> None:
        """Find the pipelines for a task.

        Args:
            task: what to do.
            compute: device, precision, threads, tile size.

        Raises:
            PipelineError: if no pipeline does the task.
            UsageError: if the device does not exist.
        """
        from medidiff.diffusion import device as devices

        self.task = task
        self.among = candidates(task=task)
        self._compute = ComputeOptions.taken(compute)
        self._loaded: dict[Path, Pipeline] = {}
        device = devices.resolve(self._compute)  # one that is not there ends the run, not each scan
        self._on_host = device.device.type == "cpu"

    def __repr__(self) -> str:
        names = ", ".join(f"{info.name} {info.version}" for info in self.among)
        return f"<{type(self).__name__}: {self.task} by one of {names}>"

    def choose(self, volume: Volume) -> Pipeline:
        """The pipeline that suits a scan best, loaded; see ``medidiff.pipelines.choose``."""
        path = choose(volume, self.among, self.task).path
        if path not in self._loaded:
            self._loaded[path] = _OF_TASK[self.task].load(path, compute=self._compute)
        return self._loaded[path]

    def on_disk(self, shape: tuple[int, ...], options: RestoreOptions) -> float:
        """Bytes of disk that it takes; see ``Restorer.on_disk``."""
        networks = {Network.of(bundles.read(info.path).settings, self._on_host) for info in self.among}
        room = footprint.room(self._compute.memory)
        tile, flips = self._compute.tile, options.flips
        asked = (Request(shape, each, self.task, options.samples, tile=tile, flips=flips) for each in networks)
        return max(footprint.choose(each, room).disk for each in asked)

    def restore(
        self,
        volume: Volume,
        options: RestoreOptions | None = None,
        *,
        hole: NDArray[np.bool_] | None = None,
        progress: Progress | None = None,
    ) -> Restoration:
        """Restore one volume with the pipeline that suits it; see ``Restorer.restore``."""
        return self.choose(volume).restore(volume, options, hole=hole, progress=progress)


def load(
    name_or_path: str | Path = DEFAULT, task: Task = "denoise", *, compute: ComputeOptions | None = None
) -> Pipeline | AutoPipeline:
    """Load a pipeline by name or by its bundle's folder; with ``auto`` all that do the task, if there are several.

    Args:
        name_or_path: a name that ``medidiff list`` shows, a bundle's folder, or ``auto``.
        task: ``denoise``, ``superres`` or ``inpaint``.
        compute: device, precision, threads, tile size.

    Raises:
        PipelineError: if there is no such pipeline, it is damaged, or it does not do the task.
        UsageError: if the task or the device does not exist, or the tile is too small for the network.
    """
    if task not in _OF_TASK:
        raise UsageError(f"There is no task {task!r}; there are {', '.join(_OF_TASK)}.")
    able = candidates(name_or_path, task=task)
    if len(able) > 1:
        return AutoPipeline(task, compute=compute)
    return _OF_TASK[task].load(able[0].path, compute=compute)


def denoise(
    source: Source, *, pipeline: str | Path = DEFAULT, compute: ComputeOptions | None = None, **options: Any
) -> Restoration:
    """Denoise one scan in one call.

    Args:
        source: a path, a nibabel image, an (array, affine) pair or a ``Volume``.
        pipeline: a name that ``medidiff list`` shows, or a bundle's folder.
        compute: device, precision, threads, tile size.
        **options: see ``Restorer.__call__``.
    """
    return load(pipeline, compute=compute)(source, **options)


def superresolve(
    source: Source,
    mask: MaskSource | None = None,
    *,
    pipeline: str | Path = DEFAULT,
    compute: ComputeOptions | None = None,
    **options: Any,
) -> Restoration:
    """Make the voxels of one scan finer in one call; isotropic, unless ``factor`` or ``spacing`` say otherwise.

    Args:
        source: a path, a nibabel image, an (array, affine) pair or a ``Volume``.
        mask: what to fill in the same step, not 0 inside: a path, a nibabel image, or an array of the scan's shape.
        pipeline: a name that ``medidiff list`` shows, or a bundle's folder.
        compute: device, precision, threads, tile size.
        **options: see ``Restorer.__call__``.
    """
    return load(pipeline, "superres", compute=compute)(source, mask, **options)


def inpaint(
    source: Source,
    mask: MaskSource,
    *,
    pipeline: str | Path = DEFAULT,
    compute: ComputeOptions | None = None,
    **options: Any,
) -> Restoration:
    """Fill a hole of one scan in one call.

    Args:
        source: a path, a nibabel image, an (array, affine) pair or a ``Volume``.
        mask: what to fill, not 0 inside: a path, a nibabel image, or an array of the scan's shape.
        pipeline: a name that ``medidiff list`` shows, or a bundle's folder.
        compute: device, precision, threads, tile size.
        **options: see ``Restorer.__call__``.
    """
    return load(pipeline, "inpaint", compute=compute)(source, mask, **options)
