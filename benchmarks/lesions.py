"""Small lesions, put into clean scans before they are degraded: do they survive, and do others appear?

    python -m benchmarks.lesions                     validation subjects of $MEDIDIFF_REAL_DATA/data/MANIFEST.csv
    python -m benchmarks.lesions --volumes 1 --crop 48

Each scan is degraded and restored with and without lesions, with the same noise: the difference is what is left of
them. A lesion counts as detectable when an observer who knows its shape, its place and the tissue around would find it
in the degraded scan (d' of the prewhitened matched filter). What the clean scan's own noise hides counts as noise too.
"""

from __future__ import annotations

import itertools
import math
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, signal

from benchmarks import report, superres, volumes
from benchmarks.cases import Case, Image
from medidiff.config import RestoreOptions
from medidiff.evaluation.baselines import interpolated
from medidiff.physics import noise
from medidiff.physics.fidelity import foreground
from medidiff.physics.operators import Acquisition, Axis, forward_matrix
from medidiff.pipelines import Pipeline
from medidiff.training.validation import noisy_version

DIAMETERS = (2, 3, 4, 6)  # voxels
CONTRASTS = (0.05, 0.1, 0.2, 0.3)  # of the tissue around
DETECTABLE = 3.0  # d'
KEPT = 0.9  # ratio of the contrast-to-noise ratios: the goal
REACH = 7  # voxels around a lesion's centre that are looked at
CALM = 0.4  # share of all places, by their fluctuation, at which lesions are put
ALIKE = 0.5  # correlation of an error with a sphere, above which it looks like a lesion
BESIDE = 2  # voxels from its centre within which a lesion counts as found
FINE = 8  # parts of a voxel's edge that a sphere's rim is made of
MEAN, SAMPLE, BEFORE = "posterior mean", "one posterior sample", "degraded scan"

Mask = NDArray[np.bool_]
Row = dict[str, Any]


@dataclass(frozen=True)
class Lesion:
    """A sphere in an image.

    Attributes:
        centre: voxel.
        diameter: voxels.
        contrast: of the tissue around, signed.
        size: what is added to the image in the sphere.
    """

    centre: tuple[int, int, int]
    diameter: int
    contrast: float
    size: float

    @property
    def box(self) -> tuple[slice, ...]:
        """The voxels around."""
        return tuple(slice(c - REACH, c + REACH + 1) for c in self.centre)


@dataclass(frozen=True)
class Setting:
    """How scans are degraded: noise in percent, or a setting of super-resolution."""

    name: str
    percent: float = 0.0
    coarse: superres.Setting | None = None


@dataclass(frozen=True)
class Outcome:
    """One image degraded and restored, all on the grid of the truth and normalised.

    Attributes:
        before: what a viewer shows of the degraded scan (coarse ones interpolated by a cubic spline).
        mean: posterior mean.
        sample: one posterior sample.
    """

    before: Image
    mean: Image
    sample: Image

    def image(self, kind: str) -> Image:
        """By its name in the report."""
        return {BEFORE: self.before, MEAN: self.mean, SAMPLE: self.sample}[kind]


