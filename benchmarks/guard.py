"""Measures what the guard notices: planted failures, and false alarms on sound results.

    python -m benchmarks.guard                 validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.guard --files a.nii.gz b.nii.gz

Limits were set on the training subjects (--split train). The trained range is the pipeline's own; where its bundle does
not tell it, that of the manifest's training volumes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from benchmarks import cases, report
from benchmarks.cases import Case, Image
from medidiff import bundles, pipelines
from medidiff.config import ComputeOptions, RestoreOptions
from medidiff.diffusion import consistency, guard
from medidiff.physics import degradations, intensity, noise
from medidiff.physics.holes import fill
from medidiff.physics.operators import Acquisition, Axis
from medidiff.pipelines import Pipeline
from medidiff.scans.volume import Volume
from medidiff.training.calibration import Reference, range_of

LEVELS = (0.0, 3.0, 9.0, 15.0)
MOST_ALARMS, FEWEST_NOTICED = 0.05, 0.9  # the goals
HOLE_RADIUS = (5.0, 11.0)
ISOTROPIC = {"spacing_mm": [0.8, 1.2], "anisotropy": [1.0, 1.5]}
SOUND = "sound"

Sentences = Sequence[str]
Outcome = tuple[str, bool, Sentences]  # what was tried, whether it is a failure, what the guard said


@dataclass(frozen=True)
class Denoised:
    """A restored case: the noisy scan, the result, its noise (all normalised) and the guard's own inputs."""

    noisy: Image
    mean: Image
    sigma: float
    case: Case

    def judged(self, image: Image) -> Sentences:
        """What the guard says of an image in place of the result."""
        figures = consistency.check(self.noisy, image, np.asarray(self.sigma, np.float32), self.case.law)
        return guard.denoise(figures, 100 * self.sigma)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    threads = report.use_threads(options.threads)
    pipeline = pipelines.load(options.pipeline, compute=ComputeOptions(device=options.device))
    trained = trained_on(pipeline, options)
    begin, rows = time.perf_counter(), []
    for case in images_for(options, "MR"):
        for name, failure, said in outcomes(case, pipeline, trained, options.noise):
            rows.append({"volume": case.name, "tried": name, "failure": failure, "said": list(said)})
        print(f"{case.name[:28]:28} {sum(r['volume'] == case.name for r in rows)} results judged", flush=True)
    for tried, name, sentences in foreign(options, trained):
        rows.append({"volume": name, "tried": tried, "failure": True, "said": list(sentences)})
    if not rows:
        raise SystemExit("There is nothing to judge on.")
    result = {
        "environment": report.environment(pipeline, threads),
        "data": f"{options.split} volumes, central crops of {options.crop} voxels an axis",
        "seconds": round(time.perf_counter() - begin),
        "verdicts": [vars(v) for v in verdicts(rows)],
        "rows": rows,
    }
    text = document(result)
    print("\n" + text)
    report.write("guard", result, text, options.results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    real = cases.real_data()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, default=real / "MANIFEST.csv" if real else None)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--files", type=Path, nargs="+", help="judge on these nearly noise-free MR scans instead")
    parser.add_argument("--crop", type=int, default=80, help="largest edge of the central crop in voxels (default: 80)")
    parser.add_argument("--noise", type=float, nargs="+", default=list(LEVELS), help="percent; 0: the scan as it is")
    parser.add_argument("--pipeline", default="mr")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    return parser.parse_args(arguments)


def images_for(options: argparse.Namespace, modality: str) -> Iterator[Case]:
    """Named files (MR), a manifest's rows, or the shipped samples (MR)."""
    if options.files or options.manifest is None:
        paths = options.files or cases.SAMPLES
        return (cases.load(path, options.crop) for path in paths if modality == "MR")
    return cases.from_manifest(options.manifest, options.split, modality, options.crop)


def trained_on(pipeline: Pipeline, options: argparse.Namespace) -> dict[str, Any]:
    """The trained range that the bundle tells, completed from the manifest's training volumes."""
    known = dict(bundles.read(pipeline.path).settings.get("trained_on", {}))
    if "intensity" not in known and options.manifest is not None:
        volumes = cases.from_manifest(options.manifest, "train", "MR", None)
        low, high = known.get("noise_percent", (1.0, 18.0))
        known |= range_of((Reference(case.clean, case.spacing) for case in volumes), (low, high))
    return known


def outcomes(case: Case, pipeline: Pipeline, trained: Mapping[str, Any], levels: Sequence[float]) -> Iterator[Outcome]:
    """Everything that is tried on one clean case."""
    for percent in levels:
        noisy = case.noisy(percent) if percent else case.clean
        yield from denoised(case, noisy, percent, pipeline)
        yield from ranged(case, noisy, percent, trained)
    yield from refined(case)
    yield from filled(case)


