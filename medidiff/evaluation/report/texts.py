"""Numbers and sentences as the page shows them: short, and without a path that leads into somebody's machine."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

# The start of an absolute path up to its last separator: /home/x/, C:\Users\x\, \\server\share\, ~/x/
_SHORT = 24  # characters of a value that shares its line with others
_ABSOLUTE = re.compile(
    r"(?<![\w.:/\\-])(?:[A-Za-z]:[\\/]|\\\\|~[\\/]|file:/+|/)(?=[^\s/])(?:[^\s\"'<>|,;()/\\]+[\\/])*"
)


def number(value: float | int | None, digits: int = 4) -> str:
    """A figure with four significant digits, large ones as whole numbers; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0f}" if 10**digits <= abs(value) < 1e9 or value == round(value) else f"{value:.{digits}g}"


def probability(value: float) -> str:
    """A p value."""
    if not math.isfinite(value):
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def discreet(text: str) -> str:
    """A sentence in which absolute paths are cut down to their last part."""
    return _ABSOLUTE.sub("", text)


def flat(tree: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a tree of plain values as names with dots and texts, in their order."""
    match tree:
        case Mapping() if name and _short(tree):
            yield name, " · ".join(f"{key} {leaf(part)}" for key, part in tree.items() if part is not None)
        case Mapping() if tree:
            for key, part in tree.items():
                yield from flat(part, f"{name}.{key}" if name else str(key))
        case list() | tuple() if any(isinstance(part, Mapping | list | tuple) for part in tree):
            for index, part in enumerate(tree):
                yield from flat(part, f"{name}[{index}]")
        case list() | tuple():
            yield name, ", ".join(leaf(part) for part in tree) or "–"
        case _:
            yield name, leaf(tree)


def _short(tree: Mapping[Any, Any]) -> bool:
    """Whether a tree is a list of short values that one line holds."""
    scalar = all(not isinstance(part, Mapping | list | tuple) for part in tree.values())
    return bool(tree) and scalar and all(len(leaf(part)) <= _SHORT for part in tree.values())


def leaf(value: Any) -> str:
    """One plain value as text."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return number(value, 6)
        case Mapping():
            return "–"
        case _:
            return discreet(str(value))


def count(number_of: int, what: str, several: str = "") -> str:
    """``1 scan``, ``3 scans``."""
    return f"{number_of} {what if number_of == 1 else several or f'{what}s'}"
