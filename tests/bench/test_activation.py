"""The suite `activation` measures what the policies promise."""

from __future__ import annotations

import math

import pytest
import torch

from narrowgauge.bench import activation
from narrowgauge.nn import POLICIES


@pytest.fixture(scope="module")
def result():
    return activation.run_suite(128, batch=1, tokens=32, train_steps=2, seeds=(0,), repetitions=9)


def test_every_policy_stands_beside_the_plain_block(result) -> None:
    assert [row.name for row in result.rows] == ["plain", *POLICIES]
    assert result.rows[0].ratio == 1.0
    assert all(row.figures["milliseconds"] > 0 for row in result.rows)


def test_memory_in_units_of_a_hidden_state(result) -> None:
    units = {row.name: row.figures["saved_units"] for row in result.rows}
    assert 22 < units["plain"] < 27
    assert units["int8"] < 7.7 < units["coat"] < 13.33


def test_accuracy_and_loss(result) -> None:
    figures = {row.name: row.figures for row in result.rows}
    assert math.isinf(figures["plain"]["sqnr_db"])
    assert figures["plain"]["loss_gap_percent"] == 0
    assert figures["int8"]["sqnr_db"] > figures["fp8"]["sqnr_db"] > 20
    assert all(abs(row.figures["loss_gap_percent"]) < 1 for row in result.rows)


def test_another_output_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "equal", lambda a, b: False)
    with pytest.raises(AssertionError, match="plain: the output is not that of the plain block"):
        activation.run_suite(64, ["int8"], batch=1, tokens=8, train_steps=0, repetitions=9)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="size: expected a multiple of 64, got 100"):
        activation.run_suite(100)
    with pytest.raises(ValueError, match="policy: got 'int88'"):
        activation.run_suite(64, ["int88"])
