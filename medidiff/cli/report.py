"""``medidiff report``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from medidiff.cli.options import PathParam
from medidiff.errors import ExitCode, UsageError


@click.command("report")
@click.argument("folder", metavar="RUN_DIR", type=PathParam())
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE",
    type=PathParam(),
    help="The page; report.html in RUN_DIR when it is left out.",
)
def command(folder: Path, file: Path | None) -> int:
    """Write a page with pictures and figures of a run that is done: RUN_DIR is its OUT, with run.json.

    The page is one HTML file that opens from disk and fetches nothing: each scan before and after in three planes, with
    what was taken away and what is uncertain, measures, the guard's sentences, a methods paragraph and every hash.
    """
    from medidiff.scans.outputs import nifti_stem

    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; name the output folder of a run.")
    if file is not None and (file.is_dir() or nifti_stem(file.name) is not None):
        raise UsageError(f"{file} is {'a folder' if file.is_dir() else 'a scan'}; name an HTML file.")
    from medidiff.runs import report

    click.echo(report.write(folder, file))
    return int(ExitCode.OK)
