"""Posits: decoded from strings of bits, and rounded by writing the bits out in full and cutting them off."""

from __future__ import annotations

import pickle
from dataclasses import replace
from fractions import Fraction
from math import frexp, inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hard_values import hard_values as hard_values_of
from narrowgauge import formats
from narrowgauge.formats import PositFormat, Rounding, parse, posit, quantize_reference

SIZES = [(8, 0), (8, 1), (8, 2), (16, 1), (16, 2), (2, 0), (3, 0), (3, 9), (4, 3), (5, 2), (6, 1), (11, 1), (16, 6)]
each_size = pytest.mark.parametrize(("width", "es"), SIZES)


def value_of(bits: str, es: int) -> Fraction:
    """The value of a positive posit, from its bits behind the sign."""
    run = len(bits) - len(bits.lstrip(bits[0]))
    k = run - 1 if bits[0] == "1" else -run
    rest = bits[run + 1 :]
    exponent = int(rest[:es].ljust(es, "0") or "0", 2)
    fraction = rest[es:]
    significand = 1 + (Fraction(int(fraction, 2), 2 ** len(fraction)) if fraction else 0)
    return significand * Fraction(2) ** (k * 2**es + exponent)


def decoded(code: int, width: int, es: int) -> float:
    bits = f"{code:0{width}b}"
    if "1" not in bits[1:]:
        return nan if bits[0] == "1" else 0.0
    if bits[0] == "1":
        return -decoded(2**width - code, width, es)
    return float(value_of(bits[1:], es))


def rounded(x: float, width: int, es: int) -> int:
    """The code of x by definition: all bits of the posit of |x|, the first ones kept, to nearest even as integers."""
    if x == 0:
        return 0
    significand, exponent = frexp(abs(x))
    k, e = divmod(exponent - 1, 2**es)
    bits = "1" * (k + 1) + "0" if k >= 0 else "0" * -k + "1"
    bits += f"{e:0{es}b}" if es else ""
    bits += f"{int((2 * significand - 1) * 2**52):052b}" + "0" * width
    kept, tail = bits[: width - 1], bits[width - 1 :]
    code = int(kept, 2)
    half = "1" + "0" * (len(tail) - 1)
    code += tail > half or (tail == half and code % 2 == 1)
    code = min(max(code, 1), 2 ** (width - 1) - 1)
    return code if x > 0 else 2**width - code


def hard_values(fmt: PositFormat, rng: np.random.Generator, most: int = 1500) -> np.ndarray:
    low, high = np.log2(fmt.smallest_subnormal) - 4, np.log2(fmt.max) + 4
    return hard_values_of(fmt, rng, most, (max(low, -1070), min(high, 1020)), 2 * most)


@each_size
def test_every_code_decodes_to_what_its_bits_say(width: int, es: int) -> None:
    values = [decoded(code, width, es) for code in range(2**width)]
    np.testing.assert_array_equal(posit(width, es).values(), values)


@pytest.mark.parametrize(
    ("width", "es", "largest"), [(8, 0, 64), (8, 1, 4096), (8, 2, 2**24), (16, 1, 2**28), (16, 2, 2**56)]
)
def test_published_ranges(width: int, es: int, largest: float) -> None:
    fmt = posit(width, es)
    assert (fmt.max, fmt.min, fmt.smallest_subnormal) == (largest, -largest, 1 / largest)
    assert fmt.nan_code == 2 ** (width - 1)
    assert np.isfinite(fmt.values()).sum() == 2**width - 1
    assert fmt.encode([1.0, -1.0, largest, -largest, 1 / largest]).tolist() == [
        2 ** (width - 2), 3 * 2 ** (width - 2), 2 ** (width - 1) - 1, 2 ** (width - 1) + 1, 1,
    ]  # fmt: skip


def test_codes_of_the_posit_standard() -> None:
    # es = 2: 0 10 11 101 is 1.625 · 2^3; 0 0001 10 0 is 2^-10; 0 1110 01 1 is 1.5 · 2^9.
    fmt = posit(8, 2)
    assert fmt.decode([0b01011101, 0b00001100, 0b01110011, 0b10100011]).tolist() == [13.0, 2.0**-10, 768.0, -13.0]


@each_size
def test_encode_is_nearest_even_on_the_bit_string(width: int, es: int, rng: np.random.Generator) -> None:
    fmt = posit(width, es)
    x = hard_values(fmt, rng)
    assert fmt.encode(x).tolist() == [rounded(value, width, es) for value in x.tolist()]


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(SIZES))
def test_encode_of_any_float64(x: float, size: tuple[int, int]) -> None:
    assert posit(*size).encode(x) == rounded(x, *size)


def test_every_float16_and_bfloat16_value() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    brains = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    for width, es in ((8, 1), (8, 2)):
        for source in (halves, brains):
            x = source[np.isfinite(source)].astype(np.float64)
            assert posit(width, es).encode(x).tolist() == [rounded(value, width, es) for value in x.tolist()]


