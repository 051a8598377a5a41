"""The names of `narrowgauge.numerics` come on first use, and are what they should be."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

import narrowgauge.numerics as numerics

HOMES = numerics._HOMES


def test_every_public_name_has_a_home_and_every_home_a_public_name():
    assert sorted(HOMES) == sorted(numerics.__all__)
    assert len(set(numerics.__all__)) == len(numerics.__all__)


def test_type_checkers_see_the_same_homes():
    tree = ast.parse(Path(numerics.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: node.module.removeprefix("narrowgauge.numerics.") for node in imports for alias in node.names}
    assert seen == HOMES


@pytest.mark.parametrize("name", numerics.__all__)
def test_name_is_what_its_file_defines(name):
    value = getattr(numerics, name)
    assert value is getattr(importlib.import_module(f"narrowgauge.numerics.{HOMES[name]}"), name)
    assert not isinstance(value, type(sys))
    assert name in dir(numerics)


def test_no_public_name_is_also_a_file_or_folder():
    # Importing numerics/diff.py would put the module in the place of the function numerics.diff.
    files = {path.stem for path in Path(numerics.__file__).parent.iterdir()}
    assert not files & set(numerics.__all__)


def test_unknown_name_is_an_attribute_error_that_names_the_nearest():
    with pytest.raises(AttributeError, match="no attribute 'sqnr_dp'; did you mean 'sqnr_db'"):
        _ = numerics.sqnr_dp
