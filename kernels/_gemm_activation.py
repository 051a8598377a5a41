"""Activations that follow a matrix product: float32 in torch (in place), Triton and, as the definition, float64.

none       x
relu       max(x, 0)
silu       x · σ(x),  σ(x) = 1 / (1 + e^-x)
gelu       x · (1 + erf(x / √2)) / 2                                               (arXiv 1606.08415 §2)
gelu_tanh  x · (1 + tanh u) / 2 = x · σ(2u),  u = √(2/π) · (x + 0.044715 x³)       (the same)
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial

import torch
from torch import Tensor

from narrowgauge.kernels._triton import constant, jit, tl

ACTIVATIONS = ("none", "relu", "gelu", "gelu_tanh", "silu")
STEEPEST = 1.13
"""|f(x) - f(y)| <= STEEPEST · |x - y| for every one of them: GELU's slope reaches 1.1290, SiLU's 1.0998."""
ROUNDINGS = 2.0**-20
"""|error| of the float32 forms, in relation to |x| + 2^-126: exponential, sum, division, products, and the exponent's
own rounding times e^-|u| · |u| < 0.4."""

_SQRT_HALF = constant(0.7071067811865476)
_MINUS_TWO_SQRT_2_OVER_PI = constant(-1.5957691216057308)
_CUBIC = constant(0.044715)


def check_activation(name: str) -> None:
    """ValueError for a name that is none of ACTIVATIONS."""
    if name not in ACTIVATIONS:
        near = get_close_matches(str(name), ACTIVATIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"activation: got {name!r}, accepted: {', '.join(ACTIVATIONS)}{hint}")


def activate_(x: Tensor, name: str) -> Tensor:
    """x under the activation, in place."""
    if name == "relu":
        return torch.relu_(x)
    if name == "silu":
        return torch.nn.functional.silu(x, inplace=True)
    if name in ("gelu", "gelu_tanh"):
        changed: Tensor = torch.ops.aten.gelu_(x, approximate="tanh" if name == "gelu_tanh" else "none")
        return changed
    return x


def activated(x: Tensor, name: str) -> Tensor:
    """x of float64 under the activation: the definition."""
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        "relu": torch.relu,
        "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
        "gelu_tanh": partial(torch.nn.functional.gelu, approximate="tanh"),
    }
    return forms[name](x) if name in forms else x


@jit
def activate(x, NAME: tl.constexpr):
    """float32 x under the activation."""
    if NAME == "relu":
        return tl.where(x < 0.0, 0.0, x)  # keeps NaN
    elif NAME == "silu":
        return x / (1.0 + tl.exp(-x))
    elif NAME == "gelu":
        return 0.5 * x * (1.0 + tl.erf(x * _SQRT_HALF))
    elif NAME == "gelu_tanh":
        return x / (1.0 + tl.exp((x + x * x * x * _CUBIC) * _MINUS_TWO_SQRT_2_OVER_PI))
    else:
        return x