SETTINGS = (
    Setting("noise of 3 %", percent=3.0),
    Setting("noise of 9 %", percent=9.0),
    Setting("2x isotropic", coarse=superres.SETTINGS[0]),
    Setting("4x through-plane", coarse=superres.SETTINGS[1]),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = volumes.parser(__doc__, crop=64)
    parser.add_argument("--steps", type=int, default=8, help="network evaluations of a posterior sample (default: 8)")
    options = parser.parse_args(arguments)
    threads = report.use_threads(options.threads)
    pipelines = {task: volumes.load(options, task) for task in ("denoise", "superres")}
    choice = volumes.choose(options)
    begin, lesions, blobs = time.perf_counter(), [], []
    for case in choice.cases:
        for setting in SETTINGS:
            found, extra = measure(case, setting, pipelines, options.seed, options.steps)
            lesions += found
            blobs += extra
            print(f"{case.name[:24]:24} {setting.name:18} {len(found)} lesions", flush=True)
    if not lesions:
        raise SystemExit("No volume has room for lesions.")
    volumes.publish(
        "lesions",
        options,
        choice,
        pipelines["denoise"],
        threads=threads,
        seconds=time.perf_counter() - begin,
        verdicts=verdicts(lesions, blobs),
        document=document,
        steps=options.steps,
        lesions=lesions,
        false_lesions=blobs,
    )


def measure(
    case: Case, setting: Setting, pipelines: dict[str, Pipeline], seed: int, steps: int
) -> tuple[list[Row], list[Row]]:
    """What became of lesions put into a case, and what appeared in it without them."""
    acquisition, slices = None, None
    if setting.coarse is not None:
        posed = superres.pose(case, setting.coarse)
        if posed is None:
            return [], []
        case, acquisition, slices = replace(case, clean=posed.truth), posed.acquisition, posed.slices
    lesions = placed(case, seed)
    if not lesions:
        return [], []
    added = np.sum([profile(lesion, case.clean.shape) for lesion in lesions], axis=0, dtype=np.float32)
    sigma = float(np.hypot(setting.percent / 100, noise.estimate(case.clean, case.law, with_map=False).sigma))
    without, with_them = (
        outcome(replace(case, clean=image), setting, acquisition, slices, pipelines, seed, steps)
        for image in (case.clean, np.maximum(case.clean + added, 0))
    )
    known = {"volume": case.name, "subject": case.subject, "setting": setting.name, "sigma": sigma}
    found = [{**known, **survival(one, case.clean, without, with_them, sigma, acquisition)} for one in lesions]
    blobs = [
        {
            **known,
            "image": kind,
            **appeared(without.image(kind), with_them.image(kind), case.clean, lesions, sigma, acquisition),
        }
        for kind in (BEFORE, MEAN, SAMPLE)
    ]
    return found, blobs


@lru_cache(maxsize=32)
def sphere(diameter: int, reach: int = REACH) -> Image:
    """A sphere of height 1 in the middle of a cube; voxels at its rim hold the part that lies inside."""
    fine = (np.arange((2 * reach + 1) * FINE) + 0.5) / FINE - reach - 0.5
    squared = np.square(fine)
    inside = squared[:, None, None] + squared[:, None] + squared < (diameter / 2) ** 2
    edge = 2 * reach + 1
    return inside.reshape(edge, FINE, edge, FINE, edge, FINE).mean(axis=(1, 3, 5)).astype(np.float32)


@lru_cache(maxsize=32)
def window(diameter: int) -> Mask:
    """A ball around a lesion: the lesion and three voxels of what surrounds it."""
    axis = np.arange(-REACH, REACH + 1)
    squared = np.square(axis)
    return np.asarray(squared[:, None, None] + squared[:, None] + squared <= (diameter / 2 + 3) ** 2)


@lru_cache(maxsize=32)
def contrast_filter(diameter: int) -> Image:
    """The matched filter of a sphere on tissue of unknown brightness: its response to a sphere of height h is h."""
    near, template = window(diameter), sphere(diameter).astype(np.float64)
    template = np.where(near, template - template[near].mean(), 0)
    return (template / np.square(template).sum()).astype(np.float32)


def profile(lesion: Lesion, shape: Sequence[int]) -> Image:
    """What a lesion adds to an image."""
    found = np.zeros(shape, dtype=np.float32)
    found[lesion.box] = np.float32(lesion.size) * sphere(lesion.diameter)
    return found


def placed(case: Case, seed: int) -> list[Lesion]:
    """Lesions of every diameter and contrast in calm tissue, far enough from one another; darker and brighter ones."""
    rng = np.random.default_rng([seed, zlib.crc32(case.name.encode())])
    wanted = list(itertools.product(DIAMETERS, CONTRASTS))
    sites = calm_sites(case.clean, len(wanted))
    signs = rng.permutation(np.resize([1, -1], len(wanted)))
    order = rng.permutation(len(wanted))[: len(sites)]
    found = []
    for site, index in zip(sites, order, strict=True):
        diameter, contrast = wanted[index]
        level = float(case.clean[tuple(slice(c - 4, c + 5) for c in site)].mean())
        signed = float(signs[index]) * contrast
        found.append(Lesion(site, diameter, signed, signed * level))
    return found


def within(clean: Image) -> Mask:
    """Where a lesion has room: deep in the object, and all that is looked at around it in the image.

    A volume that was cut out ends where its scan goes on: half of a sulcus there, mirrored, looks like a sphere.
    """
    inside = ndimage.uniform_filter(foreground(clean).astype(np.float32), 9) > 0.999
    room = np.zeros_like(inside)
    room[tuple(slice(REACH, max(REACH, n - REACH)) for n in clean.shape)] = True
    return np.asarray(inside & room)


def calm_sites(clean: Image, count: int) -> list[tuple[int, int, int]]:
    """The calmest places in the object whose surroundings do not overlap."""
    size = 2 * REACH + 1
    level = ndimage.uniform_filter(clean, 9)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(np.square(clean), 9) - np.square(level), 0))
    fluctuation = np.where(within(clean), spread / np.maximum(level, 1e-6), np.inf)
    free = np.isfinite(fluctuation)
    if not free.any():
        return []
    free &= fluctuation <= np.quantile(fluctuation[free], CALM)
    found: list[tuple[int, int, int]] = []
    while free.any() and len(found) < count:
        site = np.unravel_index(int(np.argmin(np.where(free, fluctuation, np.inf))), clean.shape)
        found.append((int(site[0]), int(site[1]), int(site[2])))
        free[tuple(slice(max(0, c - size + 1), c + size) for c in found[-1])] = False
    return found


