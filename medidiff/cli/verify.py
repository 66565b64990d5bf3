"""``medidiff verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from medidiff.cli.options import DeviceParam, PathParam, as_json, printable, show_json
from medidiff.errors import ExitCode, VerificationFailed

if TYPE_CHECKING:
    from medidiff.runs.verify import Verification


@click.command("verify")
@click.argument("path", metavar="SIDECAR|RUN_DIR", type=PathParam())
@click.option("--input", "input_path", metavar="PATH", type=PathParam(), help="Where the scan lies, if it was moved.")
@click.option("--mask", metavar="PATH", type=PathParam(), help="Where the mask lies, if it was moved.")
@click.option("-p", "--pipeline", metavar="NAME|PATH", help="The pipeline, if it is not installed under its name.")
@click.option(
    "--rerun/--no-rerun",
    "again",
    default=True,
    show_default=True,
    help="Make the result again, or compare hashes only.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 1, max_open=True),
    show_default="0.001, with bf16 or fp16 0.01",
    metavar="X",
    help="Largest difference of a voxel, as a share of the image's range, when platform or software changed.",
)
@click.option("--device", type=DeviceParam(), help="Where to compute, if not as before.")
@as_json
def command(
    path: Path,
    input_path: Path | None,
    mask: Path | None,
    pipeline: str | None,
    again: bool,
    tolerance: float | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Check that results are what their sidecars say, and say what changed if not.

    SIDECAR is the JSON file beside a result, RUN_DIR the folder of a run. Input, mask, weights, settings, code and
    outputs are compared by their hashes; then each result is made again in a temporary folder. The same bytes must come
    on the same platform with the same software; else no voxel may differ by more than the tolerance.
    """
    from medidiff.runs import locate, verify

    hints = locate.Hints(input_path, mask, pipeline)
    found = []
    for file in verify.sidecars(path):
        found.append(verify.verify(file, hints, again=again, tolerance=tolerance, device=device))
        if not as_json:
            click.echo("\n".join(map(printable, lines(found[-1]))))
    bad = [each for each in found if not each.verified]
    if as_json:
        show_json({"verified": not bad, "results": [each.as_json() for each in found]})
    if bad:
        raise VerificationFailed(sentence(bad, len(found)))
    return int(ExitCode.OK)


def lines(found: Verification) -> list[str]:
    """A verification as text."""
    width = max(len(finding.subject) for finding in found.findings)
    verdict = "verified" if found.verified else f"NOT verified: {', '.join(found.culprits)}"
    return [
        f"{found.sidecar}: {verdict}",
        *(f"  {each.subject:{width}}  {each.state:7}  {each.text}" for each in found.findings),
    ]


def sentence(bad: list[Verification], count: int) -> str:
    """One sentence on what could not be verified."""
    first = bad[0]
    finding = next(each for each in first.findings if each.subject in first.culprits and each.bad)
    others = f" ({len(bad)} of {count} results)" if count > 1 else ""
    verb = "are" if finding.subject == "weights" else "is"
    return f"Not verified{others}: {first.sidecar}: the {finding.subject} {verb} not as recorded: {finding.text}."
