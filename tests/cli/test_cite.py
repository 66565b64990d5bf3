from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medidiff._version import __version__
from medidiff.cli import cite, main

ROOT = Path(__file__).parents[2]


def test_citation_is_that_of_the_citation_file() -> None:
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert found["title"] == cite.TITLE
    assert [author["name"] for author in found["authors"]] == [cite.AUTHORS]
    assert found["license"] == cite.LICENCE
    assert found["version"] == __version__
    assert not {"doi", "date-released", "identifiers"} & found.keys()  # else the command must show it


def test_text_and_bibtex(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cite"]) == 0
    assert capsys.readouterr().out == (
        f"The medidiff contributors. {cite.TITLE}. Version {__version__} [software]. Licence: Apache-2.0.\n"
    )
    assert main(["cite", "--bibtex"]) == 0
    entry = capsys.readouterr().out
    assert entry.startswith("@software{medidiff,\n  author  = {{The medidiff contributors}},\n")
    assert f"  version = {{{__version__}}},\n" in entry
    assert entry.count("{") == entry.count("}")
