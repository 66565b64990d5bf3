"""``medidiff denoise``."""

from __future__ import annotations

from typing import Any

import rich_click as click

from medidiff.cli import flags


@flags.restoring("denoise", flags.noise("auto"))
def command(ctx: click.Context, /, **given: Any) -> int:
    """Denoise NIfTI files, DICOM series and folders of them.

    Each result lies in OUT under the name of its scan with `_denoised`, beside a JSON file that tells how it was made;
    OUT/run.json lists all scans. The paths of the results are printed on stdout.
    """
    from medidiff.cli.restoring import perform

    return perform(ctx, "denoise", given)
