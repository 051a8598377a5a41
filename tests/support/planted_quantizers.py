"""Quantizers with one fault each, written as people write them: `check_quantizer` has to find it and to say what it is.

`CASES`: (function, scheme, kind that a failure has to have, further options). The correct ones of `CORRECT` have to
pass. Casts take x, scaled quantizers take x, stochastic ones x and a seed; all numpy float32 [rows, cols]."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from narrowgauge.formats import quantize_reference

E4M3 = ml_dtypes.float8_e4m3fn
CAST = "e4m3fn:static=1.0"
ROW = "e4m3fn/row"
INT8 = "int8/row"


# --- casts: a right one, and every way to spoil it ---


def saturating_cast(x):
    """Correct: clip, then ml_dtypes rounds to nearest even; NaN stays."""
    return np.clip(x, -448, 448).astype(E4M3).astype(np.float32)


def _grid(x, rounding, smallest_exponent=-6, mantissa=3, largest=448.0):
    """A cast by arithmetic: `rounding` makes integers of x in units of the last place."""
    wide = np.asarray(x, dtype=np.float64)
    finite = np.where(np.isfinite(wide), wide, 0.0)
    exponent = np.where(finite == 0, smallest_exponent, np.frexp(finite)[1] - 1)
    unit = np.exp2(np.maximum(exponent, smallest_exponent) - mantissa)
    value = np.copysign(np.abs(rounding(finite / unit)) * unit, wide)
    value = np.where(np.isinf(wide), wide, value)
    return np.where(np.isnan(wide), np.nan, np.clip(value, -largest, largest)).astype(np.float32)


def cast_by_arithmetic(x):
    """Correct."""
    return _grid(x, np.rint)


def ties_away(x):
    return _grid(x, lambda v: np.copysign(np.floor(np.abs(v) + 0.5), v))


def ties_toward_zero(x):
    return _grid(x, lambda v: np.copysign(np.ceil(np.abs(v) - 0.5), v))


def ties_upwards(x):
    return _grid(x, lambda v: np.floor(v + 0.5))


def truncating(x):
    return _grid(x, np.trunc)


def rounding_down(x):
    return _grid(x, np.floor)


def double_rounding_bfloat16(x):
    return saturating_cast(x.astype(ml_dtypes.bfloat16).astype(np.float32))


def double_rounding_float16(x):
    return saturating_cast(np.clip(x, -60000, 60000).astype(np.float16).astype(np.float32))


def float64_through_float32(x):
    return saturating_cast(x.astype(np.float32))


def no_saturation(x):
    return x.astype(E4M3).astype(np.float32)


def top_binade_lost(x):
    return np.clip(saturating_cast(x), -240, 240)


def one_step_early(x):
    return np.clip(saturating_cast(x), -416, 416)


def subnormals_flushed(x):
    q = saturating_cast(x)
    return np.where(np.abs(x) < 2.0**-6, np.copysign(0, x), q).astype(np.float32)


def subnormals_truncated(x):
    q = saturating_cast(x)
    fixed = np.trunc(np.nan_to_num(x.astype(np.float64)) * 2.0**9) / 2.0**9
    return np.where(np.abs(x) < 2.0**-6, np.copysign(fixed, x), q).astype(np.float32)


def zero_sign_lost(x):
    return saturating_cast(x) + np.float32(0)


def nan_to_zero(x):
    return saturating_cast(np.nan_to_num(x, nan=0.0, posinf=np.inf, neginf=-np.inf))


def nan_to_max(x):
    return np.where(np.isnan(x), np.float32(448), saturating_cast(x))


def infinity_to_nan(x):
    return np.where(np.isinf(x), np.float32(np.nan), saturating_cast(x))


# --- scaled quantizers ---


def _e4m3(y):
    return np.clip(y, -448, 448).astype(E4M3).astype(np.float32)


def row_quantizer(x):
    """Correct, and by division: not the package's own operation order."""
    amax = np.abs(x).max(axis=1, keepdims=True, initial=0)
    scale = np.where(amax == 0, 1, np.maximum(amax / np.float32(448), np.float32(2.0**-126))).astype(np.float32)
    return _e4m3(x / scale), scale


