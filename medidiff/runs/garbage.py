"""Keeps the collection of garbage after each case short.

To look through all objects of torch and MONAI takes a quarter of a second, as long as a small volume does. What is
there when the first case is done, modules and networks, is set aside until the run ends.
"""

from __future__ import annotations

import gc

_ours = False


def lighten() -> None:
    """Set aside what is there now, if that was not done yet; call it after a collection."""
    global _ours
    if not _ours and gc.get_freeze_count() == 0:
        gc.freeze()
        _ours = True


def restore() -> None:
    """Take back in what `lighten` set aside."""
    global _ours
    if _ours:
        gc.unfreeze()
        _ours = False
