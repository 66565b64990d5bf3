"""Tables in Markdown, results on disk, the block in the README, and the verdict on a goal."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import ROOT
from medidiff import __version__
from medidiff.pipelines import Pipeline

RESULTS = ROOT / "benchmarks/results"
PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "dipy", "bm4d")


@dataclass(frozen=True)
class Verdict:
    """Whether a goal was met; ``met`` is ``None`` when it could not be judged."""

    goal: str
    found: str
    met: bool | None

    def __str__(self) -> str:
        word = {True: "met", False: "NOT MET", None: "not judged"}[self.met]
        return f"- **{word}**: {self.goal}. Found: {self.found}."


def goals(verdicts: Sequence[dict[str, Any]]) -> str:
    """The section on goals, of the verdicts that a result keeps."""
    return "## Goals\n\n" + "\n".join(str(Verdict(**verdict)) for verdict in verdicts)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are figures."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def figure(value: float, digits: int = 2, sign: bool = False) -> str:
    """A rounded figure; a dash for what could not be measured."""
    if not math.isfinite(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def environment(pipeline: Pipeline | None, threads: int) -> dict[str, Any]:
    """What the figures depend on besides the images."""
    versions = {"medidiff": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor(),
        "threads": threads,
        "packages": versions,
    }
    if pipeline is not None:
        found |= {
            "pipeline": pipeline.name,
            "version": pipeline.version,
            "weights_sha256": pipeline.weights_sha256,
            "device": pipeline.device,
        }
    return found


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def use_threads(threads: int | None) -> int:
    """Give torch and OpenMP this many threads (all cores that this process may use by default); return the number."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = threads or allowed
    torch.set_num_threads(count)
    return count


def write(name: str, result: dict[str, Any], markdown: str, folder: Path = RESULTS) -> None:
    """Write ``name.json`` and ``name.md`` and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(finite(result), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(markdown.rstrip() + "\n", encoding="utf-8")
    print(f"\nWritten: {folder / name}.json and .md")


def finite(tree: Any) -> Any:
    """The same tree with ``None`` in place of NaN and infinity, which JSON does not know."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def update_block(path: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- bench:name -->`` and the next ``<!-- /bench -->`` of a file."""
    begin, end = f"<!-- bench:{name} -->", "<!-- /bench -->"
    old = path.read_text(encoding="utf-8")
    head, found, rest = old.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{path} holds no block from {begin} to {end}")
    path.write_text(f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}", encoding="utf-8")
