"""The page: one file, nothing fetched, nothing private, every number in its files."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff.errors import ScanError
from medidiff.evaluation import report
from medidiff.evaluation.report import claim, methods, study, tables, texts
from medidiff.evaluation.results import Evaluation


class Page(HTMLParser):
    """What a test asks of the page: cells with numbers, links, sources, texts, the data of the script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside: list[str] = []
        self._number = False
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self._inside.append(tag)
        self._number = (tag == "td" and "n" in str(dict(attrs).get("class")).split()) or (self._number and tag != "td")
        if tag == "td" and self._number:
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self._inside:
            self.scripts.append(data)
        elif "style" not in self._inside:
            self.words.append(data)
            if "td" in self._inside and self._number:
                self.cells[-1] += f" {data.strip()}"

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def text(evaluation: Evaluation) -> str:
    return report.render(evaluation)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def files(page: Page) -> dict[str, list[dict[str, str]]]:
    """The tables that the page carries."""
    links = {attributes["download"]: attributes["href"] for _, attributes in page.tags if "download" in attributes}
    found = {}
    for name, link in links.items():
        assert link is not None
        content = base64.b64decode(link.split(",")[1]).decode()
        found[str(name)] = list(csv.DictReader(io.StringIO(content)))
    return found


def test_the_same_evaluation_gives_the_same_bytes(evaluation: Evaluation, text: str, tmp_path: Path) -> None:
    report.write(evaluation, tmp_path / "new" / "report.html")
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == text


def test_nothing_is_fetched(text: str, page: Page) -> None:
    for source in [*page.values("src"), *page.values("href")]:
        assert source.startswith(("data:", "#")), source
    assert not re.search(r"url\(|@import|\bfetch\(|XMLHttpRequest|import\(", text)
    rule = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert rule is not None
    assert rule.startswith("default-src 'none'; img-src data:;")
    script = page.scripts[-1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in rule


def test_what_others_wrote_is_text_and_not_markup(text: str, page: Page) -> None:
    assert "<script>alert" not in text
    assert "<b>look</b>" not in text
    assert "Denoise & <script>alert(1)</script>" in page.text
    assert json.loads(page.scripts[0])["title"] == "Denoise & <script>alert(1)</script>"


def test_no_absolute_path_is_left(text: str, page: Page) -> None:
    assert not re.search(r"/home|/data/x|C:\\|Users", text)
    assert "Structure removed: see one.nii.gz &" in page.text
    assert "lost.nii.gz is damaged." in page.text


def test_every_number_of_the_tables_is_in_the_files(page: Page) -> None:
    known = {
        written(float(value))
        for rows in files(page).values()
        for row in rows
        for value in row.values()
        if re.fullmatch(r"-?[\d.]+(e-?\d+)?", value)
        for written in (texts.number, texts.probability, lambda value: texts.number(value, 3))
    }
    shown = {
        number for cell in page.cells for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])", cell)
    }
    assert len(shown) > 40
    assert shown <= known


def test_figures_of_the_report_are_those_that_complete_adds(evaluation: Evaluation, page: Page) -> None:
    full = report.complete(evaluation)
    assert report.complete(full) is full
    listed = {
        (row["case"], row["method"], row["metric"], row["region"], row["value"]) for row in files(page)["figures.csv"]
    }
    wanted = {(f.case, f.method, f.metric, f.region, repr(float(f.value))) for f in full.figures}
    assert listed == wanted
    assert report.render(full) == report.render(replace(full, metrics=dict(full.metrics)))
    added = {figure.metric for figure in full.figures} - set(evaluation.metrics)
    assert added == set(study.METRICS) - {study.TISSUE_AGREEMENT}


def test_dice_and_volumes_of_a_case(evaluation: Evaluation) -> None:
    full = report.complete(evaluation)
    dice = {name: tables.value_of(full, "good", name, study.TISSUE_DICE, "foreground") for name in full.methods}
    assert 0.5 < dice["input"] < dice["medidiff"] <= 1
    volumes = [
        tables.value_of(full, "good", "reference", f"tissue_{kind}", "foreground")
        for kind in ("dark", "middle", "bright")
    ]
    truth = next(shown for shown in evaluation.cases[0].images if shown.role == "reference").load()
    wanted = [np.count_nonzero(truth == level) * 2 / 1000 for level in (100, 200, 300)]
    assert volumes == pytest.approx(wanted)


def test_every_hash_of_a_sidecar_is_shown(page: Page) -> None:
    for letter in "abcde":
        assert letter * 64 in page.text


