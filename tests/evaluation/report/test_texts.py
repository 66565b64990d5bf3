"""Numbers and sentences of the page."""

from __future__ import annotations

import math

import pytest

from medidiff.evaluation.report import texts


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/home/x/in/a.nii.gz is damaged (a/b).", "a.nii.gz is damaged (a/b)."),
        ("C:\\Users\\bob\\a.nii and out\\b.nii", "a.nii and out\\b.nii"),
        ("see '/tmp/a.nii' (or ~/b/c.nii)", "see 'a.nii' (or c.nii)"),
        ("--mask=/home/u/m.nii file:///srv/x.nii", "--mask=m.nii x.nii"),
        ("../in/a.nii, 3 / 2, 5 mm/s, and/or", "../in/a.nii, 3 / 2, 5 mm/s, and/or"),
    ],
)
def test_absolute_paths_are_cut(text: str, wanted: str) -> None:
    assert texts.discreet(text) == wanted


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(1234.567, "1235"), (0.0123456, "0.01235"), (3.0, "3"), (123456.7, "123457"), (math.nan, "–"), (None, "–")],
)
def test_numbers(value: float | None, wanted: str) -> None:
    assert texts.number(value) == wanted


def test_probabilities() -> None:
    assert [texts.probability(p) for p in (0.03125, 1e-6, math.nan)] == ["0.031", "< 0.0001", "–"]


def test_a_tree_becomes_lines() -> None:
    tree = {"a": 1, "b": {"c": 2.5, "d": None, "e": True}, "f": [1, 2], "g": {"h": "x" * 64}, "i": [{"j": 1, "k": 2}]}
    assert list(texts.flat(tree)) == [
        ("a", "1"),
        ("b", "c 2.5 · e yes"),
        ("f", "1, 2"),
        ("g.h", "x" * 64),
        ("i[0]", "j 1 · k 2"),
    ]
