"""relu_squared: max(x, 0)² (So et al., Primer, arXiv 2109.08668)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from narrowgauge.kernels._triton import jit, tl
from narrowgauge.kernels.prologues.prologue import Float32Array, Float64Array, Prologue


def _define(x: Float32Array, other: Float32Array | None, weight: Float32Array | None, eps: float) -> Float32Array:
    positive = np.where(x < 0, np.float32(0), x)
    return positive * positive


def _exact(x: Float64Array, other: Float64Array | None, weight: Float64Array | None, eps: float) -> Float64Array:
    return np.maximum(x, 0.0) ** 2


def _torch(x: Tensor, scratch: Tensor) -> None:
    x.clamp_(min=0.0).square_()


@jit
def relu_squared(x):
    """max(x, 0)² of float32, NaN of NaN."""
    positive = tl.where(x < 0.0, 0.0, x)
    return positive * positive


RELU_SQUARED = Prologue("relu_squared", "max(x, 0)²", "relu_squared", _define, _exact, activation=_torch)
