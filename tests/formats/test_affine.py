"""Asymmetric integers: an exact zero, errors of at most half a scale, tiles that ignore each other."""

from __future__ import annotations

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import AffineQuantized, quantize_affine
from narrowgauge.formats.tiles import rows_cols, spread

GRANULARITIES = ["tensor", "row", "col", "1x4", "3x5", "allx2"]
INFO = np.finfo(np.float32)


def half_a_scale(q: AffineQuantized, shape: tuple[int, ...]) -> np.ndarray:
    """Largest permitted error of each element: half a scale and float32 rounding."""
    scale = spread(q.scale.reshape(rows_cols(q.scale.shape)), q.scheme.tile, rows_cols(shape)).reshape(shape)
    return scale.astype(np.float64) * (0.5 + 2.0**-14)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("bits", [*range(2, 9), 11, 16])
def test_error_is_at_most_half_a_scale(bits: int, granularity: str, rng: np.random.Generator) -> None:
    for shift in (0.0, 3.0, -40.0):
        x = (rng.standard_normal((7, 13)) + shift).astype(np.float32)
        q = quantize_affine(x, bits, granularity)
        assert q.codes.dtype == (np.uint8 if bits <= 8 else np.uint16)
        assert int(q.codes.max()) < 2**bits
        assert (np.abs(q.dequantize() - x) <= half_a_scale(q, x.shape) * (1 + 2.0 ** (bits - 22))).all()
        assert q.scale.shape == q.zero_point.shape == q.scheme.scale_shape(x.shape)
        assert (q.scale.dtype, q.zero_point.dtype) == (np.float32, np.int32)
        assert ((q.zero_point >= 0) & (q.zero_point < 2**bits)).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shift", [-100.0, -1.0, 0.0, 1.0, 100.0])
def test_zero_is_exact(bits: int, shift: float, rng: np.random.Generator) -> None:
    x = (rng.standard_normal((5, 9)) + shift).astype(np.float32)
    x[:, 4] = 0.0
    q = quantize_affine(x, bits, "row")
    assert (q.dequantize()[:, 4] == 0).all()
    assert np.array_equal(q.codes[:, 4], q.zero_point[:, 0])


def test_scale_and_zero_point_follow_the_range() -> None:
    q = quantize_affine(np.float32([-1.0, 0.5, 2.0]), 4)
    assert q.scale.item() == np.float32(3.0) / np.float32(15)
    assert q.zero_point.item() == 5
    assert q.codes.tolist() == [0, 7, 15]  # 0.5 / 0.2 = 2.5 rounds to even
    assert q.dequantize()[2] == 10 * np.float64(np.float32(0.2))


@pytest.mark.parametrize(("sign", "zero_point"), [(1, 0), (-1, 255)])
def test_a_range_on_one_side_is_extended_to_zero(sign: int, zero_point: int) -> None:
    x = sign * np.float32([3.1, 5.2, 10.0])
    q = quantize_affine(x)
    assert q.zero_point.item() == zero_point
    assert q.scale.item() == np.float32(10) / np.float32(255)
    assert np.array_equal(np.abs(q.codes.astype(int) - zero_point), np.rint(np.abs(x) / q.scale.item()))


def test_a_grid_of_the_format_is_reproduced() -> None:
    for zero in (0, 3, 100, 255):
        x = ((np.arange(256) - zero) * 0.125).astype(np.float32)
        q = quantize_affine(x)
        assert (q.scale.item(), q.zero_point.item()) == (0.125, zero)
        assert np.array_equal(q.codes, np.arange(256))
        assert np.array_equal(q.dequantize(), x)


def test_elements_are_the_unsigned_formats() -> None:
    x = np.float32([1.0, -1.0])
    for bits in (4, 8, 16):
        element = quantize_affine(x, bits).scheme.element
        assert element == formats.get(f"uint{bits}")


