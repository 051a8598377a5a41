"""exp with the same bits in numpy, torch and Triton.

    t = x · log2(e) within [-126, 127]      n = round(t)      f = t - n
    exp(x) = 2^n · (1 + f · P(f))           P of degree 5 interpolates (2^f - 1) / f at Chebyshev's nodes

float32, one rounding per operation. Relative error below 2e-7 + |x| · 7.5e-8, of which the constant
and the product with it make |x| · 7.3e-8. Of NaN, no matter what.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import constant, jit, tl
from narrowgauge.kernels.prologues.prologue import Float32Array

LOG2_E = 1.4426950216293335
COEFFICIENTS = (
    0.6931471824645996, 0.24022650718688965, 0.055503569543361664, 0.009618056938052177, 0.0013390866806730628,
    0.00015461447765119374,
)  # fmt: skip
MAGIC = 12582912.0
"""1.5 · 2^23: a sum with it is rounded to an integer, ties to even, which stands in its low bits."""
LEAST, MOST = -126.0, 127.0

_LOG2_E, _MAGIC, _LEAST, _MOST = constant(LOG2_E), constant(MAGIC), constant(LEAST), constant(MOST)
_C0, _C1, _C2, _C3, _C4, _C5 = (constant(c) for c in COEFFICIENTS)


def exp_numpy(x: Float32Array) -> Float32Array:
    """The definition."""
    t = np.clip(x * np.float32(LOG2_E), np.float32(LEAST), np.float32(MOST))
    shifted = t + np.float32(MAGIC)
    f = t - (shifted - np.float32(MAGIC))
    p = f * np.float32(COEFFICIENTS[-1])
    for c in COEFFICIENTS[-2::-1]:
        p = (p + np.float32(c)) * f
    p = p + np.float32(1)
    return np.asarray(p.view(np.int32) + (shifted.view(np.int32) << 23), dtype=np.int32).view(np.float32)


def exp_torch(x: Tensor, other: Tensor, out: Tensor) -> Tensor:
    """exp(x) in `out`; x, which is overwritten, other and out: float32 memory of one shape."""
    x.mul_(LOG2_E).clamp_(LEAST, MOST)
    torch.add(x, MAGIC, out=other)
    torch.sub(other, MAGIC, out=out)
    x.sub_(out)
    torch.mul(x, COEFFICIENTS[-1], out=out)
    for c in COEFFICIENTS[-2::-1]:
        out.add_(c).mul_(x)
    out.add_(1.0)
    out.view(torch.int32).add_(other.view(torch.int32).bitwise_left_shift_(23))
    return out


@jit
def exp(x):
    """exp of float32."""
    t = tl.minimum(tl.maximum(x * _LOG2_E, _LEAST), _MOST)
    shifted = t + _MAGIC
    f = t - (shifted - _MAGIC)
    p = ((f * _C5 + _C4) * f + _C3) * f + _C2
    p = ((p * f + _C1) * f + _C0) * f + 1.0
    return _cast.float_of(_cast.bits_of(p) + (_cast.bits_of(shifted) << 23))
