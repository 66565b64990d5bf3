"""Measures whether a result depends on how it was computed: batch, order, threads, tiles; and the halo it needs.

    python -m benchmarks.independence
    python -m benchmarks.independence --halos 8 16 24 32

A tile is read with a halo. What the network draws from beyond the halo is lost, so tiles differ from the whole volume
by a little; this measures by how much, in units of the noise's sigma, on a constant, a ramp and a scan, each with
noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks import cases, report
from benchmarks.cases import Image
from medidiff import pipelines
from medidiff.config import ComputeOptions
from medidiff.diffusion import sampler, tiles
from medidiff.engine import Engine
from medidiff.physics import tasks
from medidiff.physics.fidelity import foreground_psnr
from medidiff.physics.intensity import Intensity
from medidiff.physics.tasks import Problem

SCAN = "t1w_sag_anon.nii.gz"
LEVELS = (3.0, 9.0, 15.0)
TILES = (64, 96, 128)
HALOS = (8, 16, 24, 32)
TILE_SHAPE = (144, 80, 40)  # three tiles and more along the first axes, and yet seconds
HALO_SHAPE, HALO_CORE = (128, 104, 40), 32
LARGEST_DIFFERENCE = 0.02  # sigma, everywhere: the goal for tiles
ROUNDING = 1e-5  # of the intensity range: the goal for batch, order and threads

Row = dict[str, Any]


@dataclass(frozen=True)
class Probe:
    """A noisy image, posed; its classical base is computed once."""

    name: str
    percent: float
    clean: Image
    problem: Problem

    @property
    def sigma(self) -> float:
        """Standard deviation of its noise."""
        return self.percent / 100


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    threads = report.use_threads(options.threads)
    pipeline = pipelines.load(options.pipeline, compute=ComputeOptions(device=options.device))
    engine = engine_of(pipeline)

    first = probe("scan", scan(options.file, (96, 64, 64)), 9.0)
    exact = exactness(replace(engine, tile=max(TILES[0], 2 * engine.halo + 16)), first, threads)
    print(exact_table(exact), flush=True)
    tiled = [row for each in probes(options, TILE_SHAPE) for row in tile_rows(engine, each, options.tiles)]
    print("\n" + difference_table(tiled, "tile"), flush=True)
    halved = [row for each in probes(options, HALO_SHAPE) for row in halo_rows(engine, each, options.halos)]
    print("\n" + difference_table(halved, "halo"))

    found = verdicts(exact, tiled, halved, engine.halo)
    result = {
        "environment": report.environment(pipeline, threads),
        "halo": engine.halo,
        "verdicts": [vars(verdict) for verdict in found],
        "exact": exact,
        "tiles": tiled,
        "halos": halved,
    }
    text = document(result, found)
    print("\n" + "\n".join(str(verdict) for verdict in found))
    report.write("independence", result, text, options.results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--file", type=Path, help=f"the scan (default: {SCAN} of the real scans, else a shipped sample)"
    )
    parser.add_argument("--noise", type=float, nargs="+", default=list(LEVELS), help="percent of the bright level")
    parser.add_argument("--tiles", type=int, nargs="*", default=list(TILES))
    parser.add_argument("--halos", type=int, nargs="*", default=list(HALOS))
    parser.add_argument(
        "--images", nargs="+", default=["constant", "ramp", "scan"], choices=["constant", "ramp", "scan"]
    )
    parser.add_argument("--pipeline", default="mr")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    return parser.parse_args(arguments)


def engine_of(pipeline: pipelines.Pipeline) -> Engine:
    """The network of a pipeline with its device, halo and tile."""
    return pipeline._engine


def constant(shape: tuple[int, ...]) -> Image:
    """The same bright value everywhere."""
    return np.full(shape, 0.8, dtype=np.float32)


def ramp(shape: tuple[int, ...]) -> Image:
    """From nearly dark to bright along all axes."""
    axes = np.meshgrid(*(np.linspace(0, 1, n, dtype=np.float32) for n in shape), indexing="ij", sparse=True)
    return (0.05 + 0.95 * sum(axes) / len(shape)).astype(np.float32)


def scan(path: Path | None, shape: tuple[int, ...]) -> Image:
    """The middle of a scan, normalised."""
    real = cases.real_data()
    path = path or (real / SCAN if real else cases.SAMPLES[0])
    image = cases.central(cases.load(path, None, "MR").clean, max(shape))
    starts = [max((n - m) // 2, 0) for n, m in zip(image.shape, shape, strict=True)]
    return np.ascontiguousarray(image[tuple(slice(a, a + n) for a, n in zip(starts, shape, strict=True))])


def probes(options: argparse.Namespace, shape: tuple[int, ...]) -> Iterator[Probe]:
    """Every image at every noise level."""
    made = {"constant": lambda: constant(shape), "ramp": lambda: ramp(shape), "scan": lambda: scan(options.file, shape)}
    for name in options.images:
        image = made[name]()
        for percent in options.noise:
            yield probe(name, image, percent)


def probe(name: str, clean: Image, percent: float) -> Probe:
    """Add Rician noise and pose the problem with its true sigma."""
    case = cases.Case(name, name, "MR", (1.0, 1.0, 1.0), clean, Intensity(0.0, 1.0))
    noisy = torch.from_numpy(case.noisy(percent))[None]
    problem = tasks.denoise(noisy, torch.full((1, 1, 1, 1), percent / 100), "rician", torch.ones(1, 3))
    return Probe(name, percent, clean, problem)


def restore(engine: Engine, each: Probe) -> Image:
    """The posterior mean, normalised intensity."""
    residual, _ = sampler.posterior_mean(engine.denoiser(each.problem, None))
    return each.problem.image(residual)[0].numpy()


class Backwards(tiles.Tiling):
    """The same tiles, last first."""

    def __iter__(self) -> Iterator[tiles.Tile]:
        """All tiles, in reversed storage order."""
        return reversed(list(super().__iter__()))


@contextmanager
def backwards() -> Iterator[None]:
    """Tiles are evaluated last first."""
    plan = tiles.plan

    def reverse(*arguments: Any) -> Backwards:
        return Backwards(**vars(plan(*arguments)))

    with mock.patch.object(tiles, "plan", reverse):
        yield


@contextmanager
def threads_set_to(count: int) -> Iterator[None]:
    """Torch computes with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def exactness(engine: Engine, each: Probe, threads: int) -> dict[str, float]:
    """Largest difference, as part of the intensity range, that batch, order and number of threads make."""
    reference = restore(engine, each)
    other = {"batch 4 instead of 1": restore(replace(engine, batch=4), each)}
    with backwards():
        other["tiles last first"] = restore(engine, each)
    with threads_set_to(1 if threads > 1 else 2):
        other["1 thread or 2"] = restore(engine, each)
    return {name: float(np.abs(image - reference).max()) / extent(reference) for name, image in other.items()}


