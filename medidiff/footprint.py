"""How much memory a restoration takes, told before it begins, and which way through a scan fits what there is.

The figures were measured (``python -m benchmarks.memory`` measures them again); no torch is needed to tell.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medidiff.config import RestoreOptions, Task
from medidiff.diffusion import windows
from medidiff.errors import OutOfMemory
from medidiff.scans.limits import available_memory, told_apart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Way = Literal["whole", "tiles", "blocks"]
WHOLE = 224**3  # voxels that need no tiles
USUAL = 192  # edge of a window where there is memory enough
LARGE = 248  # edge of a block where there is memory enough: the larger, the less is read twice
TILES = (USUAL, 160, 128, 96)  # edges of windows, the largest that fits is taken
STRIDE = 8  # windows of networks are its multiples
START = 350e6  # bytes of a process that has loaded a pipeline
FIXED = 95e6  # of small things that every restoration needs, on two threads
# bytes a voxel of what is worked on (its copies, the survey, what the network is told), by spatial dimensions
WORK = {3: 130.0, 2: 85.0}
LESS = {"denoise": 0.0, "superres": 5.0, "inpaint": 33.0}  # of them, that a task does not need
OUTSIDE = 15.0  # bytes a voxel of a scan of which only the box of a hole is worked on
KEPT = 14.0  # bytes a voxel of further volumes in the same file
SAMPLE = 25.0  # bytes a voxel for each sample but the first
NETWORK = {3: 2.6, 2: 6.2}  # bytes a voxel of a window, for each channel of the finest level
FLIPS = {3: 55.0, 2: 105.0}  # bytes a voxel of a window, where it is also seen in mirror images
CONTEXT = 32  # voxels around a hole
SURVEY = 8e6  # voxels that the survey of a scan on disk looks at at once
SURVEYED = {3: 55.0, 2: 28.0}  # bytes for each of them
BESIDE = 25.0  # bytes for each that it reads beside them
AROUND = 12  # planes that it reads beside them
LEAST = 8  # planes that it reads at least
PLANES = 192**3  # voxels of a block of planes
BLOCK = 95.0  # bytes a voxel of a block's window beside the network
READ = 11.0  # bytes a voxel of what is read of a file, or written, at once
SLAB = 64e6  # voxels that are
WORKING_ON_DISK, SAMPLING_ON_DISK = 12.0, 20.0  # bytes a voxel of a volume that is in work
KEPT_ON_DISK, SAMPLE_ON_DISK = 16.0, 4.0  # bytes a voxel of all of a scan and its results
MARGIN = 1.15  # of the estimate that there has to be


@dataclass(frozen=True)
class Network:
    """What the memory of a network depends on.

    Attributes:
        spatial_dims: 2 or 3.
        channels: of the finest level.
        halo: voxels of context.
        on_host: whether it runs in the memory that is asked about, and not in that of a GPU.
    """

    spatial_dims: int = 3
    channels: int = 32
    halo: int = 24
    on_host: bool = True

    @classmethod
    def of(cls, settings: Mapping[str, Any], on_host: bool = True) -> Network:
        """From medidiff's own section of a bundle."""
        network = settings["network"]
        channels = network.get("channels", (cls.channels,))
        return cls(int(network.get("spatial_dims", 3)), int(channels[0]), int(settings["halo"]), on_host)


@dataclass(frozen=True)
class Request:
    """What is to be restored.

    Attributes:
        shape: of the scan; volumes follow one another along its fourth axis.
        network: of the pipeline.
        task: what is done.
        samples: how many are drawn.
        fine: shape of what super-resolution makes of it, or of the box of a hole; that of the scan by default.
        tile: edge of a window that the user asks for.
        flips: whether the network also sees mirror images.
    """

    shape: tuple[int, ...]
    network: Network = Network()
    task: Task = "denoise"
    samples: int = 0
    fine: tuple[int, ...] | None = None
    tile: int | None = None
    flips: bool = False

    @property
    def volume(self) -> tuple[int, ...]:
        """The shape of one volume; an image has one voxel along its third axis."""
        return (*self.shape, 1)[:3]


@dataclass(frozen=True)
class Footprint:
    """A way through a scan, and what it takes.

    Attributes:
        way: the ``whole`` scan at once, ``tiles`` of it, or ``blocks`` on disk.
        tile: edge of a window; ``None`` for the whole scan.
        memory: bytes at the peak, beyond those of a process that has loaded a pipeline.
        disk: bytes of files that are needed for a while.
    """

    way: Way
    tile: int | None
    memory: float
    disk: float = 0.0

    @property
    def usual(self) -> bool:
        """Whether nothing is to be done for lack of memory."""
        return self.way == "whole" or (self.way == "tiles" and self.tile == USUAL)

    @property
    def peak(self) -> float:
        """Bytes of the process at its peak."""
        return START + self.memory


def ways(asked: Request) -> list[Footprint]:
    """All ways through a scan, from the quickest to the smallest."""
    found = []
    work = asked.fine or asked.volume
    if asked.tile is None and math.prod(_window(work, None, asked)) <= WHOLE:
        found.append(Footprint("whole", None, in_memory(asked, None)))
    edges: tuple[int, ...] = TILES if asked.tile is None else (asked.tile,)
    edges = tuple(edge for edge in edges if edge > 2 * asked.network.halo + 8) or edges[-1:]
    found += [Footprint("tiles", edge, in_memory(asked, edge)) for edge in edges if edge < max(work) or asked.tile]
    if asked.task == "denoise":
        large = (LARGE,) if asked.tile is None and max(work) > LARGE else ()
        found += [Footprint("blocks", edge, in_blocks(asked, edge), on_disk(asked)) for edge in (*large, *edges)]
    return found


