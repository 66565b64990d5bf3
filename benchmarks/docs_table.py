"""Makes the table of docs/how-to/evaluate.md with the command that the page shows: ``python -m benchmarks.docs_table``.

Needs real scans (``MEDIDIFF_REAL_DATA``); results that stand in the work folder are used again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import cases, report
from medidiff.cli.evaluating import watcher
from medidiff.evaluation import tables
from medidiff.evaluation.benchmark import Settings, benchmark
from medidiff.evaluation.results import Evaluation

PAGE = cases.ROOT / "docs/how-to/evaluate.md"
SCANS = ("t1w_sag_anon.nii.gz", "t1gd_stripped.nii.gz", "gli00001_t2w.nii.gz")  # of three validation subjects
SETTINGS = Settings(
    law="rician", percent=9, against=("nlm", "nlm-best", "bm4d", "gaussian", "base"), crop=96, threads=1
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=cases.ROOT / "demo_output/benchmark", help="where results lie")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    folder = cases.real_data()
    if folder is None:
        raise SystemExit("Set MEDIDIFF_REAL_DATA to the folder of real scans.")
    with watcher("auto") as watch:
        found = benchmark([folder / name for name in SCANS], SETTINGS, options.work, watch)
    report.update_block(options.page, "methods", text(found, SETTINGS))


def text(found: Evaluation, settings: Settings) -> str:
    """The command and what it prints."""
    against = ",".join(settings.against)
    command = [
        "medidiff benchmark sag.nii.gz t1gd.nii.gz t2w.nii.gz -o compared \\",
        f"    --noise {settings.law}:{settings.percent:g} --against {against} --crop {settings.crop} --threads 1",
    ]
    pipelines = ", ".join(f"{name} {known['version']}" for name, known in found.provenance["pipelines"].items())
    weights = ", ".join(known["weights_sha256"][:12] for known in found.provenance["pipelines"].values())
    lines = ["```text", *command, "```", "", tables.summary(found), "", f"Pipeline {pipelines}, weights {weights}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
