"""Recipes: what they say is what runs, and a misspelt key does not pass."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from medidiff.training import recipe
from medidiff.training.trainer import build_network

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe_reads_and_builds(path):
    found = recipe.read(path)
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    assert found.name == values["name"]
    assert found.network == values["network"]
    for section in ("data", "optimiser"):
        for key, value in values.get(section, {}).items():
            assert getattr(getattr(found, section), key) == recipe._tuples(value)
    assert build_network(found.network).stride >= 2
    assert found.data.patches[-1][0] == 1.0
    assert found.optimiser.null[-1][0] == 1.0


def test_defaults_and_nested_lists(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('name = "x"\n[data]\npatches = [[0.5, 8, 2], [1.0, 16, 1]]\nsigma = [0.1, 0.2]\n')
    found = recipe.read(path)
    assert found.data.patches == ((0.5, 8, 2), (1.0, 16, 1))
    assert found.data.sigma == (0.1, 0.2)
    assert found.optimiser == recipe.Optimiser()
    assert found.as_dict()["data"]["patches"] == ((0.5, 8, 2), (1.0, 16, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name = "x"\nsede = 1', "^unknown setting 'sede'; known are data, iterations"),
        ('name = "x"\n[data]\nsigmas = [0, 1]', r"^\[data\]: unknown setting 'sigmas'"),
        ('name = "x"\n[optimiser]\nlr = 1', r"^\[optimiser\]: unknown setting 'lr'"),
        ("name = ", "Invalid value"),
    ],
)
def test_misspelt_settings_are_named(tmp_path, text, words):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        recipe.read(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('modalities = "MR"', "^modalities is a list of texts, not 'MR'$"),
        ("modalities = []", "^modalities is a list of texts"),
        ('seconds = "60"', "^seconds is a number of 0 or more, not '60'$"),
        ("seconds = -5", "^seconds is a number of 0 or more, not -5$"),
        ("iterations = 3.5", "^iterations is a whole number"),
        ("data = 3", "^data is a section, not 3$"),
        ("[data]\nsigma = 0.1", r"^\[data\]: sigma is two numbers, the smaller first, not 0.1$"),
        ("[data]\nsigma = [0.18, 0.01]", r"^\[data\]: sigma is two numbers, the smaller first, not \[0.18, 0.01\]$"),
        ("[data]\npatches = [[0.5, 16]]", r"^\[data\]: patches is a list of lists of a fraction, an edge"),
        (
            "[data]\nsuperres = 0.9\ninpaint = 0.3",
            r"^\[data\]: superres, inpaint and combined are .*, not 1.2 together$",
        ),
        ('[optimiser]\nlearning_rate = "x"', r"^\[optimiser\]: learning_rate is a number of 0 or more"),
        ("[optimiser]\nnull = 0.5", r"^\[optimiser\]: null is a list of pairs of numbers, not 0.5$"),
    ],
)
def test_impossible_values_are_named(tmp_path, text, words):
    path = tmp_path / "r.toml"
    path.write_text(f'name = "x"\n{text}')
    with pytest.raises(ValueError, match=words):
        recipe.read(path)


def test_every_setting_has_a_kind():
    for section in (recipe.Recipe, recipe.Data, recipe.Optimiser):
        assert set(get_type_hints(section).values()) <= set(recipe._KINDS)


def test_stages():
    stages = ((0.6, 32, 8), (1.0, 48, 3))
    expected = {0.0: (32, 8), 0.59: (32, 8), 0.6: (48, 3), 0.99: (48, 3), 1.0: (48, 3), 1.5: (48, 3)}
    assert {fraction: recipe.staged(stages, fraction) for fraction in expected} == expected
