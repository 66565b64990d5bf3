from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from medidiff.runs import RunResult, environment, garbage
from medidiff.scans.volume import Volume


@pytest.fixture(autouse=True)
def nothing_is_set_aside() -> None:
    gc.unfreeze()


class Node:
    """Something that only the collection of garbage can free."""

    def __init__(self) -> None:
        self.me = self


def test_what_a_run_leaves_in_cycles_is_freed_after_each_case(
    go: Callable[..., RunResult], fake: ModuleType, scan: Callable[..., Path], tmp_path: Path
) -> None:
    for index in range(4):
        scan(tmp_path / "in" / f"s{index}.nii.gz")
    made: list[weakref.ref[Node]] = []
    alive: list[int] = []

    def on_restore(volume: Volume) -> None:
        alive.append(sum(each() is not None for each in made))
        node = Node()
        made.append(weakref.ref(node))

    fake.on_restore = on_restore
    gc.disable()
    try:
        go(tmp_path / "in", output=tmp_path / "out")
    finally:
        gc.enable()
    assert alive == [0, 0, 0, 0]


def test_objects_are_set_aside_while_a_run_goes_on(
    go: Callable[..., RunResult], fake: ModuleType, scan: Callable[..., Path], tmp_path: Path
) -> None:
    for index in range(3):
        scan(tmp_path / "in" / f"s{index}.nii.gz")
    aside: list[int] = []
    fake.on_restore = lambda volume: aside.append(gc.get_freeze_count())
    go(tmp_path / "in", output=tmp_path / "out")
    assert aside[0] == 0
    assert aside[1] == aside[2] > 10_000
    assert gc.get_freeze_count() == 0


def test_what_somebody_else_set_aside_stays_there() -> None:
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        garbage.lighten()
        garbage.restore()
        assert before - 100 < gc.get_freeze_count() <= before  # some may die meanwhile with their last reference
    finally:
        gc.unfreeze()


def test_versions_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(environment.metadata, "version", lambda name: asked.append(name) or "1.0")
    environment.version_of.cache_clear()
    try:
        assert environment.packages() == environment.packages()
        assert sorted(asked) == sorted(environment.PACKAGES)
    finally:
        environment.version_of.cache_clear()
