"""FlashOptim's codes, and its float16 scales that underflow."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.bench.optim_peers.flash import Flash, softsign_codes, softsign_values
from narrowgauge.numerics import nmse

PUBLISHED, REPAIRED = Flash("float16", np.float16), Flash("float32", np.float32)


def moments(size: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    m = size * np.sqrt(0.1 / 1.9) * rng.standard_normal(1 << 14)
    return m.astype(np.float32), (size**2 * rng.gamma(19.5, 1 / 19.5, 1 << 14)).astype(np.float32)


def test_softsign_codes_invert_to_a_code() -> None:
    codes = np.arange(-127, 128).astype(np.int8)
    np.testing.assert_array_equal(softsign_codes(softsign_values(codes)), codes)


@pytest.mark.parametrize(("size", "expected"), [(1e-4, 2.5e-5), (1e-5, 3.6e-5), (1e-6, 1.1e-3), (1e-7, 0.06)])
def test_float16_scales_lose_m_as_gradients_get_small(size: float, expected: float) -> None:
    m, v = moments(size)
    assert nmse(PUBLISHED.load(PUBLISHED.store(m, v))[0], m) == pytest.approx(expected, rel=0.1)
    assert nmse(REPAIRED.load(REPAIRED.store(m, v))[0], m) == pytest.approx(2.5e-5, rel=0.05)


def test_below_1e_8_everything_is_zero() -> None:
    assert not any(part.any() for part in PUBLISHED.load(PUBLISHED.store(*moments(1e-8))))


def test_a_v_below_half_a_code_is_zero() -> None:
    v = np.ones(32, np.float32)
    v[1], v[2] = (0.49 / 255) ** 2, (0.51 / 255) ** 2
    read = REPAIRED.load(REPAIRED.store(v, v))[1]
    assert read[1] == 0.0
    assert read[2] > 0.0


def test_bytes_are_those_of_the_stored_arrays() -> None:
    state = PUBLISHED.store(*moments(1.0))
    assert sum(part.nbytes for part in state[:4]) / (1 << 14) == PUBLISHED.bytes_per_parameter == 2.125
