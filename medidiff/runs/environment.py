"""The software and the machine that made a result; nothing here names the user, the host or a folder."""

from __future__ import annotations

import hashlib
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "monai",
    "numpy",
    "scipy",
    "nibabel",
    "pydicom",
    "highdicom",
    "scikit-image",
    "pydantic",
    "safetensors",
)
PACKAGE = Path(__file__).resolve().parents[1]
CPU_INFO = Path("/proc/cpuinfo")


@cache
def version_of(package: str) -> str | None:
    """The installed version of a distribution, or ``None``; nothing is imported.

    Kept, because to read it takes some milliseconds, and the sidecar of every case names ten.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def packages() -> dict[str, str]:
    """The versions of Python and of the packages that shape a result."""
    found = {name: version_of(name) for name in PACKAGES}
    return {"python": platform.python_version(), **{name: version for name, version in found.items() if version}}


def missing() -> list[str]:
    """The packages that should be installed and are not."""
    return [name for name in PACKAGES if version_of(name) is None]


@cache
def code_sha256() -> str:
    """SHA-256 over medidiff's own source files, which tells two states of one version apart."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        if not name.parts[0].startswith("_") or len(name.parts) == 1:  # not what is shipped as data
            digest.update(f"{name.as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def machine() -> dict[str, str]:
    """The operating system and the processor."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "processor": processor(),
    }


def processor() -> str:
    """The processor's model, as far as the system tells it."""
    try:
        lines = CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())


def compute() -> dict[str, Any]:
    """What torch computes with: threads and instruction set of the CPU, and the GPU; empty while torch is not loaded.

    A sum over other threads, instructions or devices may round differently.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"threads": torch.get_num_threads(), "instructions": torch.backends.cpu.get_cpu_capability(), "gpu": gpu}
