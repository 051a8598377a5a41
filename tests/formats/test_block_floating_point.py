"""Block floating point and shared micro-exponents against the formulas in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import BlockFormat, bfp, quantize_reference

MSFP = {f"msfp{n}": (n - 8, 16) for n in range(11, 17)}
HBFP = {f"hbfp{m}": (m, 24) for m in (4, 6, 8, 12)}


def floor_log2(x: Fraction) -> int:
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    return exponent - (Fraction(2) ** exponent > x)


def rounded(x: Fraction) -> int:
    """To nearest, ties to even."""
    return round(x)


def by_definition(group: np.ndarray, mantissa_bits: int, tau: int = 0) -> np.ndarray:
    """Values of a group that shares floor(log2 amax), less `tau`."""
    amax = max(Fraction(abs(v)) for v in group.tolist())
    if amax == 0:
        return np.zeros(group.shape)
    return with_exponent(group, mantissa_bits, floor_log2(amax) - tau)


def with_exponent(group: np.ndarray, mantissa_bits: int, exponent: int) -> np.ndarray:
    step = Fraction(2) ** (exponent - (mantissa_bits - 2))
    limit = 2 ** (mantissa_bits - 1) - 1
    q = [max(-limit, min(limit, rounded(Fraction(v) / step))) for v in group.tolist()]
    return np.array([float(i * step) for i in q])


def data(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, cols)) * np.exp2(rng.integers(-20, 20, (rows, 1)))
    x[0, : cols // 2] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize("name", [*MSFP, "bfp5g7", "bfp16g32", "mxint8:floor"])
def test_rows_share_the_exponent_of_their_largest_value(name: str) -> None:
    fmt: BlockFormat = formats.parse(name).format
    x = data(6, 70)
    values = quantize_reference(x, name).dequantize()
    size = fmt.block_size or 0
    for row in range(6):
        for start in range(0, 70, size):
            part = slice(start, start + size)
            expected = by_definition(x[row, part].astype(np.float64), fmt.element.bits)
            assert np.array_equal(values[row, part], expected), (row, start)


@pytest.mark.parametrize("name", HBFP)
def test_hbfp_tiles_are_square(name: str) -> None:
    x = data(30, 50, 1)
    values = quantize_reference(x, name).dequantize()
    for i in range(0, 30, 24):
        for j in range(0, 50, 24):
            tile = x[i : i + 24, j : j + 24].astype(np.float64)
            expected = by_definition(tile.reshape(-1), HBFP[name][0]).reshape(tile.shape)
            assert np.array_equal(values[i : i + 24, j : j + 24], expected)
    assert np.array_equal(quantize_reference(np.ascontiguousarray(x.T), name).dequantize(), values.T)


@pytest.mark.parametrize(("name", "bits"), [("mx9", 8), ("mx6", 5), ("mx4", 3), ("bfp6g8e5p4b2", 6)])
def test_pairs_have_an_exponent_of_their_own(name: str, bits: int) -> None:
    fmt: BlockFormat = formats.get(name)
    x = data(5, 45, 2)
    x[1, 2:4] = 0.25 * x[1].max()
    q = quantize_reference(x, name)
    values = q.dequantize()
    size, pair = fmt.block_size or 0, fmt.micro_size
    most = 2**fmt.micro_bits - 1
    for row in range(5):
        for start in range(0, 45, size):
            group = x[row, start : start + size].astype(np.float64)
            largest = Fraction(np.abs(group).max())
            if largest == 0:
                assert not values[row, start : start + size].any()
                continue
            lowest, highest = fmt.exponent_range
            exponent = min(max(floor_log2(largest), lowest), highest)
            for k in range(0, len(group), pair):
                part = group[k : k + pair]
                own = Fraction(np.abs(part).max())
                local = max(floor_log2(own), lowest) if own else lowest
                tau = min(exponent - min(local, exponent), most)
                expected = with_exponent(part, bits, exponent - tau)
                assert np.array_equal(values[row, start + k : start + k + pair], expected)


def test_mx9_needs_nine_bits_a_value() -> None:
    assert [formats.get(name).bits_per_value for name in ("mx9", "mx6", "mx4")] == [9.0, 6.0, 4.0]
    assert [formats.get(f"msfp{n}").bits_per_value for n in (11, 12, 16)] == [3.5, 4.5, 8.5]
    assert formats.get("hbfp8").bits_per_value == 8 + 10 / 576


def test_scale_codes_count_from_their_bias() -> None:
    x = np.array([[1.5, -0.1, 0.0, 0.3]], np.float32)
    assert quantize_reference(x, "bfp8g4").scale.tolist() == [[127]]
    assert quantize_reference(x, "bfp8g4e5").scale.tolist() == [[15]]
    assert quantize_reference(x, "bfp8g4x4e10").scale.tolist() == [[511]]
    assert quantize_reference(x, "bfp8g4x4e10").scale.dtype == np.uint16
    # Pairs: the second one lies at least one binade lower, so its bit, the tenth, is set.
    assert quantize_reference(x, "bfp8g4p2b1").scale.tolist() == [[127 | 1 << 9]]


def test_narrow_exponents_saturate_at_both_ends() -> None:
    x = np.array([[1e30, 3.0], [1e-30, 2e-30]], np.float32)
    q = quantize_reference(x, "bfp8g2e5")
    assert q.scale.tolist() == [[30], [0]]
    assert q.dequantize().tolist() == [[2.0**15 * 127 / 64, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (), (1,), (2, 3, 5)])
@pytest.mark.parametrize("name", ["mx9", "msfp12", "hbfp8", "dfp16", "nvfp4_2d"])
def test_any_shape_goes_through(name: str, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(9).standard_normal(shape).astype(np.float32)
    q = quantize_reference(x, name)
    assert q.codes.shape == q.dequantize().shape == shape
    assert np.abs(q.dequantize() - x).max(initial=0.0) <= np.abs(x).max(initial=0.0)


def test_a_poisoned_block_is_nan_and_alone() -> None:
    x = data(3, 32, 3)
    x[1, 20] = np.nan
    x[2, 3] = np.inf
    for name in ("msfp12", "mx6", "bfp4g16e10"):
        values = quantize_reference(x, name).dequantize()
        assert np.isnan(values).tolist() == [
            [False] * 32,
            [False] * 16 + [True] * 16,
            [True] * 16 + [False] * 16,
        ]


def test_one_exponent_for_a_tensor() -> None:
    x = data(4, 9, 4)
    q = quantize_reference(x, "dfp16")
    assert q.scale.shape == (1, 1)
    assert q.codes.dtype == np.int16
    assert np.array_equal(q.dequantize().reshape(-1), by_definition(x.astype(np.float64).reshape(-1), 16))


@pytest.mark.parametrize("name", ["bfp6g16", "bfp4g24x24e10", "bfp8gtensor", "bfp5gallx8", "bfp8g16p2b1"])
def test_names_say_it_all(name: str) -> None:
    fmt: BlockFormat = formats.get(name)
    again = bfp(
        fmt.element.bits,
        fmt.tile,
        fmt.scale_format.exponent_bits,
        micro_size=fmt.micro_size,
        micro_bits=fmt.micro_bits,
    )
    assert again == fmt
    assert again.name == name
    assert str(formats.parse(name)) == name


def test_impossible_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^mantissa_bits: got 1, accepted: 2 to 16"):
        bfp(1, 16)
    with pytest.raises(ValueError, match=r"^exponent_bits: got 11, accepted: 2 to 10"):
        bfp(8, 16, 11)
    with pytest.raises(ValueError, match=r"^block_size: .* needs at least 1, got 0"):
        formats.get("bfp8g0")
    with pytest.raises(ValueError, match=r"^micro_amax: mx9 has an exponent for every 2 values"):
        formats.get("mx9").scale_codes([1.0])


def test_block_decode_equals_the_quantizer() -> None:
    x = data(30, 50, 6)
    for name in ("mx9", "hbfp8", "msfp12", "nvfp4_2d"):
        q = quantize_reference(x, name)
        assert np.array_equal(formats.get(name).decode(q.codes, q.scale, q.outer), q.dequantize())


class TestNvfp4:
    def test_scales_rounded_up_never_clip(self) -> None:
        x = np.random.default_rng(7).standard_normal((64, 256)).astype(np.float32)
        nearest, up = (quantize_reference(x, f"nvfp4{rule}") for rule in ("", ":rceil"))
        assert (up.scale >= nearest.scale).all()
        assert (up.scale > nearest.scale).mean() > 0.3
        amax = np.abs(x.reshape(64, 16, 16)).max(axis=2).astype(np.float64)
        factor = formats.get("nvfp4").scales(up.scale, up.outer).astype(np.float64)
        # To a rounding of float32: the quotient that is rounded up has been rounded once before.
        assert (amax <= 6 * factor * (1 + 2.0**-22)).all()

    def test_squares_share_a_scale_and_transpose(self) -> None:
        x = np.random.default_rng(8).standard_normal((40, 50)).astype(np.float32)
        q = quantize_reference(x, "nvfp4_2d")
        assert q.scale.shape == (3, 4)
        turned = quantize_reference(np.ascontiguousarray(x.T), "nvfp4_2d")
        assert np.array_equal(turned.dequantize(), q.dequantize().T)
        assert formats.get("nvfp4_2d").bits_per_value == 4 + 8 / 256
