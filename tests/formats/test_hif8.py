"""HiFloat8: the paper's table, nearest by brute force, and hybrid rounding on strings of bits."""

from __future__ import annotations

import pickle
from bisect import bisect_right
from fractions import Fraction
from math import frexp, inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hard_values import beside
from narrowgauge import formats
from narrowgauge.formats import HiF8Format, Rounding, hif8, quantize_reference
from narrowgauge.formats.hif8 import MANTISSA_BITS

DOTS = {"11": 4, "10": 3, "01": 2, "001": 1, "0001": 0}


def decoded(code: int) -> float:
    """By tables 2 and 3 of the paper, read from the string of bits."""
    bits = f"{code:08b}"
    sign, rest = (-1) ** int(bits[0]), bits[1:]
    if rest == "1101111":
        return sign * inf
    if rest.startswith("0000"):
        m = int(rest[4:], 2)
        return sign * 2.0 ** (m - 23) if m else nan if sign < 0 else 0.0
    dot = next(prefix for prefix in DOTS if rest.startswith(prefix))
    width = DOTS[dot]
    field, mantissa = rest[len(dot) : len(dot) + width], rest[len(dot) + width :]
    exponent = (-1) ** int(field[0]) * int("1" + field[1:], 2) if width else 0
    return float(sign * (1 + Fraction(int(mantissa, 2), 2 ** len(mantissa))) * Fraction(2) ** exponent)


CODE_OF = {decoded(code): code for code in range(255, -1, -1) if np.isfinite(decoded(code))}
LEVELS = sorted(CODE_OF)


def nearest_away(x: float) -> int:
    """The code of the value nearest to x, of two the larger magnitude; infinite as if ±1.5 · 2^15 were values."""
    if abs(x) >= 40960:
        return 0x6F if x > 0 else 0xEF
    low = min(max(bisect_right(LEVELS, x) - 1, 0), len(LEVELS) - 2)
    distance = [(abs(Fraction(x) - Fraction(level)), -abs(level), level) for level in LEVELS[low : low + 2]]
    return CODE_OF[min(distance)[2]]


def hard_values(rng: np.random.Generator) -> np.ndarray:
    """Every value and midpoint with its float32 and float64 neighbours, and a wide sample."""
    levels = np.array([*LEVELS, 1.5 * 2.0**15, -1.5 * 2.0**15])
    levels.sort()
    chosen = np.concatenate([levels, (levels[1:] + levels[:-1]) / 2])
    sample = np.exp2(rng.uniform(-26, 18, 20_000)) * rng.choice([-1, 1], 20_000)
    ends = [0.0, 5e-324, -5e-324, 1e300, -1e300, inf, -inf]
    return np.concatenate([beside(chosen), sample, ends])


def test_every_code_decodes_by_the_tables_of_the_paper() -> None:
    np.testing.assert_array_equal(hif8().values(), [decoded(code) for code in range(256)])


def test_published_values() -> None:
    # Table 4, and what the abstract says of mantissas.
    fmt = formats.get("hifloat8")
    codes = [0b01101110, 0b01111110, 0b00000111, 0b00000001, 0b00000000, 0b01101111, 0b11101111]
    assert fmt.decode(codes).tolist() == [2.0**15, 2.0**-15, 2.0**-16, 2.0**-22, 0.0, inf, -inf]
    assert np.isnan(fmt.decode(0b10000000))
    assert (fmt.max, fmt.smallest_normal, fmt.smallest_subnormal, fmt.nan_code) == (2.0**15, 2.0**-15, 2.0**-22, 0x80)
    assert (fmt.has_inf, np.isfinite(fmt.values()).sum()) == (True, 253)
    exponents = [frexp(value)[1] - 1 for value in LEVELS if value >= 2.0**-15]
    counts = {bits: len([e for e in set(exponents) if exponents.count(e) == 2**bits]) for bits in (3, 2, 1)}
    # 7, 8 and 16 exponents; the highest of the 16 lost a value to infinity.
    assert counts == {3: 7, 2: 8, 1: 15}


def test_encode_is_nearest_with_ties_away(rng: np.random.Generator) -> None:
    x = hard_values(rng)
    expected = [nearest_away(value) for value in x.tolist()]
    assert hif8().encode(x, overflow="nonsaturating").tolist() == expected
    assert np.array_equal(hif8().encode(x, "nearest_away", overflow="nonsaturating"), expected)
    finite = np.where(np.isin(expected, [0x6F, 0xEF]), np.array(expected) - 1, expected)
    assert np.array_equal(hif8().encode(x), finite)
    assert np.array_equal(hif8().encode(x, "nearest_away"), finite)