def test_what_was_said_of_a_scan_stands_at_its_case(evaluation: Evaluation) -> None:
    first, second, *others = evaluation.cases
    said = "Unlike what /data/x was trained on."
    volumes = [{"record": {"warnings": [said, "Smoothed."]}}, {"record": {"warnings": 3}}]
    trees = [{"notes": [said, *each.verdicts], "volumes": volumes} for each in (first, second)]
    told = [replace(each, sidecar=tree) for each, tree in zip((first, second), trees, strict=True)]
    text = report.render(replace(evaluation, cases=(*told, *others)))
    assert text.count("<li>Unlike what x was trained on.</li><li>Smoothed.</li></ul>") == 2
    assert text.count('<span class="badge">warning</span>') == 2  # of the case without a sentence of the guard
    assert '<span class="badge">warning</span>' not in report.render(evaluation)


def test_the_methods_paragraph_says_what_the_record_holds(evaluation: Evaluation) -> None:
    text = methods.paragraph(evaluation)
    assert text.startswith(
        f"2 volumes were denoised with medidiff 9.9.9 (pipeline mr 0.2.0, weights SHA-256 {'c' * 64})"
    )
    assert "noise level was estimated from each scan under a rician law (5.5 to 5.5 %, median 5.5 %" in text
    assert "degraded first (noise: rician:9); each method (medidiff, nlm) was given the same images." in text
    assert "compared with references by PSNR." in text
    assert "without samples; 40 % of the network's correction of the classical base was kept." in text
    assert "restored +- 1.5 times it" in text
    assert "(n = 2; the volume is the unit) with the two-sided Wilcoxon" in text
    assert "python 3.11.7, torch 2.13.0; Linux x86_64; computed on cpu" in text
    alone = methods.paragraph(replace(evaluation, cases=evaluation.cases[:1], comparisons=()))
    assert alone.startswith("1 volume was denoised")
    assert "Wilcoxon" not in alone


def test_claim_items_name_what_failed_and_what_was_flagged(evaluation: Evaluation) -> None:
    found = {item: text for _, item, text in claim.items(evaluation, 5)}
    assert found["Handling of missing data"] == "1 scan failed; 2 notes on what was left out."
    assert found["Flow of examinations"].startswith("3 in, 2 with a result, 1 with a failure.")
    assert "on 1 scan (bad)" in found["Failure analysis"]
    assert "c" * 64 in found["Description of the model"]


def test_all_that_was_asked_for_is_there(page: Page) -> None:
    captions = ("Before", "Restored", "Residual", "Uncertainty", "Reference", "Difference to reference")
    for words in (*captions, "Supplied by the prior", "nlm", "Wilcoxon", "bm4d is not installed."):
        assert words in page.text
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    targets = [link[1:] for link in page.values("href") if link.startswith("#")]
    assert set(targets) <= set(ids)
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all("alt" in attributes for attributes in pictures)
    assert sum(str(each.get("class")) == "strip" for each in pictures) == 2 * (3 * 7 + 2)


def test_an_evaluation_without_images_or_figures_is_a_page_too(evaluation: Evaluation) -> None:
    bare = replace(evaluation, cases=evaluation.cases[2:], figures=(), comparisons=(), metrics={}, missing=())
    page = Page(report.render(bare))
    assert "No figure was found." in page.text
    assert "lost.nii.gz is damaged." in page.text


def test_only_what_is_known_is_told_of_the_run(evaluation: Evaluation) -> None:
    assert '<th scope="row">pipeline' not in report.render(evaluation)
    known = replace(evaluation, provenance={"pipelines": {"mr 0.2.0": "c" * 64}})
    assert '<th scope="row">pipeline.mr 0.2.0</th>' in report.render(known)


def test_the_parts_of_the_page_are_shipped() -> None:
    names = {each.name for each in resources.files("medidiff.evaluation.report").iterdir()}
    assert {"report.html.j2", "case.html.j2", "report.css", "report.js"} <= names


def test_an_image_that_cannot_be_read_is_named_and_left_out(evaluation: Evaluation) -> None:
    def gone() -> Any:
        raise ScanError("/somewhere/deep/truth.nii.gz is damaged.")

    case = evaluation.cases[0]
    images = tuple(replace(shown, load=gone) if shown.role == "reference" else shown for shown in case.images)
    page = Page(report.render(replace(evaluation, cases=(replace(case, images=images),))))
    assert "good: an image (reference) is not shown: truth.nii.gz is damaged." in page.text
    assert "Difference to reference" not in page.text
    assert "Residual" in page.text
