"""The way through a scan follows from the memory there is."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from medidiff import footprint
from medidiff.blocks.cutting import cut
from medidiff.config import RestoreOptions
from medidiff.diffusion import windows
from medidiff.errors import ExitCode, MedidiffError, OutOfMemory, ScanError, UsageError
from medidiff.footprint import Network, Request
from medidiff.scans.limits import told_apart

GB = 1e9


@pytest.mark.parametrize(
    ("asked", "limit", "way", "tile"),
    [
        (Request((192, 224, 192)), None, "whole", None),
        (Request((192, 224, 192)), 16 * GB, "whole", None),
        (Request((192, 224, 192)), 1.8 * GB, "tiles", 160),
        (Request((192, 224, 192)), 0.9 * GB, "blocks", 160),
        (Request((512, 512, 300)), 16 * GB, "tiles", 192),
        (Request((512, 512, 300)), 4 * GB, "blocks", 248),
        (Request((512, 512, 300), tile=128), 16 * GB, "tiles", 128),
        (Request((512, 512, 300), tile=128), 4 * GB, "blocks", 128),
        (Request((1024, 1024, 1024)), 4 * GB, "blocks", 248),
        (Request((192, 224, 192, 40)), 3 * GB, "blocks", 192),
        (Request((3000, 3000), Network(2)), 16 * GB, "whole", None),
    ],
)
def test_the_quickest_way_that_fits_is_taken(asked: Request, limit: float, way: str, tile: int | None) -> None:
    found = footprint.choose(asked, limit)
    assert (found.way, found.tile) == (way, tile)
    assert limit is None or found.memory < limit
    assert (found.disk > 0) == (way == "blocks")
    assert found.usual == (way == "whole" or (way == "tiles" and tile == 192))


def test_what_lies_on_disk_stays_there() -> None:
    assert footprint.choose(Request((64, 64, 64)), None, on_disk=True).way == "blocks"


def test_each_way_is_smaller_than_the_one_before() -> None:
    found = footprint.ways(Request((300, 300, 300), samples=4))
    assert [one.way for one in found] == ["tiles"] * 4 + ["blocks"] * 5
    for tiled in (found[:4], found[4:]):
        sizes = [one.memory for one in tiled]
        assert sizes == sorted(sizes, reverse=True)


def test_a_megavoxel_more_costs_the_same_everywhere() -> None:
    """Blocks take no more memory for a longer scan; in memory it grows with the voxels."""
    short, long = (Request((512, 512, n)) for n in (512, 1024))
    assert footprint.in_blocks(short, 192) == pytest.approx(footprint.in_blocks(long, 192), rel=0.5)
    assert footprint.in_memory(long, 192) == pytest.approx(2 * footprint.in_memory(short, 192), rel=0.05)
    assert footprint.on_disk(long) == 2 * footprint.on_disk(short)


def test_mirror_images_take_more_of_each_window() -> None:
    plain, best = (Request((300, 300, 300), flips=flips) for flips in (False, True))
    assert footprint.in_memory(best, 96) - footprint.in_memory(plain, 96) == pytest.approx(55 * 96**3)
    assert footprint.in_blocks(best, 192) > footprint.in_blocks(plain, 192)


@pytest.mark.parametrize(
    ("task", "words"),
    [("denoise", "even in small tiles; "), ("superres", "superres cannot go through it in blocks on disk")],
)
def test_without_memory_it_is_told_before(task: str, words: str) -> None:
    asked = Request((300, 300, 300), task=task, fine=(300, 300, 600) if task == "superres" else None)  # type: ignore[arg-type]
    with pytest.raises(OutOfMemory, match=words) as caught:
        footprint.choose(asked, 0.1 * GB)
    assert caught.value.exit_code == ExitCode.MEMORY
    assert re.match(r"A scan of 300 x 300 x 300 voxels needs \d.*GB of memory", str(caught.value))


def test_the_network_of_a_gpu_takes_none_of_this_memory() -> None:
    host, gpu = (Request((192, 192, 192), Network(on_host=on_host)) for on_host in (True, False))
    assert footprint.in_memory(host, None) - footprint.in_memory(gpu, None) > 0.5 * GB


def test_shapes_of_what_is_made() -> None:
    assert footprint.fine_shape((256, 256, 40), (1.0, 1.0, 3.0), RestoreOptions()) == (256, 256, 120)
    assert footprint.fine_shape((10, 10, 1), (1.0, 1.0, 5.0), RestoreOptions(factor=2)) == (20, 20, 1)
    assert footprint.fine_shape((10, 10, 10), (1.0, 1.0, 2.0), RestoreOptions(spacing=(0.5, 1.0, 1.0))) == (20, 10, 20)
    hole = np.zeros((200, 90, 30), dtype=np.bool_)
    hole[100:110, 40:50, 3] = True
    assert footprint.around(hole) == (74, 74, 30)


@pytest.mark.parametrize(
    ("spacing", "options", "error"),
    [((1.0, 1.0, 1.0), {"spacing": 0.05}, UsageError), ((1.0, 1.0, 17.0), {}, UsageError), ((2, 2, 2), {}, ScanError)],
)
def test_no_memory_is_planned_for_what_cannot_be_made(
    spacing: tuple[float, ...], options: dict[str, Any], error: type[MedidiffError]
) -> None:
    with pytest.raises(error, match="--factor or --spacing"):
        footprint.fine_shape((128, 128, 128), spacing, RestoreOptions(**options))


def test_axes_of_one_voxel_do_not_say_how_fine_the_others_become() -> None:
    assert footprint.fine_shape((48, 48, 1), (1.0, 2.0, 0.001), RestoreOptions()) == (48, 96, 1)


def test_what_is_needed_and_what_is_there_are_told_apart() -> None:
    assert told_apart(930.4 * GB, 16 * GB) == ("930.4 GB", "16.0 GB")
    assert told_apart(1.2041 * GB, 1.2 * GB) == ("1.204 GB", "1.200 GB")
    asked = Request((96, 96, 96))
    least = min(one.memory for one in footprint.ways(asked)) * footprint.MARGIN
    with pytest.raises(OutOfMemory) as caught:
        footprint.choose(asked, least - 1e6)
    needed, there = (float(each) for each in re.findall(r"([\d.]+) GB", str(caught.value)))
    assert needed > there


def test_room_is_what_the_user_gives_less_what_is_taken() -> None:
    taken = footprint.taken()
    assert 10e6 < taken < 100 * GB
    assert footprint.room(1000.0) == pytest.approx(1000 * GB - taken, rel=0.01)
    assert footprint.room(1000.0, begun=False) == 1000 * GB - footprint.START
    free = footprint.room(None)
    assert free is None or 0 < free < math.inf


@pytest.mark.parametrize(("shape", "dims"), [((600, 600, 60), 2), ((512, 512, 100), 2), ((512, 512, 300), 3)])
@pytest.mark.parametrize("tile", [96, 192, 248])
def test_the_classical_base_of_a_block_fits_what_is_told(shape: tuple[int, ...], dims: int, tile: int) -> None:
    """It was measured to take 85 bytes a voxel of its window, which in planes is wider than the network's."""
    large, planes = windows.classical(tile, dims), 2 if dims == 2 else None
    blocks = cut(shape, large, windows.REACH[dims], windows.ALIKE[dims], planes)
    most = max(math.prod(part.stop - part.start for part in block.window) for block in blocks)
    assert footprint.in_blocks(Request(shape, Network(dims)), tile) >= 85 * most