def denoised(case: Case, noisy: Image, percent: float, pipeline: Pipeline) -> Iterator[Outcome]:
    """The result as it is, results that were spoilt, and results with the wrong noise level."""
    level = "the scan as it is" if percent == 0 else f"{percent:g} %"
    found = restored(case, noisy, pipeline, "auto")
    yield f"denoise, {SOUND}: {level}", False, found.judged(found.mean)
    if percent == 0:
        return
    spoilt: dict[str, Callable[[], Image]] = {
        "blurred, 1 voxel": lambda: ndimage.gaussian_filter(found.mean, 1.0),
        "blurred, 0.7 voxel": lambda: ndimage.gaussian_filter(found.mean, 0.7),
        "median filter, 5 voxels": lambda: ndimage.median_filter(noisy, 5),
        "median filter, 3 voxels": lambda: ndimage.median_filter(noisy, 3),
        "half of the noise left": lambda: (found.mean + noisy) / 2,
    }
    for name, make in spoilt.items():
        yield f"denoise, {name}: {level}", True, found.judged(make())
    shown = 100 * noise.estimate(noisy, case.law, with_map=False).sigma
    for name, factor in (("noise given 3 x too high", 3.0), ("noise given 3 x too low", 1 / 3)):
        wrong = restored(case, noisy, pipeline, percent * factor)
        figures = consistency.check(noisy, wrong.mean, np.asarray(wrong.sigma, np.float32), case.law)
        said = guard.denoise(figures, 100 * wrong.sigma, measured_percent=shown)
        yield f"denoise, {name}: {level}", True, said


def restored(case: Case, noisy: Image, pipeline: Pipeline, level: float | str) -> Denoised:
    """One pass of the pipeline on a normalised scan."""
    volume = Volume(noisy, np.diag([*case.spacing, 1.0]), "MR")
    found = pipeline.restore(volume, RestoreOptions(noise=level, force=True))
    return Denoised(noisy, found.mean, max(float(found.record["noise_sigma"]), 1e-4), case)


def ranged(case: Case, noisy: Image, percent: float, trained: Mapping[str, Any]) -> Iterator[Outcome]:
    """The scan against the trained range; made thick, against that of an isotropic pipeline; and shuffled."""
    level = "the scan as it is" if percent == 0 else f"{percent:g} %"
    found = called_mr(noisy, case.spacing, trained)
    yield f"range, {SOUND}: {level}", False, said(found)
    if percent > 0:
        return
    thick = guard.range_check(case.clean, (1.0, 1.0, 5.0), "MR", None, ISOTROPIC)
    yield "range, 5 mm slices for an isotropic pipeline", True, said(thick)
    shuffled = np.random.default_rng(0).permutation(case.clean.reshape(-1)).reshape(case.clean.shape)
    found = guard.range_check(shuffled, case.spacing, "MR", None, trained)
    yield "range, the scan's voxels shuffled", True, said(found)


def said(found: guard.RangeFindings) -> Sentences:
    """Warnings and refusal alike."""
    return (*found.warnings, *([found.refusal] if found.refusal else []))


def foreign(options: argparse.Namespace, trained: Mapping[str, Any]) -> Iterator[tuple[str, str, Sentences]]:
    """(what was tried, scan, sentences): scans of other kinds, under their own name and as MR; pure noise as MR."""
    for modality in ("CT", "PT", "OT"):
        for case in images_for(options, modality):
            found = guard.range_check(case.clean, case.spacing, modality, None, trained)
            yield f"range, {modality} for an MR pipeline", case.name, said(found)
            values = case.scaling.undo(case.clean)
            kind = "with negative values" if float(values.min()) < -1 else "without negative values"
            yield f"range, {modality} {kind} called MR", case.name, said(called_mr(values, case.spacing, trained))
    rng = np.random.default_rng(0)
    pure = {"Rayleigh": np.hypot(*rng.standard_normal((2, 64, 64, 48))), "uniform": rng.random((64, 64, 48))}
    for name, image in pure.items():
        found = called_mr(image.astype(np.float32), (1.0, 1.0, 1.0), trained)
        yield "range, noise alone", name, said(found)


def called_mr(values: Image, spacing: Sequence[float], trained: Mapping[str, Any]) -> guard.RangeFindings:
    """What the guard says of an image that claims to be MR."""
    _, unit = intensity.normalise(values, "MR")
    shown = 100 * noise.estimate(unit, noise.law_of(unit, "MR"), with_map=False).sigma
    return guard.range_check(unit, spacing, "MR", shown, trained)


