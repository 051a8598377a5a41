"""silu_mul: the gated half of SwiGLU (Shazeer, arXiv 2002.05202), silu(x) · other with silu(x) = x / (1 + exp(-x))."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import jit, tl  # noqa: F401  Triton's interpreter looks for tl in every module
from narrowgauge.kernels.prologues.exponential import exp, exp_numpy, exp_torch
from narrowgauge.kernels.prologues.prologue import Float32Array, Float64Array, Prologue


def silu_numpy(x: Float32Array) -> Float32Array:
    """The definition of silu."""
    return x / (np.float32(1) + exp_numpy(-x))


def silu_torch(x: Tensor, scratch: Tensor) -> None:
    """silu in place."""
    torch.neg(x, out=scratch[0])
    x.div_(exp_torch(*scratch).add_(1.0))


@jit
def silu(x):
    """silu of float32. The product with -1: a unary minus is 0 - x here."""
    return _cast.divide(x, exp(x * -1.0) + 1.0)


def _define(x: Float32Array, other: Float32Array | None, weight: Float32Array | None, eps: float) -> Float32Array:
    assert other is not None
    return silu_numpy(x) * other


def _exact(x: Float64Array, other: Float64Array | None, weight: Float64Array | None, eps: float) -> Float64Array:
    assert other is not None
    return x / (1 + np.exp(-x)) * other


SILU_MUL = Prologue("silu_mul", "x / (1 + exp(-x)) · other", "silu", _define, _exact, gated=True, activation=silu_torch)
