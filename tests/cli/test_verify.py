from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from medidiff.cli import main
from medidiff.errors import OutOfMemory

FAKE = Path(__file__).parents[1] / "fake_pipelines.py"
Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def out(fake: ModuleType, scan: Write, tmp_path: Path, capsys: Capture) -> Path:
    """The folder of a run with two results and a failure."""
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "b.nii.gz", value=7)
    (tmp_path / "in" / "c.nii.gz").write_text("no scan")
    assert main(["denoise", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 4
    capsys.readouterr()
    return tmp_path / "out"


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_run_is_verified(out: Path, capsys: Capture) -> None:
    assert main(["verify", str(out)]) == 0
    stdout, stderr = capsys.readouterr()
    assert stderr == ""
    lines = stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        f"{out / 'a_denoised.json'}: verified",
        f"{out / 'b_denoised.json'}: verified",
    ]
    assert lines[1].split() == ["config", "same", "as", "recorded,", "seed", "0"]
    assert lines[-1].endswith("the same bytes came again, 1 file")


def test_culprit_is_named_with_exit_code_9(out: Path, capsys: Capture) -> None:
    damage(out / "b_denoised.nii.gz")
    assert main(["verify", str(out), "--no-rerun"]) == 9
    stdout, stderr = capsys.readouterr()
    assert f"{out / 'b_denoised.json'}: NOT verified: output" in stdout
    assert stderr == (
        f"medidiff: Not verified (1 of 2 results): {out / 'b_denoised.json'}: "
        "the output is not as recorded: b_denoised.nii.gz is altered.\n"
    )


def test_weights_are_many(out: Path, fake: ModuleType, capsys: Capture) -> None:
    damage(fake.home / "model")
    assert main(["verify", str(out), "--no-rerun"]) == 9
    assert "the weights are not as recorded: Pipeline fake: " in capsys.readouterr().err


def test_json(out: Path, capsys: Capture) -> None:
    damage(out / "b_denoised.nii.gz")
    assert main(["verify", str(out), "--json"]) == 9
    tree = json.loads(capsys.readouterr().out)
    assert tree["verified"] is False
    good, bad = tree["results"]
    assert (good["verified"], good["culprits"], good["largest_difference"]) == (True, [], None)
    assert (bad["verified"], bad["culprits"]) == (False, ["output"])
    assert {"subject": "input", "state": "same", "text": "as recorded, 1 file"} in bad["findings"]


def test_moved_scan_is_named(out: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    sidecar = str(out / "a_denoised.json")
    assert main(["verify", sidecar]) == 9
    assert "say where it lies with --input" in capsys.readouterr().err
    assert main(["verify", sidecar, "--input", str(tmp_path / "elsewhere")]) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_no_temporary_folder(out: Path, tmp_path: Path, number: signal.Signals) -> None:
    again = tmp_path / "again"
    again.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(FAKE), "verify", str(out / "a_denoised.json"), "-p", "fake"],
        env={**os.environ, "PYTHONPATH": str(FAKE.parents[1]), "FAKE_SECONDS": "30", "TMPDIR": str(again)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    end = time.monotonic() + 60
    while not list(again.glob("medidiff-verify-*")) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "medidiff: Interrupted."
    assert not list(again.glob("medidiff-verify-*"))


def test_no_result_is_a_usage_error(out: Path, tmp_path: Path, capsys: Capture) -> None:
    for path in (tmp_path / "nothing", tmp_path / "in", tmp_path / "in" / "a.nii.gz"):
        assert main(["verify", str(path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_unknown_pipeline(out: Path, capsys: Capture) -> None:
    assert main(["verify", str(out), "-p", "nope"]) == 6
    assert "nope" in capsys.readouterr().err


def test_too_little_memory(out: Path, fake: ModuleType, capsys: Capture) -> None:
    def fail(volume: object) -> None:
        raise OutOfMemory("a.nii.gz does not fit the memory; free some.")

    fake.on_restore = fail
    assert main(["verify", str(out)]) == 7
    assert "does not fit the memory" in capsys.readouterr().err
