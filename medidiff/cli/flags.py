"""The flags of the commands that restore scans: those that all share, and those that some have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rich_click as click

from medidiff.cli.options import AxesParam, DeviceParam, NoiseParam, PathParam, patterns

Decorator = Callable[[Any], Any]

_WHERE: tuple[Decorator, ...] = (
    click.argument("inputs", nargs=-1, metavar="INPUT...", type=PathParam()),
    click.option(
        "-o",
        "--output",
        "output",
        metavar="OUT",
        type=PathParam(),
        help="Output folder; with one input that becomes NIfTI it may be a file name (.nii, .nii.gz).",
    ),
    click.option(
        "-p",
        "--pipeline",
        default="auto",
        show_default=True,
        metavar="NAME|PATH",
        help="Pretrained pipeline; `medidiff list` shows them.",
    ),
)
_HOW: tuple[Decorator, ...] = (
    click.option(
        "--strength",
        type=click.FloatRange(0, 1),
        default=1.0,
        show_default=True,
        metavar="X",
        help="1 applies the whole restoration; 0 leaves the scan as it is (denoise), or the classical estimate without "
        "the network (superres, inpaint).",
    ),
    click.option(
        "--preset",
        type=click.Choice(["fast", "balanced", "best"]),
        default="balanced",
        show_default=True,
        help="fast: 4 steps a sample; best: 16, and a mean over the mirror images of the scan, which costs 8 times the "
        "network (4 times in 2-D). --steps goes before it.",
    ),
    click.option(
        "--samples",
        type=click.IntRange(0, 1024),
        default=0,
        show_default=True,
        metavar="N",
        help="Posterior samples, which sharpen the uncertainty map; 0 gives the posterior mean only.",
    ),
    click.option(
        "--steps",
        type=click.IntRange(1, 1000),
        default=None,
        show_default="8, or as --preset has it",
        metavar="K",
        help="Diffusion steps of each sample.",
    ),
    click.option(
        "--gamma",
        type=click.FloatRange(0, 1),
        default=0.0,
        show_default=True,
        metavar="G",
        help="Above 0, also write an image that lies this far on the way from the mean to a posterior sample.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, metavar="S", help="Seed of the samples."
    ),
    click.option(
        "--uncertainty/--no-uncertainty",
        default=None,
        show_default="written when there are samples",
        help="Write maps of the standard deviation of each voxel and of the share that the prior supplied.",
    ),
    click.option(
        "--force", is_flag=True, help="Restore scans that lie far outside of what the pipeline was trained for."
    ),
    click.option(
        "--device",
        type=DeviceParam(several=True),
        default="auto",
        show_default=True,
        help="Where to compute; several GPUs share the scans of a folder.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Number format of the network.",
    ),
    click.option(
        "--threads", type=click.IntRange(1), metavar="N", help="CPU threads, of each worker; all cores by default."
    ),
    click.option(
        "--memory",
        type=click.FloatRange(0, min_open=True),
        metavar="GB",
        help="Memory that a process may take; what is free by default. Scans that need more go through it in tiles, or "
        "in blocks on disk.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(1),
        metavar="N",
        help="Restore N scans at a time, each in a worker process of its own; needs the extra `cluster`.",
    ),
    click.option(
        "--cluster",
        metavar="ADDRESS|slurm|local",
        help="Spread the scans over Dask workers: of a running scheduler, SLURM jobs (--jobs of them), or on this "
        "machine, one a GPU or as many as cores and memory allow; needs the extra `cluster`.",
    ),
    click.option("--include", multiple=True, metavar="GLOB", help="Take only files that match; may be repeated."),
    click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        callback=patterns,
        help="Leave out files that match; may be repeated. @FILE takes the globs of a text file, one a line, such as "
        "the list that a report saves.",
    ),
    click.option("--no-recursive", is_flag=True, help="Do not look into subfolders."),
    click.option(
        "--format",
        type=click.Choice(["same", "nifti", "dicom", "both"]),
        default="same",
        show_default=True,
        help="What DICOM series become: DICOM, NIfTI as dcm2niix would make it of the series, or both. NIfTI files "
        "stay NIfTI.",
    ),
    click.option(
        "--bids",
        is_flag=True,
        help="Make OUT a BIDS derivatives dataset, sub-01/anat/sub-01_desc-denoised_T1w.nii.gz; INPUT is a BIDS "
        "dataset or lies in one.",
    ),
    click.option(
        "--resume/--overwrite",
        "resume",
        default=True,
        show_default=True,
        help="Skip results that still stand (same input, mask, options, weights and precision), or make all again.",
    ),
    click.option("--fail-fast", is_flag=True, help="Stop at the first scan that fails."),
    click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=PathParam(),
        help="Take INPUT, OUT and options from a TOML file, a run.json or a sidecar; what is given here goes first.",
    ),
    click.option(
        "--report/--no-report",
        default=False,
        show_default=True,
        help="Also write a page with pictures and figures of all scans, report.html in OUT.",
    ),
    click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing."),
    click.option("-q", "--quiet", is_flag=True, help="Show failures only."),
    click.option("-v", "--verbose", count=True, metavar="", help="Show notes; -vv also shows tracebacks."),
    click.option(
        "--progress",
        type=click.Choice(["auto", "plain", "none"]),
        default="auto",
        show_default=True,
        help="Bars on a terminal, one line a scan, or failures only.",
    ),
    click.option("--log", "log_file", metavar="FILE", type=PathParam(), help="Append the lines of the run to FILE."),
    click.option("--json", "as_json", is_flag=True, help="Print the run's record as JSON on stdout."),
)

FINENESS: tuple[Decorator, ...] = (
    click.option(
        "--factor",
        type=AxesParam("N", 1, 16),
        help="Voxels out per voxel in, 1 to 16: one number for all axes with more than one voxel, or three, one for "
        "each axis of the array in the file; without --factor and --spacing, voxels become isotropic.",
    ),
    click.option(
        "--spacing",
        type=AxesParam("MM", 0, float("inf"), open_end=True),
        help="Voxel size of the result in millimetres: one number for all axes with more than one voxel, or three, one "
        "for each axis of the array in the file.",
    ),
    click.option(
        "--profile",
        type=click.Choice(["auto", "gaussian", "box", "kspace"]),
        default="auto",
        show_default=True,
        help="Shape of a voxel along the axes that become finer; auto takes a gaussian slice across slices and k-space "
        "within them.",
    ),
)
MASK: Decorator = click.option(
    "--mask",
    metavar="MASK",
    type=PathParam(),
    help="What to fill: the voxels that are not 0 in a NIfTI file or DICOM segmentation; or a folder with one for each "
    "scan, matched by name.",
)


def noise(default: str) -> Decorator:
    """The noise flag, with the task's default on the help page."""
    return click.option(
        "--noise",
        type=NoiseParam(),
        default=None,
        show_default=default,
        help="Noise level in percent of the bright foreground; auto estimates it from the scan, and 0 keeps what was "
        "measured exactly.",
    )


def restoring(name: str, *own: Decorator) -> Decorator:
    """Make a function the command ``name``: the shared flags, with the task's own ones between INPUT and the rest."""

    def decorate(function: Callable[..., int]) -> click.Command:
        decorated: Any = click.pass_context(function)
        for option in reversed((*_WHERE, *own, *_HOW)):
            decorated = option(decorated)
        command: click.Command = click.command(name)(decorated)
        return command

    return decorate
