from __future__ import annotations

import json
from pathlib import Path

import pytest

from medidiff.cli import main
from medidiff.evaluation.benchmark import Settings
from tests.benchmarks.conftest import body, silent_bundle

__all__ = ["body", "silent_bundle"]

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def command(body: Path, silent_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A benchmark in this process, which is quicker."""
    defaults = list(Settings.__init__.__defaults__ or ())
    monkeypatch.setattr(Settings.__init__, "__defaults__", (*defaults[:-1], False))
    output = ["-o", str(tmp_path / "out")]
    return ["benchmark", str(body), "--pipeline", str(silent_bundle), "--crop", "24", "--threads", "1", *output]


def test_report_tables_and_summary(command: list[str], tmp_path: Path, capsys: Capture) -> None:
    assert main([*command, "--noise", "rician:5", "--against", "gaussian,median"]) == 0
    shown = capsys.readouterr()
    assert "Denoising of 5 % Rician noise" in shown.out
    assert "| median |" in shown.out
    assert "- medidiff minus gaussian, PSNR: +" in shown.out
    assert "[3/3] body, median: PSNR" in shown.err
    assert (tmp_path / "out/report.html").stat().st_size > 10_000
    tree = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert tree["settings"]["noise"].startswith("rician 5 %")
    assert "scipy" in tree["provenance"]["packages"]
    main([*command, "--noise", "rician:5", "--against", "gaussian,median"])
    assert "made before" in capsys.readouterr().err


def test_defaults_of_the_tasks(command: list[str], capsys: Capture) -> None:
    assert main([*command, "--task", "superres", "--factor", "2", "--json"]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["methods"] == ["medidiff", "input", "spline", "linear", "base"]
    assert "noise" not in tree["settings"]


def test_what_failed_decides_the_exit_code(command: list[str], capsys: Capture) -> None:
    refining = [*command, "--task", "superres", "--factor", "2"]
    assert main([*refining, "--against", "zero-fill", "--progress", "none"]) == 4
    shown = capsys.readouterr()
    assert "k-space" in shown.out
    assert "zero-fill: failed" in shown.err
    assert "PSNR" not in shown.err
    assert main([*command, "--task", "superres", "--factor", "16"]) == 5


def test_a_scan_far_from_training_is_forced(command: list[str], silent_bundle: Path, capsys: Capture) -> None:
    file = silent_bundle / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["medidiff"]["trained_on"] = {"spacing_mm": [30.0, 31.0]}
    file.write_text(json.dumps(metadata))
    short = [*command, "--noise", "rician:5", "--against", "gaussian"]
    assert main(short) == 4
    assert "--force to restore it all the same" in capsys.readouterr().err
    assert main([*short, "--force"]) == 0
    assert "body, medidiff: PSNR" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        ["--noise", "salt:5"],
        ["--noise", "rician"],
        ["--noise", "rician:-1"],
        ["--factor", "two"],
        ["--factor", "2,2"],
        ["--against", "magic"],
        ["--against", ","],
        ["--crop", "4"],
        ["--task", "paint"],
        ["--task", "inpaint", "--factor", "2"],
        ["--factor", "4"],
        ["--profile", "box"],
    ],
)
def test_wrong_use(command: list[str], flags: list[str]) -> None:
    assert main([*command, *flags]) == 2


def test_no_scan_and_no_pipeline(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["benchmark", str(tmp_path / "empty"), "-o", str(tmp_path / "out")]) == 3
    assert main([*command, "--pipeline", "absent"]) == 6
