"""``medidiff calibrate``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from medidiff.cli.options import DeviceParam, PathParam
from medidiff.errors import CannotWrite, ExitCode, NoScanFound, PipelineError, ScanError, UsageError

if TYPE_CHECKING:
    from medidiff.bundles import Bundle
    from medidiff.engine import Engine
    from medidiff.training.calibration import Image, Reference, Restore, Trial

TASKS = ("denoise", "superres", "inpaint")
SLICES = 3  # of a volume, for pipelines of 2-D images


@click.command("calibrate")
@click.argument("bundle", type=PathParam())
@click.argument("scans", nargs=-1, required=True, metavar="SCAN...", type=PathParam())
@click.option("--task", "tasks", multiple=True, type=click.Choice(TASKS), help="Only this task; may be repeated.")
@click.option("--crop", default=128, show_default=True, type=click.IntRange(min=48), help="Largest edge, in voxels.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of noise and holes.")
@click.option("--device", default="auto", show_default=True, type=DeviceParam(), help="Where to compute.")
def command(bundle: Path, scans: tuple[Path, ...], tasks: tuple[str, ...], crop: int, seed: int, device: str) -> int:
    """Measure what a pipeline is worth on clean scans of your own, and write it into its BUNDLE folder.

    SCAN is a scan of the pipeline's kind: a NIfTI file, a DICOM folder, a folder of scans, or a manifest (.csv with
    the columns file, modality, subject_id and split, of which the split "calibration" is taken). The scans should be
    nearly free of noise, like those that will be restored, and of people that taught the pipeline nothing; ten or
    more for 90 % intervals. Each is degraded, restored and compared with itself. What is found: the gain, which
    is the share of the network's correction that comes nearest to the truth and that later runs keep; and how far the
    truth then lies from the result, in predicted deviations.
    """
    from medidiff import bundles
    from medidiff.config import ComputeOptions
    from medidiff.diffusion import device as devices
    from medidiff.training import calibration
    from medidiff.training.validation import noise_of

    refuse_name(bundle)
    found = bundles.read(bundle)
    known = [task for task in TASKS if task in found.settings["tasks"]]
    wanted = [task for task in known if not tasks or task in tasks]
    if not wanted:
        raise PipelineError(f"Pipeline {found.name} does not {' or '.join(tasks)}; it does: {', '.join(known)}.")
    device_found = devices.resolve(ComputeOptions(device=device))
    engine = uncalibrated(found).engine(devices.on_device(found.network(), device_found), device_found)
    try:
        table = calibration.calibrate(
            references(scans, crop, found),
            restore_with(engine, noise_of(found.settings["modalities"])),
            wanted,
            seed=seed,
            progress=lambda text: click.echo(text, err=True),
        )
    except ValueError as error:
        raise NoScanFound(f"No uncertainty was calibrated: {error}.") from error
    try:
        calibration.write(bundle / bundles.METADATA, table)
    except OSError as error:
        raise CannotWrite(f"{bundle / bundles.METADATA} cannot be written: {error.strerror}.") from error
    for task, rows in table.items():
        for level, row in rows.items():
            click.echo(
                f"{task} {level}: gain {row['gain']:.2f}, 90 % within {row['quantile90']:.2f} standard deviations,"
                f" scale {row['scale']:.2f}, {row['volumes']} volumes"
            )
    return int(ExitCode.OK)


def refuse_name(bundle: Path) -> None:
    """Stop when a pipeline is named rather than a folder: what is installed serves all and is not changed.

    Raises:
        UsageError: so it is.
    """
    from medidiff import bundles

    if not bundle.is_dir() and any(each.name == str(bundle) for each in bundles.every()):
        raise UsageError(
            f"{bundle} is the name of a pipeline, and calibrate writes into a folder of your own; make one first: "
            f"medidiff export {bundle} -o FOLDER."
        )


def uncalibrated(bundle: Bundle) -> Bundle:
    """The bundle without the calibration that it may have already."""
    settings = {key: value for key, value in bundle.settings.items() if key != "calibration"}
    return replace(bundle, metadata={**bundle.metadata, "medidiff": settings})


def restore_with(engine: Engine, modality: str) -> Restore:
    """Trials, scans of a modality, through an engine that is not calibrated, without its network and with it."""
    import numpy as np

    from medidiff.config import RestoreOptions
    from medidiff.evaluation.ours import silent
    from medidiff.physics.intensity import CT_OFFSET, CT_SCALE, Intensity
    from medidiff.restore import restore
    from medidiff.scans.volume import Volume

    scaling = Intensity(CT_OFFSET, CT_SCALE) if modality == "CT" else Intensity(0.0, 1.0)

    def restored(trial: Trial) -> tuple[Image, Image, Image]:
        volume = Volume(scaling.undo(trial.scan), np.diag([*trial.spacing, 1.0]), modality)
        options = RestoreOptions(**trial.options, force=True)
        base, found = (restore(volume, each, options, trial.task, hole=trial.hole) for each in (silent(engine), engine))
        return scaling.apply(base.mean), scaling.apply(found.mean), found.std / np.float32(scaling.scale)

    return restored


def references(sources: tuple[Path, ...], crop: int, bundle: Bundle) -> Iterator[Reference]:
    """The clean scans, normalised and cropped to their middle; a scan that cannot be read is told and left out.

    For a pipeline of 2-D images a few slices of each.

    Raises:
        NoScanFound: there is none in the sources.
    """
    import numpy as np

    from medidiff import scans
    from medidiff.physics import intensity
    from medidiff.scans.volume import mean_of
    from medidiff.training import calibration
    from medidiff.training.validation import noise_of

    kinds = tuple(bundle.settings.get("modalities", ()))
    found = list(listed(sources, kinds))
    if not found:
        where = ", ".join(map(str, sources))
        raise NoScanFound(f"No scan of {' or '.join(kinds)} was found in {where}; give clean scans to calibrate on.")
    for path, subject in found:
        try:
            volumes = scans.open_scan(path).volumes
        except (ScanError, UsageError, NoScanFound) as error:
            click.echo(f"left out: {error}", err=True)
            continue
        if volumes[0].modality not in kinds:
            click.echo(f"left out: {path.name} is {volumes[0].modality}, not {' or '.join(kinds)}", err=True)
            continue
        mean = mean_of(volumes)
        _, unit = intensity.normalise(mean.array, mean.modality, mean.valid)
        clean = calibration.middle(np.maximum(unit, 0), crop)
        if bundle.spatial_dims == 3:
            yield calibration.Reference(clean, volumes[0].spacing, subject, noise_of(kinds))
            continue
        for k in np.linspace(0, clean.shape[2] - 1, SLICES + 2).astype(int)[1:-1]:
            yield calibration.Reference(np.ascontiguousarray(clean[:, :, k : k + 1]), volumes[0].spacing, subject)


def listed(sources: tuple[Path, ...], kinds: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Paths of scans with their subjects; who a scan shows is known from a manifest alone."""
    from medidiff.scans import discover
    from medidiff.training.build_pack import of_split

    for source in sources:
        if source.suffix.lower() == ".csv":
            yield from of_split(source, "calibration", kinds)
            continue
        for ref in discover.find_scans((source,)).cases:
            yield ref.path, ""
