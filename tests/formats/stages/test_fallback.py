"""Fallback: blocks with outliers keep their small values."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.formats.operand import operand_reference, parse_operand
from narrowgauge.formats.scheme import parse
from narrowgauge.formats.stages import Draw, Fallback
from narrowgauge.numerics import sqnr_db


def outliers() -> np.ndarray:
    """16 blocks of 16x16, of which three have an outlier."""
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    x[3, 5], x[20, 40], x[50, 60] = 300.0, -200.0, 100.0
    return x


def small_error(text: str) -> float:
    """SQNR of what is no outlier."""
    x = outliers()
    usual = np.abs(x) < 50.0
    return float(sqnr_db(operand_reference(x, text)[usual], x[usual].astype(np.float64)))


def test_second_term_rescues_blocks_with_outliers() -> None:
    plain, some, enough = (small_error(f"int8/16x16{text}") for text in ("", "+fallback0.1", "+fallback0.1875"))
    assert plain < some < enough
    assert enough > plain + 20.0


@pytest.mark.parametrize(("text", "gain"), [("int8/16x16", 40.0), ("e4m3fn/16x16", 24.0), ("mxfp8_e4m3", 24.0)])
def test_two_terms_everywhere_are_twice_the_bits(text: str, gain: float) -> None:
    x = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    one, two = (sqnr_db(operand_reference(x, t), x.astype(np.float64)) for t in (text, f"{text}+fallback1"))
    assert two > one + gain


def test_other_blocks_stay_as_they_are() -> None:
    x = outliers()
    plain, fallen = operand_reference(x, "int8/16x16"), operand_reference(x, "int8/16x16+fallback0.1875")
    changed = (plain != fallen).reshape(4, 16, 4, 16).any(axis=(1, 3))
    assert changed.sum() == 3
    assert changed[0, 0]
    assert changed[1, 2]
    assert changed[3, 3]


@pytest.mark.parametrize(("share", "blocks", "count"), [(0.2, 16, 4), (0.2, 1, 1), (0.5, 10, 5), (1.0, 7, 7)])
def test_share_counts_blocks_upwards(share: float, blocks: int, count: int) -> None:
    assert Fallback(share).count(blocks) == count


def test_empty_operand() -> None:
    values, memo = Fallback(0.5).before(np.zeros((0, 4), np.float32), parse("int8/2x2"), Draw())
    assert values.shape == (0, 4)
    assert memo[1].shape == (0, 4)


@pytest.mark.parametrize("text", ["int8+fallback0.2", "int8/2x2+sr+fallback0.2", "int16/2x2+fallback0.2",
                                  "int8/2x2+fallback0", "int8/2x2+fallback1.5", "int8/2x2+fallbackx"])  # fmt: skip
def test_what_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="fallback"):
        parse_operand(text)
