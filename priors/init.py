"""Weights drawn from a generalized Gaussian: the variance of a known rule, the tails of the shape.

With n the fan and ξ the factor of the activation, a weight is drawn with mean 0 and Var = ξ/n whatever the
shape ν; shape 2 with ξ = 2 is Kaiming's normal initialization. Source: arXiv 2506.00486, of which the text
was not available: the readings chosen here (fan, scope) are those of the authors' first code, with its defect
left out that set every weight of three or more dimensions to ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from narrowgauge.formats.rounding import choice
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
from narrowgauge.priors.init_targets import Scope as Scope
from narrowgauge.priors.init_targets import Target, targets_of
from narrowgauge.priors.pooled import pool

T = TypeVar("T", bound=Tensor | nn.Module)
Shapes: TypeAlias = float | Mapping[str, float] | Callable[[str, Tensor], float]
"""One shape, or a shape for each parameter: by patterns of names (`"layers.*.mlp.*"`), or by a function."""


class InitMode(StrEnum):
    """Where the variance comes from: the tensor's present values, or ξ/n."""

    MATCH = "match"
    KAIMING = "kaiming"
    XAVIER = "xavier"
    LECUN = "lecun"


class Fan(StrEnum):
    """Which fan n is."""

    IN = "in"
    OUT = "out"


# Xavier's n is the sum of both fans, and so its ξ the double of the linear one.
_DEFAULT_XI = {InitMode.KAIMING: 2.0, InitMode.XAVIER: 2.0, InitMode.LECUN: 1.0}


class Activation(StrEnum):
    """The activations that `xi_for` knows."""

    LINEAR = "linear"
    SIGMOID = "sigmoid"
    RELU = "relu"
    LEAKY_RELU = "leaky_relu"


def xi_for(activation: Activation | str, negative_slope: float = 0.0) -> float:
    """ξ of an activation: 1 for linear and sigmoid, 2 for relu, 2/(1 + k²) for leaky_relu of slope k.

    ValueError for an unknown activation, and for a slope with one that has none.
    """
    chosen = choice(Activation, activation, "activation")
    if chosen is Activation.LEAKY_RELU:
        return 2.0 / (1.0 + negative_slope * negative_slope)
    if negative_slope != 0.0:
        raise ValueError(f"negative_slope: got {negative_slope} with {activation!r}, accepted: with 'leaky_relu'")
    return 2.0 if chosen is Activation.RELU else 1.0


def init_(
    target: T,
    shape: Shapes = 2.0,
    *,
    mode: InitMode | str = "match",
    fan: Fan | str | None = None,
    xi: float | None = None,
    scope: Scope | str = "linear",
    generator: torch.Generator | None = None,
) -> T:
    """Fill weights, in place, with generalized Gaussian numbers of this shape (ν); returns `target`.

    target: a tensor of any float type, or a module, of which `scope` selects parameters: "linear", the
        weights of `nn.Linear` (an output head too); "layers", those of linear, convolution, embedding, recurrent
        (RNN, LSTM, GRU) and attention layers, of which each gate or projection counts as a matrix of its own;
        "all_2d", every parameter of exactly two dimensions (as the authors' code: embeddings and position tables
        too); "all_nd", of two or more (convolution kernels too). Never biases or the parameters of norms, and never
        an embedding's padding row. A tied weight is drawn once. Other parameters stay as they are.
    shape: a number; or a mapping from patterns of parameter names (`*` is any text) to numbers, of which the first
        that fits holds; or a function (name, parameter) -> number.
    mode: "match" keeps each tensor's standard deviation about zero and replaces only the family, which is
        right for residual-depth scaling, tied heads and gated units; a tensor of zeros stays zero.
        "kaiming": Var = ξ/n, ξ = 2 by default. "lecun": the same with ξ = 1.
        "xavier": Var = ξ/(fan_in + fan_out), ξ = 2 by default.
    fan: n of "kaiming" and "lecun": "out" (the default, as the authors' code: dimension 0, which is an
        embedding's vocabulary) or "in" (dimension 1); times the kernel size where there is one.
    xi: ξ in place of the mode's default; see `xi_for`.
    generator: without one, the global generator of each tensor's device. With one, its device draws (see
        `GeneralizedGaussian.sample`).

    Nothing is written unless everything can be. ValueError for a scope without parameters, a tensor without
    the dimensions that the mode needs, NaN or infinities under "match", the meta device, options that the mode
    does not use, a parameter that no pattern fits, and a pattern that fits none; TypeError for a target that is
    neither, and for tensors of integers.
    """
    chosen_mode = choice(InitMode, mode, "mode")
    _refuse_unused(chosen_mode, fan, xi)
    chosen_fan = choice(Fan, "out" if fan is None else fan, "fan")
    targets = list(targets_of(target, choice(Scope, scope, "scope")))
    if not targets:
        raise ValueError(
            f"scope: got {str(scope)!r}, in which {type(target).__name__} has no parameter, accepted: one of "
            f"{', '.join(Scope)} that selects at least one"
        )
    shapes = _shapes(shape, targets)
    stds = [_std(t, chosen_mode, chosen_fan, xi) for t in targets]
    plan = [
        (t, GeneralizedGaussian.from_std(nu, std))
        for t, nu, std in zip(targets, shapes, stds, strict=True)
        if std > 0.0
    ]
    for item, prior in plan:
        for view in item.views:
            view.copy_(prior.sample(view.shape, generator=generator, device=view.device, dtype=view.dtype))
    return target


