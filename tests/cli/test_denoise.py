from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medidiff.cli import dry_run, main
from medidiff.errors import OutOfMemory, PipelineError, ScanError, UsageError
from medidiff.runs import Plan

Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]
FAKE = Path(__file__).parents[1] / "fake_pipelines.py"
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("fake")


def raise_(error: BaseException) -> Callable[..., None]:
    def hook(*_: object, **__: object) -> None:
        raise error

    return hook


@pytest.fixture
def folder(scan: Write, tmp_path: Path) -> Path:
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "b c.nii.gz", value=7)
    return tmp_path / "in"


def denoise(*args: object) -> int:
    return main(["denoise", *map(str, args)])


def one_sentence(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("medidiff: ")
    assert "Traceback" not in text
    return lines[0]


def test_results_on_stdout_and_a_line_a_case_on_stderr(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert denoise(folder, "-o", out) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout.splitlines() == [str(out / "a_denoised.nii.gz"), str(out / "b c_denoised.nii.gz")]
    lines = stderr.splitlines()
    assert lines[0].startswith(f"[1/2] {folder / 'a.nii.gz'}: done in ")
    assert lines[1].startswith(f"[2/2] {folder / 'b c.nii.gz'}: done in ")
    assert lines[2] == f"2 scans: 2 done; see {out / 'run.json'}"
    assert len(lines) == 3


def test_json_on_stdout_is_the_record(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert denoise(folder, "-o", tmp_path / "out", "--json", "-q") == 0
    stdout, stderr = capsys.readouterr()
    assert json.loads(stdout) == json.loads((tmp_path / "out" / "run.json").read_text())
    assert stderr == ""


def test_flags_reach_the_settings(folder: Path, tmp_path: Path, fake: ModuleType) -> None:
    computes = []
    fake.on_load = computes.append
    flags = "--noise 9% --strength 0.5 --samples 3 --steps 5 --seed 7 --gamma 0.3 --force --no-uncertainty"
    flags += " --device cpu --precision fp32 --threads 2"
    assert denoise(folder, "-o", tmp_path / "out", "-p", "fake", *flags.split(), "--include", "a*") == 0
    sidecar = json.loads((tmp_path / "out" / "a_denoised.json").read_text())
    assert sidecar["config"]["restore"] == {
        "noise": 9.0,
        "strength": 0.5,
        "preset": "balanced",
        "samples": 3,
        "steps": 5,
        "flips": False,
        "gamma": 0.3,
        "seed": 7,
        "factor": None,
        "spacing": None,
        "profile": "auto",
        "force": True,
    }
    assert sidecar["config"]["uncertainty"] is False
    assert (computes[0].device, computes[0].precision, computes[0].threads) == ("cpu", "fp32", 2)
    assert not (tmp_path / "out" / "b c_denoised.json").exists()


@pytest.mark.parametrize(
    ("flags", "steps", "flips"),
    [
        ("", 8, False),
        ("--preset balanced", 8, False),
        ("--preset fast", 4, False),
        ("--preset best", 16, True),
        ("--preset fast --steps 8", 8, False),
        ("--steps 3 --preset best", 3, True),
    ],
)
def test_preset_sets_what_is_not_given(folder: Path, tmp_path: Path, flags: str, steps: int, flips: bool) -> None:
    assert denoise(folder, "-o", tmp_path / "out", "--include", "a*", *flags.split()) == 0
    sidecar = json.loads((tmp_path / "out" / "a_denoised.json").read_text())["config"]["restore"]
    assert (sidecar["steps"], sidecar["flips"]) == (steps, flips)
    assert sidecar["preset"] == (flags.partition("--preset ")[2].split() or ["balanced"])[0]


@pytest.mark.parametrize(
    "args",
    [
        ["--frobnicate"],
        ["--noise", "much"],
        ["--noise", "-1"],
        ["--noise", "101"],
        ["--noise", "nan"],
        ["--strength", "1.5"],
        ["--strength", "nan"],
        ["--steps", "0"],
        ["--samples", "-1"],
        ["--gamma", "2"],
        ["--gamma", "0.5"],
        ["--factor", "2"],
        ["--mask", "mask.nii.gz"],
        ["--seed", "99999999999999999999"],
        ["--device", "gpu"],
        ["--device", "cuda:x"],
        ["--precision", "fp8"],
        ["--threads", "0"],
        ["--progress", "loud"],
    ],
)
def test_bad_flags_are_usage_errors(folder: Path, tmp_path: Path, capsys: Capture, args: list[str]) -> None:
    assert denoise(folder, "-o", tmp_path / "out", *args) == 2
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert args[0].lstrip("-") in one_sentence(stderr)
    assert not (tmp_path / "out").exists()


def test_missing_arguments_are_usage_errors(folder: Path, capsys: Capture) -> None:
    assert denoise("-o", folder / "out") == 2
    assert "INPUT" in one_sentence(capsys.readouterr().err)
    assert denoise(folder) == 2
    assert "--output" in one_sentence(capsys.readouterr().err)
    assert main(["denose"]) == 2
    assert "denose" in one_sentence(capsys.readouterr().err)


def test_missing_input(tmp_path: Path, capsys: Capture) -> None:
    assert denoise(tmp_path / "absent.nii.gz", "-o", tmp_path / "out") == 2
    assert "absent.nii.gz" in one_sentence(capsys.readouterr().err)


def test_empty_paths_are_not_the_current_folder(folder: Path, capsys: Capture) -> None:
    assert denoise(folder, "-o", "") == 2
    assert "empty" in one_sentence(capsys.readouterr().err)
    assert denoise("", "-o", folder / "out") == 2


def test_log_must_not_be_a_scan(folder: Path, tmp_path: Path) -> None:
    before = (folder / "a.nii.gz").read_bytes()
    assert denoise(folder, "-o", tmp_path / "out", "--log", folder / "a.nii.gz") == 2
    assert (folder / "a.nii.gz").read_bytes() == before


def test_no_scan(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.txt").write_text("x")
    (tmp_path / "in" / "two.txt").write_text("x")
    assert denoise(tmp_path / "in", "-o", tmp_path / "out") == 3
    left_out, sentence = capsys.readouterr().err.splitlines()
    assert left_out == f"left out: {tmp_path / 'in' / 'one.txt'} and 1 other file: not a NIfTI or DICOM file"
    assert "No scan was found" in one_sentence(sentence)


@pytest.mark.parametrize("flag", ["-v", "--dry-run"])
def test_every_file_is_named_when_there_is_no_scan(flag: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "one.txt").write_text("x")
    (tmp_path / "two.dcm").touch()
    assert denoise(tmp_path, "-o", tmp_path / "out", flag) == 3
    first, second, sentence = capsys.readouterr().err.splitlines()
    assert first == f"left out: {tmp_path / 'one.txt'}: not a NIfTI or DICOM file"
    assert second == f"left out: {tmp_path / 'two.dcm'}: empty file"
    assert "2 files were left out" in sentence


def test_some_failed(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (folder / "z.nii.gz").write_text("no scan")
    assert denoise(folder, "-o", tmp_path / "out") == 4
    stdout, stderr = capsys.readouterr()
    assert len(stdout.splitlines()) == 2
    assert "z.nii.gz: failed: " in stderr
    assert "3 scans: 2 done, 1 failed" in stderr
    assert "Traceback" not in stderr


def test_all_failed(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "z.nii.gz").write_text("no scan")
    assert denoise(tmp_path / "z.nii.gz", "-o", tmp_path / "out", "-q") == 5
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PipelineError("The weights of fake are damaged; install it again."), 6),
        (UsageError("This machine has no cuda device; use --device cpu."), 2),
        (OutOfMemory("The network does not fit the memory."), 7),
    ],
)
def test_pipeline_that_does_not_load(
    folder: Path, tmp_path: Path, fake: ModuleType, capsys: Capture, error: Exception, code: int
) -> None:
    fake.on_load = raise_(error)
    assert denoise(folder, "-o", tmp_path / "out") == code
    assert str(error) in one_sentence(capsys.readouterr().err)


def test_unknown_pipeline(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert denoise(folder, "-o", tmp_path / "out", "--pipeline", "nonsense") == 6
    assert "nonsense" in one_sentence(capsys.readouterr().err)


def test_out_of_memory(folder: Path, tmp_path: Path, fake: ModuleType) -> None:
    fake.on_restore = raise_(MemoryError())
    assert denoise(folder, "-o", tmp_path / "out") == 7


@pytest.mark.parametrize("extra", [[], ["--log", "log.txt"]])
def test_cannot_write(folder: Path, tmp_path: Path, capsys: Capture, extra: list[str]) -> None:
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "out" if not extra else tmp_path / "out"
    extra = [str(tmp_path / "file" / part) if part.endswith("txt") else part for part in extra]
    assert denoise(folder, "-o", where, *extra) == 8
    assert "file" in one_sentence(capsys.readouterr().err)


def test_interrupted(folder: Path, tmp_path: Path, fake: ModuleType, capsys: Capture) -> None:
    fake.on_restore = raise_(KeyboardInterrupt())
    assert denoise(folder, "-o", tmp_path / "out") == 130
    assert "Traceback" not in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"


def test_interrupted_while_looking_for_scans(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medidiff.scans.discover.find_scans", raise_(KeyboardInterrupt()))
    assert denoise(folder, "-o", tmp_path / "out") == 130


@pytest.mark.parametrize(("flag", "shown"), [("-v", False), ("-vv", True)])
def test_traceback_only_with_vv(
    folder: Path, tmp_path: Path, fake: ModuleType, capsys: Capture, flag: str, shown: bool
) -> None:
    fake.on_restore = raise_(ValueError("boom"))
    assert denoise(folder, "-o", tmp_path / "out", flag) == 5
    assert ("Traceback" in capsys.readouterr().err) is shown
    fake.on_load = raise_(RuntimeError("bang"))
    assert denoise(folder, "-o", tmp_path / "out", flag) == 5
    assert ("Traceback" in capsys.readouterr().err) is shown


def test_resume_and_overwrite(folder: Path, tmp_path: Path, fake: ModuleType, capsys: Capture) -> None:
    denoise(folder, "-o", tmp_path / "out")
    first = capsys.readouterr().out
    assert denoise(folder, "-o", tmp_path / "out") == 0
    again = capsys.readouterr()
    assert again.out == first
    assert "2 scans: 2 skipped" in again.err
    assert denoise(folder, "-o", tmp_path / "out", "--overwrite") == 0
    assert "2 scans: 2 done" in capsys.readouterr().err
    assert len(fake.loads) == 2


def test_fail_fast(folder: Path, tmp_path: Path, fake: ModuleType, capsys: Capture) -> None:
    fake.on_restore = raise_(ScanError("a.nii.gz is bad."))
    assert denoise(folder, "-o", tmp_path / "out", "--fail-fast") == 5
    assert "1 failed, 1 not tried" in capsys.readouterr().err


def test_dry_run_shows_the_plan_and_writes_nothing(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    (folder / "notes.txt").write_text("x")
    assert denoise(folder, "-o", out, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"{folder / 'a.nii.gz'} -> {out / 'a_denoised.nii.gz'}" in shown
    assert "notes.txt: not a NIfTI or DICOM file" in shown
    assert "2 to restore, 0 done already" in shown
    assert shown.count("about 0.45 GB of memory") == 2
    assert not out.exists()


def test_dry_run_refuses_where_the_memory_is_not_enough(
    folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expected(plan: Plan, config: object) -> None:
        assert plan.count("todo") == 0  # so that no time is promised

    monkeypatch.setattr(dry_run, "expected", expected)
    assert denoise(folder, "-o", tmp_path / "out", "--dry-run", "--memory", "0.01") == 0
    *lines, last = capsys.readouterr().out.splitlines()
    refused = [line for line in lines if line.startswith("refuse ")]
    assert len(refused) == 2
    assert all("voxels needs" in line and "Use a machine with more, or a larger --memory." in line for line in refused)
    assert last == "0 to restore, 0 done already, 2 refused"
    assert denoise(folder, "-o", tmp_path / "out", "--dry-run", "--json", "--memory", "0.01") == 0
    tree = json.loads(capsys.readouterr().out)
    assert [(case["action"], case["memory"]) for case in tree["cases"]] == [("refuse", None)] * 2


def test_dry_run_of_a_hole_is_not_refused_for_the_whole_scan(scan: Write, tmp_path: Path, capsys: Capture) -> None:
    source, mask = scan(tmp_path / "a.nii.gz"), scan(tmp_path / "mask.nii.gz", value=0)
    args = ["inpaint", str(source), "--mask", str(mask), "-o", str(tmp_path / "out"), "--dry-run", "--memory", "0.01"]
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert "it needs more memory than there is, unless its hole is small" in shown
    assert "1 to restore" in shown


def test_dry_run_as_json(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    denoise(folder / "a.nii.gz", "-o", out, "-q")
    capsys.readouterr()
    assert denoise(folder, "-o", out, "--dry-run", "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    assert [case["action"] for case in tree["cases"]] == ["skip", "restore"]
    assert tree["cases"][0]["memory"] is None
    assert tree["cases"][1]["memory"]["way"] == "whole"
    assert tree["cases"][1]["outputs"]["restored"] == str(out / "b c_denoised.nii.gz")
    assert tree["pipelines"] == [{"name": "fake", "version": "1.2.3"}]


def test_progress_none_shows_failures_only(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (folder / "z.nii.gz").write_text("no scan")
    assert denoise(folder, "-o", tmp_path / "out", "--progress", "none") == 4
    stderr = capsys.readouterr().err
    assert len(stderr.splitlines()) == 1
    assert "z.nii.gz" in stderr


def test_log_holds_the_lines_with_times(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    assert denoise(folder, "-o", tmp_path / "out", "-q", "--log", log) == 0
    lines = log.read_text().splitlines()
    assert len(lines) == 3
    assert "a.nii.gz: done in" in lines[0]
    assert lines[0][:4].isdigit()


def test_left_out_files_are_grouped_unless_v(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (folder / "notes.txt").write_text("x")
    (folder / "readme.md").write_text("x")
    denoise(folder, "-o", tmp_path / "out")
    assert capsys.readouterr().err.splitlines()[0] == (
        f"left out: {folder / 'notes.txt'} and 1 other file: not a NIfTI or DICOM file"
    )
    denoise(folder, "-o", tmp_path / "out", "-v")
    assert f"left out: {folder / 'readme.md'}: not a NIfTI" in capsys.readouterr().err


def test_warning_of_the_pipeline_is_shown_for_each_scan(tmp_path: Path, capsys: Capture) -> None:
    air_and_bone = np.linspace(-1000, 1500, 512, dtype=np.float32).reshape(8, 8, 8)
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(air_and_bone, np.eye(4)), tmp_path / f"{name}.nii")
    assert denoise(tmp_path / "a.nii", tmp_path / "b.nii", "-o", tmp_path / "out") == 0
    stderr = capsys.readouterr().err
    for name in ("a.nii", "b.nii"):
        assert stderr.count(f"warning: {tmp_path / name}: Pipeline fake was trained on MR scans, not on CT.") == 1
    sidecar = json.loads((tmp_path / "out" / "b_denoised.json").read_text())
    assert sidecar["notes"][-1] == "Pipeline fake was trained on MR scans, not on CT."


def test_bars_on_a_terminal(folder: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, str(FAKE), "denoise", str(folder), "-o", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAKE_SECONDS": "0.4", "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = io.BytesIO()
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown.write(part)
    assert process.wait() == 0
    text = shown.getvalue().decode()
    assert "left" in text
    assert "%" in text
    assert "[2/2]" in text


def test_stdout_that_is_closed_is_no_crash(folder: Path, tmp_path: Path) -> None:
    command = f"'{sys.executable}' '{FAKE}' denoise '{folder}' -o '{tmp_path / 'out'}' --json -q | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
