"""What became of the things that a sidecar tells of: one finding on each, by SHA-256; nothing is computed anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medidiff._version import __version__
from medidiff.errors import PipelineError
from medidiff.runs import environment, locate, seal
from medidiff.runs.locate import Result

if TYPE_CHECKING:
    from medidiff.bundles import Bundle
    from medidiff.scans.volume import ScanRef

Subject = Literal["record", "config", "input", "mask", "weights", "pipeline", "code", "platform", "output", "re-run"]
State = Literal["same", "changed", "missing", "failed", "skipped"]
SETTINGS = ("task", "config", "seed")  # the sections of a sidecar that say what was asked for
NAMED = 3  # files named in a sentence before the rest is counted


@dataclass(frozen=True)
class Finding:
    """What became of one thing that the sidecar tells of.

    Attributes:
        subject: the thing.
        state: whether it is as it was.
        text: a clause on it.
    """

    subject: Subject
    state: State
    text: str

    @property
    def bad(self) -> bool:
        """Whether the thing is not as it was."""
        return self.state in ("changed", "missing", "failed")


@dataclass(frozen=True)
class Sources:
    """What a result was made from, as far as it was found.

    Attributes:
        ref: the input.
        mask: the file of the mask.
        bundle: the pipeline.
    """

    ref: ScanRef | None
    mask: Path | None
    bundle: Bundle | None


def find(result: Result) -> Sources:
    """Find what a result was made from.

    Raises:
        PipelineError: the pipeline that the user names does not exist.
    """
    ref = locate.scan(result)
    return Sources(ref, locate.mask(result, ref) if has_mask(result.tree) else None, locate.bundle(result))


def check(result: Result, sources: Sources) -> Iterator[Finding]:
    """All findings on a result that need no computation."""
    yield from record(result.tree)
    yield of_input(result, sources.ref)
    if has_mask(result.tree):
        yield of_mask(result, sources.mask)
    yield from of_pipeline(result.tree, sources.bundle)
    yield code(result.tree)
    yield platform(result.tree)
    yield output(result)


def has_mask(tree: dict[str, Any]) -> bool:
    """Whether a result was made with a mask, rather than without or in the gap of a series."""
    return bool((tree.get("mask") or {}).get("path"))


def record(tree: dict[str, Any]) -> Iterator[Finding]:
    """Whether the sidecar itself was edited: the settings, and all the rest."""
    if seal.SEAL not in tree:
        yield Finding("record", "missing", "the sidecar has no seal, so that nothing tells whether it was edited")
        return
    edited = seal.broken(tree)
    asked = [section for section in edited if section in SETTINGS]
    rest = [section for section in edited if section not in SETTINGS]
    if asked:
        yield Finding("config", "changed", f"{joined(asked)} in the sidecar was edited after the result was made")
    else:
        yield Finding("config", "same", f"as recorded, seed {tree.get('seed')}")
    if rest:
        yield Finding("record", "changed", f"{joined(rest)} in the sidecar was edited after the result was made")


def of_input(result: Result, ref: ScanRef | None) -> Finding:
    """Whether the input holds the bytes that were restored."""
    wanted, hint = result.tree["input"], result.hints.input
    if ref is None and hint is not None:
        return Finding("input", "missing", f"{hint} holds no scan of the same bytes or the same name")
    if ref is None:
        return Finding("input", "missing", f"{lost(str(wanted.get('path')))}; say where it lies with --input PATH")
    if locate.is_same(ref, wanted):
        return Finding("input", "same", f"as recorded, {counted(len(ref.files), 'file')}")
    before = {Path(str(entry["path"])).name: str(entry["sha256"]) for entry in wanted["files"]}
    now = {path.name: path for path in ref.files}
    changed = [name for name in before if name in now and sha256(now[name]) != before[name]]
    gone, more = sorted(before.keys() - now.keys()), sorted(now.keys() - before.keys())
    text = clauses([(changed, "changed"), (gone, "gone"), (more, "new")])
    return Finding("input", "changed", text or f"{ref.path.name} holds other bytes")


def lost(path: str) -> str:
    """A clause on an input that was not found; of one in another tree of folders a sidecar tells the name alone."""
    return (
        f"{path} was not found" if "/" in path else f"{path}, of which the sidecar holds the name alone, was not found"
    )


def of_mask(result: Result, file: Path | None) -> Finding:
    """Whether the mask holds the bytes that were used."""
    hint = result.hints.mask
    if file is None and hint is not None:
        return Finding("mask", "missing", f"{hint} is no mask, and holds none for this scan")
    if file is None:
        return Finding("mask", "missing", "it was not found; say where it lies with --mask PATH")
    if sha256(file) == result.tree["mask"].get("sha256"):
        return Finding("mask", "same", "as recorded")
    return Finding("mask", "changed", f"{file.name} holds other bytes")


def of_pipeline(tree: dict[str, Any], bundle: Bundle | None) -> Iterator[Finding]:
    """Whether the weights, and the settings of the pipeline beside them, are those that were used."""
    who = tree["pipeline"]
    name = f"pipeline {who.get('name')} {who.get('version')}"
    if bundle is None:
        yield Finding("weights", "missing", f"{name} is not installed; say where its bundle lies with --pipeline")
        return
    if bundle.weights_sha256 != who.get("weights_sha256"):
        yield Finding("weights", "changed", f"{name} was used, and {bundle.name} {bundle.version} has other weights")
        return
    try:
        bundle.verify()
    except PipelineError as error:
        yield Finding("weights", "changed", str(error).rstrip("."))
        return
    yield Finding("weights", "same", f"as recorded, {name}")
    if bundle.settings_sha256 != who.get("settings_sha256"):
        text = f"the settings of {bundle.name} (halo, ranges, calibration) were changed, its weights were not"
        yield Finding("pipeline", "changed", text)


def code(tree: dict[str, Any]) -> Finding:
    """Whether medidiff and the packages below it are those that made the result."""
    changes = [*differing({"medidiff": tree.get("medidiff")}, {"medidiff": __version__})]
    if not changes and tree.get("code_sha256") != environment.code_sha256():
        changes.append(f"medidiff {__version__} has other source files")
    changes += differing(tree.get("packages") or {}, environment.packages())
    return Finding("code", "changed", "; ".join(changes)) if changes else Finding("code", "same", "as recorded")


def platform(tree: dict[str, Any]) -> Finding:
    """Whether the machine is of the kind that made the result."""
    changes = differing(tree.get("platform") or {}, environment.machine())
    return Finding("platform", "changed", "; ".join(changes)) if changes else Finding("platform", "same", "as recorded")


def output(result: Result) -> Finding:
    """Whether the files of the result are those that were written."""
    names = [str(entry["path"]) for entry in result.tree["outputs"]]
    gone = [name for name in names if not (result.folder / name).is_file()]
    altered = altered_outputs(result)
    if gone or altered:
        text = clauses([(gone, "gone"), (altered, "altered")])
        return Finding("output", "missing" if gone else "changed", text)
    return Finding("output", "same", f"as recorded, {counted(len(names), 'file')}")


def altered_outputs(result: Result) -> list[str]:
    """The files of the result that are there but hold other bytes than were written."""
    files = {str(entry["path"]): str(entry["sha256"]) for entry in result.tree["outputs"]}
    there = {name: result.folder / name for name in files if (result.folder / name).is_file()}
    return [name for name, path in there.items() if sha256(path) != files[name]]


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """One clause on each value that changed."""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    return [f"{key} {before.get(key) or 'none'} became {now.get(key) or 'none'}" for key in keys]


def sha256(path: Path) -> str:
    """SHA-256 of a file; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def joined(names: Sequence[str]) -> str:
    """Names as a clause; a long list is cut."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def clauses(parts: Sequence[tuple[Sequence[str], str]]) -> str:
    """A clause on the names of each kind, of those kinds that have names: ``a is gone; b, c are altered``."""
    return "; ".join(f"{joined(names)} {'is' if len(names) == 1 else 'are'} {what}" for names, what in parts if names)


def counted(number: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
