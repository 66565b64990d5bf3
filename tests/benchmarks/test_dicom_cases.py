from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import dicom_cases
from benchmarks.dicom_cases import DENOISE, Expected, Observed, document, surprises, verdict

SOME = ["ct_ge_missing_slice", "ct_small_ge", "junk_folder", "mr_siemens_mosaic", "mr_small_big_endian"]


def test_a_fast_part_of_the_collection_goes_as_expected(real_data: Path, tmp_path: Path) -> None:
    dicom_cases.main([*SOME, "--task", "denoise", "--results", str(tmp_path)])
    cases = json.loads((tmp_path / "dicom_cases.json").read_text())["cases"]
    assert sorted(each["case"] for each in cases) == SOME
    assert [each["exit_code"] for each in cases if each["case"] in ("junk_folder", "mr_siemens_mosaic")] == [3, 3]
    assert all(each["passed"] > 20 for each in cases if each["series"])
    assert "5 of 5 as expected." in (tmp_path / "dicom_cases.md").read_text()


def test_every_case_of_the_collection_has_an_expectation(real_data: Path) -> None:
    assert {path.name for path in (real_data / "dicom").iterdir() if path.is_dir()} == DENOISE.keys()


def test_what_is_not_as_expected_is_told() -> None:
    expected = Expected(series=1, words=("mosaic",), left_out=1)
    good = Observed("mr_siemens_sag", "denoise", exit_code=0, series=1, left_out=1, said="a Siemens Mosaic")
    assert surprises(good, expected) == []
    for change, text in (
        ({"exit_code": 4}, "exit code 4, expected 0"),
        ({"series": 2}, "series 2, expected 1"),
        ({"left_out": 0}, "left out 0, expected 1"),
        ({"said": "nothing"}, "nothing is said of 'mosaic'"),
        ({"failed": ["FAIL geometry"]}, "FAIL geometry"),
    ):
        assert surprises(replace(good, **change), expected) == [text]  # type: ignore[arg-type]
    bad = replace(good, geometry=False, new_errors=True, surprises=["FAIL geometry"])
    assert "| DIFFERS | NO: FAIL geometry |" in document([bad])
    assert "0 of 1 as expected." in document([bad])


@pytest.mark.parametrize(
    ("lines", "holds"),
    [
        (["PASS geometry [a]", "PASS geometry [b]"], True),
        (["PASS geometry [a]", "FAIL geometry [b]: moved"], False),
        (["SKIP geometry", "PASS nifti-geometry"], None),
    ],
)
def test_a_rule_holds_when_it_holds_for_every_series(lines: list[str], holds: bool | None) -> None:
    assert verdict(lines, "geometry") is holds
