"""The table codecs: signs, zeros, scales of rows and columns."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge.bench.optim_peers.arrays import values_of
from narrowgauge.bench.optim_peers.dynamic import SIGNED_4BIT, Table4, Table8, table_of
from narrowgauge.numerics import relative_rms

BNB, TORCHAO8 = Table8("bnb", keeps_sign=True), Table8("torchao", keeps_sign=False)
TORCHAO4, LPMM = Table4("torchao 4-bit", rank_one=False), Table4("lpmm", rank_one=True)


def test_bitsandbytes_moves_a_code_where_the_sign_would_change() -> None:
    m = np.array([1.0, -1e-9, 1e-9], np.float32)
    v = np.square(m)
    assert BNB.load(BNB.store(m, v))[0][1] == pytest.approx(-5.5e-7)
    assert TORCHAO8.load(TORCHAO8.store(m, v))[0][1] == 0.0
    assert BNB.load(BNB.store(m, v))[0][2] == 0.0


def test_eight_bit_errors_are_those_published() -> None:
    rng = np.random.default_rng(0)
    m = rng.standard_normal(1 << 15).astype(np.float32)
    v = rng.gamma(19.5, 1.0, 1 << 15).astype(np.float32)
    got_m, got_v = BNB.load(BNB.store(m, v))
    assert relative_rms(got_m, m) ** 2 == pytest.approx(1.18e-4, rel=0.05)
    assert relative_rms(got_v, v) == pytest.approx(0.0038, rel=0.1)


def test_a_small_v_becomes_zero_in_8_bits_and_a_sixteenth_in_4() -> None:
    v = np.full(128, 1.0, np.float32)
    v[3] = 1e-8
    assert BNB.load(BNB.store(v, v))[1][3] == 0.0
    assert TORCHAO4.load(TORCHAO4.store(v, v))[1][3] == 1 / 16


def test_four_bit_map_is_the_dynamic_exponent_of_the_formats() -> None:
    assert sorted({float(x) for x in values_of("de4")}) == pytest.approx(sorted(SIGNED_4BIT))
    assert len(table_of("dynamic8")) == 256


def test_rank_one_scales_follow_rows_and_columns() -> None:
    rows, columns = np.array([1.0, 1e-4, 1e-8]), np.array([1.0, 0.25, 1.0, 0.5])
    v = np.outer(rows, columns).astype(np.float32)
    got = LPMM.load(LPMM.store(v, v))[1]
    assert relative_rms(got[0], v[0]) == 0.0
    assert 0.5 < got[2, 0] / v[2, 0] < 2.0
    grouped = TORCHAO4.load(TORCHAO4.store(v, v))[1]
    assert grouped[2, 0] / v[2, 0] > 1e6


def test_flat_tensors_are_matrices_of_256_columns_or_have_groups() -> None:
    v = np.random.default_rng(1).gamma(2.0, 1.0, 1024).astype(np.float32)
    assert isinstance(LPMM.store(v, v)[1][1], np.ndarray)
    odd = LPMM.load(LPMM.store(v[:1000], v[:1000]))[1]
    np.testing.assert_array_equal(odd, TORCHAO4.load(TORCHAO4.store(v[:1000], v[:1000]))[1])


@pytest.mark.parametrize("codec", [BNB, TORCHAO8, TORCHAO4, LPMM])
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (256, 2)])
def test_any_shape_reads_back_in_its_shape(codec: Table8 | Table4, shape: tuple[int, ...]) -> None:
    x = np.ones(shape, np.float32)
    m, v = codec.load(codec.store(x, x))
    assert m.shape == v.shape == shape
    np.testing.assert_allclose(m, x)
