"""Takums: decoded from strings of bits, rounded by cutting off bits that are written out in full."""

from __future__ import annotations

import pickle
from decimal import Context, Decimal
from fractions import Fraction
from math import floor, frexp, inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hard_values import hard_values as hard_values_of
from narrowgauge import formats
from narrowgauge.formats import TakumFormat, quantize_reference, takum

WIDTHS = [2, 3, 4, 5, 6, 8, 11, 12, 13, 16]
PRECISE = Context(prec=110)
each_width = pytest.mark.parametrize("width", WIDTHS)


def parts(bits: str) -> tuple[int, int, Fraction]:
    """S, c and m of a takum that is neither zero nor NaR, from all its bits."""
    bits = bits.ljust(40, "0")
    sign, direction, regime = int(bits[0]), bits[1], int(bits[2:5], 2)
    r = regime if direction == "1" else 7 - regime
    characteristic = int("0" + bits[5 : 5 + r], 2)
    c = 2**r - 1 + characteristic if direction == "1" else -(2 ** (r + 1)) + 1 + characteristic
    mantissa = bits[5 + r :]
    return sign, c, Fraction(int(mantissa, 2), 2 ** len(mantissa))


def linear(code: int, width: int) -> float:
    """The published formula, for both signs."""
    bits = f"{code:0{width}b}"
    if "1" not in bits[1:]:
        return nan if bits[0] == "1" else 0.0
    sign, c, m = parts(bits)
    return float((1 - 3 * sign + m) * Fraction(2) ** ((-1) ** sign * (c + sign)))


def root_power(exponent: Fraction) -> Decimal:
    """sqrt(e)^exponent."""
    half = exponent / 2
    return PRECISE.exp(PRECISE.divide(Decimal(half.numerator), Decimal(half.denominator)))


def logarithmic(code: int, width: int) -> float:
    bits = f"{code:0{width}b}"
    if "1" not in bits[1:]:
        return nan if bits[0] == "1" else 0.0
    sign, c, m = parts(bits)
    value = float(root_power((-1) ** sign * (c + m)))
    return -value if sign else value


def cut(c: int, mantissa: str, width: int) -> int:
    """The positive code of c and a long mantissa: all bits, the first ones kept, to nearest even as integers."""
    if not -255 <= c <= 254:
        return 1 if c < 0 else 2 ** (width - 1) - 1
    r = (c + 1).bit_length() - 1 if c >= 0 else (-c).bit_length() - 1
    characteristic = c - (2**r - 1 if c >= 0 else -(2 ** (r + 1)) + 1)
    bits = ("1" if c >= 0 else "0") + f"{r if c >= 0 else 7 - r:03b}"
    bits += (f"{characteristic:0{r}b}" if r else "") + mantissa + "0" * width
    kept, tail = int(bits[: width - 1], 2), bits[width - 1 :]
    half = "1" + "0" * (len(tail) - 1)
    kept += tail > half or (tail == half and kept % 2 == 1)
    return min(max(kept, 1), 2 ** (width - 1) - 1)


def rounded_linear(x: float, width: int) -> int:
    if x == 0:
        return 0
    significand, exponent = frexp(abs(x))
    code = cut(exponent - 1, f"{int((2 * significand - 1) * 2**52):052b}", width)
    return code if x > 0 else 2**width - code


def rounded_logarithmic(x: float, width: int) -> int:
    if x == 0:
        return 0
    twice = 2 * Fraction(PRECISE.ln(Decimal(abs(x))))
    c = floor(twice)
    code = cut(c, f"{floor((twice - c) * 2**200):0200b}", width)
    return code if x > 0 else 2**width - code


def hard_values(fmt: TakumFormat, rng: np.random.Generator, most: int) -> np.ndarray:
    return hard_values_of(fmt, rng, most, (-262, 262), 2 * most)


@each_width
def test_every_linear_code_decodes_by_the_published_formula(width: int) -> None:
    values = [linear(code, width) for code in range(2**width)]
    np.testing.assert_array_equal(takum(width).values(), values)


@pytest.mark.parametrize("width", [2, 5, 8, 12])
def test_every_logarithmic_code_decodes_to_the_nearest_float64(width: int) -> None:
    values = [logarithmic(code, width) for code in range(2**width)]
    np.testing.assert_array_equal(takum(width, logarithmic=True).values(), values)


