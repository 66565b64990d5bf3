"""``medidiff inpaint``."""

from __future__ import annotations

from typing import Any

import rich_click as click

from medidiff.cli import flags


@flags.restoring("inpaint", flags.MASK, flags.noise("0"))
def command(ctx: click.Context, /, **given: Any) -> int:
    """Fill holes: the voxels of a mask, or the missing slices of a DICOM series when there is no mask.

    Every voxel outside of the hole stays as it is in the file. Each result lies in OUT under the name of its scan with
    `_inpainted`, beside a JSON file that tells how it was made; OUT/run.json lists all scans. The paths of the results
    are printed on stdout.
    """
    from medidiff.cli.restoring import perform

    return perform(ctx, "inpaint", given)
