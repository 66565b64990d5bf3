"""``medidiff sample-data``."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path

import rich_click as click

from medidiff.cli.options import PathParam
from medidiff.errors import CannotWrite, ExitCode

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGED = PACKAGE / "_sample_data"
CHECKOUT = PACKAGE.parent / "sample_data"
NOT_DATA = {".py", ".pyc"}


@click.command("sample-data")
@click.argument("folder", metavar="DIR", type=PathParam())
def command(folder: Path) -> int:
    """Copy small sample scans to DIR, to try medidiff with.

    A file that is there already is never replaced.
    """
    source = locate()
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and path.suffix not in NOT_DATA]
    targets = {path: folder / path.relative_to(source) for path in files}
    for path, target in targets.items():
        if target.exists() and not (target.is_file() and filecmp.cmp(path, target, shallow=False)):
            raise CannotWrite(f"{target} exists and is another file; choose an empty folder.")
    try:
        for path, target in targets.items():
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    except OSError as error:
        raise CannotWrite(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error
    for entry in sorted({folder / target.relative_to(folder).parts[0] for target in targets.values()}):
        click.echo(entry)
    return int(ExitCode.OK)


def locate() -> Path:
    """The sample scans: those of the installed package, else those of the checkout.

    Raises:
        CannotWrite: this installation has none.
    """
    for folder in (PACKAGED, CHECKOUT):
        if folder.is_dir():
            return folder
    raise CannotWrite("This installation holds no sample scans; install medidiff again from its wheel.")
