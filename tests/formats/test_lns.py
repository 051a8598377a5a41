"""Logarithmic numbers: every rounding decided by integers, (x^(2 gamma) against powers of two)."""

from __future__ import annotations

import pickle
from fractions import Fraction
from math import copysign, inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hard_values import hard_values as hard_values_of
from narrowgauge import formats
from narrowgauge.formats import LNSFormat, Rounding, lns, quantize_reference
from narrowgauge.formats.lns import octave

SMALL = [(2, 1), (3, 1), (4, 1), (4, 2), (5, 4), (6, 4), (8, 1), (8, 4), (8, 8), (8, 16)]
each_size = pytest.mark.parametrize(("width", "gamma"), SMALL)
DETERMINISTIC = [mode for mode in Rounding if not mode.needs_random_bits]


def floor_log2(x: Fraction) -> int:
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent - (Fraction(2) ** exponent > x)


def exponent_of(x: float, width: int, gamma: int, lowest: int) -> int:
    """clip(round(gamma · log2 |x|) + top): the half is met by no rational number, so floor(y + 1/2) is round(y)."""
    top = 2 ** (width - 1) - 1
    nearest = (floor_log2(abs(Fraction(x)) ** (2 * gamma)) + 1) // 2
    return min(max(nearest + top, lowest), top)


def rounded(x: float, width: int, gamma: int, zero: bool) -> int:
    if x == 0 and zero:
        return 0
    e = exponent_of(x, width, gamma, int(zero)) if x else 0
    return e | (2 ** (width - 1) if copysign(1, x) < 0 else 0)


def hard_values(fmt: LNSFormat, rng: np.random.Generator, most: int = 400) -> np.ndarray:
    return hard_values_of(fmt, rng, most, (np.log2(fmt.smallest_subnormal) - 3, 3), 4 * most)


@each_size
@pytest.mark.parametrize("zero", [True, False])
def test_every_value_is_the_float32_nearest_to_a_power(width: int, gamma: int, zero: bool) -> None:
    if (width, gamma, zero) == (8, 1, False):
        return  # refused, see below
    fmt, top = lns(width, gamma, zero=zero), 2 ** (width - 1) - 1
    values = fmt.values()
    assert (fmt.max, fmt.min) == (1.0, -1.0)
    for e in range(int(zero), top + 1):
        value, exact = np.float32(values[e]), Fraction(2) ** (e - top)
        assert values[e] == float(value) == -values[e + top + 1]
        if (e - top) % gamma == 0:
            assert Fraction(values[e]) == Fraction(2) ** ((e - top) // gamma)
        for end, sign in ((0.0, -1), (inf, 1)):
            middle = (Fraction(values[e]) + Fraction(float(np.nextafter(value, np.float32(end))))) / 2
            assert (middle**gamma - exact) * sign > 0
    if zero:
        assert values[0] == 0
        assert np.isnan(values[top + 1])
        assert (fmt.nan_code, fmt.has_zero) == (top + 1, True)
    else:
        assert (fmt.nan_code, fmt.has_zero) == (None, False)


@each_size
@pytest.mark.parametrize("zero", [True, False])
def test_encode_is_nearest_in_the_logarithm(width: int, gamma: int, zero: bool, rng: np.random.Generator) -> None:
    if (width, gamma, zero) == (8, 1, False):
        return
    fmt = lns(width, gamma, zero=zero)
    x = hard_values(fmt, rng)
    assert fmt.encode(x).tolist() == [rounded(value, width, gamma, zero) for value in x.tolist()]


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.booleans())
def test_encode_of_any_float32(x: float, zero: bool) -> None:
    assert lns(8, 8, zero=zero).encode(x) == rounded(x, 8, 8, zero)


@each_size
def test_thresholds_are_the_first_float64_above_an_irrational_border(width: int, gamma: int) -> None:
    fmt, top = lns(width, gamma), 2 ** (width - 1) - 1
    assert fmt.thresholds[0] == 5e-324
    for e, border in enumerate(fmt.thresholds[1:].tolist(), start=1):
        power = Fraction(2) ** (2 * (e - top) + 1)
        assert Fraction(float(np.nextafter(border, 0.0))) ** (2 * gamma) < power < Fraction(border) ** (2 * gamma)


