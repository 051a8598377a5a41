"""The cases at which COAT's kernel breaks: found there, and nowhere in a codec that is right."""

from __future__ import annotations

from typing import Any

import pytest

from narrowgauge.bench.optim_peers import LOG8_TO_NEAREST, STATE_PEERS
from narrowgauge.bench.optim_quality.defects import COLUMNS, broken, defects
from narrowgauge.bench.optim_quality.sizes import QUICK


def wrong_of(codec: Any) -> dict[str, str]:
    return broken(codec, defects(codec, QUICK))


def test_exact_storage_has_no_defect_and_no_error(exact: Any) -> None:
    found = defects(exact, QUICK)
    assert tuple(found) == COLUMNS
    assert broken(exact, found) == {}
    assert max(abs(found[column]) for column in COLUMNS if column != "tiny: its v") < 1e-6


def test_every_defect_of_coats_kernel_is_named() -> None:
    wrong = wrong_of(STATE_PEERS["COAT, released kernel"])
    assert wrong["constant 0.001"] == wrong["lone element"] == "NaN"
    assert wrong["0 at 0: m"] == wrong["0 at 0: v"] == wrong["0 at 32: max m"] == "poisoned"
    assert not any(column.startswith("0 at 5") for column in wrong)


def test_the_hidden_smallest_element_is_lost() -> None:
    assert defects(STATE_PEERS["COAT, released kernel"], QUICK)["0 at 32: max m"] == pytest.approx(1.0)


def test_a_tiny_v_that_becomes_zero_is_named() -> None:
    assert wrong_of(STATE_PEERS["torchao FP8"]) == {"tiny: its v": "v = 0"}


def test_log8_to_nearest_has_no_defect() -> None:
    assert wrong_of(LOG8_TO_NEAREST) == {}


def test_a_zero_that_is_lost_is_named(exact: Any) -> None:
    class Floors(type(exact)):
        def load(self, state: Any) -> Any:
            return state[0], state[1] + 1e-20

    assert wrong_of(Floors())["zeros"] == "lost"


def test_coarse_codecs_may_be_off_by_their_resolution(exact: Any) -> None:
    class Coarse(type(exact)):
        def load(self, state: Any) -> Any:
            return 1.1 * state[0], state[1]

    codec = Coarse()
    assert wrong_of(codec)["constant 1"] == "lost"
    codec.resolution = 0.05
    assert wrong_of(codec) == {}
