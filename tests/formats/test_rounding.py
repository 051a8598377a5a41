"""Every rounding mode of every scalar format, on inputs whose right answer is known by construction (a value, the
midpoint, one ulp beside either) or by exact search."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import CodebookFormat, Format, Rounding

DETERMINISTIC = [mode for mode in Rounding if not mode.needs_random_bits]

every_mode = pytest.mark.parametrize("mode", DETERMINISTIC)


def is_odd(fmt: Format, levels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Parity of the code of each value: the integer, the magnitude's code, or the rank in a codebook."""
    codes = np.searchsorted(levels, values) if isinstance(fmt, CodebookFormat) else fmt.encode(values)
    return codes % 2 == 1


def chosen(
    mode: Rounding, x: np.ndarray, below: np.ndarray, above: np.ndarray, side: np.ndarray, odd: np.ndarray
) -> np.ndarray:
    """The neighbour that `mode` takes for x between `below`, of parity `odd`, and `above`; side: sign of x minus
    midpoint."""
    if mode is Rounding.UP:
        return above
    if mode is Rounding.DOWN:
        return below
    if mode is Rounding.TOWARD_ZERO:
        return np.where(x > 0, below, above)
    if mode is Rounding.TO_ODD:
        return np.where(odd, below, above)
    ties = {Rounding.NEAREST_AWAY: x > 0, Rounding.NEAREST_ZERO: x < 0, Rounding.NEAREST_ODD: ~odd}
    takes_above = ties.get(mode, odd)
    return np.where((side > 0) | ((side == 0) & takes_above), above, below)


def straddles(below: np.ndarray, above: np.ndarray, mode: Rounding) -> np.ndarray:
    """Where zero lies between two neighbours, `toward_zero` has nothing to go to; formats decide for themselves."""
    return (below < 0) & (above > 0) & (mode is Rounding.TOWARD_ZERO)


def same(actual: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.array_equal(actual, expected, equal_nan=True))


@every_mode
def test_rounding_of_neighbours_and_midpoints(fmt: Format, levels: np.ndarray, mode: Rounding) -> None:
    below, above = levels[:-1], levels[1:]
    middle = below + (above - below) / 2
    exact = np.full(middle.shape, not isinstance(fmt, CodebookFormat))  # a midpoint there need not be a float64
    pred, succ = np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)
    for x, side, keep in (
        (np.nextafter(below, np.inf), -1, above > below),
        (np.nextafter(above, -np.inf), 1, above > below),
        (pred, -1, exact),
        (middle, 0, exact),
        (succ, 1, exact),
    ):
        keep = keep & (x > below) & (x < above) & ~straddles(below, above, mode)
        x, lo, hi = x[keep], below[keep], above[keep]
        expected = chosen(mode, x, lo, hi, np.full(x.shape, side), is_odd(fmt, levels, lo))
        assert same(fmt.round(x, mode), expected), side


