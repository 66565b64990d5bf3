"""``medidiff cite``."""

from __future__ import annotations

import rich_click as click

from medidiff._version import __version__
from medidiff.errors import ExitCode

# What CITATION.cff says; a test compares.
TITLE = "medidiff: restores medical scans with conditional diffusion, and shows its work"
AUTHORS = "The medidiff contributors"
LICENCE = "Apache-2.0"


@click.command("cite")
@click.option("--bibtex", is_flag=True, help="As a BibTeX entry, for biblatex's @software.")
def command(bibtex: bool) -> int:
    """Show how to cite the version that is installed."""
    click.echo(entry() if bibtex else sentence())
    return int(ExitCode.OK)


def sentence() -> str:
    """The citation as text."""
    return f"{AUTHORS}. {TITLE}. Version {__version__} [software]. Licence: {LICENCE}."


def entry() -> str:
    """The citation as BibTeX; braces keep the names as they are."""
    fields = {
        "author": f"{{{AUTHORS}}}",
        "title": f"{{{TITLE}}}",
        "version": __version__,
        "note": f"Licence: {LICENCE}",
    }
    lines = ",\n".join(f"  {name:7} = {{{value}}}" for name, value in fields.items())
    return f"@software{{medidiff,\n{lines}\n}}"