def refined(case: Case) -> Iterator[Outcome]:
    """Super-resolution: a smooth fine image that explains the scan, and ones that do not."""
    if max(case.spacing) > 1.5 * min(case.spacing) or min(case.clean.shape) < 32:
        return
    clean = torch.from_numpy(np.ascontiguousarray(case.clean[..., : case.clean.shape[-1] // 4 * 4]))[None]
    *plane, slices = clean.shape[1:]
    acquisition = Acquisition((*(Axis(n, n) for n in plane), Axis(slices // 4, slices)))
    measured = acquisition.forward(clean)

    def judge(image: torch.Tensor, exact: bool = True, y: torch.Tensor = measured, sigma: float = 0.0) -> Sentences:
        again = acquisition.forward(image)[0].numpy()
        return guard.superres(consistency.reproduced(y[0].numpy(), again, sigma), exact=exact)

    fine = acquisition.lift(measured)
    yield f"superres, {SOUND}: exact", False, judge(fine)
    spline = torch.from_numpy(ndimage.zoom(measured[0].numpy(), (1, 1, 4), order=3, grid_mode=True, mode="nearest"))
    yield "superres, spline that ignores the slice profile", True, judge(spline[None])
    yield "superres, brightness 1 % off", True, judge(fine * 1.01)
    yield "superres, shifted by one fine voxel", True, judge(torch.roll(fine, 1, -1))
    noisy = measured + 0.03 * torch.randn(measured.shape, generator=torch.Generator().manual_seed(0))
    yield f"superres, {SOUND}: soft", False, judge(clean, False, noisy, 0.03)
    blurred = torch.from_numpy(ndimage.gaussian_filter(clean[0].numpy(), 1.5))[None]
    yield "superres, blurred by 1.5 voxels, soft", True, judge(blurred, False, noisy, 0.03)
    yield "superres, noise kept, soft", True, judge(acquisition.lift(noisy), False, noisy, 0.03)


def filled(case: Case) -> Iterator[Outcome]:
    """Inpainting of an artefact (zeros) under the right mask and under shifted ones, with the smooth filling."""
    generator = torch.Generator().manual_seed(len(case.name))
    shape = torch.Size((1, *case.clean.shape))
    for number in range(3):
        artefact = degradations.hole(shape, generator, torch.device("cpu"), HOLE_RADIUS)[0].numpy()
        scan = np.where(artefact, np.float32(0), case.clean)
        for name, source, shift in (
            (f"inpaint, {SOUND}: artefact", scan, 0),
            (f"inpaint, {SOUND}: tissue", case.clean, 0),
            ("inpaint, mask shifted by 1 voxel", scan, 1),
            ("inpaint, mask shifted by 2 voxels", scan, 2),
            ("inpaint, mask shifted by 4 voxels", scan, 4),
        ):
            axis = int(np.argmax(case.clean.shape))
            hole = np.roll(artefact, shift, axis)
            unshifted = shift and bool((hole == artefact).all())  # a slab along this axis
            if unshifted or (number and shift == 0 and source is case.clean):
                continue
            image = fill(torch.from_numpy(source)[None], torch.from_numpy(hole)[None], torch.tensor([case.spacing]))[
                0
            ].numpy()
            yield name, shift > 0, guard.inpaint(consistency.filled(source, image, hole))
    changed = np.where(hole, image, np.nextafter(image, np.float32(9)))
    yield "inpaint, image changed outside of the hole", True, guard.inpaint(consistency.filled(source, changed, hole))


def verdicts(rows: Sequence[dict[str, Any]]) -> list[report.Verdict]:
    """The goals: few false alarms for every task, and most failures noticed."""
    found = []
    for task in ("denoise", "range", "superres", "inpaint"):
        mine = [row for row in rows if row["tried"].startswith(task)]
        sound = [row for row in mine if not row["failure"]]
        if sound:
            share = float(np.mean([bool(row["said"]) for row in sound]))
            goal = f"{task}: at most {100 * MOST_ALARMS:g} % false alarms"
            found.append(report.Verdict(goal, f"{100 * share:.1f} % of {len(sound)}", share <= MOST_ALARMS))
        failures = [row for row in mine if row["failure"]]
        if failures:
            share = float(np.mean([bool(row["said"]) for row in failures]))
            goal = f"{task}: at least {100 * FEWEST_NOTICED:g} % of the planted failures noticed"
            found.append(report.Verdict(goal, f"{100 * share:.1f} % of {len(failures)}", share >= FEWEST_NOTICED))
    return found


def document(result: dict[str, Any]) -> str:
    """Everything that was found, in Markdown."""
    where = result["environment"]
    judged = (
        f"{result['data']}; pipeline {where['pipeline']} {where['version']}. Super-resolution and inpainting are judged"
        " on classical images (exact interpolation, smooth filling), which the guard must pass as well."
    )
    parts = [
        "# Guard",
        judged,
        report.goals(result["verdicts"]),
        "## Share of planted failures that the guard noticed",
        shares(result["rows"], failure=True),
        "## Share of sound results that it called unsound",
        shares(result["rows"], failure=False),
        f"Weights {where['weights_sha256'][:12]}, {where['threads']} threads, {result['seconds']} s.",
    ]
    return "\n\n".join(parts)


def shares(rows: Sequence[dict[str, Any]], *, failure: bool) -> str:
    """One line for each kind of result: how many were tried, the share with a sentence, and the commonest one."""
    body = []
    for name in dict.fromkeys(row["tried"] for row in rows if row["failure"] == failure):
        mine = [row for row in rows if row["tried"] == name and row["failure"] == failure]
        heads = [sentence.split(":")[0].split(" (")[0] for row in mine for sentence in row["said"]]
        usual = max(set(heads), key=heads.count) if heads else "–"
        share = float(np.mean([bool(row["said"]) for row in mine]))
        body.append([name, len(mine), f"{100 * share:.0f} %", usual])
    return report.table(["tried", "results", "with a sentence", "mostly"], body)


if __name__ == "__main__":
    main()
