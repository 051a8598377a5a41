"""Formats in a file: their values, and what happens where a name means something else."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from narrowgauge import formats
from narrowgauge.formats import CodebookFormat
from narrowgauge.formats.stored_tensor import values_of
from narrowgauge.nn.files.number_formats import add_format, know_formats


def section(*names: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        add_format(found, formats.get(name))
    return found


def test_values_stand_in_the_order_of_codes() -> None:
    found = section("e4m3fn", "int4", "nvfp4")
    assert list(found) == ["e4m3fn", "int4", "e2m1fn", "nvfp4"]
    assert (found["e4m3fn"]["values"][0x7E], found["e4m3fn"]["values"][0x7F]) == (448.0, "nan")
    assert found["int4"]["values"][8:10] == [-8.0, -7.0]
    assert "values" not in found["nvfp4"]
    assert values_of(found, "e2m1fn").tolist() == formats.get("e2m1fn").values().tolist()
    with pytest.raises(ValueError, match="format 'nvfp4': the file has no values of it"):
        values_of(found, "nvfp4")


def test_a_known_format_is_accepted_and_an_unknown_one_made_known() -> None:
    mine = CodebookFormat.from_values([-1.5, -0.25, 0.0, 7.0], name="four_of_mine")
    found: dict[str, Any] = {}
    add_format(found, mine)
    with pytest.raises(ValueError, match="unknown name 'four_of_mine'"):
        formats.get("four_of_mine")
    know_formats(found | section("e4m3fn"))
    assert formats.get("four_of_mine") == mine
    know_formats(found)


def test_a_name_that_means_another_format_is_refused() -> None:
    changed = copy.deepcopy(section("nf4"))
    changed["nf4"]["made"]["CodebookFormat"]["table"][3] = 0.125
    with pytest.raises(ValueError, match="'nf4' already means a different format"):
        know_formats(changed)
    with pytest.raises(ValueError, match="two different ones are called 'nf4'"):
        add_format(changed, formats.get("nf4"))


def test_a_class_that_is_not_here_is_refused() -> None:
    unknown = {"odd": {"bits": 1, "values": [0.0, 1.0], "made": {"OddFormat": {"name": "odd"}}}}
    with pytest.raises(ValueError, match=r"format 'odd': unknown class 'OddFormat'.*import what defines it first"):
        know_formats(unknown)
    # Its values decode nevertheless.
    assert values_of(unknown, "odd").tolist() == [0.0, 1.0]