def test_every_float16_and_bfloat16_value() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    brains = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    for source in (halves, brains):
        x = source[np.isfinite(source)].astype(np.float64)
        expected = [nearest_away(value) for value in x.tolist()]
        assert hif8().encode(x, overflow="nonsaturating").tolist() == expected


@given(st.floats(allow_nan=False))
def test_encode_of_any_float64(x: float) -> None:
    assert hif8().encode(x, overflow="nonsaturating") == nearest_away(x)


def test_overflow_at_its_border() -> None:
    fmt = hif8()
    x = [np.nextafter(40960, 0), 40960.0, np.nextafter(49152, 0), 49152.0, 1e300, inf]
    top = 32768.0
    assert fmt.round(x, overflow="nonsaturating").tolist() == [top, inf, inf, inf, inf, inf]
    assert fmt.round(x, overflow="propagate").tolist() == [top] * 5 + [inf]
    assert fmt.round(x).tolist() == [top] * 6
    assert fmt.encode([-40960.0, -inf], overflow="nonsaturating").tolist() == [0xEF, 0xEF]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("nearest_even", [0, 0, 1, 1, 1]),  # 32768 has an even rank
        ("nearest_odd", [0, 1, 1, 1, 1]),
        ("nearest_zero", [0, 0, 1, 1, 1]),
        ("toward_zero", [0, 0, 0, 0, 1]),
        ("to_odd", [0, 0, 0, 0, 1]),
        ("up", [1, 1, 1, 1, 1]),
        ("down", [0, 0, 0, 0, 1]),
    ],
)
def test_nonsaturating_overflow_of_the_other_modes(mode: str, expected: list[int]) -> None:
    x = np.array([32769.0, 40960.0, np.nextafter(40960, inf), 1e300, inf])
    assert hif8().round(x, mode, overflow="nonsaturating").tolist() == [inf if e else 32768.0 for e in expected]
    mirrored = {"up": "down", "down": "up"}.get(mode, mode)
    assert hif8().round(-x, mirrored, overflow="nonsaturating").tolist() == [-inf if e else -32768.0 for e in expected]


def test_stochastic_overflow_follows_its_bits() -> None:
    x = 32768.0 + 2.0**14 * np.arange(16) / 16
    for bits in range(16):
        q = hif8().round(x, "stochastic", overflow="nonsaturating", random_bits=bits, num_random_bits=4)
        assert q.tolist() == [inf if part + bits >= 16 else 32768.0 for part in range(16)]


def test_subnormals_can_be_flushed() -> None:
    fmt = hif8()
    x = [2.0**-15, 1.5 * 2.0**-16, 1.4 * 2.0**-16, 2.0**-20, -(2.0**-22)]
    assert fmt.round(x, subnormals="flush").tolist() == [2.0**-15, 2.0**-15, 0, 0, 0]
    assert fmt.round(x, subnormals="flush_input").tolist() == [2.0**-15, 0, 0, 0, 0]


def pattern(x: float, source: str) -> tuple[int, str]:
    """Exponent and mantissa bits of a number of the source type, from its pattern in memory."""
    if source == "float16":
        bits = f"{int(np.float16(x).view(np.uint16)):016b}"
        exponent, mantissa = int(bits[1:6], 2) - 15, bits[6:]
    else:
        bits = f"{int(np.float32(x).view(np.uint32)):032b}"
        exponent, mantissa = int(bits[1:9], 2) - 127, bits[9 : 9 + MANTISSA_BITS[source]]
    if source == "float16" and exponent == -15:  # subnormal: normalise
        lead = mantissa.index("1")
        exponent, mantissa = -15 - lead, mantissa[lead + 1 :] + "0" * (lead + 1)
    return exponent, mantissa


def hybrid(x: float, source: str) -> int:
    """Section 3.2 on strings of bits: keep M, compare F with T, add 1 if F >= T."""
    if x == 0 or not np.isfinite(x) or abs(x) >= 40960 or abs(x) < 2.0**-23:
        return nearest_away(x)
    exponent, mantissa = pattern(x, source)
    if abs(exponent) < 4:
        return nearest_away(x)
    last = f"{int(np.float16(x).view(np.uint16)):016b}"[-1] if source == "float16" else mantissa[-1]
    kept = 2 if abs(exponent) < 8 else 1 if abs(exponent) < 16 else 0
    whole, discarded = int("1" + mantissa[:kept], 2), mantissa[kept:]
    if exponent == -23:
        exponent, whole, discarded = -22, 0, "1" + mantissa
    width, threshold = (14, mantissa[-14:]) if source == "float32" else (2, last + "1")
    whole += int(discarded[:width], 2) >= int(threshold, 2)
    value = whole * 2.0 ** (exponent - kept)
    return nearest_away(float(np.copysign(value, x)))