def outcome(
    case: Case,
    setting: Setting,
    acquisition: Acquisition | None,
    slices: int | None,
    pipelines: dict[str, Pipeline],
    seed: int,
    steps: int,
) -> Outcome:
    """Degrade and restore one image on the product's own path."""
    drawn = {"samples": 1, "steps": steps, "seed": seed}
    if acquisition is None:
        noisy = noisy_version(case.clean, setting.percent, seed)
        found = pipelines["denoise"].restore(volumes.volume_of(case, noisy), RestoreOptions(**drawn))
        before = noisy
    else:
        measured = acquisition.forward(torch.from_numpy(case.clean)[None].double())[0].float().numpy()
        posed = superres.Posed(case, case.clean, acquisition, measured, slices)
        found = pipelines["superres"].restore(posed.volume, RestoreOptions(**posed.options, **drawn))
        before = interpolated(measured, case.clean.shape, 3)
    return Outcome(before, case.scaling.apply(found.mean), case.scaling.apply(found.samples[0]))


def d_prime(added: Image, sigma: float, acquisition: Acquisition | None = None) -> float:
    """Detectability of a known lesion in white noise of the fine image, seen through an acquisition.

    Args:
        added: what the lesion adds, on the fine grid of the acquisition.
        sigma: standard deviation of the noise.
        acquisition: A; ``None`` for the identity.

    Returns:
        ``sqrt(d^T A^T (A A^T)^-1 A d) / sigma``: what the ideal observer reaches (Barrett and Myers, Foundations of
        Image Science, 2004, section 13.2).
    """
    seen = added.astype(np.float64)
    whitened = seen
    if acquisition is not None:
        for index, axis in enumerate(acquisition.axes):
            if not axis.trivial:
                matrix = forward_matrix(axis)
                seen = along(matrix, seen, index)
                whitened = along(np.linalg.solve(matrix @ matrix.T, matrix), whitened, index)
    return float(np.sqrt(max(float((seen * whitened).sum()), 0)) / max(sigma, 1e-12))


def along(matrix: NDArray[np.float64], image: NDArray[np.float64], index: int) -> NDArray[np.float64]:
    """A matrix applied along one axis."""
    return np.moveaxis(np.tensordot(matrix, image, (1, index)), 0, index)