def tile_rows(engine: Engine, each: Probe, edges: Sequence[int]) -> Iterator[Row]:
    """What tiles of several sizes change, with the pipeline's halo."""
    whole = restore(replace(engine, tile=None), each)
    for tile in edges:
        if tile <= 2 * engine.halo:
            print(f"tile {tile}: left out, nothing is left between halos of {engine.halo}")
            continue
        yield compared(replace(engine, tile=tile), each, whole)


def halo_rows(engine: Engine, each: Probe, halos: Sequence[int]) -> Iterator[Row]:
    """What halos of several widths change, with the same borders between tiles."""
    whole = restore(replace(engine, tile=None), each)
    for halo in halos:
        yield compared(replace(engine, halo=halo, tile=HALO_CORE + 2 * halo), each, whole)


def compared(engine: Engine, each: Probe, whole: Image) -> Row:
    """A tiled result against the whole volume's."""
    tiled = restore(engine, each)
    difference = (tiled - whole) / each.sigma
    borders = tile_borders(engine, whole.shape)
    size = np.abs(difference)
    return {
        "image": each.name,
        "noise": each.percent,
        "tile": engine.tile,
        "halo": engine.halo,
        "max_sigma": float(size.max()),
        "p999_sigma": float(np.percentile(size, 99.9)),
        "max_range": float(size.max()) * each.sigma / extent(whole),
        **{f"difference_{key}": value for key, value in seam(difference, borders).items()},
        **{f"image_{key}": value for key, value in seam(tiled, borders).items()},
        "psnr_change": foreground_psnr(tiled, each.clean) - foreground_psnr(whole, each.clean),
    }


def extent(image: Image) -> float:
    """The intensity range, zero included."""
    return float(max(image.max(), 0) - min(image.min(), 0))


def tile_borders(engine: Engine, shape: tuple[int, ...]) -> list[list[int]]:
    """Along each axis, the first voxels of all tiles but the first."""
    return [list(cuts[1:]) for cuts in tiles.plan(shape, engine.tile, engine.halo, int(engine.network.stride)).cuts]


