"""Several runs in one output folder: who has which case in hand, and one record that tells of all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from medidiff.runs import RunResult, locks, together
from medidiff.runs.together import Journal, Told
from medidiff.scans.outputs import OutputNames

Go = Callable[..., RunResult]
Write = Callable[..., Path]


def run(status: str, started: str = "2026-01-01T10:00:00Z", **more: Any) -> dict[str, Any]:
    finished = None if status in ("running", "killed") else "2026-01-01T11:00:00Z"
    return {"command": ["medidiff"], "config": {}, "started": started, "finished": finished, "status": status, **more}


def case(status: str, name: str = "x") -> dict[str, Any]:
    return {"input": name, "status": status}


@pytest.mark.parametrize(
    ("mine", "other", "at_work", "mine_case", "other_case", "expected", "kept"),
    [
        ("done", "done", True, "done", "skipped", "done", "done"),
        ("done", "running", True, "skipped", "done", "running", "done"),
        ("done", "running", False, "done", None, "done", "done"),  # it was killed, and another did its case
        ("done", "running", False, None, None, "interrupted", None),  # nobody did its case
        ("done", "interrupted", False, None, None, "interrupted", None),
        ("done", "failed", True, "done", "failed", "done", "done"),  # done in the end
        ("done", "failed", True, None, "failed", "failed", "failed"),
        ("interrupted", "done", False, None, "done", "interrupted", "done"),
        ("running", "done", False, None, "done", "running", "done"),
    ],
)
def test_one_record_tells_of_two_runs(
    mine: str,
    other: str,
    at_work: bool,
    mine_case: str | None,
    other_case: str | None,
    expected: str,
    kept: str | None,
) -> None:
    own = run(mine, "2026-01-01T10:30:00Z", cases=[case(mine_case)] if mine_case else [])
    told = Told(run(other), ["x"], {"x": case(other_case)} if other_case else {})
    tree = together.join(own, ["x"] if mine_case else [], [(told, at_work)])
    assert tree["status"] == expected
    assert (tree["finished"] is None) == (expected == "running")
    assert tree["started"] == "2026-01-01T10:00:00Z"
    assert [each["status"] for each in tree["cases"]] == ([kept] if kept else [])
    killed = other == "running" and not at_work
    assert [each["status"] for each in tree["runs"]] == ["killed" if killed else other, mine]


def test_journal_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    file = tmp_path / "run-1.jsonl"
    lines = [{"run": run("running"), "planned": ["x", "y"]}, {"key": "x", "case": case("done")}]
    file.write_text("\n".join(json.dumps(each) for each in lines) + '\n{"key": "y", "ca')
    told = together.read(file)
    assert told is not None
    assert (told.planned, list(told.cases)) == (["x", "y"], ["x"])
    file.write_text('{"ru')
    assert together.read(file) is None
    assert together.read(tmp_path / "none.jsonl") is None


def test_last_run_clears_up(tmp_path: Path) -> None:
    first, second = Journal(tmp_path), Journal(tmp_path)
    first.begin(run("running"), ["x"])
    second.begin(run("running"), ["x"])
    assert together.alive(first.file)
    first.end()
    assert not together.alive(first.file)
    locks.sweep(tmp_path)
    assert first.file.exists()
    second.end()
    (tmp_path / locks.PLACE / "case-killed.lock").touch()
    locks.sweep(tmp_path)
    assert not (tmp_path / locks.PLACE).exists()


def test_run_json_parses_at_every_moment(go: Go, fake: ModuleType, scan: Write, tmp_path: Path) -> None:
    for index in range(8):
        scan(tmp_path / "in" / f"{index}.nii.gz")
    out, over = tmp_path / "out", threading.Event()
    seen: list[tuple[str, int]] = []
    wrong: list[str] = []

    def read() -> None:
        while not over.is_set():
            if (out / "run.json").exists():
                try:
                    tree = json.loads((out / "run.json").read_text())
                except ValueError as error:
                    wrong.append(str(error))
                    continue
                seen.append((tree["status"], len(tree["cases"])))
                named = [each["outputs"]["restored"] for each in tree["cases"]]
                wrong.extend(name for name in named if not (out / name).exists())

    reader = threading.Thread(target=read)
    reader.start()
    go(tmp_path / "in", output=out)
    over.set()
    reader.join()
    assert wrong == []
    assert seen == sorted(seen, key=lambda each: each[1])
    assert {status for status, count in seen if count < 8} <= {"running"}
    assert len({count for _, count in seen}) > 3


def names(folder: Path, stem: str = "t1_denoised") -> OutputNames:
    return OutputNames(
        restored=folder / f"{stem}.nii.gz",
        sidecar=folder / f"{stem}.json",
        uncertainty=folder / f"{stem}_uncertainty.nii.gz",
        sample=folder / f"{stem}_sample.nii.gz",
        supplied=folder / f"{stem}_supplied.nii.gz",
    )


def test_case_is_in_one_hand(tmp_path: Path) -> None:
    with locks.in_hand(tmp_path, names(tmp_path)) as mine:
        assert mine
        with locks.in_hand(tmp_path, names(tmp_path)) as again, locks.in_hand(tmp_path, names(tmp_path, "t2")) as other:
            assert (again, other) == (False, True)
    with locks.in_hand(tmp_path, names(tmp_path)) as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_recovery_removes_what_the_note_names_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    place = out / locks.PLACE
    place.mkdir(parents=True)
    half = ["t1_denoised.nii.gz", "t1_denoised_uncertainty.nii.gz", "t1_denoised_uncertainty_2.nii.gz"]
    mine = ["t1_denoised_2.nii.gz", "other.nii.gz"]
    for name in (*half, *mine, "../precious.nii.gz"):
        (out / name).write_bytes(b"x")
    (out / ".medidiff-tmp-0000-1-aa-t1_denoised.nii.gz").write_bytes(b"x")
    files = ["t1_denoised.nii.gz", "t1_denoised_uncertainty.nii.gz", "../precious.nii.gz", "."]
    (place / "case-1.json").write_text(json.dumps({"sidecar": "t1_denoised.json", "files": files}))
    (place / "case-2.json").write_text('{"sidecar": "t2')
    locks.recover(out)
    assert sorted(path.name for path in out.iterdir()) == sorted(mine)
    assert (tmp_path / "precious.nii.gz").exists()


def test_case_that_another_run_holds_is_left_alone_by_recovery(tmp_path: Path) -> None:
    with locks.in_hand(tmp_path, names(tmp_path)):
        (tmp_path / "t1_denoised.nii.gz").write_bytes(b"half")
        locks.recover(tmp_path)
        assert (tmp_path / "t1_denoised.nii.gz").exists()


def test_run_waits_for_a_case_in_other_hands_and_takes_its_result(
    go: Go, fake: ModuleType, scan: Write, tmp_path: Path
) -> None:
    """The second run, to overwrite too, does not make again what the first one makes meanwhile."""
    scan(tmp_path / "t1.nii.gz")
    out = tmp_path / "out"
    go(tmp_path / "t1.nii.gz", output=out)
    at_work, results, worked = threading.Event(), [], []

    def slowly(volume: Any) -> None:
        worked.append(volume)
        at_work.set()
        wait_until_planned.wait(60)

    wait_until_planned = threading.Event()
    fake.on_restore = slowly
    overwrite = {"output": out, "existing": "overwrite"}
    first = threading.Thread(target=lambda: results.append(go(tmp_path / "t1.nii.gz", **overwrite)))
    first.start()
    assert at_work.wait(60)

    class Watch:
        def __getattr__(self, name: str) -> Callable[..., None]:
            if name == "status":
                return lambda text: wait_until_planned.set() if "another run" in text else None
            return lambda *_: None

    second = go(tmp_path / "t1.nii.gz", reporter=Watch(), **overwrite)
    first.join()
    assert len(worked) == 1
    assert [each.status for each in results[0].record.cases] == ["done"]
    assert [each.status for each in second.record.cases] == ["skipped"]
    assert "made by another run" in second.record.cases[0].reason
    tree = json.loads((out / "run.json").read_text())
    assert (tree["status"], [each["status"] for each in tree["cases"]]) == ("done", ["done"])
    assert [each["status"] for each in tree["runs"]] == ["done", "done"]
    assert not (out / locks.PLACE).exists()
