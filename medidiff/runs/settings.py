"""A run's settings as files hold them: all of `RunConfig`, with paths relative to the file, and back.

``run.json`` and every sidecar hold them under ``config``; a TOML file of one's own holds them alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medidiff import bundles
from medidiff.config import RunConfig
from medidiff.errors import UsageError
from medidiff.runs.paths import exists, relative
from medidiff.scans import bids, limits, outputs, records

CONFIG = "config"


def portable(config: RunConfig, folder: Path, name: Callable[[Path, Path], str] = relative) -> dict[str, Any]:
    """The settings as plain values, for a file in ``folder``.

    Args:
        config: the settings.
        folder: where the file will lie.
        name: how the path of an input, a mask or a pipeline is named as seen from a folder.
    """
    tree: dict[str, Any] = config.model_dump(mode="json")
    tree["inputs"] = [name(path, folder) for path in config.inputs]
    tree["output"] = relative(config.output, folder)
    tree["mask"] = None if config.mask is None else name(config.mask, folder)
    if Path(config.pipeline).is_dir():
        tree["pipeline"] = name(Path(config.pipeline), folder)
    return tree


def read(file: Path) -> dict[str, Any]:
    """The settings in a TOML file, a ``run.json`` or a sidecar, paths as seen from the working folder.

    Whether they are complete and right is for `RunConfig` to say.

    Raises:
        UsageError: the file cannot be read, or holds no settings.
    """
    try:
        own = file.suffix.lower() == ".toml"
        tree = tomllib.loads(file.read_text(encoding="utf-8")) if own else limits.read_json(file)
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror}); name a file of settings.") from error
    except ValueError as error:  # of TOML, of JSON, or of the encoding
        raise UsageError(f"{file} is neither TOML nor JSON ({one_line(error)}); correct it.") from error
    except RecursionError as error:
        raise UsageError(f"{file} is nested too deeply for settings; correct it.") from error
    if not own:
        tree = tree.get(CONFIG) if isinstance(tree, dict) and "medidiff" in tree else None
    if not isinstance(tree, dict):
        raise UsageError(f"{file} holds no settings of a run; give a TOML file, a run.json or a sidecar.")
    if not own:
        refuse_far(file, tree)
    return located(tree, file.parent)


def refuse_far(file: Path, tree: dict[str, Any]) -> None:
    """Stop before a record, which may come from somebody else, makes a run write outside of the record's own folder.

    Raises:
        UsageError: it would, or a path in it is absolute.
    """
    inputs = tree.get("inputs")
    named = [*(inputs if isinstance(inputs, list) else [inputs]), tree.get("mask"), tree.get("pipeline")]
    if not all(records.is_plain(name) for name in named if isinstance(name, str)):
        raise UsageError(f"{file} names an absolute path, as no record of medidiff does; name the scan yourself.")
    if isinstance(tree.get("output"), str) and not records.is_inside(tree["output"]):
        raise UsageError(f"{file} names an output outside of its own folder, as no record of medidiff does.")


def refuse_unplaced(file: Path, tree: dict[str, Any]) -> None:
    """Stop when a record tells no more of a scan or a mask than its name, as a sidecar does of another tree of folders.

    Args:
        file: the record.
        tree: its settings as `read` gives them, without those that the user replaces.

    Raises:
        UsageError: so it is, and nothing of that name lies beside the record.
    """
    if file.suffix.lower() == ".toml":
        return
    inputs = tree.get("inputs")
    named = [("scan", "as INPUT", each) for each in (inputs if isinstance(inputs, list) else [])]
    for what, how, place in [*named, ("mask", "with --mask", tree.get("mask"))]:
        if isinstance(place, Path) and place.parent == file.parent and not exists(place):
            raise UsageError(
                f"{file} holds only the name of its {what}, {place.name}, which does not lie beside it; "
                f"say where it lies {how}."
            )


def located(tree: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings out of a file in ``folder``, paths as seen from the working folder; what is no path stays as it is."""
    found = dict(tree)
    for key in ("output", "mask"):
        if isinstance(tree.get(key), str) and "\0" not in tree[key]:
            found[key] = folder / tree[key]
    if tree.get("bids") is True and outputs.nifti_stem(str(tree.get("output"))) is not None:  # one image of a dataset
        found["output"] = bids.root_of(found["output"]) or folder
    inputs = tree.get("inputs")
    inputs = [inputs] if isinstance(inputs, str) else inputs
    if isinstance(inputs, list):
        found["inputs"] = [folder / each if isinstance(each, str) else each for each in inputs]
    pipeline = tree.get("pipeline")
    if isinstance(pipeline, str) and exists(folder / pipeline / bundles.METADATA):
        found["pipeline"] = str(folder / pipeline)
    return found


def one_line(error: ValueError) -> str:
    """The text of an error on one line, without a full stop."""
    return " ".join(str(error).split()).rstrip(".")
