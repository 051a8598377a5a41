"""Shared exponents of whole tensors: rounding, the overflow rule, accumulator head-room, Autoflex."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narrowgauge.formats import (
    Autoflex,
    DynamicFixedPoint,
    OverflowCount,
    SharedExponent,
    int32_chain_length,
    quantize_dfp16,
    quantize_to_exponent,
)

VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20)


def rounded(x: float, exponent: int, largest: int) -> int:
    """x / 2^exponent to the nearest integer, ties to even, clamped; exact."""
    return max(-largest, min(largest, round(Fraction(x) / Fraction(2) ** exponent)))


@given(VALUES, st.integers(-30, 10), st.sampled_from([2, 8, 10, 16, 24]))
def test_codes_are_the_rounded_multiples(values: list[float], exponent: int, bits: int) -> None:
    result = quantize_to_exponent(np.array(values), exponent, bits)
    largest = 2 ** (bits - 1) - 1
    assert result.codes.tolist() == [rounded(value, exponent, largest) for value in values]
    expected = [float(code * Fraction(2) ** exponent) for code in result.codes.tolist()]
    assert result.dequantize().tolist() == expected
    assert result.largest_code == max(abs(code) for code in result.codes.tolist())


def test_ties_go_to_even_and_stochastic_takes_its_bits() -> None:
    assert quantize_to_exponent([0.25, 0.75, -0.25, -0.75], -1).codes.tolist() == [0, 2, 0, -2]
    x = np.full(2, 0.25)
    assert quantize_to_exponent(x, -1, rounding="stochastic", random_bits=[0, 2**24 - 1]).codes.tolist() == [0, 1]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_integers_hold_no_nan(bad: float) -> None:
    for quantize in (quantize_dfp16, Autoflex(0).quantize, Autoflex(0).initialized, DynamicFixedPoint().update):
        with pytest.raises(ValueError, match=r"^x: 1 of 2 values are NaN or infinite, accepted: finite values"):
            quantize(np.array([1.0, bad]))
    with pytest.raises(TypeError, match=r"^x: expected float16"):
        quantize_dfp16([1, 2])


# --- dynamic fixed point


def test_range_doubles_where_too_many_overflow() -> None:
    controller = DynamicFixedPoint(bits=8, exponent=0, max_overflow_rate=0.01)
    x = np.ones(1000)
    x[:11] = 500.0  # 1.1 % at 127
    assert controller.update(x).exponent == 1
    x[10] = 70.0  # 1.0 %: not above the rate, but with half of the range it would be
    assert controller.update(x).exponent == 0


def test_range_halves_where_half_would_do() -> None:
    controller = DynamicFixedPoint(bits=8, exponent=0, max_overflow_rate=0.01)
    assert controller.update(np.full(1000, 63.0)).exponent == -1
    assert controller.update(np.full(1000, 64.0)).exponent == 0
    assert controller.update(np.full(1000, 63.5)).exponent == 0  # rounds to 64
    assert controller.update(np.zeros(1000)).exponent == -1


@given(VALUES, st.integers(-5, 15), st.sampled_from([4, 8, 10, 12]))
def test_counts_are_those_of_the_definition(values: list[float], exponent: int, bits: int) -> None:
    # At range r the largest value is (2^b - 1) / 2^(b - r), b bits beside the sign; a value overflows from there on.
    controller = DynamicFixedPoint(bits=bits, exponent=exponent)
    largest = 2 ** (bits - 1) - 1
    fixed = [abs(rounded(value, exponent, largest)) * Fraction(2) ** exponent for value in values]
    limits = [largest * Fraction(2) ** exponent, largest * Fraction(2) ** (exponent - 1)]
    count = controller.count(np.array(values))
    assert count.values == len(values)
    assert count.overflows == sum(value >= limits[0] for value in fixed)
    assert count.overflows_at_half == sum(value >= limits[1] for value in fixed)


def test_counts_add_up_over_tensors(rng: np.random.Generator) -> None:
    controller = DynamicFixedPoint(bits=10, exponent=-8, max_overflow_rate=1e-2)
    parts = [rng.standard_normal(n) for n in (100, 7, 0, 30)]
    total = sum((controller.count(part) for part in parts), OverflowCount())
    assert total == controller.count(np.concatenate(parts))
    assert controller.adjusted(total) == controller.update(np.concatenate(parts))
    assert controller.adjusted(OverflowCount()) == controller


@pytest.mark.parametrize("start", [-20, 0, 12])
def test_exponent_settles_for_a_steady_distribution(start: int, rng: np.random.Generator) -> None:
    controller = DynamicFixedPoint(bits=10, exponent=start, max_overflow_rate=1e-3)
    x = rng.standard_normal(20_000)
    for _ in range(40):
        controller = controller.update(x)
    # 3.29 standard deviations hold all but 1e-3 of a Gaussian: the range is the power of two above.
    assert controller.exponent == 2 - 9
    assert controller.update(x) == controller
    error = np.abs(controller.quantize(x).dequantize() - x)
    assert error[np.abs(x) < 3.9].max() <= 2.0 ** (controller.exponent - 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 1}, r"^bits: got 1, accepted: 2 to 32"),
        ({"max_overflow_rate": 1.0}, r"^max_overflow_rate: got 1.0, accepted: 0 to below 1"),
    ],
)
def test_impossible_controllers_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DynamicFixedPoint(**settings)  # type: ignore[arg-type]


# --- DFP-16


@given(VALUES)
def test_dfp16_uses_fifteen_bits_of_the_largest_magnitude(values: list[float]) -> None:
    result = quantize_dfp16(np.array(values))
    amax = max(map(abs, values))
    if amax == 0:
        assert (result.exponent, result.largest_code) == (0, 0)
        return
    assert Fraction(2) ** (result.exponent + 14) <= Fraction(amax) < Fraction(2) ** (result.exponent + 15)
    assert 2**14 <= result.largest_code <= 2**15 - 1
    assert result.codes.dtype == np.int16
    assert result.codes.tolist() == [rounded(value, result.exponent, 2**15 - 1) for value in values]


def test_dfp16_golden() -> None:
    result = quantize_dfp16(np.float32([1.0, -0.5, 2.0**-14, 2.0**-15, 3.0 * 2.0**-15]))
    assert result.exponent == -14
    assert result.codes.tolist() == [16384, -8192, 1, 0, 2]
    top = quantize_dfp16([np.nextafter(2.0, 0)])
    assert (top.exponent, top.codes.tolist()) == (-14, [32767])


@pytest.mark.parametrize("headroom", [0, 1, 3, 14])
def test_headroom_frees_bits(headroom: int, rng: np.random.Generator) -> None:
    x = rng.standard_normal(200)
    plain, spare = quantize_dfp16(x), quantize_dfp16(x, headroom)
    assert spare.exponent == plain.exponent + headroom
    assert spare.largest_code <= 2 ** (15 - headroom)
    assert int32_chain_length(spare.largest_code, spare.largest_code) >= 2 ** max(2 * headroom, 1)


@given(st.integers(1, 32767), st.integers(1, 32767))
def test_chain_length_is_the_last_that_cannot_overflow(a: int, b: int) -> None:
    length = int32_chain_length(a, b)
    assert length * a * b <= 2**31 - 1 < (length + 1) * a * b


def test_chain_length_in_an_accumulator() -> None:
    assert int32_chain_length(32767, 32767) == 2
    assert int32_chain_length(127, 127) == 133_144
    assert int32_chain_length(0, 5) == 2**31 - 1
    a, b = 4095, 4097
    length = int32_chain_length(a, b)
    products = np.full(length + 1, a, np.int32) * np.int32(b)
    assert np.add.reduce(products[:length], dtype=np.int32) == length * a * b
    assert np.add.reduce(products, dtype=np.int32) != (length + 1) * a * b  # wrapped
    with pytest.raises(ValueError, match=r"^largest: got -1 and 2, accepted: magnitudes"):
        int32_chain_length(-1, 2)


@pytest.mark.parametrize("headroom", [-1, 15])
def test_impossible_headroom_is_refused(headroom: int) -> None:
    with pytest.raises(ValueError, match=rf"^headroom: got {headroom}, accepted: 0 to 14"):
        quantize_dfp16([1.0], headroom)


# --- Flexpoint and Autoflex


def written(state: Autoflex, largest: int) -> SharedExponent:
    return SharedExponent(np.array([1, -largest], dtype=np.int16), state.exponent)


def test_prediction_golden() -> None:
    # f = {8000, 10000} κ: max 10000, std 1000; χ = 2 (10000 + 3000 + 100) κ = 26200 κ, below 2^15 κ.
    state = Autoflex(exponent=-20, history=(8000 * 2.0**-20,))
    moved = state.update(written(state, 10000))
    assert moved.history == (8000 * 2.0**-20, 10000 * 2.0**-20)
    assert moved.exponent == -20
    # 14000: χ = 2 (14000 + 9000 + 100) κ = 46200 κ needs one bit more.
    assert state.update(written(state, 14000)).exponent == -19
    # {2000, 2100}: χ = 2 (2100 + 150 + 100) κ = 4700 κ leaves two bits: 2^13 holds it.
    low = Autoflex(exponent=-20, history=(2000 * 2.0**-20,))
    assert low.update(written(low, 2100)).exponent == -22


@given(st.lists(st.integers(1, 32766), min_size=0, max_size=15), st.integers(1, 32766), st.integers(-31, 0))
def test_prediction_is_the_published_formula(past: list[int], largest: int, exponent: int) -> None:
    unit = 2.0**exponent
    state = Autoflex(exponent, tuple(code * unit for code in past))
    moved = state.update(written(state, largest))
    f = np.array([*past, largest], dtype=np.float64)
    predicted = 2 * (f.max() + 3 * f.std() + 100)
    expected = exponent + math.ceil(math.log2(predicted)) - 15
    assert moved.exponent == min(max(expected, -31), 0)


def test_headroom_leaves_half_of_the_codes_free() -> None:
    state = Autoflex(exponent=-10)
    for _ in range(20):
        state = state.update(state.quantize(np.array([3.7, -1.0])))
    largest = state.quantize(np.array([3.7])).largest_code
    assert 2**12 < largest < 2**14


def test_overflow_forgets_and_counts_twice() -> None:
    state = Autoflex(exponent=-20, history=(1.0, 2.0, 3.0))
    full = state.quantize(np.array([1.0]))
    assert full.largest_code == 32767
    moved = state.update(full)
    assert moved.history == (2 * 32767 * 2.0**-20,)
    assert moved.exponent == -20 + 18 - 15  # χ = 2 (65534 + 100) κ, just above 2^17 κ


def test_window_keeps_the_last_sixteen() -> None:
    state = Autoflex(exponent=-15)
    for step in range(40):
        state = state.update(SharedExponent(np.array([1000 + step], dtype=np.int16), state.exponent))
    assert len(state.history) == 16


def test_slow_growth_never_overflows(rng: np.random.Generator) -> None:
    state = Autoflex(exponent=-20).initialized(np.array([0.01]))
    for step in range(400):
        x = rng.standard_normal(256) * 0.01 * 1.01**step
        tensor = state.quantize(x)
        if step > 16:
            assert tensor.largest_code < 32767, step
        state = state.update(tensor)


@pytest.mark.parametrize("value", [1.0, 0.013, 20000.0, 2.0**-25])
@pytest.mark.parametrize("start", [-31, -12, 0])
def test_initialisation_fills_the_codes(value: float, start: int) -> None:
    x = np.array([value, -value / 3, 0.0])
    state = Autoflex(start).initialized(x)
    exponent = max(math.frexp(value)[1] - 15, -31)
    assert abs(state.exponent - exponent) <= 1
    assert 2**12 <= state.quantize(x).largest_code <= 32767 or state.exponent == -31
    assert state.history == ()


def test_initialisation_of_zeros_ends_at_one() -> None:
    assert Autoflex(-9).initialized(np.zeros(5)).exponent == 0
    assert Autoflex(0).initialized(np.zeros(0)).exponent == 0


def test_five_bits_of_exponent_are_a_hard_limit() -> None:
    state = Autoflex(0)
    assert state.update(written(state, 30000)).exponent == 0
    assert Autoflex(-31).update(written(Autoflex(-31), 1)).exponent == -31
    assert Autoflex(-5, lowest_exponent=-36).update(SharedExponent(np.array([9000], np.int16), -5)).exponent == -5
    assert Autoflex(0).initialized(np.array([1e9])).exponent == 0
    with pytest.raises(ValueError, match=r"^exponent: got 1, accepted: -31 to 0 \(five bits\)"):
        Autoflex(1)


def test_states_refuse_what_they_cannot_mean() -> None:
    state = Autoflex(-3)
    with pytest.raises(ValueError, match=r"^tensor: got exponent -4, accepted: that of this state, -3"):
        state.update(SharedExponent(np.array([1], np.int16), -4))
    with pytest.raises(ValueError, match=r"^alpha, beta, gamma: got 0, 3.0, 100.0"):
        Autoflex(0, alpha=0)
    with pytest.raises(ValueError, match=r"^window: got 1 with 2 values"):
        Autoflex(0, history=(1.0, 2.0), window=1)