def survival(
    lesion: Lesion, clean: Image, without: Outcome, with_them: Outcome, sigma: float, acquisition: Acquisition | None
) -> Row:
    """Contrast-to-noise ratios of one lesion: contrast from the difference of the pair, noise from the errors."""
    row: Row = {
        "diameter": lesion.diameter,
        "contrast": lesion.contrast,
        "centre": list(lesion.centre),
        "d_prime": d_prime(profile(lesion, clean.shape), sigma, acquisition),
        "cnr_ratio": {},
        "contrast_kept": {},
    }
    ratios = {}
    for kind in (BEFORE, MEAN, SAMPLE):
        left = float(
            (contrast_filter(lesion.diameter) * (with_them.image(kind) - without.image(kind))[lesion.box]).sum()
        )
        error = (without.image(kind) - clean)[lesion.box][window(lesion.diameter)]
        row["contrast_kept"][kind] = left / lesion.size
        ratios[kind] = row["contrast_kept"][kind] / max(float(error.std(dtype=np.float64)), 1e-12)
    row["cnr_ratio"] = {kind: ratios[kind] / max(ratios[BEFORE], 1e-12) for kind in (MEAN, SAMPLE)}
    return row


def appeared(
    without: Image,
    with_them: Image,
    clean: Image,
    lesions: Sequence[Lesion],
    sigma: float,
    acquisition: Acquisition | None,
) -> Row:
    """Blobs in an image without lesions that look like one; and how many lesions the same search finds where they are.

    Returns:
        ``blobs``: their number. ``any_shape``: the same without regard to their shape: chance makes some of every noisy
        scan. ``planted`` and ``found``: detectable lesions in the other image, and those among them that are found.
    """
    shapeless, alike = search(without, clean, sigma, acquisition)
    _, seen = search(with_them, clean, sigma, acquisition)
    known = [one for one in lesions if d_prime(profile(one, clean.shape), sigma, acquisition) >= DETECTABLE]
    near = [seen[tuple(slice(c - BESIDE, c + BESIDE + 1) for c in one.centre)].any() for one in known]
    return {"blobs": count(alike), "any_shape": count(shapeless), "planted": len(known), "found": int(sum(near))}


def count(blobs: Mask) -> int:
    """Pieces that touch nowhere, not even at corners."""
    return int(ndimage.label(blobs, np.ones((3, 3, 3)))[1])


def search(image: Image, clean: Image, sigma: float, acquisition: Acquisition | None) -> tuple[Mask, Mask]:
    """Voxels at which an image shows a sphere that the truth does not hold: of any shape, and of a sphere's.

    Where lesions have room. For one of the diameters the matched filter's response to the error is that of a detectable
    lesion (d' and the smallest contrast), the image itself shows it, and the truth shows less than half of it.
    """
    inside = within(clean)
    error, level = image - clean, ndimage.uniform_filter(clean, 9)
    shapeless, alike = np.zeros(clean.shape, dtype=np.bool_), np.zeros(clean.shape, dtype=np.bool_)
    for diameter in DIAMETERS:
        limit = np.maximum(smallest(diameter, sigma, acquisition), CONTRASTS[0] * level)
        response = respond(error, diameter)
        shown = respond(image, diameter) * np.sign(response)
        hit = inside & (np.abs(response) >= limit) & (shown >= limit) & (shown < 2 * np.abs(response))
        shapeless |= hit
        alike |= hit & (likeness(error, response, diameter) >= ALIKE)
    return shapeless, alike


