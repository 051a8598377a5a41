"""Recipes and formats as JSON and back."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from narrowgauge import formats
from narrowgauge.nn import RECIPES, Recipe, recipe
from narrowgauge.nn.files.data import AnyFormat, from_data, record_data, to_data


def again(value: Any, allowed: Any) -> Any:
    used: dict[str, Any] = {}
    text = json.dumps(record_data(value, lambda fmt: used.update({fmt.name: fmt})), allow_nan=False)
    return from_data(json.loads(text), allowed, used.__getitem__)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back(name: str) -> None:
    assert again(RECIPES[name], Recipe) == RECIPES[name]


@pytest.mark.parametrize("name", [*formats.names(), *(family.example for family in formats.families())])
def test_every_format_comes_back(name: str) -> None:
    assert again(formats.get(name), AnyFormat) == formats.get(name)


def test_formats_that_a_recipe_uses_are_told() -> None:
    used: list[str] = []
    record_data(recipe("mine", x_fprop="int8/row", w_fprop="mxfp4"), lambda fmt: used.append(fmt.name))
    assert used == ["int8", "mxfp4"]


def test_what_a_file_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="got a set, which files cannot hold"):
        to_data({1}, lambda fmt: None)
    assert math.isinf(from_data(to_data(-math.inf, lambda fmt: None), float, formats.get))


def test_a_file_names_no_class_but_those_of_the_field() -> None:
    with pytest.raises(ValueError, match="unknown class 'Popen', accepted: Recipe"):
        from_data({"Popen": {"args": "true"}}, Recipe, formats.get)
    with pytest.raises(ValueError, match="unknown class 'Recipe', accepted: Format"):
        from_data({"Recipe": {"name": "x"}}, AnyFormat, formats.get)
    with pytest.raises(ValueError, match="Recipe has no field 'x_forward' in this version; it has name"):
        from_data({"Recipe": {"name": "x", "x_forward": None}}, Recipe, formats.get)
    with pytest.raises(ValueError, match="expected an object of one entry"):
        from_data({}, Recipe, formats.get)
