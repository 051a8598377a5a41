"""P3109 against gfloat: the 454 formats of 3 to 16 bits that fit float64, signed or not, extended or finite."""

from __future__ import annotations

import gfloat
import numpy as np
import pytest
from gfloat import Domain, FormatInfo, Signedness
from gfloat.formats import format_info_p3109

from narrowgauge.formats import FloatFormat, Rounding, p3109
from oracles import GFLOAT_MODES, around, differences, same, sixteen_bit_inputs, wide

Parameters = tuple[int, int, bool, bool]

FITTING: list[Parameters] = [
    (bits, precision, signed, extended)
    for bits in range(3, 17)
    for signed in (True, False)
    for precision in range(1, bits if signed else bits + 1)
    for extended in (True, False)
    if bits - precision + (0 if signed else 1) <= 11
]


def oracle(bits: int, precision: int, signed: bool, extended: bool) -> FormatInfo:
    signedness = Signedness.Signed if signed else Signedness.Unsigned
    return format_info_p3109(bits, precision, signedness, Domain.Extended if extended else Domain.Finite)


def of_width(bits: int) -> list[tuple[FloatFormat, FormatInfo]]:
    return [(p3109(*each), oracle(*each)) for each in FITTING if each[0] == bits]


def check(fmt: FloatFormat, info: FormatInfo, x: np.ndarray, mode: Rounding) -> str:
    """What differs, saturating and (in extended domains, where gfloat and the report agree) not.

    Unsigned formats are given no negative numbers: gfloat takes their magnitude.
    """
    x = x if fmt.signed else x[~np.signbit(x)]
    with np.errstate(over="ignore"):
        expected = gfloat.round_ndarray(info, x, GFLOAT_MODES[mode], sat=True)
        wrong = differences(fmt.round(x, mode), expected, x)
        if fmt.has_inf:
            expected = gfloat.round_ndarray(info, x, GFLOAT_MODES[mode], sat=False)
            wrong += differences(fmt.round(x, mode, overflow="nonsaturating"), expected, x)
    return wrong


def test_all_that_fit_are_there() -> None:
    assert len(FITTING) == 454


@pytest.mark.parametrize("bits", range(3, 17))
def test_decode_equals_gfloat_on_every_code(bits: int) -> None:
    for fmt, info in of_width(bits):
        assert same(fmt.values(), gfloat.decode_ndarray(info, fmt.all_codes().astype(np.int64))), fmt.name


@pytest.mark.parametrize("mode", GFLOAT_MODES)
@pytest.mark.parametrize("bits", range(3, 9))
def test_every_mode_equals_gfloat_around_every_value(bits: int, mode: Rounding) -> None:
    for fmt, info in of_width(bits):
        assert not check(fmt, info, around(fmt, np.float64), mode), fmt.name


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("signed", [True, False])
def test_nearest_equals_gfloat_on_all_16_bit_inputs(signed: bool, extended: bool) -> None:
    for precision in range(1, 8 if signed else 9):
        fmt = p3109(8, precision, signed, extended)
        x = wide(sixteen_bit_inputs(fmt))
        assert not check(fmt, oracle(8, precision, signed, extended), x, Rounding.NEAREST_EVEN), fmt.name


@pytest.mark.slow
@pytest.mark.parametrize("mode", GFLOAT_MODES)
@pytest.mark.parametrize("bits", range(9, 17))
def test_every_mode_equals_gfloat_around_every_value_of_the_wide_ones(bits: int, mode: Rounding) -> None:
    for fmt, info in of_width(bits):
        assert not check(fmt, info, around(fmt, np.float64), mode), fmt.name
