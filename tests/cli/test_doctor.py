from __future__ import annotations

import json
import platform
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medidiff import bundles
from medidiff.cli import doctor, main

Capture = pytest.CaptureFixture[str]


def test_sound_installation(fake: ModuleType, capsys: Capture) -> None:
    assert main(["doctor", "--json"]) == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert findings["python"]["value"] == platform.python_version()
    assert findings["numpy"]["value"] == np.__version__
    assert findings["pipeline fake"]["value"] == "1.2.3, weights are intact"
    assert "threads" in findings["cpu"]["value"]
    assert {"torch", "monai", "memory", "disk", "temporary files"} <= set(findings)
    assert all(finding["ok"] for finding in findings.values())


def test_damaged_weights(fake: ModuleType, capsys: Capture) -> None:
    (fake.home / "model").write_bytes(b"other weights")
    assert main(["doctor"]) == 6
    line = next(line for line in capsys.readouterr().out.splitlines() if "pipeline fake" in line)
    assert line.startswith("BAD")
    assert "damaged" in line


@pytest.mark.parametrize("metadata", [None, "{", "{}"])
def test_missing_or_damaged_metadata(fake: ModuleType, metadata: str | None, capsys: Capture) -> None:
    file = fake.home / "configs" / "metadata.json"
    file.unlink() if metadata is None else file.write_text(metadata)
    assert main(["doctor"]) == 6
    assert "BAD" in capsys.readouterr().out


def test_no_pipeline(fake: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundles, "folders", lambda: iter([tmp_path]))
    assert main(["doctor"]) == 6


def test_temporary_folder_that_takes_nothing(
    fake: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert main(["doctor"]) == 8
    assert "set TMPDIR" in capsys.readouterr().out
