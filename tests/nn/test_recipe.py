"""Recipes as data."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from narrowgauge.formats import FloatFormat, Scheme, parse
from narrowgauge.formats.operand import parse_operand
from narrowgauge.nn import GEMMS, RECIPES, SLOTS, get_recipe, load_recipe, recipe


def test_gemms_cover_each_slot_once() -> None:
    assert sorted(slot for pair in GEMMS.values() for slot in pair) == sorted(SLOTS)


@pytest.mark.parametrize("name", RECIPES)
def test_texts_parse_back_to_the_slots(name: str) -> None:
    r = RECIPES[name]
    assert tuple(None if text is None else parse_operand(text) for text in r.texts) == tuple(r.slots.values())
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
    with pytest.raises(TypeError, match=r"recipe: expected a name, a Recipe, a mapping or a \.toml file, got int"):
        get_recipe(8)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RECIPES)
def test_plain_data_reads_back(name: str) -> None:
    assert recipe(**RECIPES[name].to_dict()) == RECIPES[name]
    assert get_recipe(RECIPES[name].to_dict()) == RECIPES[name]


def test_groups_fill_slots_and_named_slots_win() -> None:
    r = recipe("mine", every="int8", g="e5m2", g_wgrad=None, x="int8/row")
    assert [str(scheme) for scheme in r.slots.values()] == ["int8/row", "int8", "e5m2", "int8", "None", "int8/row"]


def test_bits_are_those_of_the_widest_operand() -> None:
    assert recipe("a", x="mxfp4", g="e5m2").bits == 8
    assert recipe("b", every="mxfp4+h32").bits == 4
    assert recipe("c").bits == 32


def test_files_are_read_and_refused_by_name(tmp_path: Path) -> None:
    good = tmp_path / "mine.toml"
    good.write_text('every = "int8/row"\ng = "e5m2/row+sr"\nkeep = [1, 0]\n', encoding="utf-8")
    r = load_recipe(good)
    assert (r.name, str(r.g_dgrad), r.keep) == ("mine", "e5m2/row+sr", (1, 0))
    for text, message in (
        ("every = ", "mine.toml"),
        ('every = "int9000"', "mine.toml: x_fprop: width"),
        ("keep = [1]", "keep"),
    ):
        good.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            load_recipe(good)
    with pytest.raises(FileNotFoundError):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(("settings", "message"), [
    ({"keep": (1, -1)}, "keep: expected two counts"), ({"accumulate": "fp17/64"}, "fp17"),
    ({"weight_map": "nothing"}, "map: unknown 'nothing'"), ({"x_fprop": "int8+h16"}, "rotated alike"),
])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe("mine", **settings)


def test_a_scheme_is_a_recipe_of_all_six_operands() -> None:
    r = get_recipe("int4/1x32+sr")
    assert {str(scheme) for scheme in r.slots.values()} == {"int4/1x32+sr"}


@pytest.mark.parametrize(("settings", "message"), [
    ({"requantize": "no"}, "requantize: expected true or false"), ({"sample": "half"}, "sample: expected a share"),
    ({"keep": 1}, "keep: expected two counts"), ({"keep": [0.5, 1]}, "keep: expected two counts"),
    ({"x_fprop": "e4m3fnn"}, "x_fprop: format: unknown name"), ({"update": 8}, "update: scheme: expected a string"),
    ({"source": 3}, "source: expected text"),
])  # fmt: skip
def test_settings_of_another_type_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        recipe("mine", **settings)


def test_an_empty_file_is_no_recipe(tmp_path: Path) -> None:
    empty = tmp_path / "empty.toml"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="it sets nothing"):
        load_recipe(empty)
