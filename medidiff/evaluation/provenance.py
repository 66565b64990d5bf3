"""What figures depend on besides the images; nothing here names the user, the host or a folder."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from medidiff._version import __version__

PACKAGES = ("torch", "monai", "numpy", "scipy", "scikit-image", "nibabel", "pydicom", "dipy", "antspyx", "bm4d")


_FOLDERS = re.compile(r"(?<![\w./])(?:[A-Za-z]:)?[\\/](?:[^\s/\\:;,()']+[\\/])+")


def discreet(text: str, paths: Iterable[Path] = ()) -> str:
    """A sentence with the bare names of files in the place of their paths.

    Args:
        text: the sentence.
        paths: files that it may name, whose folders may hold blanks.
    """
    for path in paths:
        text = text.replace(f"{path.parent}/", "").replace(f"{path.parent}\\", "")
    return _FOLDERS.sub("", text)


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
