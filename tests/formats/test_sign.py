"""Binary and ternary values: the sign of zero, ties, probabilities, codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from narrowgauge import formats

BINARY = formats.get("binary")
TERNARY = formats.get("ternary")
FLOATS = hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=2, max_side=5), elements=st.floats(-9, 9))


def test_tables() -> None:
    assert BINARY.values().tolist() == [-1.0, 1.0]
    assert TERNARY.values().tolist() == [0.0, 1.0, -1.0, 0.0]
    assert (BINARY.bits, TERNARY.bits) == (1, 2)
    assert (BINARY.has_zero, TERNARY.has_zero) == (False, True)
    assert (BINARY.nan_code, TERNARY.nan_code) == (None, None)


def test_sign_of_zero_is_plus() -> None:
    x = [0.0, -0.0, 5e-324, -5e-324, 0.3, -7.0, np.inf, -np.inf]
    assert BINARY.round(x).tolist() == [1, 1, 1, -1, 1, -1, 1, -1]
    assert BINARY.encode(x).tolist() == [1, 1, 1, 0, 1, 0, 1, 0]


@given(FLOATS)
def test_binary_is_the_sign(x: np.ndarray) -> None:
    assert np.array_equal(BINARY.round(x), np.where(x >= 0, 1.0, -1.0))
    assert np.array_equal(BINARY.round(x, "toward_zero"), BINARY.round(x))


@given(FLOATS)
def test_ternary_is_rint_clipped(x: np.ndarray) -> None:
    # round(w / γ) of BitNet b1.58; numpy's and torch's round take ±0.5 to zero.
    assert np.array_equal(TERNARY.round(x), np.clip(np.rint(x), -1, 1))


def test_ternary_ties_and_their_neighbours() -> None:
    half = np.float32(0.5)
    up, down = np.nextafter(half, np.float32(1)), np.nextafter(half, np.float32(0))
    x = np.float32([half, up, down, -half, -up, -down])
    assert TERNARY.round(x).tolist() == [0, 1, 0, 0, -1, 0]
    assert TERNARY.round(x, "nearest_away").tolist() == [1, 1, 0, -1, -1, 0]


def test_ternary_codes_are_two_planes_of_bits(rng: np.random.Generator) -> None:
    codes = TERNARY.encode(rng.standard_normal(500))
    assert codes.max() == 2
    assert np.array_equal(TERNARY.decode(codes), (codes & 1).astype(float) - (codes >> 1))
    assert np.array_equal(TERNARY.decode(np.arange(4)), [0, 1, -1, 0])


@pytest.mark.parametrize(("x", "ones"), [(-1.0, 0), (-0.5, 4), (0.0, 8), (0.25, 10), (0.5, 12), (1.0, 16), (3.0, 16)])
def test_stochastic_binary_is_the_hard_sigmoid(x: float, ones: int) -> None:
    q = BINARY.round(np.full(16, x), "stochastic", random_bits=np.arange(16), num_random_bits=4)
    assert np.count_nonzero(q == 1) == ones


@pytest.mark.parametrize(("x", "mean"), [(0.75, 0.75), (-0.25, -0.25), (0.0, 0.0), (-1.0, -1.0)])
def test_stochastic_ternary_is_unbiased(x: float, mean: float) -> None:
    q = TERNARY.round(np.full(16, x), "stochastic", random_bits=np.arange(16), num_random_bits=4)
    assert q.mean() == mean


def test_the_names_are_not_taken_for_p3109() -> None:
    assert type(BINARY).__name__ == "BinaryFormat"
    assert formats.get("binary8p3").name == "binary8p3se"
    with pytest.raises(ValueError, match="unknown name 'binary8'"):
        formats.get("binary8")
