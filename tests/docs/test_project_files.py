"""Files that must agree with each other do."""

import re
import tomllib
from pathlib import Path

import yaml

from medidiff import __version__

ROOT = Path(__file__).parents[2]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[;~! ]", requirement)[0].lower() for requirement in requirements}


def test_constraints_pin_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = names(project["dependencies"]).union(
        *(names(extra) for extra in project["optional-dependencies"].values())
    )
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {line.split("==")[0] for line in lines}
    assert wanted <= pinned, sorted(wanted - pinned)
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)


def test_nothing_forbidden_is_pinned() -> None:
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert pinned.isdisjoint({"bm4d", "torchvision", "lightning", "pytorch-lightning"})
    assert not any("nvidia" in name for name in pinned)


def test_citation_and_changelog_know_the_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{__version__}]" in changelog


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages == set(listed)


def test_links_between_files_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "sample_data" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_tests_and_modules_that_pages_name_exist() -> None:
    tests = {
        name for file in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    for page in (ROOT / "docs").rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        missing = set(re.findall(r"`(test_\w+)`", text)) - tests
        assert not missing, f"{page.name} names {sorted(missing)}"
        for path in re.findall(r"`((?:[\w-]+/)*\w+\.py)`", text):
            assert (ROOT / path).exists() or (ROOT / "medidiff" / path).exists(), f"{page.name} names {path}"


def test_every_complaint_is_held_by_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "complaints.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[0]) for row in rows] == list(range(1, 22))
    for number, _, _, held in rows:
        found = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", held)
        assert found, f"complaint {number} is held by nothing"
        for file, name in found:
            assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8"), f"complaint {number}: {file}::{name}"
