"""The memory that a container or a batch job leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.scans import limits


def group(folder: Path, limit: str, used: int, cache: int, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\nactive_file 7\n")


def test_groups_of_version_2(tmp_path: Path) -> None:
    names, root = ("memory.max", "memory.current"), tmp_path / "cgroup"
    group(root / "job" / "step", "max", 50, 0, names)
    group(root / "job", "1000", 700, 200, names)
    (tmp_path / "own").write_text("0::/job/step\n")
    assert list(limits._left_in_groups(root, tmp_path / "own")) == [500]


def test_groups_of_version_1(tmp_path: Path) -> None:
    names, root = ("memory.limit_in_bytes", "memory.usage_in_bytes"), tmp_path / "cgroup"
    group(root / "memory", "900", 1000, 0, names)
    (tmp_path / "own").write_text("5:cpu:/\n4:memory:/out/of/sight\n0::/\n")
    assert list(limits._left_in_groups(root, tmp_path / "own")) == [0]


def test_a_system_without_groups(tmp_path: Path) -> None:
    assert list(limits._left_in_groups(tmp_path, tmp_path / "own")) == []


def test_the_least_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_free_memory", lambda: 800)
    monkeypatch.setattr(limits, "_left_in_groups", lambda: iter([900, 300]))
    assert limits.available_memory() == 300
    monkeypatch.setattr(limits, "_left_in_groups", lambda: iter([]))
    assert limits.available_memory() == 800
    monkeypatch.setattr(limits, "_free_memory", lambda: None)
    assert limits.available_memory() is None
