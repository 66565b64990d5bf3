"""Restore a scan that memory cannot hold: surveyed slab by slab, then restored block by block on disk.

Each stage is a pass over blocks that lie apart: the classical base, the posterior mean, every step of every sample. A
block reads a box of what the passes before it wrote, with a halo as wide as its answer looks, and writes its core.
Nothing is read that the same pass writes, so blocks may come in any order, at once, on several machines that share the
folder, and again where one was lost. What comes out is what tiles of the same size give in memory.
"""

from __future__ import annotations

from medidiff.blocks.large import restore
from medidiff.blocks.run import Run, Workers, serial
from medidiff.blocks.store import Folder, folder_for, is_on_disk

__all__ = ["Folder", "Run", "Workers", "folder_for", "is_on_disk", "restore", "serial"]
