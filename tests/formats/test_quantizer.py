"""The reference quantizer: plain loops, rounding to odd, random bits, and measured accuracies."""

from __future__ import annotations

import math

import numpy as np
import pytest

from narrowgauge import formats
from narrowgauge.formats import (
    ScaleRule,
    parse,
    quantize_reference,
)

INFO = np.finfo(np.float32)
SCHEMES = [
    "e4m3fn",
    "e5m2/row",
    "int8/col",
    "e4m3fn/1x4",
    "int4/3x5:pow2",
    "rf8/1x4:rceil",
    "nf4/row",
    "mxfp4",
    "nvfp4",
]
SHAPES = [(), (5,), (1, 7), (7, 1), (7, 13), (2, 3, 5), (0,), (0, 4), (4, 0), (2, 0, 3), (3, 70)]


def loops(x: np.ndarray, text: str) -> tuple[np.ndarray, np.ndarray]:
    """(codes, scales) of a float32 matrix under a scheme of a scalar format, element by element."""
    scheme = parse(text)
    rows, cols = x.shape
    height, width = scheme.tile[0] or rows, scheme.tile[1] or cols
    codes = np.zeros(x.shape, dtype=scheme.element.code_dtype)
    scales = np.zeros((-(-rows // height), -(-cols // width)), dtype=np.float32)
    for i, j in np.ndindex(scales.shape):
        tile = slice(i * height, (i + 1) * height), slice(j * width, (j + 1) * width)
        amax = np.float32(max((abs(v) for v in x[tile].reshape(-1)), default=0))
        if scheme.rule is ScaleRule.AMAX:
            scale = np.float32(1) if amax == 0 else amax / np.float32(scheme.element.max)
        else:
            exponent = math.ceil(math.log2(float(amax)) - math.log2(scheme.element.max)) if amax else 0
            scale = np.float32(2.0**exponent)
        scales[i, j] = scale
        codes[tile] = [[scheme.element.encode(v * (np.float32(1) / scale)) for v in row] for row in x[tile]]
    return codes, scales


@pytest.mark.parametrize(
    "scheme", ["e4m3fn", "e5m2/row", "int8/col", "e4m3fn/1x4", "int4/3x5:pow2", "rf8/1x4:rceil", "nf4/2x3"]
)
@pytest.mark.parametrize("shape", [(7, 13), (1, 7), (7, 1), (6, 10)])
def test_codes_and_scales_equal_plain_loops(scheme: str, shape: tuple[int, int], rng: np.random.Generator) -> None:
    x = (rng.standard_normal(shape) * np.exp2(rng.integers(-6, 6, shape))).astype(np.float32)
    x[0, 0] = 0.0
    q = quantize_reference(x, scheme)
    codes, scales = loops(x, scheme)
    assert np.array_equal(q.codes, codes)
    assert np.array_equal(q.scale, scales)
    height, width = parse(scheme).tile[0] or shape[0], parse(scheme).tile[1] or shape[1]
    values = parse(scheme).element.decode(codes)
    for i, j in np.ndindex(shape):
        assert q.dequantize()[i, j] == values[i, j] * float(scales[i // height, j // width])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape(scheme: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    q = quantize_reference(x, scheme)
    spec = parse(scheme)
    assert q.scheme is spec
    assert q.codes.shape == q.dequantize().shape == shape
    assert q.codes.dtype == spec.element.code_dtype
    assert q.scale.shape == spec.scale_shape(shape)
    assert q.outer.shape == ()
    assert q.outer.dtype == np.float32
    assert (np.abs(q.dequantize() - x) <= np.abs(x).max(initial=0.0) * 0.26).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_views_give_what_copies_give(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((12, 40)).astype(np.float32)
    for view in (x.T, x[::2, ::-3], np.broadcast_to(x[0], (4, 40)), x.reshape(3, 4, 40).transpose(1, 0, 2)):
        q, copied = quantize_reference(view, scheme), quantize_reference(view.copy(), scheme)
        assert np.array_equal(q.codes, copied.codes)
        assert np.array_equal(q.scale, copied.scale)


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "mxfp4", "nvfp4", "int8/1x4", "e5m2/2x8"])
def test_leading_axes_are_rows(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 40)).astype(np.float32)
    q, flat = quantize_reference(x, scheme), quantize_reference(x.reshape(6, 40), scheme)
    assert np.array_equal(q.codes.reshape(6, 40), flat.codes)
    assert np.array_equal(q.scale.reshape(flat.scale.shape), flat.scale)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_float16_is_quantised_as_its_float32_values(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((5, 40)).astype(np.float16)
    q, wide = quantize_reference(x, scheme), quantize_reference(x.astype(np.float32), scheme)
    assert np.array_equal(q.codes, wide.codes)
    assert np.array_equal(q.scale, wide.scale)


class TestFloat64:
    def test_equals_float32_where_the_product_is_exact(self, rng: np.random.Generator) -> None:
        x = rng.standard_normal((5, 40)).astype(np.float32)
        for scheme in ("e4m3fn/row:pow2", "mxfp4", "mxfp8", "int8:rceil"):
            q, wide = quantize_reference(x, scheme), quantize_reference(x.astype(np.float64), scheme)
            assert np.array_equal(q.codes, wide.codes)
            assert np.array_equal(q.scale, wide.scale)

    @pytest.mark.parametrize(("x", "value"), [(1.0625 + 2.0**-40, 1.125), (2.0**-10 + 2.0**-50, 2.0**-9)])
    def test_is_rounded_once(self, x: float, value: float) -> None:
        assert quantize_reference([x], "e4m3fn:static=1.0").dequantize() == value
        assert quantize_reference(np.float32([x]), "e4m3fn:static=1.0").dequantize() != value

    def test_beyond_float32_is_a_group_that_is_not_finite(self) -> None:
        q = quantize_reference(np.array([[1e300, 1.0], [1.0, 2.0]]), "e4m3fn/row")
        assert np.isnan(q.scale[:, 0]).tolist() == [True, False]
        assert np.isnan(q.dequantize()).tolist() == [[True, True], [False, False]]

    def test_below_float32_is_zero(self) -> None:
        q = quantize_reference(np.array([[1e-300, -1e-60]]), "e4m3fn/row")
        assert q.scale == 1.0
        assert (q.dequantize() == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("scheme", "rows", "cols"),
    [("e4m3fn/row", 1, 12), ("int8/col", 8, 1), ("e5m2/2x4", 2, 4), ("int8/1x4:pow2", 1, 4)],
)
def test_a_group_that_is_not_finite_is_nan_and_stays_alone(
    scheme: str, rows: int, cols: int, bad: float, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((8, 12)).astype(np.float32)
    i, j = 5, 10
    poisoned = np.zeros((8, 12), dtype=bool)
    poisoned[i // rows * rows : i // rows * rows + rows, j // cols * cols : j // cols * cols + cols] = True
    clean = quantize_reference(np.where(poisoned, np.float32(0), x), scheme)
    x[i, j] = bad
    q = quantize_reference(x, scheme)
    assert np.array_equal(np.isnan(q.dequantize()), poisoned)
    assert np.isnan(q.scale).sum() == 1
    assert np.array_equal(q.codes[~poisoned], clean.codes[~poisoned])
    assert np.array_equal(q.dequantize()[~poisoned], clean.dequantize()[~poisoned])


def test_codes_of_a_nan_group_are_nan_or_zero() -> None:
    x = np.array([[np.nan, -np.nan, np.inf, -1.0, 0.0]], dtype=np.float32)
    assert quantize_reference(x, "e4m3fn/row").codes.tolist() == [[0x7F, 0x7F, 0x7F, 0x80, 0x00]]
    assert quantize_reference(x, "int8/row").codes.tolist() == [[0, 0, 0, 0, 0]]
    assert quantize_reference(x, "rf8/row").codes.tolist() == [[0x80, 0x80, 0x80, 0, 0]]


@pytest.mark.parametrize("scheme", ["e4m3fn", "int8/row", "rf8/1x8", "nf4/row", "e5m2/4x4:even", "int8:floor", "fp16"])
def test_powers_of_two_pass_through(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((8, 24)).astype(np.float32)
    q = quantize_reference(x, scheme)
    for shift in (-40, 1, 17):
        shifted = quantize_reference(np.ldexp(x, shift), scheme)
        assert np.array_equal(shifted.codes, q.codes)
        assert np.array_equal(shifted.dequantize(), np.ldexp(q.dequantize(), shift))


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "int8", "e5m2/1x8", "rf8/row"])
def test_quantising_twice_changes_nothing(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((8, 24)).astype(np.float32)
    once = quantize_reference(x, scheme).dequantize()
    again = quantize_reference(once, scheme).dequantize()
    assert np.abs(again - once).max() <= 2.0**-22 * np.abs(x).max()


@pytest.mark.parametrize("scheme", ["e4m3fn/4x4", "int8/3x3:pow2", "e5m2"])
def test_square_tiles_commute_with_the_transpose(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((9, 14)).astype(np.float32)
    assert np.array_equal(quantize_reference(x.T, scheme).dequantize(), quantize_reference(x, scheme).dequantize().T)


def test_rows_and_columns_commute_with_the_transpose_only_together(rng: np.random.Generator) -> None:
    x = (rng.standard_normal((9, 14)) * np.arange(1, 15)).astype(np.float32)
    rows, columns = (
        quantize_reference(x.T, "int8/row").dequantize(),
        quantize_reference(x, "int8/col").dequantize(),
    )
    assert np.array_equal(rows, columns.T)
    assert not np.array_equal(rows, quantize_reference(x, "int8/row").dequantize().T)


@pytest.mark.parametrize("scheme", ["e4m3fn/row", "int8/1x4", "e5m2/1x4:pow2", "nf4/row"])
def test_permuting_a_group_permutes_its_codes(scheme: str, rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 4)).astype(np.float32)
    order = rng.permutation(4)
    assert np.array_equal(quantize_reference(x[:, order], scheme).codes, quantize_reference(x, scheme).codes[:, order])


def test_largest_element_of_a_group_reaches_the_largest_code(rng: np.random.Generator) -> None:
    x = rng.standard_normal((64, 33)).astype(np.float32)
    for name in ("e4m3fn", "e5m2", "int8", "int4", "nf4", "rf8", "e2m1fn"):
        values = np.abs(formats.get(name).decode(quantize_reference(np.abs(x), f"{name}/row").codes))
        assert (values.max(axis=1) == formats.get(name).max).all(), name


@pytest.mark.parametrize("scheme", ["e4m3fn", "int8", "e5m2:pow2", "rf8", "rf8b20", "nf4", "q0.7"])
def test_ends_of_float32(scheme: str) -> None:
    for x in (
        [INFO.max, -INFO.max, 1.0],
        [INFO.smallest_subnormal, 0.0],
        [INFO.smallest_normal, -INFO.smallest_normal],
    ):
        q = quantize_reference(np.array(x, dtype=np.float32), scheme)
        assert np.isfinite(q.dequantize()).all()
        assert np.isfinite(q.scale).all()
    # What the largest code times the largest float32 scale cannot reach is clipped.
    q = quantize_reference(np.array([INFO.max], dtype=np.float32), scheme)
    assert q.dequantize() >= INFO.max * min(1.0, q.scheme.element.max) * 0.98


def test_a_static_scale_is_taken_as_it_is(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 6)).astype(np.float32)
    q = quantize_reference(x, "int8/row:static=0.25")
    assert (q.scale == 0.25).all()
    assert np.array_equal(q.codes, np.clip(np.rint(x * 4), -127, 127))


# Published SQNR in dB of 1024 x 1024 matrices (one decimal); a per-tensor integer's depends on the extremes.
MEASURED = {
    "normal": {
        "bf16": 55.6, "e4m3fn": 31.5, "e4m3fn/row": 31.6, "e4m3fn/1x128": 31.8, "e4m3fn/1x16": 33.0,
        "e5m2": 25.6, "mxfp8:floor": 30.6, "mxfp8": 31.5, "mxfp4:floor": 18.8, "mxfp4": 18.8,
        "nvfp4": 20.4, "nvfp4+sr": 17.2,
        "int8": 38.9, "int8/32x32": 42.1, "int8/1x128": 43.8, "int8/1x32": 45.4,
    },
    "laplace": {
        "e4m3fn": 31.5, "e4m3fn/1x16": 33.9, "mxfp8:floor": 30.0, "mxfp4": 17.6, "nvfp4": 20.7,
        "int8": 32.2, "int8/1x128": 41.0, "int8/1x32": 43.4,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("distribution", "scheme", "expected"),
    [(distribution, scheme, value) for distribution, table in MEASURED.items() for scheme, value in table.items()],
)
def test_signal_to_noise_ratios(distribution: str, scheme: str, expected: float, rng: np.random.Generator) -> None:
    x = getattr(rng, {"normal": "standard_normal"}.get(distribution, distribution))(size=(512, 1024)).astype(np.float32)
    q = quantize_reference(x, scheme, seed=0).dequantize()
    sqnr = 10 * np.log10((x.astype(np.float64) ** 2).sum() / ((x - q) ** 2).sum())
    assert sqnr == pytest.approx(expected, abs=1.0 if scheme == "int8" else 0.15)


@pytest.mark.parametrize("x", [np.arange(3), np.ones(3, np.complex64), np.ones(3, bool), np.ones(3, ">f4")])
def test_other_types_are_refused(x: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"^x: expected float16, float32 or float64, got"):
        quantize_reference(x, "int8")