def _dequantized(x, scale, back=None):
    return _e4m3(x / scale) * (scale if back is None else back)


def _row_scale(x, amax=None):
    amax = np.abs(x).max(axis=1, keepdims=True, initial=0) if amax is None else amax
    return np.where(amax == 0, 1, np.maximum(amax / np.float32(448), np.float32(2.0**-126))).astype(np.float32)


def scale_too_large(x):
    return _dequantized(x, _row_scale(x) * np.float32(2))


def scale_too_small(x):
    scale = _row_scale(x) * np.float32(0.5)
    return _e4m3(x / scale), scale


def neighbouring_scale(x):
    return _dequantized(x, np.roll(_row_scale(x), 1, axis=0))


def neighbouring_scale_back(x):
    scale = _row_scale(x)
    return _e4m3(x / scale), np.roll(scale, -1, axis=0)


def column_scales(x):
    return _dequantized(x, _row_scale(x.T).T)


def tensor_scale(x):
    return _dequantized(x, np.broadcast_to(_row_scale(x.reshape(1, -1)), (x.shape[0], 1)))


def no_abs(x):
    return _dequantized(x, _row_scale(x, np.maximum(x.max(axis=1, keepdims=True, initial=-np.inf), 0)))


def first_elements(x):
    return _dequantized(x, _row_scale(x, np.abs(x[:, :16]).max(axis=1, keepdims=True, initial=0)))


def last_element_missed(x):
    return _dequantized(x, _row_scale(x, np.abs(x[:, : max(1, x.shape[1] - 1)]).max(axis=1, keepdims=True, initial=0)))


def make_stale_amax():
    """Delayed scaling that never looks at the current tensor (one scale per tensor)."""
    last = [np.float32(0)]

    def stale_amax(x):
        amax, last[0] = last[0], np.abs(x).max(initial=0)
        scale = np.float32(1) if amax == 0 or not np.isfinite(amax) else np.maximum(amax / np.float32(448), 2.0**-126)
        return _dequantized(x, np.float32(scale))

    return stale_amax


def bfloat16_scale(x):
    scale = _row_scale(x).astype(ml_dtypes.bfloat16).astype(np.float32)
    return _e4m3(x / scale), scale


def amax_floor(x):
    return _dequantized(
        x, _row_scale(x, np.maximum(np.abs(x).max(axis=1, keepdims=True, initial=0), np.float32(1e-12)))
    )


def zero_divided_by_zero(x):
    amax = np.abs(x).max(axis=1, keepdims=True, initial=0)
    scale = np.where(amax == 0, 0, np.maximum(amax / np.float32(448), np.float32(2.0**-126))).astype(np.float32)
    return _e4m3(x / scale) * scale


def inverse_returned(x):
    scale = _row_scale(x)
    return _e4m3(x / scale), np.float32(1) / scale


