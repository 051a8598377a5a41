"""Rounding to odd: float64 to float32 such that a second rounding to at most 22 bits equals a direct one."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from narrowgauge import formats
from narrowgauge.formats import FloatFormat, Rounding, round_to_odd_float32

INFO = np.finfo(np.float32)
WIDEST = FloatFormat(
    name="binary30", exponent_bits=8, mantissa_bits=21, bias=127, has_infinity=True, nan_codes=2**21 - 1
)
TARGETS = [
    WIDEST,
    *(formats.get(name) for name in ("bf16", "fp16", "e4m3fn", "e5m2", "e2m1fn", "int8", "rf8")),
]
DETERMINISTIC = [mode for mode in Rounding if not mode.needs_random_bits]


@given(st.floats(width=64, allow_nan=False))
@example(0.0)
@example(-0.0)
@example(2.0**-150)
@example(-(2.0**-1074))
@example(float(INFO.max) * (1 + 2.0**-25))
@example(1e300)
@example(math.inf)
@example(1 + 2.0**-24)
@example(1 - 2.0**-40)
@example(1.5 * 2.0**-149)
def test_result_is_exact_or_the_odd_neighbour(x: float) -> None:
    odd = round_to_odd_float32(x)
    assert odd.dtype == np.float32
    if float(odd) == x:
        assert np.signbit(odd) == np.signbit(x)
        return
    if abs(x) > float(INFO.max):
        assert odd == np.copysign(INFO.max, np.float32(np.sign(x)))
        return
    assert odd.view(np.int32) & 1 == 1
    toward, away = np.float32(0), np.float32(np.copysign(np.inf, x))
    with np.errstate(over="ignore"):
        assert abs(float(np.nextafter(odd, toward))) < abs(x) < abs(float(np.nextafter(odd, away)))


@given(st.floats(width=64, allow_nan=False))
@example(1.0625 + 2.0**-40)
@example(464 + 2.0**-30)
@example(2.0**-10 + 2.0**-50)
@example(2.0**-134 + 2.0**-180)
@example(-(2.0**-148) - 2.0**-200)
@example((2 - 2.0**-22) * 2.0**127 - 2.0**80)
def test_a_second_rounding_equals_a_direct_one(x: float) -> None:
    odd = round_to_odd_float32(x)
    for fmt in TARGETS:
        for mode in [None, *DETERMINISTIC]:
            for overflow in ("saturate", "nonsaturating"):
                direct = fmt.encode(x, mode, overflow=overflow)
                assert fmt.encode(odd, mode, overflow=overflow) == direct, (fmt.name, mode, overflow)


def test_random_magnitudes_in_bulk(rng: np.random.Generator) -> None:
    x = rng.standard_normal(50_000) * np.exp2(rng.uniform(-160, 130, 50_000))
    # Close to midpoints of the target, where a first rounding to nearest would fall onto them.
    values = formats.get("bf16").values()
    values = np.unique(values[np.isfinite(values)])
    middle = rng.choice((values[1:] + values[:-1]) / 2, 50_000)
    x = np.concatenate([x, middle * (1 + rng.integers(-2, 3, 50_000) * 2.0**-40)])
    odd = round_to_odd_float32(x)
    for fmt in TARGETS:
        for mode in DETERMINISTIC:
            assert np.array_equal(fmt.encode(odd, mode), fmt.encode(x, mode)), (fmt.name, mode)
    with np.errstate(over="ignore"):
        staged = formats.get("bf16").encode(x.astype(np.float32))
    assert not np.array_equal(staged, formats.get("bf16").encode(x))


def test_nan_and_infinities_pass() -> None:
    assert np.isnan(round_to_odd_float32(np.nan))
    assert round_to_odd_float32([np.inf, -np.inf]).tolist() == [np.inf, -np.inf]