def test_a_zero_tile_has_scale_one() -> None:
    q = quantize_affine(np.zeros((2, 3), np.float32), granularity="row")
    assert q.scale.tolist() == [[1.0], [1.0]]
    assert (q.codes == 0).all()
    assert (q.dequantize() == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_tile_that_is_not_finite_is_nan_and_stays_alone(bad: float, rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 8)).astype(np.float32)
    x[2, 5] = bad
    q = quantize_affine(x, granularity="1x4")
    poisoned = np.zeros((4, 8), dtype=bool)
    poisoned[2, 4:] = True
    assert np.array_equal(np.isnan(q.dequantize()), poisoned)
    assert np.array_equal(np.isnan(q.scale), poisoned[:, ::4])
    x[2, 4:] = 0
    without = quantize_affine(x, granularity="1x4").dequantize()
    assert np.array_equal(q.dequantize()[~poisoned], without[~poisoned])


def test_ends_of_float32() -> None:
    x = np.array([[INFO.max, -INFO.max], [INFO.max, 0], [INFO.smallest_subnormal, 0]], dtype=np.float32)
    q = quantize_affine(x, granularity="row")
    assert np.isfinite(q.dequantize()).all()
    assert (np.abs(q.dequantize() - x) <= half_a_scale(q, x.shape)).all()
    assert q.scale[2, 0] == 2.0**-126


def test_powers_of_two_pass_through(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 10)).astype(np.float32)
    q = quantize_affine(x, 4, "row")
    for shift in (-20, 1, 30):
        shifted = quantize_affine(np.ldexp(x, shift), 4, "row")
        assert np.array_equal(shifted.codes, q.codes)
        assert np.array_equal(shifted.zero_point, q.zero_point)
        assert np.array_equal(shifted.scale, np.ldexp(q.scale, shift))


def test_square_tiles_commute_with_the_transpose(rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 14)).astype(np.float32)
    assert np.array_equal(quantize_affine(x.T, 8, "4x4").dequantize(), quantize_affine(x, 8, "4x4").dequantize().T)


def test_fewer_bits_cost_six_decibels_each(rng: np.random.Generator) -> None:
    x = rng.uniform(-1.0, 3.0, 50_000).astype(np.float32)
    noise = [((quantize_affine(x, bits).dequantize() - x) ** 2).mean() for bits in range(3, 9)]
    step = 4.0 / (2.0 ** np.arange(3, 9) - 1)
    assert np.allclose(noise, step**2 / 12, rtol=0.05)


@pytest.mark.parametrize("shape", [(), (5,), (1, 7), (7, 1), (2, 3, 5), (0,), (0, 4), (4, 0), (2, 0, 3)])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_any_shape(shape: tuple[int, ...], granularity: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    q = quantize_affine(x, 8, granularity)
    assert q.codes.shape == q.dequantize().shape == shape
    assert (np.abs(q.dequantize() - x) <= half_a_scale(q, shape)).all()


def test_views_give_what_copies_give(rng: np.random.Generator) -> None:
    x = rng.standard_normal((12, 20)).astype(np.float32)
    for view in (x.T, x[::2, ::-3], np.broadcast_to(x[0], (4, 20))):
        assert np.array_equal(quantize_affine(view, 8, "row").codes, quantize_affine(view.copy(), 8, "row").codes)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_widths_of_float(dtype: type, rng: np.random.Generator) -> None:
    x = rng.standard_normal((8, 8)).astype(dtype)
    q = quantize_affine(x, 8, "row")
    assert (np.abs(q.dequantize() - x) <= half_a_scale(q, x.shape)).all()


@pytest.mark.parametrize("bits", [1, 17, 0, -8])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"^bits: affine codes have 2 to 16 bits, got {bits}"):
        quantize_affine(np.ones(3, np.float32), bits)


def test_other_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^granularity: got 'rows', accepted: tensor, row, col, RxC"):
        quantize_affine(np.ones(3, np.float32), 8, "rows")
    with pytest.raises(TypeError, match=r"^x: expected float16, float32 or float64, got int64"):
        quantize_affine(np.arange(3))
