"""Restores medical scans with conditional diffusion, and shows its work.

    import medidiff

    restoration = medidiff.denoise("scan.nii.gz")
    restoration.save("scan_denoised.nii.gz")

``superresolve`` and ``inpaint`` are called alike; ``load`` gives a pipeline that restores many scans.

The names below are loaded on first use, so that ``import medidiff`` costs no torch.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from medidiff._version import __version__

if TYPE_CHECKING:
    from medidiff.pipelines import denoise, inpaint, load, superresolve
    from medidiff.restore import Restoration

__all__ = ["Restoration", "__version__", "denoise", "inpaint", "load", "superresolve"]

_HOME = {"Restoration": "medidiff.restore"} | dict.fromkeys(
    ("denoise", "inpaint", "load", "superresolve"), "medidiff.pipelines"
)


# Large pages for torch's large arrays: asking the system for memory in small ones takes longer than most arithmetic.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'medidiff' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
