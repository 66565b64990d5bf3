"""``medidiff finetune``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from medidiff.cli import learning
from medidiff.cli.options import NoiseParam, PathParam, counted
from medidiff.errors import ExitCode, NoScanFound, ScanError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from medidiff.bundles import Bundle
    from medidiff.cli.progress import Mode
    from medidiff.physics.noise import NoiseEstimate
    from medidiff.scans.volume import Volume
    from medidiff.training.finetune import Outcome, Settings
    from medidiff.training.finetuned import Scans
    from medidiff.training.held_out import Judged
    from medidiff.training.recorrupt import Noisy

MOST = 16  # volumes of one file


@dataclass(frozen=True)
class Taken:
    """One volume to learn from.

    Attributes:
        unit: normalised, on the model's grid.
        spacing: of its voxels, in millimetres.
        planes: axis of the slices for a pipeline of 2-D images, else ``None``.
        modality: DICOM code.
        level: its noise; ``None`` for a clean scan.
        percent: the noise in percent of the bright level.
    """

    unit: NDArray[np.float32]
    spacing: tuple[float, float, float]
    planes: int | None
    modality: str
    level: NoiseEstimate | None
    percent: float


@click.command("finetune")
@click.argument("scans", nargs=-1, required=True, metavar="SCAN...", type=PathParam())
@click.option(
    "-p",
    "--pipeline",
    default="auto",
    show_default=True,
    metavar="NAME|PATH",
    help="Pipeline to begin with; auto takes the one that suits the first scan.",
)
@click.option("-o", "--output", required=True, metavar="DIR", type=PathParam(), help="Folder of the new pipeline.")
@click.option(
    "--minutes", default=10.0, show_default=True, type=click.FloatRange(0, min_open=True), help="How long to train."
)
@click.option("--clean", is_flag=True, help="The scans are nearly free of noise: learn from them in all tasks.")
@click.option(
    "--noise",
    type=NoiseParam(),
    default="auto",
    show_default=True,
    help="Noise level of the scans in percent of the bright foreground; auto estimates it from each.",
)
@click.option(
    "--learning-rate",
    default=7e-4,
    show_default=True,
    type=click.FloatRange(0, 0.1, min_open=True),
    help="At its highest.",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of the random sequence.")
@learning.computing
def command(
    scans: tuple[Path, ...],
    pipeline: str,
    output: Path,
    minutes: float,
    clean: bool,
    noise: Literal["auto"] | float,
    learning_rate: float,
    seed: int,
    device: str,
    threads: int | None,
    progress: Mode,
) -> int:
    """Fine-tune a pipeline on a few scans of your own, noisy ones will do, into the new pipeline DIR.

    SCAN is a scan or a folder of scans. Without --clean, denoising alone learns, from the noisy scans themselves; a
    fifth of each is held out, and the new weights are kept only if they are surely better there. Then use -p DIR,
    which is a new or an empty folder, or holds what an earlier call made.
    """
    from medidiff import bundles
    from medidiff.runs import paths
    from medidiff.training import finetuned
    from medidiff.training.finetune import Settings

    paths.refuse_input_as_output(scans, output, "pipeline")
    bundles.refuse_foreign(output)  # before scans are read and measured
    where = learning.device(device, threads)
    with learning.meter(progress) as meter:
        bundle, taken = gather(scans, pipeline, None if clean else noise, meter)
        if output.resolve() == bundle.path.resolve():
            raise UsageError(f"{output} is the pipeline to begin with; choose another folder.")
        bundles.refuse_to_replace(output, bundle, tuned=True)
        settings = Settings(seconds=60 * minutes, learning_rate=learning_rate, seed=seed)
        try:
            outcome, used = tuned(bundle, taken, settings, where, meter)
        except ValueError as error:
            raise ScanError(f"Nothing was learned: {error}.") from error
        with learning.writing(output):
            version = finetuned.write(bundle.path, output, outcome, used)
    click.echo(conclusion(outcome, output, version))
    return int(ExitCode.OK)


def gather(
    sources: tuple[Path, ...], pipeline: str, noise: Literal["auto"] | float | None, meter: learning.Meter
) -> tuple[Bundle, list[Taken]]:
    """The pipeline to begin with, and the volumes; what cannot be read, or is of another modality, is left out.

    Args:
        sources: files and folders.
        pipeline: a name, a bundle's folder, or ``auto``.
        noise: percent, or ``auto``; ``None`` for clean scans.
        meter: told what is taken and what is left out.

    Raises:
        NoScanFound: nothing is left.
        PipelineError: there is no such pipeline, or it does not denoise.
    """
    from medidiff import bundles, pipelines

    among = pipelines.candidates(pipeline)
    bundle, taken = None, list[Taken]()
    for name, volume in volumes_of(sources, meter):
        if bundle is None:
            bundle = bundles.read(pipelines.choose(volume, among).path)
        if taken and volume.modality != taken[0].modality:
            meter.say(f"left out: {name} is {volume.modality}, the others are {taken[0].modality}")
            continue
        one = take(volume, bundle.spatial_dims, noise)
        if one.level is not None and one.level.sigma <= 0:
            meter.say(f"left out: {name} shows no noise")
            continue
        taken.append(one)
        meter.say(name if one.level is None else f"{name}: {one.percent:.2f} % noise, {one.level.law}")
    if bundle is None or not taken:
        raise NoScanFound("There is no scan to learn from in the input.")
    return bundle, taken


def volumes_of(sources: tuple[Path, ...], meter: learning.Meter) -> Iterator[tuple[str, Volume]]:
    """The volumes of all scans, with names for a person."""
    from medidiff import scans
    from medidiff.scans import discover

    for ref in discover.find_scans(sources).cases:
        try:
            found = scans.read(ref).volumes
        except ScanError as error:
            meter.say(f"left out: {error}")
            continue
        for index, volume in enumerate(found[:MOST]):
            yield ref.stem + (f" {index + 1}" if len(found) > 1 else ""), volume


def take(volume: Volume, spatial_dims: int, noise: Literal["auto"] | float | None) -> Taken:
    """A volume as restoring would see it."""
    from medidiff.physics import noise as noises
    from medidiff.survey import seen

    grid, scaling, unit, stack = seen(volume)
    planes = stack if spatial_dims == 2 else None
    if noise is None:
        return Taken(unit, grid.spacing, planes, volume.modality, None, 0.0)
    sigma = None if noise == "auto" else noise / 100 * scaling.bright
    level = noises.of_scan(unit, volume.modality, stack, sigma=sigma)
    return Taken(unit, grid.spacing, planes, volume.modality, level, 100 * level.sigma / scaling.bright)


def tuned(
    bundle: Bundle, taken: list[Taken], settings: Settings, device: torch.device, meter: learning.Meter
) -> tuple[Outcome, Scans]:
    """Fine-tune, and say what on.

    Raises:
        ValueError: a scan is too small.
    """
    import numpy as np
    import torch

    from medidiff.training import finetune, recipe
    from medidiff.training.calibration import Reference
    from medidiff.training.finetuned import Scans

    network = bundle.network().to(device)
    data = recipe.data_of(bundle.settings.get("trained_on", {}).get("recipe", {}).get("data", {}))
    modality = taken[0].modality

    def tell(fraction: float, iterations: int, judged: Judged | None) -> None:
        meter.grow(fraction, f"iteration {iterations}")
        if judged is not None:
            error = f" +- {judged.error:.2f}" if judged.error else ""
            meter.say(f"iteration {iterations}: {judged.gain:+.2f}{error} dB on what was held out")

    if taken[0].level is None:
        quiet = [one.unit for one in taken]
        volumes = [(one.unit, one.spacing, str(index)) for index, one in enumerate(taken)]
        outcome = finetune.with_truth(
            network, finetune.clean_pack(volumes, modality), data, modality, settings, tell, device
        )
        noise = None
    else:
        noisy = [posed(one, device) for one in taken]
        with torch.inference_mode():
            quiet = [stacked(scan.pose().base.cpu().numpy(), one) for scan, one in zip(noisy, taken, strict=True)]
        volumes = [(base, one.spacing, str(index)) for index, (base, one) in enumerate(zip(quiet, taken, strict=True))]
        replayed = finetune.clean_pack(volumes, modality, held=False)
        outcome = finetune.without_truth(network, noisy, replayed, data, modality, settings, tell)
        percents = [one.percent for one in taken]
        noise = (min(percents), max(percents))
    references = [
        Reference(np.maximum(base, 0), one.spacing, str(index))
        for index, (base, one) in enumerate(zip(quiet, taken, strict=True))
    ]
    return outcome, Scans(references, modality, noise)


def posed(one: Taken, device: torch.device) -> Noisy:
    """A noisy volume as the network sees it."""
    import numpy as np
    import torch

    from medidiff.training.recorrupt import Noisy

    assert one.level is not None
    sigma = np.broadcast_to(one.level.local, one.unit.shape)
    texture = one.level.texture
    spacing: tuple[float, ...] = one.spacing
    if one.planes is not None:
        texture = None if texture is None else texture.in_plane()
        spacing = tuple(size for axis, size in enumerate(one.spacing) if axis != one.planes)

    def images(array: NDArray[np.float32]) -> torch.Tensor:
        batch = array[None] if one.planes is None else np.moveaxis(array, one.planes, 0)
        return torch.from_numpy(np.array(batch, dtype=np.float32)).to(device)

    return Noisy(images(one.unit), images(sigma), one.level.law, spacing, texture)


def stacked(images: NDArray[np.float32], one: Taken) -> NDArray[np.float32]:
    """Images as the volume that they came from."""
    import numpy as np

    return images[0] if one.planes is None else np.ascontiguousarray(np.moveaxis(images, 0, one.planes))


def conclusion(outcome: Outcome, folder: Path, version: str) -> str:
    """What came of it, in words."""
    done = f"{counted(outcome.iterations, 'iteration')} in {outcome.seconds:.0f} s"
    if outcome.weights is None:
        return f"{folder}: nothing surely better was found in {done}, so it holds the pipeline as it was, {version}"
    error = f" +- {outcome.judged.error:.2f}" if outcome.judged.error else ""
    return f"{folder}: {version}, {done}, {outcome.judged.gain:+.2f}{error} dB on what was held out; not calibrated"
