"""Recipes as data."""

from __future__ import annotations

import dataclasses

import pytest

from narrowgauge.formats import FloatFormat, Scheme, parse
from narrowgauge.nn import GEMMS, RECIPES, SLOTS, get_recipe, recipe


def test_gemms_cover_each_slot_once() -> None:
    assert sorted(slot for pair in GEMMS.values() for slot in pair) == sorted(SLOTS)


@pytest.mark.parametrize("name", RECIPES)
def test_texts_parse_back_to_the_slots(name: str) -> None:
    r = RECIPES[name]
    assert tuple(None if text is None else parse(text) for text in r.texts) == tuple(r.slots.values())
    assert r.source


def test_hybrid_gradients_are_e5m2() -> None:
    assert str(RECIPES["fp8_tensor"].g_dgrad) == "e5m2"
    assert str(RECIPES["fp8_tensor"].x_fprop) == "e4m3fn"


def test_switchback_keeps_the_weight_gradient_in_high_precision() -> None:
    r = RECIPES["int8_switchback"]
    assert r.g_wgrad is None
    assert r.x_wgrad is None


def test_recipes_are_frozen_and_varied_by_replace() -> None:
    r = get_recipe("fp8_row")
    with pytest.raises(dataclasses.FrozenInstanceError):
        r.name = "other"  # type: ignore[misc]
    varied = dataclasses.replace(r, name="mine", g_dgrad=parse("e5m2/row+sr"))
    assert varied.stochastic
    assert not r.stochastic


def test_schemes_of_unregistered_formats_keep_their_meaning_as_text() -> None:
    mine = FloatFormat(name="recipe_float", exponent_bits=2, mantissa_bits=3, bias=0)
    r = recipe("mine", x_fprop=Scheme(mine, (1, None)), w_fprop=Scheme(mine, (8, 8)))
    assert r.texts[:2] == ("recipe_float/row", "recipe_float/8x8")
    assert parse(r.texts[0]) == r.x_fprop


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown name 'fp8_rows'; nearest: fp8_row"):
        get_recipe("fp8_rows")
    with pytest.raises(ValueError, match="did you mean 'x_fprop'"):
        recipe("mine", x_fprops="e4m3fn")
    with pytest.raises(TypeError, match="recipe: expected a name or a Recipe, got int"):
        get_recipe(8)  # type: ignore[arg-type]
