"""``medidiff doctor``."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import rich_click as click

from medidiff._version import __version__
from medidiff.cli.options import as_json, show_json
from medidiff.errors import ExitCode, MedidiffError

GIGABYTE = 1e9


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    ``exit_code`` is what the command returns when it is not ``ok``; ``number`` and ``unit`` are those of a measurement.
    """

    name: str
    value: str
    ok: bool = True
    exit_code: int = 0
    number: float | None = None
    unit: str = ""


@click.command("doctor")
@click.option("--bench", is_flag=True, help="Measure the speed of this machine as well; takes less than a minute.")
@as_json
def command(as_json: bool, bench: bool) -> int:
    """Check the installation: packages, device, pipelines byte by byte, memory, disk."""
    findings = list(examine())
    if bench and not any(finding.exit_code for finding in findings if not finding.ok):
        findings += speed()
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'BAD '} {finding.name:{width}}  {finding.value}")
    return max((finding.exit_code for finding in findings if not finding.ok), default=int(ExitCode.OK))


def examine() -> Iterator[Finding]:
    """Look at everything that a run needs."""
    from medidiff.runs import environment

    yield Finding("medidiff", __version__)
    for name, version in environment.packages().items():
        yield Finding(name, version)
    for name in environment.missing():
        yield Finding(name, "is not installed; install medidiff again", ok=False, exit_code=int(ExitCode.PIPELINE))
    yield from devices()
    yield from pipelines()
    yield memory()
    yield temporary()
    yield disk(Path.cwd())


def speed() -> Iterator[Finding]:
    """What the short benchmark measures."""
    from medidiff.runs import bench

    for figure in bench.short():
        yield Finding(figure.name, figure.text, number=figure.number, unit=figure.unit)


def devices() -> Iterator[Finding]:
    """The devices that torch can compute on, and the threads it would use."""
    try:
        import torch
    except Exception as error:
        yield Finding("device", f"torch does not load ({type(error).__name__}); install it again", False, 6)
        return
    for index in range(torch.cuda.device_count()):
        total = torch.cuda.get_device_properties(index).total_memory
        yield Finding(f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {total / GIGABYTE:.1f} GB")
    if torch.backends.mps.is_available():
        yield Finding("mps", "Apple GPU")
    yield Finding("cpu", f"{torch.get_num_threads()} threads of {os.cpu_count()} processors")


def pipelines() -> Iterator[Finding]:
    """Every installed pipeline, its weights compared with their recorded hash."""
    from medidiff import bundles

    bad = int(ExitCode.PIPELINE)
    try:
        found = bundles.every()
    except MedidiffError as error:
        yield Finding("pipelines", str(error), False, bad)
        return
    if not found:
        yield Finding("pipelines", "none is installed; install medidiff again or set MEDIDIFF_BUNDLES", False, bad)
    for bundle in found:
        try:
            bundle.verify()
        except MedidiffError as error:
            yield Finding(f"pipeline {bundle.name}", str(error), False, bad)
        else:
            yield Finding(f"pipeline {bundle.name}", f"{bundle.version}, weights are intact")


def memory() -> Finding:
    """The memory that is free; Linux tells it, elsewhere the total is shown."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        kilobytes = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable"))
        return Finding("memory", f"{kilobytes * 1024 / GIGABYTE:.1f} GB free")
    except (OSError, StopIteration):
        pass
    try:
        return Finding("memory", f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIGABYTE:.1f} GB")
    except (AttributeError, OSError, ValueError):
        return Finding("memory", "not known on this system")


def temporary() -> Finding:
    """Whether the folder for temporary files takes one."""
    try:
        with tempfile.TemporaryFile() as stream:
            stream.write(b"medidiff")
    except OSError as error:
        return Finding("temporary files", f"cannot be written ({error.strerror}); set TMPDIR", False, 8)
    return Finding("temporary files", tempfile.gettempdir())


def disk(folder: Path) -> Finding:
    """The room on the disk of a folder."""
    return Finding("disk", f"{shutil.disk_usage(folder).free / GIGABYTE:.1f} GB free here")
