"""A small disk of one's own, to fill it or to make it read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def disk(folder: Path, size: str) -> Iterator[bool]:
    """A small disk at a folder; whether one could be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    can = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = can and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], capture_output=True, check=True)


def remount(folder: Path, options: str) -> None:
    """Change a disk."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], capture_output=True, check=True)
