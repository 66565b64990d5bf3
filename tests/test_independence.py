"""The shipped pipeline gives one answer, however it is computed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import independence
from benchmarks.independence import LARGEST_DIFFERENCE, ROUNDING, TILES
from medidiff import pipelines
from medidiff.config import ComputeOptions
from medidiff.engine import Engine
from medidiff.errors import PipelineError

IMAGES = {
    "constant": (lambda: independence.constant((144, 40, 40)), 15.0),
    "ramp": (lambda: independence.ramp((144, 40, 40)), 3.0),
    "scan": (lambda: independence.scan(None, (144, 72, 40)), 9.0),  # a real one where MEDIDIFF_REAL_DATA has it
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    try:
        pipeline = pipelines.load("mr", compute=ComputeOptions(device="cpu"))
    except PipelineError as error:
        pytest.skip(f"needs an installed pipeline: {error}")
    return independence.engine_of(pipeline)


def test_batch_order_and_threads_change_nothing_but_rounding(engine: Engine) -> None:
    each = independence.probe("scan", independence.scan(None, (96, 48, 40)), 9.0)
    tiled = replace(engine, tile=2 * engine.halo + 16)
    found = independence.exactness(tiled, each, threads=2)
    assert len(found) == 3
    assert max(found.values()) < ROUNDING, found


@pytest.mark.parametrize("name", IMAGES)
def test_tiles_change_less_than_two_percent_of_the_noise(engine: Engine, name: str) -> None:
    make, percent = IMAGES[name]
    each = independence.probe(name, make(), percent)
    rows = list(independence.tile_rows(engine, each, TILES))
    assert [row["tile"] for row in rows] == list(TILES)
    for row in rows:
        assert row["max_sigma"] < LARGEST_DIFFERENCE, row
        assert not row["image_z"] > 3, row
    assert np.isfinite(rows[0]["image_z"])  # the smallest tiles do cut every image
