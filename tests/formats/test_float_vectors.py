"""Minifloats against published vectors, sentinels of double rounding, and fields that make no format."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import FloatFormat


@pytest.mark.parametrize(
    ("x", "nearest"),
    [(1.0625 + 2.0**-40, 1.125), (464 + 2.0**-30, np.nan), (464.0, 448.0), (2.0**-10 + 2.0**-50, 2.0**-9)],
)
def test_float64_is_rounded_once(x: float, nearest: float) -> None:
    fmt = formats.get("e4m3fn")
    assert np.array_equal(fmt.round(x, overflow="nonsaturating"), nearest, equal_nan=True)
    assert np.array_equal(fmt.round(-x, overflow="nonsaturating"), -nearest, equal_nan=True)
    assert fmt.round(x) == (448.0 if x > 440 else nearest)


def test_float64_to_fp16_is_rounded_once() -> None:
    x = 1 + 2.0**-11 + 2.0**-40
    assert formats.get("fp16").round(x) == 1 + 2.0**-10 == float(np.float64(x).astype(np.float16))


PUBLISHED_E4M3 = {
    0.000976: 0x00,
    0.001: 0x01,
    0.0146: 0x07,
    0.0156: 0x08,
    17.0: 0x58,
    18.0: 0x59,
    19.0: 0x5A,
    447.0: 0x7E,
    464.0: 0x7E,
}


@pytest.mark.parametrize(("x", "code"), PUBLISHED_E4M3.items())
def test_published_e4m3_vectors(x: float, code: int) -> None:
    assert formats.get("e4m3fn").encode(x) == code
    assert formats.get("e4m3fn").encode(-x) == code | 0x80


@pytest.mark.parametrize(
    ("x", "away", "up_if_bits_reach"),
    [
        (1 + 2.0**-10, 1 + 2.0**-7, 2**16 - 2**13),
        (-3.1415927410125732, -3.15625, 2**16 - 4059),
        (65504.0, 65536.0, 2**13),
    ],
)
def test_stochastic_bf16_vectors(x: float, away: float, up_if_bits_reach: int) -> None:
    """Adding 16 random bits to a float32 and cutting off the low half, as vectors."""
    fmt = formats.get("bf16")
    toward = fmt.round(x, "toward_zero")
    bits = np.array([0, up_if_bits_reach - 1, up_if_bits_reach, 2**16 - 1])
    q = fmt.round(np.full(4, x), "stochastic", random_bits=bits, num_random_bits=16)
    assert q.tolist() == [toward, toward, away, away]


def test_wider_formats_hold_narrower_ones() -> None:
    fp16, e4m3 = formats.get("fp16"), formats.get("e4m3fn")
    for name in ("e4m3fn", "e5m2", "e2m1fn", "e3m2fn", "e2m3fn", "e4m3fnuz"):
        values = formats.get(name).values()
        values = values[np.isfinite(values)]
        assert np.array_equal(fp16.round(values), values), name
    fp4 = formats.get("e2m1fn").values()
    assert np.array_equal(e4m3.round(fp4), fp4)
    assert not np.array_equal(fp16.round(formats.get("e8m0fnu").values()[:255]), formats.get("e8m0fnu").values()[:255])


def test_fp32_itself_is_a_format() -> None:
    fp32 = FloatFormat(name="fp32", exponent_bits=8, mantissa_bits=23, bias=127, has_infinity=True, nan_codes=2**23 - 1)
    assert (fp32.max, fp32.smallest_subnormal) == (
        np.finfo(np.float32).max,
        np.finfo(np.float32).smallest_subnormal,
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20_000) * np.exp2(rng.uniform(-160, 140, 20_000))
    x = np.concatenate([x, [np.inf, -np.inf, np.nan, 2.0**128 - 2.0**103, 0.0, -0.0]])
    with np.errstate(all="ignore"):
        expected = x.astype(np.float32).view(np.uint32)
    assert np.array_equal(fp32.encode(x, overflow="nonsaturating"), expected)
    assert fp32.finite_codes == 4278190080
    with pytest.raises(ValueError, match="32-bit formats have too many codes to list"):
        fp32.all_codes()


def test_tiny_inputs_leave_a_trace_where_a_format_starts_above_float64() -> None:
    fmt = FloatFormat(name="coarse", exponent_bits=3, mantissa_bits=2, bias=-20)
    least = fmt.smallest_subnormal
    assert fmt.round([2.0**-1074, -(2.0**-1074)], "up").tolist() == [least, 0.0]
    assert fmt.round(2.0**-1074, "to_odd") == least


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exponent_bits": 0}, "exponent_bits >= 1"),
        ({"exponent_bits": 20, "mantissa_bits": 12}, "at most 32 bits"),
        ({"mantissa_bits": -1}, "mantissa_bits >= 0"),
        ({"nan_codes": 127}, "nan_codes=127 leaves no finite value"),
        ({"nan_codes": -1}, "nan_codes=-1"),
        ({"nan_at_negative_zero": True, "is_signed": False}, "nan_at_negative_zero needs a signed format"),
        ({"bias": 1100}, r"bias=1100 puts values at 2\^-1102 to 2\^-1085, beyond float64"),
        ({"bias": -1020}, "beyond float64"),
    ],
)
def test_impossible_fields_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FloatFormat(**{"name": "odd", "exponent_bits": 4, "mantissa_bits": 3, "bias": 7, **fields})
