"""Recipes: what they say is what runs, and a misspelt key does not pass."""

from __future__ import annotations

import tomllib
from pathlib import Path

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


def test_stages():
    stages = ((0.6, 32, 8), (1.0, 48, 3))
    expected = {0.0: (32, 8), 0.59: (32, 8), 0.6: (48, 3), 0.99: (48, 3), 1.0: (48, 3), 1.5: (48, 3)}
    assert {fraction: recipe.staged(stages, fraction) for fraction in expected} == expected