def source_values(source: str, rng: np.random.Generator) -> np.ndarray:
    if source == "float16":
        x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    elif source == "bfloat16":
        x = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    else:
        signs, exponents = rng.integers(0, 2, 30_000) << 31, rng.integers(127 - 26, 127 + 18, 30_000) << 23
        x = (signs | exponents | rng.integers(0, 2**23, 30_000)).astype(np.uint32).view(np.float32)
        x = np.concatenate([x, hard_values(rng)[:800].astype(np.float32)])
    return x[np.isfinite(x)].astype(np.float64)


@pytest.mark.parametrize("source", MANTISSA_BITS)
def test_hybrid_rounding_is_that_of_the_paper(source: str, rng: np.random.Generator) -> None:
    x = source_values(source, rng)
    expected = [hybrid(value, source) for value in x.tolist()]
    assert hif8().encode_hybrid(x, source, overflow="nonsaturating").tolist() == expected


def test_hybrid_rounding_is_to_nearest_near_one_and_keeps_means_elsewhere(rng: np.random.Generator) -> None:
    fmt = hif8()
    near = rng.uniform(2.0**-3, 2.0**4, 5000).astype(np.float32)
    assert np.array_equal(fmt.encode_hybrid(near), fmt.encode(near))
    # All of them lie below the middle of 1024 and 1536: to nearest, the mean falls by 11 %.
    x = rng.uniform(1100, 1200, 20_000).astype(np.float32)
    assert (fmt.round(x) == 1024).all()
    # A variance of at most 256^2 per value: five standard errors are 9.1.
    assert abs(fmt.decode(fmt.encode_hybrid(x)).mean() - x.mean(dtype=np.float64)) < 9.1


def test_hybrid_rounding_of_exact_values() -> None:
    fmt = hif8()
    assert fmt.round(16.0) == fmt.decode(fmt.encode_hybrid(16.0, "float16")) == 16.0
    assert fmt.decode(fmt.encode_hybrid(16.0)) == 20.0  # F = T = 0, and F >= T
    assert fmt.decode(fmt.encode_hybrid([8.0, 0.0, -0.0])).tolist() == [8.0, 0.0, 0.0]
    assert fmt.encode_hybrid([32768.0, inf, nan]).tolist() == [0x6E, 0x6E, 0x80]
    assert fmt.encode_hybrid([32768.0, -inf], overflow="nonsaturating").tolist() == [0x6F, 0xEF]
    assert fmt.encode_hybrid(nan, nan="zero") == 0
    assert fmt.encode_hybrid(np.full((2, 3), 5.0)).shape == (2, 3)


def test_hybrid_rounding_refuses_what_the_source_does_not_hold() -> None:
    for x, source in ((1.0 + 2.0**-30, "float32"), (1.0 + 2.0**-11, "float16"), (1.0 + 2.0**-8, "bfloat16")):
        with pytest.raises(ValueError, match=rf"^x: {x!r} is no {source} number; name the type that x came from"):
            hif8().encode_hybrid([1.0, x], source)
    with pytest.raises(ValueError, match=r"^source: got 'fp8', accepted: float32, float16, bfloat16$"):
        hif8().encode_hybrid([1.0], "fp8")


def test_modes_on_the_values_are_those_of_a_table(rng: np.random.Generator) -> None:
    table = formats.CodebookFormat(name="table", table=hif8().table)
    x = hard_values(rng)
    for mode in (mode for mode in Rounding if not mode.needs_random_bits):
        assert np.array_equal(hif8().encode(x, mode), table.encode(x, mode)), mode


def test_it_has_one_name_and_an_alias() -> None:
    assert formats.get("hifloat8") is formats.get("hif8")
    assert formats.get("hif8") == hif8() == HiF8Format() == pickle.loads(pickle.dumps(hif8()))


def test_quantize_scales_to_where_the_mantissa_is_longest(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 33)).astype(np.float32)
    q = quantize_reference(x, "hif8/row")
    assert (np.abs(hif8().decode(q.codes)).max(axis=1) == 16).all()
    error = q.dequantize() - x
    largest = np.abs(x).max(axis=1, keepdims=True)
    assert (np.abs(error) <= np.maximum(np.abs(x) / 16, largest * 2.0**-11)).all()
    assert np.array_equal(quantize_reference(x, "hif8:static=1").codes, hif8().encode(x))


def test_en_dtypes_agrees(rng: np.random.Generator) -> None:
    en_dtypes = pytest.importorskip("en_dtypes")
    codes = np.arange(256, dtype=np.uint8)
    theirs = codes.view(en_dtypes.hifloat8).astype(np.float32)
    np.testing.assert_array_equal(theirs, hif8().values())
    with np.errstate(over="ignore"):
        x = hard_values(rng).astype(np.float32)
    assert np.array_equal(x.astype(en_dtypes.hifloat8).view(np.uint8), hif8().encode(x, overflow="nonsaturating"))
