"""The floats that are too wide for tests over all codes, against numpy's own types and the definition; DLFloat16."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from narrowgauge import formats


def hard(bits: int) -> np.ndarray:
    rng = np.random.default_rng(bits)
    x = rng.standard_normal(50_000) * np.exp2(rng.uniform(-160, 140, 50_000))
    edges = np.exp2(np.arange(-155.0, 130.0))
    near = [np.nextafter(edges, s) for s in (0.0, np.inf)]
    ties = edges * (1 + 2.0 ** -(bits + 1))
    return np.concatenate([x, edges, -edges, *near, ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf)])


def test_fp32_is_numpys_float32() -> None:
    fmt, x = formats.get("fp32"), hard(23)
    with np.errstate(over="ignore", under="ignore"):
        expected = x.astype(np.float32)
    codes = fmt.encode(x, overflow="nonsaturating")
    assert np.array_equal(codes, expected.view(np.uint32))
    assert np.array_equal(fmt.decode(codes), expected.astype(np.float64))
    assert (fmt.max, fmt.epsilon) == (float(np.finfo(np.float32).max), 2.0**-23)


def test_tf32_is_float32_with_ten_mantissa_bits() -> None:
    fmt, x = formats.get("tf32"), hard(10)
    values = fmt.round(x, overflow="nonsaturating")
    finite = np.isfinite(values)
    as32 = values.astype(np.float32)
    assert np.array_equal(as32.astype(np.float64), values)
    assert not (as32[finite].view(np.uint32) & 0x1FFF).any()
    # Nearest: no other number with ten bits is closer.
    step = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - 1, -126) - 10)
    assert (np.abs(values - x)[finite] <= step[finite] / 2).all()
    assert fmt.values().size == 2**19
    assert np.isfinite(fmt.values()).sum() == 522240


def test_tf32_rounds_ties_away_as_hardware_does_if_asked() -> None:
    fmt = formats.get("tf32")
    tie = 1 + 2.0**-11
    assert fmt.round([tie, -tie]).tolist() == [1.0, -1.0]
    assert fmt.round([tie, -tie], "nearest_away").tolist() == [1 + 2.0**-10, -1 - 2.0**-10]


def test_dlfloat16_has_no_subnormals_and_one_special_code() -> None:
    fmt = formats.get("dlfloat16")
    smallest = 2.0**-31 * (1 + 2.0**-9)
    assert fmt.max == 8573157376.0
    assert fmt.smallest_subnormal == fmt.smallest_normal == smallest
    assert fmt.decode([0, 1, 0x8000, 0x8001]).tolist() == [0.0, smallest, -0.0, -smallest]
    assert np.isnan(fmt.decode([0x7FFF, 0xFFFF])).all()
    assert np.isnan(fmt.round([1e11, -1e11, np.inf], overflow="nonsaturating")).all()
    x = np.array([smallest / 2, np.nextafter(smallest / 2, 1), np.nextafter(smallest, 0), smallest / 4])
    assert fmt.round(x).tolist() == [0.0, smallest, smallest, 0.0]
    assert fmt.round(-x).tolist() == [-0.0, -smallest, -smallest, -0.0]
    assert fmt.round(x, "up").tolist() == [smallest] * 4
    assert fmt.round(x, "nearest_away").tolist() == [smallest, smallest, smallest, 0.0]


@pytest.mark.parametrize("name", ["dlfloat16", "e5m6", "bf16", "fp16"])
def test_sixteen_bit_floats_take_the_nearest_value(name: str) -> None:
    fmt = formats.get(name)
    levels = np.unique(fmt.values()[np.isfinite(fmt.values())])
    rng = np.random.default_rng(3)
    i = rng.integers(0, len(levels) - 1, 500)
    x = levels[i] + (levels[i + 1] - levels[i]) * rng.random(500)
    q = fmt.round(x)
    for value, got, low, high in zip(x.tolist(), q.tolist(), levels[i].tolist(), levels[i + 1].tolist(), strict=True):
        assert abs(Fraction(got) - Fraction(value)) == min(
            Fraction(value) - Fraction(low), Fraction(high) - Fraction(value)
        )
