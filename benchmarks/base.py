"""What the classical base is worth, stage by stage: ``python -m benchmarks.base [SCAN ...]``.

Prints foreground PSNR of each stage, and of other choices in them; how far the
expected error of the base is from the real one, voxels grouped by it; how well processes of several smoothnesses fill
holes, and what the other side of the body adds.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.cases import SAMPLES, Case, central, load, real_data
from benchmarks.report import figure, table
from medidiff.evaluation.degrade import healthy_hole
from medidiff.physics import degradations, grouping, holes, residual, scales, shrinkage, symmetry, tasks
from medidiff.physics.fidelity import foreground_psnr, psnr
from medidiff.training.validation import ISOTROPIC, _superresolve, percentages

SCANS = ("t1w_adi.nii.gz", "ms_cs07_t2.nii.gz", "ms_long03_t1w.nii.gz", "ms_long04_t2w.nii.gz")
GROUPS = 6
ROOMS = {
    "shrinkage": shrinkage,
    "scales": scales,
    "grouping": grouping,
    "residual": residual,
    "tasks": tasks,
    "holes": holes,
    "symmetry": symmetry,
}
Changes = dict[str, object]
Origins = Callable[[tuple[int, ...]], Iterator[tuple[int, ...]]]


def every(step: int) -> Origins:
    """Block grids whose origin's coordinates add up to a multiple of ``step``."""
    return lambda block: (o for o in itertools.product(*(range(n) for n in block)) if sum(o) % step == 0)