def test_published_limits() -> None:
    eight, sixteen = takum(8), takum(16)
    assert (eight.max, eight.smallest_subnormal) == (2.0**239, 2.0**-239)
    assert (sixteen.max, sixteen.smallest_subnormal) == (1.9375 * 2.0**254, 1.0625 * 2.0**-255)
    assert eight.encode([1.0, -1.0, 1e300, -1e300, 1e-300, -1e-300, nan]).tolist() == [64, 192, 127, 129, 1, 255, 128]
    # 0 1 001 0 00: c = 1; 0 1 000 100: c = 0, m = 1/2; 0 0 111 000: c = -1; 0 1 100 111 0…: c = 15 + 14.
    assert eight.decode([0b01001000, 0b01000100, 0b00111000, 0b01100111]).tolist() == [2.0, 1.5, 0.5, 2.0**29]
    assert eight.epsilon == 0.125
    largest = takum(16, logarithmic=True).max
    assert largest == float(root_power(Fraction(254) + Fraction(15, 16)))  # the published 254.9375


@each_width
def test_linear_encode_is_nearest_even_on_the_bit_string(width: int, rng: np.random.Generator) -> None:
    fmt = takum(width)
    x = hard_values(fmt, rng, 1500)
    assert fmt.encode(x).tolist() == [rounded_linear(value, width) for value in x.tolist()]


@pytest.mark.parametrize("width", [2, 5, 8, 12])
def test_logarithmic_encode_is_nearest_even_on_the_bit_string(width: int, rng: np.random.Generator) -> None:
    fmt = takum(width, logarithmic=True)
    x = hard_values(fmt, rng, 150)
    assert fmt.encode(x).tolist() == [rounded_logarithmic(value, width) for value in x.tolist()]


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(WIDTHS))
def test_encode_of_any_float64(x: float, width: int) -> None:
    assert takum(width).encode(x) == rounded_linear(x, width)


def test_borders_of_logarithmic_takums_are_the_next_float64_above_an_irrational_number() -> None:
    borders = takum(8, logarithmic=True).thresholds[1:]
    for code, border in enumerate(borders.tolist(), start=1):
        _, c, m = parts(f"{2 * code + 1:09b}")
        assert Decimal(float(np.nextafter(border, 0.0))) < root_power(c + m) < Decimal(border)


def test_negation_is_the_two_s_complement(rng: np.random.Generator) -> None:
    for fmt in (takum(8), takum(16), takum(8, logarithmic=True)):
        x = hard_values(fmt, rng, 1000)
        assert np.array_equal(fmt.encode(-x), -fmt.encode(x).astype(np.int64) % 2**fmt.bits)


def test_linear_and_logarithmic_codes_of_one_number_agree_near_one() -> None:
    assert takum(8).encode(1.0) == takum(8, logarithmic=True).encode(1.0) == 64
    assert takum(8, logarithmic=True).decode(64) == 1.0


def test_nothing_but_infinity_becomes_nar_and_that_only_if_nonsaturating() -> None:
    x = [1e300, inf, -1e300, -inf]
    for fmt in (takum(8), takum(8, logarithmic=True)):
        for overflow in ("saturate", "propagate"):
            assert fmt.encode(x, overflow=overflow).tolist() == [0x7F, 0x7F, 0x81, 0x81]
        assert fmt.encode(x, overflow="nonsaturating").tolist() == [0x7F, 0x80, 0x81, 0x80]
        assert isnan(fmt.decode(0x80))


@pytest.mark.parametrize("width", [1, 17])
def test_other_widths_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match=rf"^width: takums take 2 to 16 bits, got {width}"):
        takum(width)


def test_names_say_linear_or_logarithmic() -> None:
    assert {"takum8", "takum16", "takum_log8"} <= set(formats.names())
    assert formats.get("takum12") == takum(12)
    assert formats.get("takum_log6") == takum(6, logarithmic=True) != takum(6)
    assert pickle.loads(pickle.dumps(takum(8, logarithmic=True))) == takum(8, logarithmic=True)


def test_quantize_with_a_fixed_scale_is_encode(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 33)).astype(np.float32)
    q = quantize_reference(x, "takum8:static=1")
    assert np.array_equal(q.codes, takum(8).encode(x))
    assert np.array_equal(q.dequantize(), takum(8).round(x))
