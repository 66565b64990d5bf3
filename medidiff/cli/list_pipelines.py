"""``medidiff list``."""

from __future__ import annotations

import rich_click as click

from medidiff.cli.options import as_json, show_json
from medidiff.errors import ExitCode, PipelineError


@click.command("list")
@as_json
def command(as_json: bool) -> int:
    """List the pretrained pipelines that are installed."""
    from medidiff import pipelines

    found = pipelines.available()
    if as_json:
        show_json(
            [
                {
                    "name": info.name,
                    "version": info.version,
                    "tasks": list(info.tasks),
                    "modalities": list(info.modalities),
                    "spatial_dims": info.spatial_dims,
                    "summary": info.summary,
                    "path": str(info.path),
                    "licence": info.licence,
                }
                for info in found
            ]
        )
    else:
        for info in found:
            click.echo(f"{info.name} {info.version}  {', '.join(info.tasks)}  {', '.join(info.modalities)}")
            click.echo(f"    {info.summary} Licence: {info.licence}.")
    if not found:
        raise PipelineError(
            "No pipeline is installed; install medidiff again, or set MEDIDIFF_BUNDLES to a bundle folder."
        )
    return int(ExitCode.OK)
