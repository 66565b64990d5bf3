"""``medidiff benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from medidiff.cli.options import DeviceParam, PathParam
from medidiff.errors import UsageError

if TYPE_CHECKING:
    from medidiff.evaluation.benchmark import Settings

TASKS = ("denoise", "superres", "inpaint")
DEFAULTS = {
    "denoise": "nlm,nlm-best,base,gaussian",
    "superres": "spline,linear,base",
    "inpaint": "biharmonic,rim,base",
}


class AddedNoiseParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A law of noise and its strength in percent."""

    name = "noise"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help page shows."""
        return "rician|gaussian:PERCENT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Read ``rician:9``."""
        if isinstance(value, tuple):
            return value
        law, _, percent = str(value).partition(":")
        try:
            strength = float(percent.removesuffix("%"))
        except ValueError:
            strength = -1.0
        if law not in ("rician", "gaussian") or not 0 <= strength <= 100:
            self.fail(f"{value!r} is not a noise; use rician:9, gaussian:5 or the like.", param, ctx)
        return law, strength


class FactorParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """How many times coarser slices become, or each axis of the array."""

    name = "factor"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help page shows."""
        return "N|N,N,N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Read ``4`` or ``2,2,2``."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) not in (1, 3) or not all(part.strip().isdigit() and 1 <= int(part) <= 16 for part in parts):
            self.fail(f"{value!r} is neither one whole number from 1 to 16 nor three with commas.", param, ctx)
        return tuple(int(part) for part in parts)


@click.command("benchmark")
@click.argument("clean", nargs=-1, required=True, metavar="CLEAN...", type=PathParam())
@click.option("-o", "--output", required=True, metavar="DIR", type=PathParam(), help="Folder of report and tables.")
@click.option("--task", type=click.Choice(TASKS), default="denoise", show_default=True, help="What methods do.")
@click.option(
    "--noise",
    type=AddedNoiseParam(),
    show_default="rician:9 to denoise, else none",
    help="Noise that is added, in percent of the bright level (99.5th percentile of the foreground).",
)
@click.option(
    "--factor",
    type=FactorParam(),
    help="superres: how many times thicker slices become (4 if it is not given); three numbers: how many times larger "
    "voxels become along each axis of the array.",
)
@click.option(
    "--profile",
    type=click.Choice(["auto", "gaussian", "box", "kspace"]),
    default="auto",
    show_default=True,
    help="superres: shape of a coarse voxel; auto takes gaussian slices, and k-space for several axes.",
)
@click.option(
    "--against",
    metavar="NAME,...",
    help="Peers, with commas. denoise: nlm, nlm-best, nlm-skimage, ants, bm4d, gaussian, median. superres: spline, "
    "linear, zero-fill. inpaint: biharmonic, rim. All: base (medidiff without its network), medidiff-told (told the "
    "noise).",
)
@click.option("--crop", type=click.IntRange(16), metavar="N", help="Only the middle N voxels along each axis.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of noise and holes.")
@click.option("--volumes", type=click.IntRange(1), metavar="N", help="Only the first N scans.")
@click.option("-p", "--pipeline", default="auto", show_default=True, metavar="NAME|PATH", help="medidiff's pipeline.")
@click.option(
    "--force", is_flag=True, help="medidiff also restores scans outside of what its pipeline was trained for."
)
@click.option("--device", type=DeviceParam(), default="auto", show_default=True, help="Where medidiff computes.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Cores of every method; all by default.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "none"]),
    default="auto",
    show_default=True,
    help="A bar on a terminal, one line a result, or failures only.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def command(output: Path, progress: str, as_json: bool, **given: Any) -> int:
    """Compare medidiff with other methods on clean scans of your own.

    CLEAN is a nearly noise-free scan (a NIfTI file, a DICOM folder) or a folder of them. Each is degraded, the same way
    on every machine, and restored by medidiff and its peers, which see the same image. DIR/report.html shows what was
    found, DIR/figures.csv and DIR/comparisons.csv hold every number. Run the command again to go on where it stopped:
    results under DIR/work are used again.
    """
    from medidiff.cli import evaluating
    from medidiff.evaluation.benchmark import benchmark
    from medidiff.scans import outputs

    settings = settings_of(given)
    outputs.check_writable(output)
    with evaluating.watcher(progress) as watch:
        evaluation = benchmark(given["clean"], settings, output / "work", watch)
    return evaluating.publish(evaluation, output, as_json=as_json)


def settings_of(given: dict[str, Any]) -> Settings:
    """The flags as the benchmark's settings.

    Raises:
        UsageError: a list of peers is empty, or a flag belongs to another task.
    """
    from medidiff.evaluation import benchmark

    task = given["task"]
    if task != "superres" and (given["factor"], given["profile"]) != (None, "auto"):
        raise UsageError(f"--factor and --profile belong to --task superres; leave them out with --task {task}.")
    law: Any
    law, percent = given["noise"] or ("rician", 9.0 if task == "denoise" else 0.0)
    listed = DEFAULTS[task] if given["against"] is None else given["against"]
    names = tuple(name.strip() for name in listed.split(",") if name.strip())
    if not names:
        raise UsageError("--against names no method; leave it out for the usual ones.")
    kept = ("task", "crop", "seed", "volumes", "threads", "pipeline", "device", "force")
    profile = None if given["profile"] == "auto" else given["profile"]
    return benchmark.Settings(
        law=law,
        percent=percent,
        factor=given["factor"] or (4,),
        against=names,
        profile=profile,
        **{name: given[name] for name in kept},
    )
