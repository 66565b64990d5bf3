"""A hash of each section of a sidecar, kept in the sidecar itself, so that an edited setting is noticed and named.

The seal finds accidents: a seed changed in an editor, a file half copied. Who wants to deceive can seal again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

SEAL = "seal"


def sealed(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with the SHA-256 of each of its sections under ``seal``."""
    return {**tree, SEAL: {section: digest(value) for section, value in tree.items()}}


def broken(tree: dict[str, Any]) -> list[str]:
    """The sections that were edited, added or removed since the tree was sealed; all of them if it never was."""
    seals = tree.get(SEAL)
    seals = seals if isinstance(seals, dict) else {}
    now = {section: digest(value) for section, value in tree.items() if section != SEAL}
    return [section for section in {**now, **seals} if now.get(section) != seals.get(section)]


def digest(value: Any) -> str:
    """SHA-256 of plain JSON values, whatever the order of their keys and the white space of their file."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
