"""What figures depend on besides the images; nothing here names the user, the host or a folder."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

from medidiff._version import __version__

PACKAGES = ("torch", "monai", "numpy", "scipy", "scikit-image", "nibabel", "pydicom", "dipy", "antspyx", "bm4d")


def software() -> dict[str, Any]:
    """Versions of medidiff, Python and the packages that shape figures, and the kind of machine."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    machine = {"system": platform.system(), "machine": platform.machine()}
    return {"medidiff": __version__, "packages": versions, "platform": machine}
