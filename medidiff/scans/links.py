"""Links in input folders: they are followed within the folder that the user named, and no further.

A folder of scans may come from somebody else, and a link in it may lead to anything that the user may read. Data under
git-annex and DataLad are the exception that is safe: there every file is a link into ``.git/annex/objects`` of its
repository, also when the user named a folder inside of the repository.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

REASON = "a link that leads out of the input; name what it points to as an input too"
ANNEX = ("annex", "objects")


def leads_out(path: Path, inputs: Iterable[Path]) -> bool:
    """Whether a file or folder really lies outside of all inputs, and outside of its own repository's annex.

    Args:
        path: the file or folder, which may be a link.
        inputs: the resolved files and folders that the user named.
    """
    real = Path(os.path.realpath(path))
    return not any(real.is_relative_to(each) for each in inputs) and not _annexed(real, path.parent)


def _annexed(real: Path, folder: Path) -> bool:
    """Whether a file lies in the annex of a repository that ``folder`` is in."""
    if len(real.parts) < 3 or not any(real.parts[n : n + 2] == ANNEX for n in range(len(real.parts) - 1)):
        return False
    home = Path(os.path.realpath(folder))
    tops = [above for above in (home, *home.parents) if (above / ".git").is_dir()]
    for top in tops:
        git = Path(os.path.realpath(top / ".git"))
        # the .git of a subdataset is a link into that of the dataset above it; another one could lead anywhere
        known = git == top / ".git" or any(git.is_relative_to(above / ".git") for above in tops)
        if known and real.is_relative_to(git.joinpath(*ANNEX)):
            return True
    return False
