"""rmsnorm and add_rmsnorm (Zhang and Sennrich, arXiv 1910.07467): x / sqrt(mean(x²) + eps) · weight along a row.

add_rmsnorm first takes h = x + other, rounded to the dtype of x as a model that keeps its residual stream does; the
norm is that of the rounded h, and h is `values`. Everything after that is float32, with no rounding to 16 bits between
the norm and the weight.

The sum of squares is one of integers, so that its order does not matter. With 2^E <= max |x| < 2^(E + 1), E >= -100:

    y = x · 2^(14 - E)        n = floor(y²)        mean(x²) = float32(Σ n) / K · 2^(E - 14) · 2^(E - 14)

It comes out low by less than K · 2^-28 of itself, besides the roundings of float32. r = 1 / sqrt(mean(x²) + eps), then
(x · r) · weight. Of a row with an infinity, r is 0 and that element NaN; of one with a NaN, all are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.prologues.prologue import Float32Array, Float64Array, Prologue

SMALLEST_EPS = 1e-30
"""Smaller ones could be lost on devices that flush subnormal numbers."""


def roots_numpy(x: Float32Array, eps: float) -> Float32Array:
    """1 / sqrt(mean(x²) + eps) of every row: the definition, [rows, 1]."""
    columns = x.shape[1]
    amax = np.abs(x).max(axis=1, keepdims=True, initial=0).astype(np.float32)
    finite = np.isfinite(amax)
    exponent = np.maximum((amax.view(np.int32) >> 23) - 127, -100)
    up = np.where(finite, np.ldexp(np.float32(1), 14 - exponent), np.float32(0)).astype(np.float32)
    down = np.where(finite, np.ldexp(np.float32(1), exponent - 14), np.float32(0)).astype(np.float32)
    y = np.where(finite, x * up, np.float32(0))
    total = (y * y).astype(np.int64).sum(axis=1, keepdims=True).astype(np.float32)
    mean = total / np.float32(max(columns, 1)) * down * down
    return np.float32(1) / np.sqrt(np.where(finite, mean, amax) + np.float32(eps))


def _define(x: Float32Array, other: Float32Array | None, weight: Float32Array | None, eps: float) -> Float32Array:
    normal = x * roots_numpy(x, eps)
    return normal if weight is None else normal * weight


def _exact(x: Float64Array, other: Float64Array | None, weight: Float64Array | None, eps: float) -> Float64Array:
    normal = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps)
    return normal if weight is None else normal * weight


def _torch(x: Tensor, weight: Tensor | None, eps: float, columns: int, scratch: Tensor) -> None:
    """In place."""
    amax = torch.maximum(x.amax(1, keepdim=True), x.amin(1, keepdim=True).neg_()).abs_()
    finite = torch.isfinite(amax)
    exponent = ((torch.where(finite, amax, 0.0).view(torch.int32) >> 23) - 127).clamp_(min=-100)
    up, down = (((127 + sign * (14 - exponent)) << 23).view(torch.float32) for sign in (1, -1))
    squares = torch.mul(x, up, out=scratch[0, : x.numel()].view(x.shape)).square_().floor_()
    # Integers below 2^53 in float64: any order, the same sum.
    total = squares.sum(1, keepdim=True, dtype=torch.float64).float()
    # By a tensor: a division by a number is a product with its inverse.
    mean = total.div_(torch.full_like(total, columns)).mul_(down).mul_(down)
    # By float64: torch's float32 root is not the nearest number everywhere.
    x.mul_(torch.where(finite, mean, amax).add_(eps).double().sqrt_().float().reciprocal_())
    if weight is not None:
        x.mul_(weight)


@jit
def row_powers(amax):
    """(2^(14 - E), 2^(E - 14)) of rows' largest magnitudes, float32."""
    exponent = tl.maximum((_cast.bits_of(amax) >> 23) - 127, -100)
    # Of rows that are not finite, any power.
    exponent = tl.minimum(exponent, 127)
    return _cast.float_of((141 - exponent) << 23), _cast.float_of((113 + exponent) << 23)


@jit
def squares(x, up):
    """int64 squares of the scaled row."""
    y = x * up
    return (y * y).to(tl.int32).to(tl.int64)


@jit
def roots(total, down, amax, columns, eps):
    """1 / sqrt(mean + eps) of rows, float32. total: int64 sums of `squares`."""
    mean = _cast.divide(total.to(tl.float32), tl.zeros_like(down) + columns) * down * down
    shifted = tl.where(_cast.is_finite(amax), mean, amax) + eps
    return _cast.divide(tl.zeros_like(shifted) + 1.0, tl.sqrt_rn(shifted))


RMS_NORM = Prologue(
    "rmsnorm", "x / sqrt(mean(x²) + eps) · weight", "rmsnorm", _define, _exact, weighted="gain", whole_rows=True,
    transform=_torch,
)  # fmt: skip
ADD_RMS_NORM = Prologue(
    "add_rmsnorm", "h / sqrt(mean(h²) + eps) · weight, h = x + other", "rmsnorm", _define, _exact, adds=True,
    weighted="gain", whole_rows=True, transform=_torch,
)  # fmt: skip