@each_size
def test_codes_sort_as_signed_integers(width: int, es: int, rng: np.random.Generator) -> None:
    fmt = posit(width, es)
    codes = fmt.encode(np.sort(hard_values(fmt, rng))).astype(np.int64)
    signed = np.where(codes >= 2 ** (width - 1), codes - 2**width, codes)
    assert (np.diff(signed) >= 0).all()


@each_size
def test_negation_is_the_two_s_complement(width: int, es: int, rng: np.random.Generator) -> None:
    fmt = posit(width, es)
    x = hard_values(fmt, rng)
    assert np.array_equal(fmt.encode(-x), -fmt.encode(x).astype(np.int64) % 2**width)


def test_the_own_rule_is_not_nearest_where_exponents_are_cut() -> None:
    # The border between 2^20 and 2^24 is 2^22: 5,000,000 becomes 2^24, to which it is not nearer.
    fmt = posit(8, 2)
    assert fmt.decode([0x7E, 0x7F]).tolist() == [2.0**20, 2.0**24]
    assert fmt.round([2.0**22, np.nextafter(2.0**22, inf), 5e6]).tolist() == [2.0**20, 2.0**24, 2.0**24]
    assert fmt.round(5e6, "nearest_even") == 2.0**20
    assert fmt.round(1e-30) == fmt.smallest_subnormal
    assert fmt.round(1e-30, "nearest_even") == 0


def test_nothing_but_infinity_becomes_nar_and_that_only_if_nonsaturating() -> None:
    fmt = posit(8, 1)
    x = [1e300, inf, -1e300, -inf]
    for mode in (None, *(mode for mode in Rounding if not mode.needs_random_bits)):
        for overflow in ("saturate", "propagate"):
            assert fmt.encode(x, mode, overflow=overflow).tolist() == [0x7F, 0x7F, 0x81, 0x81]
        assert fmt.encode(x, mode, overflow="nonsaturating").tolist() == [0x7F, 0x80, 0x81, 0x80]
    assert fmt.encode([nan, -nan]).tolist() == [0x80, 0x80]


def test_stochastic_treats_both_signs_alike(rng: np.random.Generator) -> None:
    fmt = posit(8, 1)
    x = rng.standard_normal(5000) * np.exp2(rng.uniform(-14, 13, 5000))
    for mode in ("stochastic", "stochastic_b", "stochastic_c", "nearest_random"):
        bits = rng.integers(0, 2**24, 5000)
        q = fmt.round(x, mode, random_bits=bits)
        assert np.array_equal(fmt.round(-x, mode, random_bits=bits), -q)


@pytest.mark.parametrize(
    ("width", "es", "message"),
    [
        (1, 0, "^width: posits take 2 to 16 bits, got 1"),
        (17, 1, "^width: posits take 2 to 16 bits, got 17"),
        (8, -1, "^es: a posit of 8 bits takes 0 to 7 exponent bits .*got -1"),
        (16, 7, "^es: a posit of 16 bits takes 0 to 6 exponent bits .*got 7"),
        (3, 10, "^es: a posit of 3 bits takes 0 to 9 exponent bits .*got 10"),
    ],
)
def test_sizes_beyond_float64_are_refused(width: int, es: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        posit(width, es)


def test_names_carry_width_and_exponent_bits() -> None:
    assert formats.get("posit6es1") == posit(6, 1) == PositFormat(width=6, es=1)
    assert {f"posit{w}es{e}" for w, e in SIZES[:5]} <= set(formats.names())
    assert replace(posit(8, 1), es=2, name="") == posit(8, 2)
    assert posit(8, 1) != posit(8, 2)
    copy = pickle.loads(pickle.dumps(posit(16, 1)))
    assert copy == posit(16, 1)
    assert hash(copy) == hash(posit(16, 1))
    assert copy.table[1] == 2.0**-28
    assert str(parse("posit8es1/row:static=1.0")) == "posit8es1/row:static=1.0"


def test_quantize_with_a_fixed_scale_is_encode(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 33)).astype(np.float32)
    q = quantize_reference(x, "posit8es1:static=1")
    assert np.array_equal(q.codes, posit(8, 1).encode(x))
    assert np.array_equal(q.dequantize(), posit(8, 1).round(x))


@pytest.mark.parametrize(("width", "es"), [(8, 0), (16, 1), (8, 2), (16, 2)])
def test_softposit_agrees(width: int, es: int, rng: np.random.Generator) -> None:
    softposit = pytest.importorskip("softposit")
    named = {(8, 0): softposit.posit8, (16, 1): softposit.posit16}.get((width, es))

    def theirs(**number: object) -> float:
        return float(named(**number) if named else softposit.posit_2(x=width, **number))

    fmt = posit(width, es)
    values = np.array([theirs(bits=code) for code in range(2**width)])
    np.testing.assert_array_equal(np.where(np.isinf(values), nan, values), fmt.values())
    x = hard_values(fmt, rng)
    assert fmt.round(x).tolist() == [theirs(value=value) for value in x.tolist()]
