"""Scales from the rms, from another grid's maximum and per channel: torch has the bits of numpy, and each does its
part."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from narrowgauge.formats.operand import operand_reference, parse_operand
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.operand import dequantized, make_operand

TEXTS = (
    "e2m1fn/1x32:static=1.0+rms2.92247856", "radix4_fp4_odd:static=1.0+top4096", "e4m3fn:static=0.00390625+smooth",
    "e4m3fn+smoothrow", "e2m1fn/1x32:static=1.0+sr+rms2.92247856", "e2m1fn/1x32:static=1.0+rms2.92247856+h32",
)  # fmt: skip


def both(x: np.ndarray, text: str, draw: Draw | None = None) -> tuple[np.ndarray, np.ndarray]:
    here = draw or Draw()
    operand = make_operand(torch.from_numpy(x), text, here)
    return dequantized(operand, torch.float64).numpy(), operand_reference(x, text, here)


@pytest.mark.parametrize("text", TEXTS)
@settings(max_examples=20)
@given(rows=st.integers(1, 9), cols=st.integers(1, 100), seed=st.integers(0, 2**31), exponent=st.integers(-60, 60))
def test_torch_equals_numpy(text: str, rows: int, cols: int, seed: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((rows, cols)) * np.exp(3 * rng.standard_normal((1, cols))) * 2.0**exponent).astype("f4")
    actual, expected = both(x, text, Draw(seed, 3, 5))
    np.testing.assert_allclose(actual, expected, rtol=2e-7, atol=0.0)


@pytest.mark.parametrize("text", TEXTS[:4])
def test_extremes(text: str) -> None:
    huge, tiny = np.full((2, 40), 1e38, np.float32), np.full((2, 40), 1e-42, np.float32)
    for x in (huge, tiny, np.zeros((2, 40), np.float32), np.eye(40, dtype=np.float32) * np.float32(1e30)):
        actual, expected = both(x, text)
        np.testing.assert_array_equal(actual, expected.astype(np.float32))
    for bad in (np.nan, np.inf):
        x = np.ones((2, 40), np.float32)
        x[1, 3] = bad
        actual, expected = both(x, text)
        np.testing.assert_array_equal(actual, expected)
        assert np.isnan(actual[1, 3])


@pytest.mark.parametrize("text", TEXTS)
def test_text_reads_back(text: str) -> None:
    spec = parse_operand(text)
    assert parse_operand(str(spec)) == spec


@pytest.mark.parametrize("text", [
    "e2m1fn/1x32+rms2.9", "e2m1fn:static=1.0+rms2.9", "e2m1fn/1x32:static=1.0+rms0", "radix4_fp4+top4096",
    "radix4_fp4/row:static=1.0+top4096", "radix4_fp4:static=1.0+topx",
])  # fmt: skip
def test_options_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"option|rms|top"):
        parse_operand(text)


def test_the_published_clipping_point_has_the_least_error() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp2(rng.random((512, 1)))
    x = (rng.standard_normal((512, 256)) * sizes).astype(np.float32)

    def error(clip: float) -> float:
        values = operand_reference(x, f"e2m1fn/1x32:static=1.0+rms{clip}")
        return float(np.square((values - x) / sizes).mean())

    chosen = error(2.92247856)
    assert chosen < 0.85 * min(error(2.92247856 / 2**0.5), error(5.0))  # /√2: scales rounded down
    assert chosen == pytest.approx(min(error(c) for c in np.linspace(2.2, 4.4, 12)), rel=0.03)


def test_the_two_phases_lie_a_factor_of_two_apart() -> None:
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    levels = [
        np.unique(np.abs(operand_reference(x, text)))
        for text in ("radix4_fp4", "radix4_fp4_odd:static=1.0+top4096", "radix4_fp4_odd")
    ]
    even, odd, own = (np.log2(v[v > 0] / np.abs(x).max()) for v in levels)
    assert np.allclose(even % 2, 0, atol=1e-5) or np.allclose(np.round(even, 4) % 2, 0)
    assert np.allclose(np.round(odd, 4) % 2, 1)
    assert np.allclose(np.round(own, 4) % 2, 0)  # what a scale of its own would do
