"""``medidiff evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from medidiff.cli.options import PathParam, as_json


class WindowParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """A window of Hounsfield units."""

    name = "window"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """What the help page shows."""
        return "LOW,HIGH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, float]:
        """Read ``-160,240``."""
        if isinstance(value, tuple):
            return value
        try:
            low, high = (float(part) for part in str(value).split(","))
        except ValueError:
            low = high = 0.0
        if not low < high:
            self.fail(f"{value!r} is not a window; use -160,240 or the like.", param, ctx)
        return low, high


@click.command("evaluate")
@click.argument("restored", type=PathParam())
@click.option("-o", "--output", required=True, metavar="DIR", type=PathParam(), help="Folder of report and tables.")
@click.option("--reference", metavar="REF", type=PathParam(), help="What the scans should be; a file or a folder.")
@click.option(
    "--input",
    "before",
    metavar="INPUT",
    type=PathParam(),
    help="The scans as they were; by default those that sidecars name, if they lie there still.",
)
@click.option("--labels", metavar="PATH", type=PathParam(), help="Label map, or folder of them: figures of each label.")
@click.option(
    "--mask",
    metavar="PATH",
    type=PathParam(),
    help="Where to judge, instead of the foreground: a mask, or a folder of them; for inpainting, the holes.",
)
@click.option("--resample", is_flag=True, help="Bring references of another geometry onto the grid of the scans.")
@click.option(
    "--window",
    type=WindowParam(),
    default="-160,240",
    show_default=True,
    help="CT: the window in HU that PSNR, SSIM and the like see.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "none"]),
    default="auto",
    show_default=True,
    help="A bar on a terminal, one line a scan, or failures only.",
)
@as_json
def command(restored: Path, output: Path, progress: str, as_json: bool, **given: Any) -> int:
    """Compare restored scans with references, and write a report with every figure.

    RESTORED is a restored scan, a folder of them, or the output folder of a run. A reference belongs to a scan if it is
    called like it, without _denoised, _superres or _inpainted. DIR/report.html shows what was found, DIR/figures.csv
    and DIR/comparisons.csv hold every number. Without --reference the report says what can be said without one: noise
    before and after, what was removed, sharpness.
    """
    from medidiff.cli import evaluating
    from medidiff.evaluation.evaluate import Options, evaluate
    from medidiff.scans import outputs

    options = Options(**{name: given[name] for name in ("labels", "mask", "resample", "window")})
    outputs.check_writable(output)
    with evaluating.watcher(progress) as watch:
        evaluation = evaluate(restored, given["reference"], given["before"], options, watch)
    return evaluating.publish(evaluation, output, as_json=as_json)