def _blocks(x, quantise, size=32):
    """Applies `quantise` [.., size] to every run of `size` columns; the last one is filled with zeros."""
    rows, cols = x.shape
    count = -(-cols // size)
    padded = np.zeros((rows, count * size), dtype=np.float32)
    padded[:, :cols] = x
    return quantise(padded.reshape(rows, count, size)).reshape(padded.shape)[:, :cols].astype(np.float32)


def _mx(x, exponent):
    def quantise(groups):
        amax = np.abs(groups).max(axis=-1, keepdims=True)
        safe = np.where((amax > 0) & np.isfinite(amax), amax, np.float32(1))
        scale = np.exp2(np.clip(exponent(safe), -127, 127).astype(np.float64))
        scale = np.where(amax > 0, scale, 2.0**-127)
        scale = np.where(np.isfinite(amax), scale, np.nan)
        return _e4m3((groups / scale).astype(np.float32)) * scale

    return _blocks(x, quantise)


def mxfp8_floor(x):
    """Correct: exponents from frexp."""
    return _mx(x, lambda amax: np.frexp(amax)[1] - 1 - 8)


def log2_floor(x):
    return _mx(x, lambda amax: np.floor(np.log2(amax)) - 8)


def floor_for_rceil(x):
    return _mx(x, lambda amax: np.frexp(amax)[1] - 1 - 8)


def nearest_exponent(x):
    return _mx(x, lambda amax: np.rint(np.log2(amax.astype(np.float64) / 448)))


def tail_dropped(x):
    q = _blocks(x, lambda g: row_blocks(g), 32)
    q[:, x.shape[1] // 32 * 32 :] = 0
    return q


def row_blocks(groups):
    """Correct for one 1x32 group along the last axis."""
    amax = np.abs(groups).max(axis=-1, keepdims=True)
    scale = np.where(amax == 0, 1, np.maximum(amax / np.float32(448), np.float32(2.0**-126))).astype(np.float32)
    return _e4m3(groups / scale) * scale


def blocks_of_32(x):
    """Correct."""
    return _blocks(x, row_blocks)


def nvfp4_without_outer(x):
    q = quantize_reference(x, "nvfp4")
    return q.codes, q.scale


# --- integers and codebooks ---


def int8_row(x):
    """Correct."""
    amax = np.abs(x).max(axis=1, keepdims=True, initial=0)
    scale = np.where(amax == 0, 1, np.maximum(amax / np.float32(127), np.float32(2.0**-126))).astype(np.float32)
    codes = np.clip(np.rint(np.nan_to_num(x / scale)), -127, 127).astype(np.int8)
    return codes, np.where(np.isfinite(amax), scale, np.float32(np.nan))


def int8_asymmetric(x):
    return np.clip(np.rint(np.nan_to_num(x)), -128, 127).astype(np.int8)


def int8_wrapping(x):
    whole = np.rint(np.nan_to_num(x.astype(np.float64), posinf=2.0**40, neginf=-(2.0**40)))
    return (np.mod(whole + 128, 256) - 128).astype(np.int8)


def int8_truncating(x):
    _, scale = int8_row(x)
    return np.clip(np.trunc(np.nan_to_num(x / scale)), -127, 127).astype(np.int8), scale


def amax_over_128(x):
    _, scale = int8_row(x)
    scale = scale * np.float32(127 / 128)
    return np.clip(np.rint(np.nan_to_num(x / scale)), -127, 127).astype(np.int8), scale


def e2m1_codes(x):
    """Correct: a nibble per byte."""
    return np.clip(x, -6, 6).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)


def nibbles_swapped(x):
    codes = e2m1_codes(x)
    even = x.shape[1] // 2 * 2
    codes[:, :even] = codes[:, :even].reshape(x.shape[0], -1, 2)[:, :, ::-1].reshape(x.shape[0], even)
    return codes


def codebook_reversed(x):
    return 15 - e2m1_codes(x)


# --- relations ---


def strides_ignored(x):
    """A kernel that walks x.base as if it were contiguous."""
    memory = x if x.base is None else x.base
    flat = np.ascontiguousarray(memory).reshape(-1)[: x.size]
    return saturating_cast(flat.reshape(x.shape))


def writes_to_input(x):
    np.clip(x, -448, 448, out=x)
    return x.astype(E4M3).astype(np.float32)


# --- stochastic rounding of integers ---

SR = "int8:static=1.0+sr"


def _stochastic(x, uniform, moved=0.0):
    clean = np.nan_to_num(x.astype(np.float64), posinf=1e6, neginf=-1e6)
    magnitude = np.floor(np.abs(clean) + uniform + moved)
    return np.clip(np.copysign(magnitude, clean), -127, 127).astype(np.int8)


def sr(x, seed):
    """Correct."""
    return _stochastic(x, np.random.default_rng(seed).random(x.shape))


def sr_half_added(x, seed):
    return _stochastic(x, np.random.default_rng(seed).random(x.shape), 0.5)


def sr_few_bits(x, seed):
    return _stochastic(x, np.random.default_rng(seed).integers(0, 16, x.shape) / 16)


def sr_eight_bits(x, seed):
    return _stochastic(x, np.random.default_rng(seed).integers(0, 256, x.shape) / 256)


def sr_per_row(x, seed):
    return _stochastic(x, np.random.default_rng(seed).random((x.shape[0], 1)))


def sr_same_rows(x, seed):
    return _stochastic(x, np.random.default_rng(seed).random((1, x.shape[1])))


def sr_per_tensor(x, seed):
    return _stochastic(x, np.random.default_rng(seed).random())


def sr_per_tile(x, seed):
    uniform = np.random.default_rng(seed).random((x.shape[0], -(-x.shape[1] // 8)))
    return _stochastic(x, np.repeat(uniform, 8, axis=1)[:, : x.shape[1]])


def make_sr_unseeded():
    calls = itertools.count()
    return lambda x, seed: sr(x, next(calls))


def sr_ignores_seed(x, seed):
    return sr(x, 7)


def sr_nearest(x, seed):
    return _stochastic(x, 0.5)


def sr_truncates(x, seed):
    return _stochastic(x, 0.0)


def sr_coin(x, seed):
    coin = np.random.default_rng(seed).random(x.shape) < 0.5
    whole = np.trunc(np.nan_to_num(x, posinf=200, neginf=-200))
    return np.clip(whole + np.where(coin & (whole != x), np.sign(x), 0), -127, 127).astype(np.int8)


def sr_moves_exact(x, seed):
    """The threshold compares with <= where < is right: with 4 bits, one in 16 exact values moves."""
    return _stochastic(x, (np.random.default_rng(seed).integers(0, 16, x.shape) + 1) / 16)


Case = tuple[Callable[..., Any], str, str, dict[str, Any]]


def scales_without_rounding(x):
    scale = np.abs(x).max(axis=1, keepdims=True, initial=0).astype(np.float32) / np.float32(448)
    scale[scale == 0] = 1
    return (x / scale).astype(np.float32) * scale


def clips_without_rounding(x):
    return np.clip(x, -448, 448)


def infinite_scale(x):
    """Right under `nearest`, where NaN is NaN; not the bits of the contract."""
    scale = np.abs(x).max(axis=1, keepdims=True, initial=0).astype(np.float32)
    scale = np.where(scale == 0, np.float32(1), np.maximum(scale / np.float32(448), np.float32(2.0**-126)))
    with np.errstate(invalid="ignore"):
        return np.clip(x * (1 / scale).astype(np.float32), -448, 448).astype(E4M3), scale


CASES: list[Case] = [
    (infinite_scale, ROW, "in a group that is not finite", {"contract": "narrowgauge"}),
    (scales_without_rounding, ROW, "not rounded to the format", {}),
    (clips_without_rounding, CAST, "not rounded to the format", {}),
    (ties_away, CAST, "ties away from zero", {}),
    (ties_toward_zero, CAST, "ties toward zero", {}),
    (ties_upwards, CAST, "ties upwards", {}),
    (truncating, CAST, "truncation", {}),
    (rounding_down, CAST, "rounding down", {}),
    (double_rounding_bfloat16, CAST, "double rounding through bfloat16", {}),
    (double_rounding_float16, CAST, "double rounding through float16", {}),
    (float64_through_float32, CAST, "double rounding of float64 through float32", {"dtypes": ("float64",)}),
    (no_saturation, CAST, "missing saturation", {}),
    (top_binade_lost, CAST, "the top binade is not used", {}),
    (one_step_early, CAST, "saturates one step early", {}),
    (subnormals_flushed, CAST, "subnormals flushed", {}),
    (subnormals_truncated, CAST, "subnormal rounding wrong", {}),
    (zero_sign_lost, CAST, "sign of zero lost", {}),
    (nan_to_zero, CAST, "NaN laundered into zero", {}),
    (nan_to_max, CAST, "NaN laundered into the largest value", {}),
    (infinity_to_nan, CAST, "infinities become NaN", {}),
    (saturating_cast, CAST, "saturation where overflow should give", {"overflow": "nonsaturating"}),
    (scale_too_large, ROW, "scale one power of two too large", {}),
    (scale_too_small, ROW, "scale one power of two too small", {}),
    (neighbouring_scale, ROW, "scale from neighbouring block", {}),
    (neighbouring_scale_back, ROW, "scaled back with the neighbouring block's scale", {}),
    (column_scales, ROW, "scale of the wrong axis", {}),
    (tensor_scale, ROW, "one scale for the whole tensor", {}),
    (no_abs, ROW, "amax without abs", {}),
    (first_elements, ROW, "amax of the first elements only", {}),
    (last_element_missed, ROW, "amax of the first elements only", {}),
    (make_stale_amax(), "e4m3fn", "stale amax", {}),
    (bfloat16_scale, ROW, "scale rounded to bfloat16", {}),
    (amax_floor, ROW, "amax has a floor of 1e-12", {}),
    (zero_divided_by_zero, ROW, "division by zero in groups of zeros", {}),
    (inverse_returned, ROW, "inverse scale used as scale", {}),
    (log2_floor, "mxfp8:floor", "log2 of the scale in float32", {}),
    (floor_for_rceil, "mxfp8", "scale rule floor instead", {}),
    (nearest_exponent, "mxfp8", "scale exponent rounded to nearest", {}),
    (tail_dropped, "e4m3fn/1x32", "tail block dropped", {}),
    (nvfp4_without_outer, "nvfp4", "the tensor's outer scale left out", {}),
    (int8_asymmetric, "int8:static=1.0", "asymmetric clip", {}),
    (int8_wrapping, "int8:static=1.0", "integer overflow wraps around", {}),
    (int8_truncating, INT8, "truncation", {}),
    (amax_over_128, INT8, "scale from one more than the largest value", {}),
    (nibbles_swapped, "e2m1fn:static=1.0", "two 4-bit codes of a byte exchanged", {}),
    (codebook_reversed, "e2m1fn:static=1.0", "wrong codebook order: reversed", {}),
    (strides_ignored, CAST, "strides ignored", {}),
    (writes_to_input, CAST, "writes to its input", {}),
    (sr_half_added, SR, "biased SR: half a unit added", {}),
    (sr_few_bits, SR, "SR with too few random bits: 4", {}),
    (sr_eight_bits, SR, "SR with too few random bits: 8", {}),
    (sr_per_row, SR, "SR reuses one random number per row", {}),
    (sr_same_rows, SR, "SR reuses the same random numbers in every row", {}),
    (sr_per_tensor, SR, "SR reuses one random number for the whole tensor", {}),
    (sr_per_tile, SR, "SR reuses one random number for neighbouring elements of a row", {}),
    (make_sr_unseeded(), SR, "SR not reproducible", {}),
    (sr_ignores_seed, SR, "SR ignores its seed", {}),
    (sr_nearest, SR, "no stochastic rounding: rounding to nearest", {}),
    (sr_truncates, SR, "no stochastic rounding: truncation", {}),
    (sr_coin, SR, "SR with probability 1/2 whatever the distance", {}),
    (sr_moves_exact, SR, "SR moves exact values", {}),
]

CORRECT: list[tuple[Callable[..., Any], str, dict[str, Any]]] = [
    (saturating_cast, CAST, {"dtypes": ("float32", "float16")}),
    (cast_by_arithmetic, CAST, {"dtypes": ("float32", "float64", "float16")}),
    (row_quantizer, ROW, {}),
    (amax_floor, ROW, {"smallest_amax": 1e-11}),
    (mxfp8_floor, "mxfp8:floor", {}),
    (blocks_of_32, "e4m3fn/1x32", {}),
    (int8_row, INT8, {}),
    (e2m1_codes, "e2m1fn:static=1.0", {}),
    (sr, SR, {}),
    (sr_eight_bits, SR, {"random_bits": 8}),
]