def _shapes(shape: Shapes, targets: Sequence[Target]) -> list[float]:
    """The shape of each target, checked even if no tensor needs it."""
    if callable(shape):
        given = [shape(t.name, t.tensor) for t in targets]
    elif isinstance(shape, Mapping):
        given = _matched(shape, [t.name for t in targets])
    else:
        given = [shape] * len(targets)
    return [GeneralizedGaussian(nu, 1.0).shape for nu in given]


def _matched(patterns: Mapping[str, float], names: Sequence[str]) -> list[float]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"shape: no parameter fits the pattern {pattern!r}; the first is {names[0]!r}")
    found = []
    for name in names:
        first = next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)
        if first is None:
            raise ValueError(f"shape: no pattern fits the parameter {name!r}; add '*' for all others")
        found.append(patterns[first])
    return found


def _refuse_unused(mode: InitMode, fan: Fan | str | None, xi: float | None) -> None:
    if fan is not None and mode not in (InitMode.KAIMING, InitMode.LECUN):
        raise ValueError(f"fan: got {fan!r} with mode {mode.value!r}, accepted: with 'kaiming' or 'lecun'")
    if xi is not None and mode is InitMode.MATCH:
        raise ValueError(f"xi: got {xi} with mode 'match', which keeps the present std; accepted: other modes")
    if xi is not None and not (xi > 0.0 and math.isfinite(xi)):
        raise ValueError(f"xi: got {xi}, accepted: finite numbers > 0")


def _std(target: Target, mode: InitMode, fan: Fan, xi: float | None) -> float:
    """The standard deviation to draw with; 0 leaves the tensor alone."""
    if mode is InitMode.MATCH:
        return _rms(target)
    size = target.matrix_shape
    if len(size) < 2:
        raise ValueError(f"{target.name}: got shape {size}, accepted: two or more dimensions for mode {mode.value!r}")
    if target.tensor.numel() == 0:
        return 0.0
    kernel = math.prod(size[2:])
    fan_in, fan_out = size[1] * kernel, size[0] * kernel
    n = fan_in + fan_out if mode is InitMode.XAVIER else fan_in if fan is Fan.IN else fan_out
    return math.sqrt((_DEFAULT_XI[mode] if xi is None else xi) / n)


def _rms(target: Target) -> float:
    values = pool((target.name, view) for view in target.views)
    return values.amax * math.sqrt(values.moments()[1]) if values.amax > 0.0 else 0.0
