from __future__ import annotations

import json
from types import ModuleType

import pytest

from medidiff import bundles
from medidiff.cli import main


def test_list_as_text(fake: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "fake 1.2.3  denoise, superres, inpaint  MR"


def test_list_as_json(fake: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {
            "name": "fake",
            "version": "1.2.3",
            "tasks": ["denoise", "superres", "inpaint"],
            "modalities": ["MR"],
            "spatial_dims": 3,
            "summary": "A fake.",
            "path": str(fake.home),
            "licence": "CC0-1.0",
        }
    ]


def test_no_pipeline_is_an_error(
    fake: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundles, "folders", lambda: iter([]))
    assert main(["list"]) == 6
    assert "MEDIDIFF_BUNDLES" in capsys.readouterr().err
