"""``medidiff superres``."""

from __future__ import annotations

from typing import Any

import rich_click as click

from medidiff.cli import flags


@flags.restoring("superres", *flags.FINENESS, flags.MASK, flags.noise("0"))
def command(ctx: click.Context, /, **given: Any) -> int:
    """Make voxels finer: thick slices become isotropic, or each axis by a factor.

    What was measured is kept: seen through the scanner's voxels, the result is the input again. With a mask, holes are
    filled in the same step. Each result lies in OUT under the name of its scan with `_superres`, beside a JSON file
    that tells how it was made; OUT/run.json lists all scans. The paths of the results are printed on stdout.
    """
    from medidiff.cli.restoring import perform

    return perform(ctx, "superres", given)