def choose(asked: Request, limit: float | None, on_disk: bool = False) -> Footprint:
    """The quickest way that fits.

    Args:
        asked: what is to be restored.
        limit: bytes that may be taken beyond those of the process as it is; ``None`` when not known.
        on_disk: whether the scan lies on disk already, so that its result is to lie there too.

    Raises:
        OutOfMemory: none fits.
    """
    every = [one for one in ways(asked) if one.way == "blocks" or not on_disk]
    for one in every:
        if limit is None or one.memory * MARGIN <= limit:
            return one
    least = every[-1]
    size = " x ".join(map(str, asked.shape))
    way = "tiles" if asked.task == "denoise" else f"tiles, and {asked.task} cannot go through it in blocks on disk"
    held = taken()
    needed, there = told_apart(held + least.memory * MARGIN, held + (limit or 0))
    raise OutOfMemory(
        f"A scan of {size} voxels needs {needed} of memory even in small {way};"
        f" {there} are there. Use a machine with more, or a larger --memory."
    )


def fine_shape(shape: tuple[int, ...], spacing: Sequence[float], options: RestoreOptions) -> tuple[int, ...]:
    """The shape that super-resolution makes of a scan.

    Raises:
        UsageError: it cannot become as fine as asked.
        ScanError: there is nothing to refine.
    """
    from medidiff.physics import resolution  # here, for `medidiff list` needs no torch

    return resolution.plan(shape, spacing, factor=options.factor, target=options.spacing).fine


def around(hole: NDArray[np.bool_]) -> tuple[int, ...]:
    """The shape of what inpainting looks at."""
    import numpy as np  # here, for `medidiff list` needs none of it

    sizes = []
    for axis, n in enumerate(hole.shape):
        hit = np.flatnonzero(hole.any(axis=tuple(other for other in range(hole.ndim) if other != axis)))
        sizes.append(min(n, int(hit[-1] - hit[0]) + 1 + 2 * CONTEXT) if len(hit) else n)
    return tuple(sizes)


def in_memory(asked: Request, tile: int | None) -> float:
    """Bytes that a restoration in memory takes, with windows of an edge or of the whole scan."""
    work = math.prod(asked.fine or asked.volume)
    each = WORK[asked.network.spatial_dims] - LESS[asked.task] + SAMPLE * max(asked.samples - 1, 0)
    rest = KEPT * (math.prod(asked.shape) - math.prod(asked.volume))
    if asked.task == "inpaint":
        rest += OUTSIDE * math.prod(asked.volume)
    return FIXED + rest + each * work + _network(asked, tile)


def in_blocks(asked: Request, tile: int) -> float:
    """Bytes that a restoration in blocks on disk takes; the survey comes first, so the larger of the two counts."""
    dims, image = asked.network.spatial_dims, _window(asked.volume, None, asked)
    voxels, plane = math.prod(asked.volume), math.prod(asked.volume[1:])
    slab = min(voxels, max(SURVEY, LEAST * plane))
    surveyed = SURVEYED[dims] * slab + BESIDE * min(voxels - slab, AROUND * plane)
    halo = math.ceil(asked.network.halo / STRIDE) * STRIDE
    window = math.prod(windows.widest(n, tile, halo, STRIDE) for n in image)
    network = _each(asked) if asked.network.on_host else 0.0
    large = windows.classical(tile, dims) // windows.ALIKE[dims] * windows.ALIKE[dims]
    near: float = math.prod(windows.widest(n, large, windows.REACH[dims], windows.ALIKE[dims]) for n in image)
    count: float = window
    if dims == 2:  # as many slices as make a block, or all
        slices = voxels / math.prod(image)
        count *= min(slices, max(1, PLANES // tile**2))
        near *= min(slices, max(1, PLANES // math.prod(min(n, large) for n in image)))
    return FIXED + max(surveyed, BLOCK * count + network * window, BLOCK * near, READ * min(voxels, SLAB))


def on_disk(asked: Request) -> float:
    """Bytes of files that a restoration in blocks needs for a while."""
    one = WORKING_ON_DISK + (SAMPLING_ON_DISK if asked.samples else 0.0)
    return one * math.prod(asked.volume) + (KEPT_ON_DISK + SAMPLE_ON_DISK * asked.samples) * math.prod(asked.shape)


def room(memory: float | None, begun: bool = True) -> float | None:
    """Bytes that a process may take beyond what it has; ``None`` when not known.

    Args:
        memory: the limit that the user gives, in GB; ``None`` for what the machine has free.
        begun: whether this process has loaded its pipeline; else one is asked about that has not started.
    """
    if memory is not None:
        return memory * 1e9 - (taken() if begun else START)
    free = available_memory()
    return free if free is None or begun else free - START


def peak_gb() -> float | None:
    """Largest resident memory of this process so far in GB (1e9 bytes); ``None`` where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def taken() -> float:
    """Bytes that this process holds now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return float(pages * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError, AttributeError):
        return START


def _window(shape: Sequence[int], tile: int | None, asked: Request) -> tuple[int, ...]:
    """The largest window that the network sees."""
    sizes = sorted(shape)[-asked.network.spatial_dims :]
    return tuple(sizes if tile is None else [min(n, tile) for n in sizes])


def _network(asked: Request, tile: int | None) -> float:
    if not asked.network.on_host:
        return 0.0
    return _each(asked) * math.prod(_window(asked.fine or asked.volume, tile, asked))


def _each(asked: Request) -> float:
    """Bytes a voxel of a window that the network takes."""
    dims = asked.network.spatial_dims
    return NETWORK[dims] * asked.network.channels + (FLIPS[dims] if asked.flips else 0.0)
