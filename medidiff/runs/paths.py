"""Where the input and the output lie to each other: relative names for records, and what a run must refuse."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from medidiff.errors import UsageError


def real(path: Path) -> Path:
    """The absolute path with its folder resolved; a link to a file keeps its own name, as in data under git-annex."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute() keeps "..", resolve() follows the last link
    return absolute.parent.resolve() / absolute.name


def relative(path: Path, folder: Path) -> str:
    """``path`` as seen from ``folder``, with forward slashes; bytes that are no text become question marks."""
    try:
        name = Path(os.path.relpath(real(path), folder.resolve())).as_posix()
    except ValueError:  # another drive on Windows
        name = path.as_posix()
    return name.encode("utf-8", "replace").decode()


def discreet(path: Path, folder: Path) -> str:
    """``path`` as seen from ``folder`` where they lie in one tree, else its bare name.

    From another tree the relative path would spell out the absolute one, with the names of users and studies in it.
    """
    above = (
        os.path.commonpath([real(path).parent, folder.resolve()]) if real(path).drive == folder.resolve().drive else ""
    )
    if not above or Path(above) == Path(Path(above).anchor):
        return relative(path, path.parent)
    return relative(path, folder)


def location(path: Path) -> str:
    """A hash that tells two places apart without naming them."""
    return hashlib.sha256(os.fsencode(real(path))).hexdigest()


def exists(path: Path) -> bool:
    """Whether there is something at ``path``; a name that is too long is not there."""
    try:
        return path.exists()
    except OSError:
        return False


def refuse_input_as_output(inputs: Iterable[Path], folder: Path, better: str = "restored") -> None:
    """Stop when the output folder is one of the input folders.

    Args:
        inputs: files and folders.
        folder: of the output.
        better: the name of a folder that would do.

    Raises:
        UsageError: it is.
    """
    for given in inputs:
        if given.is_dir() and given.resolve() == folder.resolve():
            raise UsageError(
                f"The output folder {folder} is also the input; choose another one, such as {folder / better}."
            )


def refuse_overwriting(inputs: Iterable[Path], targets: Iterable[Path]) -> None:
    """Stop when an output would replace an input file, by name or through a link.

    Raises:
        UsageError: an output and an input are the same file.
    """
    originals = {path.resolve() for path in inputs} | {real(path) for path in inputs}
    for target in targets:
        if real(target) in originals or target.resolve() in originals:
            raise UsageError(f"The output {target} would overwrite an input; choose another output.")
        if any(original.is_relative_to(target.resolve()) for original in originals):
            raise UsageError(f"The output folder {target} holds input files; choose another output.")
