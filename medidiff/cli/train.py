"""``medidiff train``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from medidiff.cli import learning
from medidiff.cli.options import PathParam
from medidiff.errors import CannotWrite, ExitCode, NoScanFound, UsageError

if TYPE_CHECKING:
    from medidiff.cli.progress import Mode
    from medidiff.training.recipe import Recipe
    from medidiff.training.trainer import Trainer

VERSION = "0.1.0"
PACK, PART = "pack.npz", ".pack.part.npz"  # made of a manifest, in the run's folder
MADE_OF = "pack.sha256"  # what that pack was made of


@click.command("train")
@click.argument("config", type=PathParam())
@click.option("-o", "--output", required=True, metavar="DIR", type=PathParam(), help="Folder of the run.")
@click.option(
    "--data",
    metavar="PACK|MANIFEST",
    type=PathParam(),
    help="What to learn from: a pack (.npz), or a manifest (.csv) to make one of; by default what the recipe names.",
)
@click.option(
    "--start",
    metavar="BUNDLE|WEIGHTS",
    type=PathParam(),
    help="Begin with the weights of a pipeline of the same network, or of a safetensors file.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Train no longer than that, to go on later; making the pack, judging and writing come on top.",
)
@click.option(
    "--evaluate-every",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="S",
    help="Seconds between two rows of the log.",
)
@click.option(
    "--resume/--overwrite", default=True, show_default=True, help="Go on where the run in DIR stopped, or begin again."
)
@learning.computing
def command(
    config: Path,
    output: Path,
    data: Path | None,
    start: Path | None,
    max_seconds: float | None,
    evaluate_every: float,
    resume: bool,
    device: str,
    threads: int | None,
    progress: Mode,
) -> int:
    """Train a pipeline on scans of your own, by the recipe CONFIG, into DIR/bundle.

    CONFIG is a TOML file like those in recipes/. A manifest is a CSV file with the columns file, modality, subject_id,
    weights_ok and split; the scans should be nearly free of noise, for noise, thick slices and holes are simulated.
    Stop it whenever you want and run it again: it goes on. DIR gets the checkpoint, config.json, log.csv, curve.png,
    picture.png, and a bundle that -p takes.
    """
    from medidiff.training import bundle, trainer

    settings = recipe_of(config)
    refuse_foreign(output)
    where = learning.device(device, threads)
    begin = learning.weights(start)
    with learning.meter(progress) as meter, learning.writing(output):
        source = pack_of(data_of(data, settings, config), settings, output, meter, anew=not resume)
        try:
            trained = trainer.train(
                settings,
                source,
                output,
                where,
                resume=resume,
                start=begin,
                max_seconds=max_seconds or math.inf,
                evaluate_every=evaluate_every,
                on_start=lambda run: meter.say(started(run)),
                on_row=lambda row: meter.say(row_in_words(row)),
                on_step=lambda run: meter.grow(run.fraction, f"iteration {run.iteration}"),
            )
        except RuntimeError as error:
            raise UsageError(mismatch(error, output, start)) from error
        except ValueError as error:
            raise NoScanFound(f"Nothing was trained: {error}.") from error
        if not is_bundle_of(output / "bundle", output):  # it may be calibrated by now
            bundle.make(output, source, output / "bundle", version=VERSION, licence="not stated")
    click.echo(
        f"{output / 'bundle'}: {trained.iteration} iterations, {100 * min(trained.fraction, 1):.0f} % of the recipe"
    )
    return int(ExitCode.OK)


def refuse_foreign(folder: Path) -> None:
    """Stop before a run would be written among files of somebody else, such as the scans that it is to learn from.

    Raises:
        CannotWrite: the folder holds something, and no run.
    """
    from medidiff.training import checkpoint, records

    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if folder.is_file() or not (there <= {PACK, PART, MADE_OF} or there & {checkpoint.STATE, records.CONFIG}):
        raise CannotWrite(f"{folder} exists and holds no training run; choose an empty or a new folder.")


def is_bundle_of(folder: Path, run: Path) -> bool:
    """Whether a bundle holds the weights of a run as they are."""
    from medidiff.training import checkpoint, pack

    try:
        return pack.digest(checkpoint.shipped(folder)) == pack.digest(run / "model.safetensors")
    except (OSError, ValueError):
        return False


def recipe_of(path: Path) -> Recipe:
    """The recipe.

    Raises:
        UsageError: it cannot be read, has a setting that there is not, or describes no network.
    """
    from medidiff.training import recipe, trainer

    try:
        settings = recipe.read(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no recipe: it is no text; give a TOML file, and what to learn from with --data."
        ) from error
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is no recipe: {error}.") from error
    try:
        trainer.build_network(settings.network)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UsageError(f"{path}: its section [network] describes no network: {error}.") from error
    return settings


def data_of(given: Path | None, settings: Recipe, config: Path) -> Path:
    """The pack or manifest that the user or the recipe names.

    Raises:
        UsageError: neither names one, or it is no file.
    """
    if given is None and not settings.data.source:
        raise UsageError("Say what to learn from: --data PACK.npz or MANIFEST.csv, or source in the recipe's [data].")
    found = given or config.parent / settings.data.source
    if found.is_dir():
        raise UsageError(f"{found} is a folder; give a pack (.npz), or a manifest (.csv) of the scans in it.")
    if not found.is_file():
        raise UsageError(f"{found} is not there; give a pack (.npz) or a manifest (.csv).")
    return found


def pack_of(source: Path, settings: Recipe, folder: Path, meter: learning.Meter, *, anew: bool) -> Path:
    """The pack; of a manifest it is made in the run's folder, unless one made of the same lies there.

    Args:
        source: a pack or a manifest.
        settings: the recipe.
        folder: of the run.
        meter: told each volume.
        anew: make it in any case.

    Raises:
        UsageError: the manifest is none, the pack is none, or the run in the folder is another one, whose pack stays.
        ScanError: a volume cannot be read.
    """
    from medidiff.training import build_pack, pack, trainer

    if not anew:
        trainer.refuse_another(folder, settings)  # before scans are read
    made = source
    if source.suffix.lower() == ".csv":
        made, note = folder / PACK, folder / MADE_OF
        told = build_pack.made_of(source, settings.modalities)
        if anew or not made.is_file() or not note.is_file() or note.read_text(encoding="utf-8").strip() != told:
            temporary = folder / PART
            built = build_pack.build(source, settings.modalities, meter.say)
            if not anew:
                trainer.refuse_another(folder, settings, built.content)
            built.save(temporary)
            note.unlink(missing_ok=True)  # until the new pack has its place, no note speaks for the old one
            temporary.replace(made)
            note.write_text(told + "\n", encoding="utf-8")
    try:
        pack.load(made)
    except Exception as error:
        raise UsageError(f"{source} is no pack; make one of a manifest (.csv).") from error
    return made


def started(run: Trainer) -> str:
    """How the run begins, in words."""
    if run.iteration:
        return f"goes on at iteration {run.iteration}, {100 * run.fraction:.0f} % done"
    return f"begins on {len(run.pack.of('train'))} volumes"


def row_in_words(row: dict[str, Any]) -> str:
    """A row of the log: what the network gains over its base on the validation volumes."""
    gains = {
        key.removesuffix("_network"): value - row[key.replace("_network", "_base")]
        for key, value in row.items()
        if key.endswith("_network")
    }
    told = ", ".join(f"{name} {gain:+.2f} dB" for name, gain in gains.items())
    return f"iteration {row['iteration']}, {row['seconds']:.0f} s: loss {row['null_loss']:.3f}" + (told and f"; {told}")


def mismatch(error: RuntimeError, folder: Path, start: Path | None) -> str:
    """What to say of weights that do not fit; other failures of the machine are passed on.

    Raises:
        RuntimeError: it is about something else.
    """
    if "state_dict" not in str(error):
        raise error
    culprit = f"--start {start}" if start is not None else f"the run in {folder}"
    return f"The recipe's network is not that of {culprit}; take its [network] section, or --overwrite."
