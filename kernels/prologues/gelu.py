"""gelu and gelu_tanh (Hendrycks and Gimpel, arXiv 1606.08415).

    gelu       x/2 · (1 + erf(x / √2)),  erf(z) = z · P(z²) / Q(z²) within |z| <= 4, cut to [-1, 1]
    gelu_tanh  x / (1 + exp(-2u)),       u = √(2/π) · (x + 0.044715 x³): the same as x/2 · (1 + tanh u)

P / Q, both of degree 5, is a least-squares fit, weighted until the largest relative error was small, that reaches 1
at 4. erf is exact to 6e-7, so gelu to 4e-7 · |x|.
"""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import torch
from torch import Tensor

from narrowgauge.kernels import _cast
from narrowgauge.kernels._triton import constant, jit, tl
from narrowgauge.kernels.prologues.exponential import exp, exp_numpy, exp_torch
from narrowgauge.kernels.prologues.prologue import Float32Array, Float64Array, Prologue

ROOT_HALF = 0.7071067690849304
NUMERATOR = (
    1.128379225730896, 0.19354645907878876, 0.05310175567865372, 0.0038833399303257465, 0.00028455545543693006,
    1.9866483853547834e-06,
)  # fmt: skip
DENOMINATOR = (
    1.0, 0.5048586130142212, 0.11535041034221649, 0.015207271091639996, 0.0011855494230985641, 3.741820910363458e-05,
)  # fmt: skip
LINEAR = float(np.float32(2 * sqrt(2 / pi)))
"""2u = x · (LINEAR + CUBIC · x²)."""
CUBIC = float(np.float32(2 * sqrt(2 / pi) * 0.044715))

_ROOT_HALF, _LINEAR, _CUBIC = constant(ROOT_HALF), constant(LINEAR), constant(CUBIC)
_P0, _P1, _P2, _P3, _P4, _P5 = (constant(c) for c in NUMERATOR)
_Q0, _Q1, _Q2, _Q3, _Q4, _Q5 = (constant(c) for c in DENOMINATOR)


def _horner(u: Float32Array, coefficients: tuple[float, ...]) -> Float32Array:
    value = u * np.float32(coefficients[-1]) + np.float32(coefficients[-2])
    for c in coefficients[-3::-1]:
        value = value * u + np.float32(c)
    return value


def _horner_into(out: Tensor, u: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    torch.mul(u, coefficients[-1], out=out).add_(coefficients[-2])
    for c in coefficients[-3::-1]:
        out.mul_(u).add_(c)
    return out


def gelu_numpy(x: Float32Array) -> Float32Array:
    """The definition of gelu."""
    z = np.clip(x * np.float32(ROOT_HALF), np.float32(-4), np.float32(4))
    u = z * z
    erf = np.clip(_horner(u, NUMERATOR) * z / _horner(u, DENOMINATOR), np.float32(-1), np.float32(1))
    return x * np.float32(0.5) * (erf + np.float32(1))


def gelu_tanh_numpy(x: Float32Array) -> Float32Array:
    """The definition of gelu_tanh."""
    twice = x * (x * x * np.float32(CUBIC) + np.float32(LINEAR))
    return x / (np.float32(1) + exp_numpy(-twice))


def gelu_torch(x: Tensor, scratch: Tensor) -> None:
    """gelu in place."""
    z, u, erf = scratch
    torch.mul(x, ROOT_HALF, out=z).clamp_(-4.0, 4.0)
    torch.mul(z, z, out=u)
    _horner_into(erf, u, NUMERATOR).mul_(z)
    erf.div_(_horner_into(z, u, DENOMINATOR)).clamp_(-1.0, 1.0).add_(1.0)
    x.mul_(0.5).mul_(erf)


def gelu_tanh_torch(x: Tensor, scratch: Tensor) -> None:
    """gelu_tanh in place."""
    torch.mul(x, x, out=scratch[0]).mul_(CUBIC).add_(LINEAR).mul_(x).neg_()
    x.div_(exp_torch(*scratch).add_(1.0))


@jit
def gelu(x):
    """gelu of float32."""
    z = tl.minimum(tl.maximum(x * _ROOT_HALF, -4.0), 4.0)
    u = z * z
    p = ((u * _P5 + _P4) * u + _P3) * u + _P2
    p = (p * u + _P1) * u + _P0
    q = ((u * _Q5 + _Q4) * u + _Q3) * u + _Q2
    q = (q * u + _Q1) * u + _Q0
    erf = tl.minimum(tl.maximum(_cast.divide(p * z, q), -1.0), 1.0)
    return x * 0.5 * (erf + 1.0)


@jit
def gelu_tanh(x):
    """gelu_tanh of float32."""
    twice = x * (x * x * _CUBIC + _LINEAR)
    return _cast.divide(x, exp(twice * -1.0) + 1.0)


def _exact(x: Float64Array, other: Float64Array | None, weight: Float64Array | None, eps: float) -> Float64Array:
    erf = torch.special.erf(torch.from_numpy(x / sqrt(2))).numpy()
    return np.asarray(x / 2 * (1 + erf))


def _exact_tanh(x: Float64Array, other: Float64Array | None, weight: Float64Array | None, eps: float) -> Float64Array:
    return np.asarray(x / 2 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))))


GELU = Prologue(
    "gelu", "x/2 · (1 + erf(x / √2))", "gelu", lambda x, other, weight, eps: gelu_numpy(x), _exact,
    activation=gelu_torch,
)  # fmt: skip
GELU_TANH = Prologue(
    "gelu_tanh", "x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))", "gelu_tanh",
    lambda x, other, weight, eps: gelu_tanh_numpy(x), _exact_tanh, activation=gelu_tanh_torch,
)  # fmt: skip
