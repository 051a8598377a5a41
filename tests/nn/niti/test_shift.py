"""Pseudo-stochastic rounding: bit by bit as published, and how far from unbiased."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge.nn.niti.shift import bit_length, pseudo_stochastic_shift, requantize


def published(x: int, shift: int) -> int:
    """The rule on one integer, by strings of bits."""
    bits = format(abs(x), "064b")
    kept, gone = bits[: 64 - shift], bits[64 - shift :]
    upper, lower = gone[: (shift + 1) // 2], gone[(shift + 1) // 2 :]
    random = int(lower or "0", 2) * (2 if shift % 2 else 1)
    rounded = int(kept, 2) + (int(upper or "0", 2) > random)
    return rounded if x >= 0 else -rounded


@given(st.integers(-(2**30), 2**30), st.integers(0, 24))
def test_each_integer_is_rounded_as_published(x: int, shift: int) -> None:
    for dtype in (torch.int32, torch.int64):
        assert int(pseudo_stochastic_shift(torch.tensor([x], dtype=dtype), shift)) == published(x, shift)


@pytest.mark.parametrize("shift", range(1, 13))
def test_bias_over_all_low_bits_is_as_documented(shift: int) -> None:
    x = torch.arange(5 << shift, 6 << shift, dtype=torch.int32)
    exact = x.double() / 2**shift
    rounded = float((pseudo_stochastic_shift(x, shift).double() - exact).mean())
    cut = float(((x >> shift).double() - exact).mean())
    expected = 2.0 ** (-shift - 1) if shift % 2 else -(2.0 ** (-shift / 2) - 2.0**-shift) / 2
    assert rounded == pytest.approx(expected, abs=1e-12)
    assert cut == pytest.approx(-(1 - 2.0**-shift) / 2, abs=1e-12)
    if shift >= 7:
        assert abs(rounded) < 0.08 * abs(cut)


def test_codes_fill_seven_bits_and_never_clip_by_much() -> None:
    torch.manual_seed(0)
    acc = torch.randint(-(2**20), 2**20, (64, 64), dtype=torch.int32)
    codes, shift = requantize(acc)
    assert codes.dtype == torch.int8
    assert 64 <= int(codes.abs().max()) <= 127
    assert shift == bit_length(acc) - 7
    assert float((codes.double() * 2.0**shift - acc.double()).abs().max()) <= 2.0**shift


@pytest.mark.parametrize(("largest", "length"), [(0, 0), (1, 1), (127, 7), (128, 8), (2**31 - 1, 31)])
def test_bit_lengths(largest: int, length: int) -> None:
    assert bit_length(torch.tensor([-largest, 0], dtype=torch.int32)) == length


def test_what_fits_stays_as_it_is() -> None:
    acc = torch.tensor([[127, -127, 0]], dtype=torch.int32)
    codes, shift = requantize(acc)
    assert shift == 0
    assert torch.equal(codes.int(), acc)
    assert requantize(torch.zeros(0, 3, dtype=torch.int32))[1] == 0


def test_a_code_that_rounds_up_past_the_largest_is_clipped() -> None:
    codes, shift = requantize(torch.tensor([255], dtype=torch.int32))
    assert (int(codes), shift) == (127, 1)


@pytest.mark.parametrize("bits", [0, 8])
def test_widths_that_no_code_has_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits: expected 1 to 7"):
        requantize(torch.ones(1, dtype=torch.int32), bits)
    with pytest.raises(ValueError, match="shift"):
        pseudo_stochastic_shift(torch.ones(1, dtype=torch.int32), -1)