def seam(image: Image, borders: Sequence[Sequence[int]]) -> dict[str, float]:
    """How much rougher an image is across borders than elsewhere, on the axis where this is worst.

    Roughness of a plane is its mean absolute second difference along the axis.

    Returns:
        ``step``: roughness at the borders; ``ratio``: over that elsewhere; ``z``: excess in standard deviations of the
        planes elsewhere. NaN when no axis is cut.
    """
    worst = {"step": float("nan"), "ratio": float("nan"), "z": float("nan")}
    for axis, places in enumerate(borders):
        rough = np.abs(np.diff(image.astype(np.float64), 2, axis=axis)).mean(
            axis=tuple(a for a in range(3) if a != axis)
        )
        # the second difference of index i is centred on voxel i + 1; a border before voxel b touches voxels b - 1 and b
        at = np.zeros(rough.size, dtype=np.bool_)
        at[[i for b in places for i in (b - 2, b - 1) if 0 <= i < rough.size]] = True
        if not at.any() or at.all():
            continue
        here, there = float(rough[at].mean()), rough[~at]
        ratio = here / max(float(there.mean()), 1e-30)
        if not ratio <= worst["ratio"]:
            worst = {"step": here, "ratio": ratio, "z": (here - float(there.mean())) / max(float(there.std()), 1e-30)}
    return worst


def smallest_halo(rows: Sequence[Row]) -> int | None:
    """The smallest halo with which no voxel of any image differs by ``LARGEST_DIFFERENCE``."""
    for halo in sorted({row["halo"] for row in rows}):
        if max(row["max_sigma"] for row in rows if row["halo"] == halo) < LARGEST_DIFFERENCE:
            return int(halo)
    return None


def verdicts(exact: dict[str, float], tiled: Sequence[Row], halved: Sequence[Row], halo: int) -> list[report.Verdict]:
    """The goals: rounding only from batch, order and threads; tiles below 2 % of sigma; the halo that this needs."""
    worst = max(exact.values())
    goal = f"batch, order and threads change less than {ROUNDING:g} of the range"
    found = [report.Verdict(goal, f"{worst:.1e}", worst < ROUNDING)]
    if tiled:
        worst = max(row["max_sigma"] for row in tiled)
        goal = f"tiles with the pipeline's halo of {halo} change less than {LARGEST_DIFFERENCE:g} sigma everywhere"
        found.append(report.Verdict(goal, f"{worst:.4f} sigma at worst", worst < LARGEST_DIFFERENCE))
        worst = max(row["image_z"] for row in tiled)
        found.append(report.Verdict("no seam in the image (z below 3)", f"z = {worst:.1f} at worst", worst < 3))
    if halved:
        least = smallest_halo(halved)
        tried = ", ".join(str(h) for h in sorted({row["halo"] for row in halved}))
        goal = f"the smallest of the halos {tried} that keeps the difference below {LARGEST_DIFFERENCE:g} sigma"
        found.append(report.Verdict(goal, "none" if least is None else str(least), least is not None and least <= halo))
    return found


def exact_table(exact: dict[str, float]) -> str:
    """Differences that should be rounding."""
    rows = [[name, f"{value:.1e}"] for name, value in exact.items()]
    return report.table(["changed", "largest difference / range"], rows)


def difference_table(rows: Sequence[Row], key: str) -> str:
    """Differences to the whole volume."""
    head = [f"image, noise, {key}", "max / sigma", "99.9 % / sigma", "max / range", "step at borders / sigma"]
    head += ["ratio to elsewhere", "z", "z in the image", "PSNR change, dB"]
    body = [
        [
            f"{row['image']}, {row['noise']:g} %, {row[key]}",
            f"{row['max_sigma']:.5f}",
            f"{row['p999_sigma']:.5f}",
            f"{row['max_range']:.1e}",
            f"{row['difference_step']:.1e}",
            report.figure(row["difference_ratio"], 1),
            report.figure(row["difference_z"], 1),
            report.figure(row["image_z"], 1),
            report.figure(row["psnr_change"], 4, sign=True),
        ]
        for row in rows
    ]
    return report.table(head, body)


def document(result: dict[str, Any], found: Sequence[report.Verdict]) -> str:
    """Everything that was found, in Markdown."""
    where = result["environment"]
    parts = [
        "# Independence of how it is computed",
        f"Pipeline {where['pipeline']} {where['version']} (weights {where['weights_sha256'][:12]}), {where['device']}.",
        "\n".join(str(verdict) for verdict in found),
        "## Batch, order, threads",
        exact_table(result["exact"]),
        f"## Tiles against the whole volume, halo {result['halo']}",
        difference_table(result["tiles"], "tile"),
        f"## Halos against the whole volume, tiles of {HALO_CORE} voxels besides the halo",
        difference_table(result["halos"], "halo"),
        (
            "Step, ratio and z: mean absolute second difference of the difference image across borders, in sigma; over "
            "that elsewhere; in standard deviations of the other planes. z in the image: of the restored image itself."
        ),
    ]
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