@every_mode
def test_rounding_equals_an_exact_search(
    fmt: Format, levels: np.ndarray, mode: Rounding, rng: np.random.Generator
) -> None:
    exact = [Fraction(level) for level in levels.tolist()]
    spread = np.exp2(rng.uniform(np.log2(fmt.smallest_subnormal) - 3, np.log2(fmt.max), 150))
    x = np.concatenate([spread, -spread, rng.choice(levels, 60), rng.uniform(fmt.min, fmt.max, 60)])
    middle = rng.choice(levels[1:] + levels[:-1], 40) / 2 if len(levels) > 1 else levels
    with np.errstate(over="ignore"):  # takums exceed float32
        narrow = x.astype(np.float32).astype(np.float64)
    x = np.concatenate([x, narrow, [0.0, 2.0**-1074, -(2.0**-1074), 1e-300, -1e-300]])
    x = np.concatenate([x, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
    x = x[(x > levels[0]) & (x < levels[-1]) & ~np.isin(x, levels)]
    low = np.array([bisect_right(exact, Fraction(value)) - 1 for value in x.tolist()], dtype=np.int64)
    twice = [2 * Fraction(value) - exact[i] - exact[i + 1] for value, i in zip(x.tolist(), low.tolist(), strict=True)]
    side = np.array([(t > 0) - (t < 0) for t in twice], dtype=np.int64)
    above = levels[np.minimum(low + 1, len(levels) - 1)]
    expected = chosen(mode, x, levels[low], above, side, is_odd(fmt, levels, levels[low]))
    keep = ~straddles(levels[low], above, mode)
    assert same(fmt.round(x, mode)[keep], expected[keep])


def test_nearest_keeps_order_and_repeats_itself(fmt: Format, rng: np.random.Generator) -> None:
    x = np.sort(rng.standard_normal(4000) * np.exp2(rng.uniform(-12, 12, 4000)))
    for mode in [None, *DETERMINISTIC]:
        q = fmt.round(x, mode)
        assert (np.diff(q) >= 0).all(), mode
        assert same(fmt.round(q, mode), q), mode


def test_undirected_modes_are_odd_functions(symmetric_fmt: Format, rng: np.random.Generator) -> None:
    fmt = symmetric_fmt
    values = np.unique(fmt.values()[np.isfinite(fmt.values())])
    x = rng.standard_normal(2000) * np.exp2(rng.uniform(-12, 12, 2000))
    x = np.concatenate([x, (values[1:] + values[:-1]) / 2])
    x = x if fmt.has_zero else x[np.abs(x) >= fmt.smallest_subnormal]
    for mode in (None, "nearest_even", "nearest_away", "nearest_zero", "toward_zero", "to_odd"):
        assert same(fmt.round(-x, mode), -fmt.round(x, mode)), mode
    assert same(fmt.round(-x, "up"), -fmt.round(x, "down"))


def test_stochastic_takes_a_neighbour_and_follows_its_bits(
    fmt: Format, levels: np.ndarray, rng: np.random.Generator
) -> None:
    low = rng.integers(0, max(len(levels) - 1, 1), 2000)
    below, above = levels[low], levels[np.minimum(low + 1, len(levels) - 1)]
    # Sixteenths of the interval, exact for floats and integers; 4 random bits then decide exactly.
    part = rng.integers(0, 16, 2000)
    x = below + (above - below) * (part / 16)
    bits = rng.integers(0, 16, 2000)
    q = fmt.round(x, "stochastic", random_bits=bits, num_random_bits=4)
    assert (((q == below) | (q == above)) | (part == 0)).all()
    if isinstance(fmt, CodebookFormat):
        return  # midpoints of a codebook are not float64, see test_codebook and test_rf8
    away_from_zero = np.where(x > 0, part + bits >= 16, (16 - part) % 16 + bits >= 16)
    expected = np.where(part == 0, below, np.where(away_from_zero == (x > 0), above, below))
    assert same(q, expected)


def test_stochastic_never_moves_a_value(fmt: Format, levels: np.ndarray, rng: np.random.Generator) -> None:
    for bits in (0, 2**24 - 1):
        assert same(fmt.round(levels, "stochastic", random_bits=bits), levels)
    beyond = fmt.round([-np.inf, -1e300, 1e300, np.inf], "stochastic", random_bits=2**24 - 1)
    assert beyond.tolist() == [fmt.min, fmt.min, fmt.max, fmt.max]


def test_stochastic_is_unbiased(fmt: Format, levels: np.ndarray, rng: np.random.Generator) -> None:
    n = 20_000
    middle = len(levels) // 2
    for low in {0, middle - 1, middle, len(levels) - 2} & set(range(len(levels) - 1)):
        below, above = levels[low : low + 2]
        for part in (0.05, 0.3, 0.5, 0.9):
            x = below + (above - below) * part
            exact = float((Fraction(x) - Fraction(below)) / (Fraction(above) - Fraction(below)))
            q = fmt.round(np.full(n, x), "stochastic", random_bits=rng.integers(0, 2**24, n))
            went_up = np.count_nonzero(q == above) / n
            # Hoeffding at 1e-9, and the resolution of the random bits.
            assert abs(went_up - exact) <= np.sqrt(np.log(2e9) / (2 * n)) + 2.0**-24, (below, above, part)


def test_stochastic_refuses_missing_and_unsuitable_bits() -> None:
    fmt = formats.get("e4m3fn")
    with pytest.raises(ValueError, match=r"^random_bits: stochastic rounding needs explicit random bits"):
        fmt.encode([1.01], "stochastic")
    with pytest.raises(TypeError, match=r"^random_bits: expected an integer array, got dtype float64"):
        fmt.encode([1.01], "stochastic", random_bits=[0.5])
    for bits in (-1, 16):
        with pytest.raises(ValueError, match=r"^random_bits: values must lie in \[0, 2\*\*4\)"):
            fmt.encode([1.01], "stochastic", random_bits=[bits], num_random_bits=4)
