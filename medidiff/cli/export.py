"""``medidiff export``."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from medidiff.cli.options import PathParam
from medidiff.errors import ExitCode


@click.command("export")
@click.argument("name", metavar="NAME|PATH")
@click.option("-o", "--output", required=True, metavar="BUNDLE", type=PathParam(), help="The new folder.")
def command(name: str, output: Path) -> int:
    """Write a pipeline as a MONAI Bundle, a folder to hand on.

    It holds configuration, weights, model card and licence; a colleague names it with -p BUNDLE, or gives it to MONAI
    Label or MONAI Deploy. Its hashes are checked. A folder that holds something else is never replaced.
    """
    from medidiff import bundles

    bundle = bundles.export(name, output)
    click.echo(bundle.path)
    return int(ExitCode.OK)
