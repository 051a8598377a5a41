"""Asymmetric integer quantisation: codes 0 … 2^b - 1, a scale and an integer zero point per tile.

    lo = min(0, min x), hi = max(0, max x)                    zero is inside the range, so it is exact
    scale = (hi - lo) / (2^b - 1)
    zero_point = clip(RN(-lo / scale), 0, 2^b - 1)
    code = clip(RN(x / scale) + zero_point, 0, 2^b - 1)       x ≈ (code - zero_point) · scale

RN rounds to nearest, ties to even. As in the symmetric quantizer everything is float32, one correctly rounded
operation at a time, `x / scale` is `x · (1 / scale)`, and a tile that holds a NaN or an infinity decodes to
NaN and leaves the others alone. The error is at most half a scale (and, from the float32 quotient, 2^(b - 23) of
one): rounding the zero point moves one end of the range off the codes, and the clip there costs no more than that
rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from narrowgauge.formats.integers import IntFormat
from narrowgauge.formats.quantizer import as_matrix, rescaled, supported_array
from narrowgauge.formats.rounding import FloatArray
from narrowgauge.formats.scaling import SMALLEST_SCALE, Float32Array, inverse_scale
from narrowgauge.formats.scheme import Scheme
from narrowgauge.formats.tiles import rows_cols, spread, tile_from_text, tile_max


@dataclass(frozen=True)
class AffineQuantized:
    """codes: uint8 (uint16 above 8 bits), the shape of x. scale: float32, zero_point: int32, both of
    `scheme.scale_shape(x.shape)`.
    scheme: the granularity, with the unsigned integer element (`uint8`, `uint4`, …)."""

    codes: NDArray[np.unsignedinteger]
    scale: Float32Array
    zero_point: NDArray[np.int32]
    scheme: Scheme

    def dequantize(self) -> FloatArray:
        """(code - zero_point) · scale in float64, where it is exact."""
        matrix = rows_cols(self.codes.shape)
        tiles = rows_cols(self.scale.shape)
        zero = spread(self.zero_point.reshape(tiles), self.scheme.tile, matrix).astype(np.float64)
        scale = spread(self.scale.reshape(tiles), self.scheme.tile, matrix).astype(np.float64)
        values = self.scheme.element.decode(self.codes).reshape(matrix)
        return np.asarray((values - zero) * scale).reshape(self.codes.shape)


def quantize_affine(x: ArrayLike, bits: int = 8, granularity: str = "tensor") -> AffineQuantized:
    """Quantises a float16/32/64 array of any shape to `bits` (2 to 16) unsigned bits.

    granularity: `tensor`, `row`, `col` or `RxC` as in schemes. Raises TypeError for other dtypes, ValueError
    for other widths and granularities. float64 arrays are ranged in float32 and their quotients rounded once.
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"bits: affine codes have 2 to 16 bits, got {bits}")
    element = IntFormat(width=bits, is_signed=False)
    spec = Scheme(element, tile_from_text(granularity))
    array = supported_array(x)
    matrix = as_matrix(array)
    with np.errstate(over="ignore"):
        low = -tile_max(-matrix, spec.tile).astype(np.float32)
        high = tile_max(matrix, spec.tile).astype(np.float32)
    scale, zero_point = _scale_and_zero(low, high, element.max_code)
    y = rescaled(matrix, spread(inverse_scale(scale), spec.tile, matrix.shape), array.dtype)
    zero = spread(zero_point, spec.tile, matrix.shape)
    # Rounded and clamped before the zero point is added: float32 holds these integers exactly.
    steps = np.clip(np.rint(np.where(np.isnan(y), np.float32(0), y)), -element.max_code, element.max_code)
    codes = np.clip(steps.astype(np.int32) + zero, 0, element.max_code).astype(element.code_dtype)
    shape = spec.scale_shape(array.shape)
    return AffineQuantized(codes.reshape(array.shape), scale.reshape(shape), zero_point.reshape(shape), spec)


def _scale_and_zero(low: Float32Array, high: Float32Array, max_code: int) -> tuple[Float32Array, NDArray[np.int32]]:
    """Scale and zero point of each tile from its range; scale 1 for a zero tile, NaN and 0 where it is not
    finite."""
    finite = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(finite, low, np.float32(0)), np.where(finite, high, np.float32(0))
    half = np.float32(0.5)  # halves, because high - low may exceed float32
    scale = (high * half - low * half) / np.float32(max_code / 2)
    scale = np.maximum(scale, np.float32(SMALLEST_SCALE))
    zero = np.clip(np.rint(-low / scale), 0, max_code)
    scale = np.where((low == 0) & (high == 0), np.float32(1), scale)
    return np.where(finite, scale, np.float32(np.nan)).astype(np.float32), zero.astype(np.int32)
