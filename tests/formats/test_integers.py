"""Integers and Qm.n: ranges, saturation and two's complement, against Python's own integers."""

from __future__ import annotations

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from gfloat import RoundMode, decode_ndarray, round_ndarray
from gfloat.formats import format_info_ocp_int8

from narrowgauge import formats
from narrowgauge.formats import IntFormat, fixed_point


@pytest.mark.parametrize(
    ("name", "low", "high", "bits", "dtype"),
    [
        ("int8", -127, 127, 8, np.int8),
        ("int8_full", -128, 127, 8, np.int8),
        ("int4", -7, 7, 4, np.int8),
        ("int4_full", -8, 7, 4, np.int8),
        ("uint8", 0, 255, 8, np.uint8),
        ("uint4", 0, 15, 4, np.uint8),
    ],
)
def test_ranges(name: str, low: int, high: int, bits: int, dtype: type) -> None:
    fmt = formats.get(name)
    assert (fmt.min, fmt.max, fmt.bits, fmt.code_dtype) == (low, high, bits, np.dtype(dtype))
    x = np.arange(-300, 301)
    assert np.array_equal(fmt.encode(x), np.clip(x, low, high))
    assert fmt.encode([-np.inf, np.inf]).tolist() == [low, high]


def test_the_unused_code_still_decodes() -> None:
    assert formats.get("int8").decode(np.int8(-128)) == -128.0
    assert formats.get("int4").decode(-8) == -8.0


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_codes_may_come_as_bit_patterns(name: str) -> None:
    fmt = formats.get(name)
    patterns = np.arange(2**fmt.bits)
    signed = patterns - np.where(patterns >= 2 ** (fmt.bits - 1), 2**fmt.bits, 0)
    assert np.array_equal(fmt.decode(patterns), signed)
    assert np.array_equal(fmt.decode(signed), signed)


def test_int4_equals_ml_dtypes() -> None:
    codes = np.arange(-8, 8, dtype=np.int8)
    assert np.array_equal(formats.get("int4_full").decode(codes), codes.astype(ml_dtypes.int4).astype(np.float64))


def test_ties_go_to_even_by_default() -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5])
    assert formats.get("int8").round(x).tolist() == [-2, -2, 0, 0, 2, 2, 126, 127]
    assert formats.get("int8").round(x, "nearest_away").tolist() == [-3, -2, -1, 1, 2, 3, 127, 127]


def test_zero_has_one_code() -> None:
    q = formats.get("int8").round([-0.0, -0.2, 0.2])
    assert not np.signbit(q).any()


def test_mxint8_element_is_a_sixty_fourth() -> None:
    element = formats.get("mxint8").element
    assert (element.max, element.min, element.step) == (127 / 64, -127 / 64, 1 / 64)
    assert np.array_equal(element.values(), decode_ndarray(format_info_ocp_int8, np.arange(256)))
    x = np.random.default_rng(0).uniform(-1.98, 1.98, 4000)
    assert np.array_equal(element.round(x), round_ndarray(format_info_ocp_int8, x, RoundMode.TiesToEven, sat=True))


@pytest.mark.parametrize(("m", "n"), [(0, 7), (3, 4), (7, 0), (7, 8), (0, 31), (15, 16)])
def test_fixed_point_is_a_scaled_twos_complement_integer(m: int, n: int) -> None:
    fmt = fixed_point(m, n)
    assert fmt.name == f"q{m}.{n}"
    assert fmt.bits == m + n + 1
    assert (fmt.min, fmt.max) == (-(2.0**m), 2.0**m - 2.0**-n)
    assert fmt.step == fmt.epsilon == fmt.smallest_subnormal == 2.0**-n
    rng = np.random.default_rng(m)
    x = rng.uniform(-1.2, 1.2, 300) * 2.0**m
    expected = [min(max(round(Fraction(v) * 2**n), -(2 ** (m + n))), 2 ** (m + n) - 1) for v in x.tolist()]
    assert fmt.encode(x).tolist() == expected


@pytest.mark.parametrize("name", ["q3.4", "mxint8_element"])
def test_huge_inputs_saturate_without_overflow(name: str) -> None:
    fmt = formats.get("mxint8").element if name == "mxint8_element" else formats.get(name)
    top = np.finfo(np.float64).max
    assert fmt.round([top, -top, np.inf]).tolist() == [fmt.max, fmt.min, fmt.max]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntFormat(name="int1", width=1), "width: int1 takes 2 to 32 bits, got 1"),
        (lambda: IntFormat(name="int64", width=64), "got 64"),
        (lambda: fixed_point(-1, 4), "m and n must be non-negative, got q-1.4"),
        (lambda: fixed_point(20, 20), "width: q20.20 takes 2 to 32 bits, got 41"),
    ],
)
def test_impossible_widths_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
