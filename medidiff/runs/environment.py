"""The software and the machine that made a result; nothing here names the user, the host or a folder."""

from __future__ import annotations

import platform
from importlib import metadata

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


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or ``None``; nothing is imported."""
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


def machine() -> dict[str, str]:
    """The operating system and the processor type."""
    return {"system": platform.system(), "release": platform.release(), "machine": platform.machine()}
