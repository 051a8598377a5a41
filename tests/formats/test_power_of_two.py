"""LUQ's powers of two and IBM's powers of four: tables, exact expectations over every random word, boundaries."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import quantize_reference
from narrowgauge.formats.power_of_two import SignMagnitudeCodebook, radix4

LUQ = formats.get("luq_fp4")
EVEN = formats.get("radix4_fp4")
ODD = formats.get("radix4_fp4_odd")
FORMATS = [LUQ, EVEN, ODD]
BITS = 6

each = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)


def outcomes(fmt: formats.Format, x: float, bits: int = BITS) -> np.ndarray:
    """What x becomes under each of the 2^bits random words."""
    words = np.arange(2**bits)
    return fmt.round(np.full(words.shape, x), "stochastic", random_bits=words, num_random_bits=bits)


def test_luq_is_zero_and_seven_powers_of_two_with_a_sign() -> None:
    magnitudes = [0, 1, 2, 4, 8, 16, 32, 64]
    assert LUQ.values().tolist() == magnitudes + [-value for value in magnitudes]
    assert (LUQ.bits, LUQ.max, LUQ.smallest_subnormal, LUQ.has_nan) == (4, 64.0, 1.0, False)


def test_radix_4_is_zero_and_seven_powers_of_four_with_a_sign() -> None:
    powers = [1, 4, 16, 64, 256, 1024, 4096]
    assert EVEN.values().tolist() == [0, *powers, 0, *[-value for value in powers]]
    assert ODD.values().tolist() == [0, *[2 * v for v in powers], 0, *[-2 * v for v in powers]]
    assert np.signbit(EVEN.decode(8))


@each
def test_stochastic_expectation_is_exact(fmt: formats.Format) -> None:
    # x on the 64ths of its interval: the mean over all 64 words is then x itself, stochastic underflow included.
    levels = np.unique(fmt.values())
    for below, above in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        for part in range(0, 2**BITS, 5):
            x = below + (above - below) * part / 2**BITS
            mean = sum(map(Fraction, outcomes(fmt, x).tolist())) / 2**BITS
            assert mean == Fraction(x), x


@each
def test_expectation_is_within_a_random_unit_elsewhere(fmt: formats.Format, rng: np.random.Generator) -> None:
    for x in rng.uniform(-float(fmt.max), float(fmt.max), 50).tolist() + rng.uniform(-2, 2, 50).tolist():
        drawn = outcomes(fmt, x)
        below, above = Fraction(drawn.min()), Fraction(drawn.max())
        mean = sum(map(Fraction, drawn.tolist())) / 2**BITS
        assert abs(mean - Fraction(x)) <= (above - below if above > below else abs(mean) * 4) / 2**BITS
        assert abs(mean) <= abs(Fraction(x))  # variant A errs towards zero


def test_underflow_is_alpha_with_probability_x_over_alpha() -> None:
    for sixteenths in range(17):
        drawn = outcomes(LUQ, sixteenths / 16)
        assert set(drawn.tolist()) <= {0.0, 1.0}
        assert np.count_nonzero(drawn) == sixteenths * 2**BITS // 16


@each
def test_a_value_and_its_negative_round_alike(fmt: formats.Format, rng: np.random.Generator) -> None:
    x = rng.standard_normal(3000) * np.exp2(rng.uniform(-3, 12, 3000))
    words = rng.integers(0, 2**24, 3000)
    q = fmt.round(x, "stochastic", random_bits=words)
    assert np.array_equal(fmt.round(-x, "stochastic", random_bits=words), -q)
    assert np.array_equal(fmt.round(-x), -fmt.round(x))


@each
def test_nearest_by_exact_search(fmt: formats.Format, rng: np.random.Generator) -> None:
    levels = [Fraction(value) for value in np.unique(fmt.values()).tolist()]
    middle = np.array([float(a + b) / 2 for a, b in pairwise(levels)], dtype=np.float32)
    near = [np.nextafter(middle, np.float32(side)) for side in (-1e9, 1e9)]
    wide = (rng.standard_normal(300) * np.exp2(rng.uniform(-4, 14, 300))).astype(np.float32)
    x = np.concatenate([middle, *near, wide, np.float32([0.0, 1e-30, -1e-30, 3e38])]).astype(np.float64)
    for value, q in zip(x.tolist(), fmt.round(x).tolist(), strict=True):
        least = min(abs(Fraction(value) - level) for level in levels)
        assert abs(Fraction(value) - Fraction(q)) == least, value


def test_luq_ties_go_to_the_even_code() -> None:
    # The codes of 1, 2, 4, 8 are 1, 2, 3, 4.
    assert LUQ.round([0.5, 1.5, 3.0, 6.0, -6.0]).tolist() == [0.0, 2.0, 2.0, 8.0, -8.0]


@pytest.mark.parametrize(("fmt", "factor"), [(EVEN, 1.0), (ODD, 2.0)])
def test_boundary_between_powers_of_four_is_the_next_power_over_1_6(fmt: formats.Format, factor: float) -> None:
    upper = factor * 4.0 ** np.arange(1, 7)
    boundary = upper / 1.6
    assert fmt.round(np.nextafter(boundary, 0)).tolist() == (upper / 4).tolist()
    assert fmt.round(np.nextafter(boundary, np.inf)).tolist() == upper.tolist()


def test_phases_interleave_under_a_common_scale() -> None:
    levels = np.sort(np.concatenate([EVEN.values()[1:8], ODD.values()[1:8]]))
    assert levels.tolist() == [2.0**i for i in range(14)]


def test_amax_scale_of_luq_is_its_underflow_threshold(rng: np.random.Generator) -> None:
    x = rng.standard_normal(1000).astype(np.float32)
    q = quantize_reference(x, "luq_fp4+sr", seed=7)
    amax = np.abs(x).max()
    assert q.scale.item() == amax / np.float32(64)
    top = np.abs(q.dequantize()).max()
    assert top == pytest.approx(amax, rel=1e-6)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ((0.0, 1.0, -1.0, 0.0), r"^table: the second half of bad must be the negative"),
        ((1.0, 0.0, -1.0, 0.0), r"^table: bad needs 2\^b values, the first half ascending from zero"),
        ((0.0, 1.0, 2.0, 0.0, -1.0, -2.0), r"^table: bad needs 2\^b values"),
    ],
)
def test_tables_without_a_sign_bit_are_refused(table: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SignMagnitudeCodebook(name="bad", table=table)


def test_other_radix_4_grids_can_be_made() -> None:
    fmt = SignMagnitudeCodebook(name="eighths", table=radix4(0.125))
    assert (fmt.max, fmt.smallest_subnormal) == (512.0, 0.125)