def only_thresholds(
    noisy: torch.Tensor, pilot: torch.Tensor | None, *rest: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first stage, in the second's place too."""
    return STAGE(noisy, None, *rest)


def no_groups(noisy: torch.Tensor, pilot: torch.Tensor, *rest: object) -> tuple[torch.Tensor, torch.Tensor]:
    """No groups; what their promise stands for lets nothing be put back."""
    return pilot, torch.zeros_like(pilot)


def nothing_back(noisy: torch.Tensor, estimate: torch.Tensor, *rest: object) -> torch.Tensor:
    """What was taken away is gone."""
    return estimate


HOLES, HOLE_CROP, RADIUS = 10, 48, (3.0, 10.0)  # voxels
SMOOTHNESS = {
    -0.5: "smoothness -1/2 (harmonic, with a finite reach)",
    0.0: "smoothness 0",
    0.5: "smoothness 1/2 (biharmonic, with a finite reach)",
    0.75: "smoothness 3/4 (medidiff's)",
    1.0: "smoothness 1",
}

HEALTHY = 4  # holes in healthy-looking tissue of each scan


def believing(*arrays: np.ndarray) -> tuple[float, float]:
    """The slope, and a correlation that takes nothing off."""
    return REGRESSION(*arrays)[0], 1.0


def not_aligned(reflection: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The reflection as the plane gives it."""
    return reflection


ACROSS: dict[str, Changes | None] = {
    "smooth": None,
    "about the other side, not aligned": {"symmetry._aligned": not_aligned},
    "aligned once": {"holes._LOOKS": 1},
    "aligned twice (medidiff's)": {},
    "aligned three times": {"holes._LOOKS": 3},
    "aligned in windows of 3 voxels around": {"symmetry._RADIUS": 3},
    "aligned in windows of 12 voxels around": {"symmetry._RADIUS": 12},
    "believed by its slope alone": {"symmetry._regression": believing},
}

REGRESSION = symmetry._regression
STAGE = shrinkage._stage
VARIANTS: dict[str, Changes] = {
    "hard thresholds alone": {"shrinkage._stage": only_thresholds, "tasks.refine": no_groups},
    "and Wiener shrinkage": {"tasks.refine": no_groups},
    "hard thresholds, then groups": {"shrinkage._stage": only_thresholds},
    "all, one round of groups": {"grouping.SCALES": (1.0,)},
    "all, two rounds (medidiff's)": {},
    "all, three rounds": {"grouping.SCALES": (1.25, 1.0, 0.8)},
    "one scale": {"scales._LEVELS": {True: 0, False: 0}},
    "two coarser scales": {"scales._LEVELS": {True: 2, False: 2}},
    "one threshold for all coefficients": {"shrinkage.LOW_THRESHOLD": shrinkage.THRESHOLD},
    "nothing put back": {"tasks.put_back": nothing_back},
    "neither": {"shrinkage.LOW_THRESHOLD": shrinkage.THRESHOLD, "tasks.put_back": nothing_back},
    "put back beyond 1 standard deviation": {"residual.THRESHOLD": 1.0},
    "put back beyond 2 standard deviations": {"residual.THRESHOLD": 2.0},
    "groups of 24 blocks": {"grouping.COUNT": 24},
    "groups of 56 blocks": {"grouping.COUNT": 56},
    "groups from 3 voxels around": {"grouping._REACH": 3},
    "shrinkage on 8 of 16 grids": {"shrinkage._origins": every(8)},
    "shrinkage on all 64 grids": {"shrinkage._origins": every(1)},
}


ROUNDS: dict[str, Changes] = {
    "smooth image": {"tasks.ROUNDS": ()},
    "four rounds (medidiff's)": {},
    "four rounds, no momentum": {"tasks._MOMENTUM": 0.0},
    "four rounds, no groups": {"tasks.refine": no_groups},
    "four rounds, one threshold, nothing put back": {
        "shrinkage.LOW_THRESHOLD": shrinkage.THRESHOLD,
        "tasks.put_back": nothing_back,
    },
    "six rounds": {"tasks.ROUNDS": (0.2, 0.145, 0.105, 0.076, 0.055, 0.04)},
}


def changed(changes: Changes) -> contextlib.ExitStack:
    """The base with some of its parts replaced."""
    stack = contextlib.ExitStack()
    for name, value in changes.items():
        room, attribute = name.split(".")
        stack.enter_context(mock.patch.object(ROOMS[room], attribute, value))
    return stack


def pose(case: Case, percent: float) -> tuple[np.ndarray, np.ndarray]:
    """Base and expected error of a case's noisy image."""
    noisy = torch.from_numpy(case.noisy(percent))[None]
    problem = tasks.denoise(
        noisy, torch.full((1, 1, 1, 1), case.sigma(percent)), case.law, torch.tensor([case.spacing])
    )
    return problem.base[0].numpy(), problem.scale[0].numpy()


def super_resolved(cases: list[Case]) -> tuple[list[str], list[float]]:
    """What each acquisition is called, and the mean PSNR of the base over cases."""
    found: dict[str, list[float]] = {}
    for case in cases:
        for posed in _superresolve(case.clean, torch.tensor([case.spacing]), torch.device("cpu")):
            base = posed.problem.base[0].numpy()
            found.setdefault(posed.name, []).append(psnr(base, posed.clean, posed.inside))
    return list(found), [float(np.mean(each)) for each in found.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="*", type=Path)
    parser.add_argument("--crop", type=int, default=96)
    arguments = parser.parse_args()
    folder = real_data()
    paths = arguments.scans or ([folder / name for name in SCANS] if folder else list(SAMPLES))
    cases = [load(path, arguments.crop) for path in paths]
    rows = []
    for name, changes in VARIANTS.items():
        begin = time.process_time()
        with changed(changes):
            found = [[foreground_psnr(pose(case, p)[0], case.clean) for p in percentages("MR")] for case in cases]
        rows.append([name, *(figure(v) for v in np.mean(found, axis=0)), figure(time.process_time() - begin, 1)])
    names = ", ".join(case.name for case in cases)
    print(f"Mean foreground PSNR in dB over {names}; processor seconds for all of them.\n")
    print(table(["base", *(f"{p} %" for p in percentages("MR")), "seconds"], rows))
    print(f"\nRoot mean square error over expected error, in {GROUPS} groups of voxels by expected error.\n")
    rows = []
    for case, percent in itertools.product(cases, percentages("MR")):
        base, expected = pose(case, percent)
        inside = case.clean > 0.05
        off, expected = np.square(base - case.clean)[inside], np.square(expected[inside])
        parts = np.array_split(np.argsort(expected), GROUPS)
        ratios = [float(np.sqrt(off[part].mean() / expected[part].mean())) for part in parts]
        rows.append([f"{case.name}, {percent} %", *(figure(ratio) for ratio in ratios)])
    print(table(["scan and noise", *map(str, range(1, GROUPS + 1))], rows))
    print("\nMean foreground PSNR in dB of the base of super-resolution; processor seconds.\n")
    fine = [case for case in cases if max(case.spacing) < ISOTROPIC * min(case.spacing)]
    rows, names = [], []
    for name, changes in ROUNDS.items():
        begin = time.process_time()
        with changed(changes):
            names, figures = super_resolved(fine)
        rows.append([name, *(figure(v) for v in figures), figure(time.process_time() - begin, 1)])
    print(table(["base", *names, "seconds"], rows))
    print(f"\nMean PSNR in dB inside {HOLES} random holes of each scan.\n")
    rows = []
    for smoothness, name in SMOOTHNESS.items():
        with mock.patch.object(holes, "_SMOOTHNESS", smoothness):
            found = [filled(case, number) for case in cases for number in range(HOLES)]
        rows.append([name, figure(float(np.mean(found)))])
    print(table(["filling", "dB"], rows))
    print(f"\nThe same in {HEALTHY} holes of each scan that look like tumours in healthy tissue.\n")
    rows = [[name, figure(looked_across(cases, changes))] for name, changes in ACROSS.items()]
    print(table(["filling", "dB"], rows))


def filled(case: Case, number: int) -> float:
    """PSNR inside a random hole in the middle of a case."""
    clean = torch.from_numpy(central(case.clean, HOLE_CROP))[None]
    generator = torch.Generator().manual_seed(number)
    hole = degradations.hole(clean.shape, generator, torch.device("cpu"), RADIUS)
    found = holes.fill(clean, hole, torch.tensor([case.spacing]))
    return psnr(found.numpy(), clean.numpy(), hole.numpy())


def looked_across(cases: list[Case], changes: Changes | None) -> float:
    """Mean PSNR inside holes of cases, filled smoothly (``None``) or about their other side."""
    found = []
    for case, number in itertools.product(cases, range(HEALTHY)):
        hole = healthy_hole(case.clean, case.spacing, f"{case.name} {number}")
        if hole is None:
            continue
        across = None
        if changes is not None:  # the plane is sought as it always is
            seen = holes.mirrored(case.clean, hole, ~hole, case.spacing, [slice(0, n) for n in hole.shape])
            across = None if seen is None else torch.from_numpy(seen[0])[None]
        with changed(changes or {}):
            images = torch.from_numpy(case.clean)[None], torch.from_numpy(hole)[None]
            image = holes.fill(*images, torch.tensor([case.spacing]), across)
        found.append(psnr(image[0].numpy(), case.clean, hole))
    return float(np.mean(found))


if __name__ == "__main__":
    main()