@lru_cache(maxsize=64)
def smallest(diameter: int, sigma: float, acquisition: Acquisition | None) -> float:
    """Height of the faintest sphere of a diameter that is detectable, wherever it lies between coarse voxels."""
    if acquisition is None:
        return DETECTABLE / d_prime(sphere(diameter), sigma)
    local = tuple(local_axis(axis) for axis in acquisition.axes)
    room = [(axis.fine - 2 * REACH - 1) // 2 for axis in local]
    worst = math.inf
    for shift in itertools.product(*(range(max(1, round(axis.factor))) for axis in local)):
        added = np.zeros([axis.fine for axis in local], np.float32)
        starts = [free + step for free, step in zip(room, shift, strict=True)]
        added[tuple(slice(start, start + 2 * REACH + 1) for start in starts)] = sphere(diameter)
        worst = min(worst, d_prime(added, sigma, Acquisition(local)))
    return DETECTABLE / max(worst, 1e-12)


def local_axis(axis: Axis) -> Axis:
    """The same acquisition of as few voxels as surround a lesion."""
    if axis.trivial:
        return Axis(4 * REACH, 4 * REACH)
    coarse = math.ceil(4 * REACH / axis.factor)
    return replace(axis, coarse=coarse, fine=round(coarse * axis.factor))


def respond(image: Image, diameter: int) -> Image:
    """Height of the sphere that the matched filter sees around every voxel."""
    kernel = contrast_filter(diameter)
    return np.asarray(signal.fftconvolve(np.pad(image, REACH, mode="reflect"), kernel, mode="valid"), np.float32)


def likeness(error: Image, response: Image, diameter: int) -> Image:
    """Correlation between -1 and 1 in size of an error with a sphere, in the window around every voxel."""
    near = window(diameter).astype(np.float32)
    padded = np.pad(error, REACH, mode="reflect").astype(np.float64)
    total = signal.fftconvolve(padded, near, mode="valid")
    power = signal.fftconvolve(np.square(padded), near, mode="valid") - np.square(total) / near.sum()
    scale = 1 / float(np.square(contrast_filter(diameter).astype(np.float64)).sum())  # squared norm of the template
    return np.asarray(np.abs(response) * np.sqrt(scale / np.maximum(power, 1e-12)), dtype=np.float32)


def of(rows: Sequence[Row], setting: str) -> list[Row]:
    """Rows of one setting."""
    return [row for row in rows if row["setting"] == setting]


def ratios(rows: Sequence[Row], setting: str, kind: str, *, detectable: bool = True) -> NDArray[np.float64]:
    """CNR after over before of the detectable lesions, or of the others."""
    mine = [row for row in of(rows, setting) if (row["d_prime"] >= DETECTABLE) == detectable]
    return np.array([row["cnr_ratio"][kind] for row in mine])


def verdicts(lesions: Sequence[Row], blobs: Sequence[Row]) -> list[report.Verdict]:
    """The goals: detectable lesions survive, and none appear, in means and in samples."""
    found = []
    for setting, kind in itertools.product(SETTINGS, (MEAN, SAMPLE)):
        values = ratios(lesions, setting.name, kind)
        if values.size:
            reached = int((values >= KEPT).sum())
            text = (
                f"{values.mean():.2f} in the mean, {values.min():.2f} at worst; reached by {reached} of {values.size}"
                " detectable lesions"
            )
            goal = f"{setting.name}, {kind}: contrast-to-noise ratio at least {KEPT} of what it was"
            found.append(report.Verdict(goal, text, reached == values.size))
    for setting, kind in itertools.product(SETTINGS, (MEAN, SAMPLE)):
        mine = [row for row in of(blobs, setting.name) if row["image"] == kind]
        if mine:
            count = sum(row["blobs"] for row in mine)
            shown = sum(row["blobs"] for row in of(blobs, setting.name) if row["image"] == BEFORE)
            text = f"{count} in {len(mine)} volumes ({shown} in what was given)"
            found.append(report.Verdict(f"{setting.name}, {kind}: no false lesions", text, count == 0))
    return found


def survival_table(rows: Sequence[Row]) -> str:
    """CNR ratios and contrasts kept, detectable lesions and others."""
    body = []
    for setting in SETTINGS:
        for detectable in (True, False):
            mine = [row for row in of(rows, setting.name) if (row["d_prime"] >= DETECTABLE) == detectable]
            if mine:
                cells = [
                    report.figure(float(np.mean([row["cnr_ratio"][kind] for row in mine]))) for kind in (MEAN, SAMPLE)
                ]
                kept = [
                    report.figure(float(np.mean([row["contrast_kept"][kind] for row in mine])))
                    for kind in (BEFORE, MEAN, SAMPLE)
                ]
                word = "detectable" if detectable else "not detectable"
                body.append([f"{setting.name}, {word}", len(mine), *cells, *kept])
    head = ["lesions", "count"]
    head += [f"CNR ratio, {kind}" for kind in (MEAN, SAMPLE)]
    head += [f"contrast kept, {kind}" for kind in (BEFORE, MEAN, SAMPLE)]
    return report.table(head, body)


def grid_table(rows: Sequence[Row], setting: str) -> str:
    """Contrast kept by the posterior mean, diameters by contrasts, with the mean d'."""
    body = []
    for diameter in DIAMETERS:
        cells = []
        for contrast in CONTRASTS:
            mine = [
                row
                for row in of(rows, setting)
                if row["diameter"] == diameter and math.isclose(abs(row["contrast"]), contrast)
            ]
            kept = float(np.mean([row["contrast_kept"][MEAN] for row in mine])) if mine else math.nan
            seen = float(np.mean([row["d_prime"] for row in mine])) if mine else math.nan
            cells.append(f"{report.figure(kept)} ({report.figure(seen, 1)})")
        body.append([f"{diameter} voxels", *cells])
    return report.table(["contrast kept (d')", *(f"± {100 * c:g} %" for c in CONTRASTS)], body)


def false_table(rows: Sequence[Row]) -> str:
    """Blobs in all volumes, and what the same search finds of what is there, images by settings."""
    body = []
    for setting, kind in itertools.product(SETTINGS, (BEFORE, MEAN, SAMPLE)):
        mine = [row for row in of(rows, setting.name) if row["image"] == kind]
        if mine:
            blobs, shapeless, planted, found = (
                sum(row[key] for row in mine) for key in ("blobs", "any_shape", "planted", "found")
            )
            body.append([f"{setting.name}, {kind}", blobs, shapeless, f"{found} of {planted}"])
    return report.table(["", "false lesions", "blobs of any shape", "planted lesions that the search finds"], body)


def document(result: dict[str, Any], listing: str) -> str:
    """Everything that was found, in Markdown."""
    rows, where = result["lesions"], result["environment"]
    judged = (
        f"{result['data']}; pipeline {where['pipeline']} {where['version']}, samples in {result['steps']} steps."
        f" Spheres of {', '.join(map(str, DIAMETERS))} voxels and ± {', '.join(f'{100 * c:g}' for c in CONTRASTS)} % of"
        " the tissue around, in calm tissue. Contrast: response of the sphere's matched filter to the difference of"
        " two runs, with and without lesions, with the same noise; noise: standard deviation of the errors around."
        f" Coarse scans are compared as the cubic spline shows them. Detectable: d' of at least {DETECTABLE:g} for the"
        " ideal observer of the degraded scan, who knows lesion and tissue; its noise is what was added and what the"
        " clean scan had."
    )
    false = (
        "On the same volumes without lesions, where lesions have room: blobs whose error responds like a detectable"
        " lesion of at least"
        f" {100 * CONTRASTS[0]:g} %, correlates with a sphere by at least {ALIKE}, and shows in the image while the"
        " truth shows less than half of it. The same search on the volumes with lesions tells how sharp its eye is. Of"
        " any shape: without the correlation; noise and interpolation make many of them."
    )
    parts = [
        "# Lesions",
        judged,
        survival_table(rows),
        report.goals(result["verdicts"]),
        "## False lesions",
        false,
        false_table(result["false_lesions"]),
    ]
    for setting in SETTINGS:
        if of(rows, setting.name):
            parts += [f"## Contrast kept by the posterior mean: {setting.name}", grid_table(rows, setting.name)]
    return "\n\n".join([*parts, volumes.closing(result, listing)])


if __name__ == "__main__":
    main()