@pytest.mark.parametrize("steps", [1, 2, 16, 1024, 2**16])
def test_octave_is_exact(steps: int) -> None:
    powers = octave(steps).tolist()
    assert len(powers) == steps
    assert (powers[0], powers == sorted(powers)) == (2**52, True)
    for i in {1, steps // 3, steps // 2, steps - 1} - {0, steps} if steps <= 1024 else {steps // 2, steps // 64}:
        fold = steps // np.gcd(steps, i).item()
        exact = 1 << (52 * fold + i * fold // steps)
        assert powers[i] ** fold <= exact < (powers[i] + 1) ** fold


def test_published_range_of_eight_bits_and_base_factor_eight() -> None:
    # "Dynamic range (0, 15.9)": 127 / 8 octaves; steps of 2^(1/8) - 1 = 9.05 %.
    fmt = formats.get("lns8g8_full")
    assert fmt.decode([0x00, 0x7F, 0x80, 0xFF, 0x77, 0x3F]).tolist()[1::2] == [1.0, -1.0, 2.0**-8]
    assert np.log2(fmt.smallest_subnormal) == pytest.approx(-15.875, abs=1e-7)
    assert fmt.decode(0x7F) / fmt.decode(0x7E) - 1 == pytest.approx(0.0905, abs=1e-4)
    assert np.log2(lns(8, 8).smallest_subnormal) == pytest.approx(-15.75, abs=1e-7)


def test_largest_relative_error_is_half_a_step(rng: np.random.Generator) -> None:
    fmt = lns(8, 8)
    x = np.exp2(rng.uniform(-15.75, 0, 20_000))
    ratio = fmt.round(x) / x
    assert np.maximum(ratio, 1 / ratio).max() <= 2 ** (1 / 16) * (1 + 2.0**-23)


def test_a_step_of_the_value_is_a_step_of_the_code(rng: np.random.Generator) -> None:
    fmt = lns(8, 8)
    x = np.exp2(rng.uniform(-14, -2, 2000)) * rng.choice([-1, 1], 2000)
    assert np.array_equal(fmt.encode(x * 2), fmt.encode(x) + np.uint8(8))
    assert np.array_equal(fmt.encode(x * 2.0 ** (1 / 8)), fmt.encode(x) + np.uint8(1))


def test_only_zero_becomes_zero() -> None:
    fmt = lns(8, 8)
    assert fmt.encode([0.0, -0.0, 5e-324, -5e-324, 1e-30, nan]).tolist() == [0, 0, 1, 0x81, 1, 0x80]
    assert fmt.round(1e-30, "nearest_even") == 0.0


def test_without_zero_magnitudes_below_the_smallest_keep_their_sign() -> None:
    fmt = lns(8, 8, zero=False)
    least = fmt.smallest_subnormal
    x = [least / 3, -least / 3, 0.0, -0.0]
    assert fmt.encode(x).tolist() == [0x00, 0x80, 0x00, 0x80]
    for mode in DETERMINISTIC:
        if mode not in (Rounding.UP, Rounding.DOWN):
            assert fmt.round(x, mode).tolist() == [least, -least, least, -least], mode
    assert fmt.round(x, "up").tolist() == [least] * 4
    assert fmt.round(x, "down").tolist() == [-least] * 4
    with pytest.raises(ValueError, match="lns8g8_full has no NaN code"):
        fmt.encode(nan)


@pytest.mark.parametrize("mode", DETERMINISTIC)
def test_modes_on_the_values_are_those_of_a_table(mode: Rounding, rng: np.random.Generator) -> None:
    for fmt in (lns(8, 8), lns(8, 8, zero=False), lns(5, 4)):
        table = formats.CodebookFormat(name="table", table=fmt.table)
        x = hard_values(fmt, rng)
        if (
            not fmt.has_zero
        ):  # an even number of values: ranks do not mirror each other, and the gap is a case of its own
            x = x[x >= fmt.smallest_subnormal]
            mirrored = {Rounding.UP: Rounding.DOWN, Rounding.DOWN: Rounding.UP}.get(mode, mode)
            assert np.array_equal(fmt.round(-x, mirrored), -fmt.round(x, mode))
        assert np.array_equal(fmt.encode(x, mode), table.encode(x, mode))


def test_beyond_the_ends_everything_saturates() -> None:
    x = [1.0, 1.1, inf, -1.1, -inf]
    for zero in (True, False):
        fmt = lns(8, 8, zero=zero)
        for mode in (None, *DETERMINISTIC):
            for overflow in ("saturate", "propagate", "nonsaturating"):
                assert fmt.encode(x, mode, overflow=overflow).tolist() == [127, 127, 127, 255, 255]


def test_amax_reaches_the_top_code(rng: np.random.Generator) -> None:
    x = (rng.standard_normal((64, 40)) * np.exp2(rng.uniform(-20, 20, (64, 1)))).astype(np.float32)
    q = quantize_reference(x, "lns8g8/row")
    assert np.array_equal(q.scale.reshape(-1), np.abs(x).max(axis=1))
    assert ((q.codes & 0x7F).max(axis=1) == 0x7F).all()


@pytest.mark.parametrize(
    ("width", "gamma", "zero", "message"),
    [
        (1, 1, True, "^width: logarithmic numbers take 2 to 16 bits, got 1"),
        (17, 8, True, "^width: .*got 17"),
        (8, 0, True, "^gamma: got 0, accepted: powers of two from 1 to 32768"),
        (8, 12, True, "^gamma: got 12, accepted: powers of two"),
        (8, 2**16, True, "^gamma: got 65536, accepted: powers of two"),
        (8, 1, False, r"^gamma: with 8 bits and gamma 1 the smallest magnitude is 2\^-127, accepted: at least 2\^-126"),
        (16, 256, True, r"^gamma: with 16 bits and gamma 256 .* take a larger gamma"),
    ],
)
def test_unsuitable_parameters_are_refused(width: int, gamma: int, zero: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lns(width, gamma, zero=zero)


def test_finest_and_widest() -> None:
    fine = lns(16, 2**15)
    assert (fine.max, fine.smallest_subnormal > 0.5) == (1.0, True)
    assert (np.diff(fine.values()[: 2**15]) > 0).all()
    assert np.array_equal(fine.encode(fine.values()[1 : 2**15]), np.arange(1, 2**15))
    assert lns(8, 1).smallest_subnormal == 2.0**-126


def test_names_carry_bits_steps_and_zero() -> None:
    assert formats.get("lns8g8") == lns(8, 8) == LNSFormat(width=8, gamma=8)
    assert formats.get("lns4g1_full") == lns(4, 1, zero=False) != lns(4, 1)
    assert "lns8g8" in formats.names()
    assert pickle.loads(pickle.dumps(lns(6, 4, zero=False))) == lns(6, 4, zero=False)
