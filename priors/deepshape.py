"""DeepShape: reshaping trained weights towards a generalized Gaussian that codes in fewer bits (arXiv 2506.00486).

Two methods: "published", the histogram specification of the authors' first code (`deepshape_published`), and
"quantile", ours, by ranks of magnitudes (`deepshape_quantile`). With either, strength s in [0, 1] blends:
w + s · (reshaped - w).

What shortens the codes at a fixed step is for the most part the smaller standard deviation, not the shape: compare with
plain scaling by `GroupReport.std_ratio`, or with a coarser step (`trade_off` has that control).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import overload

import torch
from torch import Tensor, nn

from narrowgauge.formats.rounding import choice
from narrowgauge.priors.deepshape_published import FRACTION_BITS, Reshaped, reshape_published
from narrowgauge.priors.deepshape_quantile import reshape_quantile
from narrowgauge.priors.generalized_gaussian import GeneralizedGaussian
from narrowgauge.priors.pooled import pool
from narrowgauge.priors.rate import STEP, Rate, measure_rate


class DeepShapeMethod(StrEnum):
    """How weights are reshaped; see the module."""

    PUBLISHED = "published"
    QUANTILE = "quantile"


STD_SCALE = {DeepShapeMethod.PUBLISHED: 0.6, DeepShapeMethod.QUANTILE: 1.0}
"""Where none is given. The published one multiplies the scale α, the other the standard deviation."""


@dataclass(frozen=True)
class GroupReport:
    """What became of one sample: a tensor, or all of them pooled.

    fitted, target: the distribution that was estimated, and the one that the weights were given (at strength 1).
    edge: P of the published method, in steps of 2^-fraction_bits. moved: share of the weights whose code at the
    report's step changed. relative_mse: Σ(y - w)² / Σw². correlation: Σwy / sqrt(Σw² Σy²). std_ratio: sqrt(Σy² / Σw²).
    """

    name: str
    count: int
    fitted: GeneralizedGaussian
    target: GeneralizedGaussian
    edge: int | None
    moved: float
    relative_mse: float
    correlation: float
    std_ratio: float
    before: Rate
    after: Rate


@dataclass(frozen=True)
class DeepShapeReport:
    """groups: one for each sample. before, after: bits of all that was reshaped, coded as one. left: tensors that have
    nothing to reshape, and why."""

    method: DeepShapeMethod
    strength: float
    groups: tuple[GroupReport, ...]
    before: Rate
    after: Rate
    left: dict[str, str]


@dataclass(frozen=True)
class _Options:
    method: DeepShapeMethod
    shape_scale: float
    std_scale: float
    strength: float
    fraction_bits: int
    adj_minnum: int | str
    step: float

    def reshaped(self, x: Tensor, name: str) -> Reshaped:
        if self.method is DeepShapeMethod.QUANTILE:
            return reshape_quantile(x, self.shape_scale, self.std_scale)
        return reshape_published(x, self.shape_scale, self.std_scale, self.fraction_bits, self.adj_minnum, name)


def _positive(value: float, name: str) -> float:
    if not (value > 0.0 and math.isfinite(value)):
        raise ValueError(f"{name}: got {value}, accepted: finite numbers > 0")
    return float(value)


def _options(
    method: DeepShapeMethod | str,
    shape_scale: float,
    std_scale: float | None,
    strength: float,
    fraction_bits: int | None,
    adj_minnum: int | str | None,
    step: float,
) -> _Options:
    chosen = choice(DeepShapeMethod, method, "method")
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f"strength: got {strength}, accepted: 0 (nothing changes) to 1 (the target)")
    if chosen is DeepShapeMethod.QUANTILE:
        for name, value in (("fraction_bits", fraction_bits), ("adj_minnum", adj_minnum)):
            if value is not None:
                raise ValueError(f"{name}: got {value} with method 'quantile', accepted: with 'published'")
    bits = FRACTION_BITS if fraction_bits is None else fraction_bits
    if not 1 <= bits <= 30:
        raise ValueError(f"fraction_bits: got {bits}, accepted: 1 to 30")
    return _Options(
        chosen,
        _positive(shape_scale, "shape_scale"),
        _positive(STD_SCALE[chosen] if std_scale is None else std_scale, "std_scale"),
        float(strength),
        bits,
        "auto" if adj_minnum is None else adj_minnum,
        _positive(step, "step"),
    )


@overload
def deepshape(
    tensors: Tensor,
    *,
    method: DeepShapeMethod | str = ...,
    shape_scale: float = ...,
    std_scale: float | None = ...,
    strength: float = ...,
    pooled: bool = ...,
    fraction_bits: int | None = ...,
    adj_minnum: int | str | None = ...,
    step: float = ...,
    names: Sequence[str] | None = ...,
) -> tuple[Tensor, DeepShapeReport]: ...
@overload
def deepshape(
    tensors: Sequence[Tensor],
    *,
    method: DeepShapeMethod | str = ...,
    shape_scale: float = ...,
    std_scale: float | None = ...,
    strength: float = ...,
    pooled: bool = ...,
    fraction_bits: int | None = ...,
    adj_minnum: int | str | None = ...,
    step: float = ...,
    names: Sequence[str] | None = ...,
) -> tuple[list[Tensor], DeepShapeReport]: ...
def deepshape(
    tensors: Tensor | Sequence[Tensor],
    *,
    method: DeepShapeMethod | str = "published",
    shape_scale: float = 0.8,
    std_scale: float | None = None,
    strength: float = 1.0,
    pooled: bool = True,
    fraction_bits: int | None = None,
    adj_minnum: int | str | None = None,
    step: float = STEP,
    names: Sequence[str] | None = None,
) -> tuple[Tensor | list[Tensor], DeepShapeReport]:
    """Reshaped copies of weights, and what it did to them.

    tensors: one, or a sequence, of any float types and shapes. pooled: take all as one sample with one estimate, as
        published; else each by itself.
    shape_scale: factor of the shape ν. std_scale: with "published" the factor of the scale α (0.6 if None), with
        "quantile" that of the standard deviation (1 if None).
    strength: of the blend, 0 for none to 1 for the target.
    fraction_bits (13 if None), adj_minnum (1e-5 of the number of values if None): of the published grid and cut; see
        `deepshape_published`. step: of the grid on which the report counts bits. names: of the tensors, for
        the report and errors; by default tensors[0], …

    ValueError for values out of range, options of the other method, NaN and infinities, and for samples that the
    published method cannot treat (too few values, a grid too coarse); TypeError for what are no float tensors.
    """
    options = _options(method, shape_scale, std_scale, strength, fraction_bits, adj_minnum, step)
    single = isinstance(tensors, Tensor)
    given = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    labels = ["tensors"] if single else [f"tensors[{i}]" for i in range(len(given))]
    if names is not None and len(names) != len(given):
        raise ValueError(f"names: got {len(names)} for {len(given)} tensors, accepted: one for each")
    named = list(zip(labels if names is None else names, given, strict=True))
    made, report = _deepshape(named, options, pooled)
    return (made[0] if single else made), report


@torch.no_grad()
def deepshape_(
    model: nn.Module,
    *,
    method: DeepShapeMethod | str = "published",
    shape_scale: float = 0.8,
    std_scale: float | None = None,
    strength: float = 1.0,
    pooled: bool = True,
    matrices_only: bool = False,
    filter_fn: Callable[[str, nn.Parameter], bool] | None = None,
    fraction_bits: int | None = None,
    adj_minnum: int | str | None = None,
    step: float = STEP,
) -> DeepShapeReport:
    """Reshapes a model's parameters in place; the options are those of `deepshape`.

    matrices_only: only parameters of two or more dimensions; by default all, norm gains and biases included, as
    published. filter_fn(name, parameter): further choice. Tied parameters count once. A few epochs of ordinary training
    afterwards are part of the paper's procedure.

    Nothing is written unless everything can be. Errors name the parameter.
    """
    options = _options(method, shape_scale, std_scale, strength, fraction_bits, adj_minnum, step)
    chosen = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if (parameter.ndim >= 2 or not matrices_only) and (filter_fn is None or filter_fn(name, parameter))
    ]
    made, report = _deepshape([(name, parameter) for name, parameter in chosen], options, pooled)
    for (_, parameter), values in zip(chosen, made, strict=True):
        parameter.copy_(values)
    return report


def _deepshape(
    named: Sequence[tuple[str, Tensor]], options: _Options, pooled: bool
) -> tuple[list[Tensor], DeepShapeReport]:
    for name, tensor in named:
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"{name}: got {kind}, accepted: tensors of a floating-point type")
    largest = [pool([item]).amax for item in named]  # refuses NaN, infinities and the meta device
    if max(largest, default=0.0) == 0.0:
        raise ValueError(f"tensors: got {len(named)} without a value other than zero, accepted: at least one with some")
    made = [tensor.detach().clone() for _, tensor in named]
    left: dict[str, str] = {}
    if pooled:
        samples = [("all", list(range(len(named))))]
    else:
        left = {name: "holds zeros only" for (name, _), amax in zip(named, largest, strict=True) if amax == 0.0}
        samples = [(name, [i]) for i, (name, _) in enumerate(named) if name not in left]
    groups = [_reshape(name, [made[i] for i in members], options) for name, members in samples]
    reshaped = [i for _, members in samples for i in members]
    return made, DeepShapeReport(
        options.method,
        options.strength,
        tuple(groups),
        measure_rate((named[i][1] for i in reshaped), options.step),
        measure_rate((made[i] for i in reshaped), options.step),
        left,
    )


def _reshape(name: str, tensors: Sequence[Tensor], options: _Options) -> GroupReport:
    """Overwrites `tensors`, which are one sample."""
    old = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    reshaped = options.reshaped(old, name)
    new = torch.lerp(old, reshaped.values, options.strength)
    for tensor, part in zip(tensors, new.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view(tensor.shape))
    written = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    power, new_power = float(old.square().sum()), float(written.square().sum())
    return GroupReport(
        name,
        old.numel(),
        reshaped.fitted,
        reshaped.target,
        reshaped.edge,
        float(((old / options.step).round() != (written / options.step).round()).double().mean()),
        float((written - old).square().sum()) / power,
        float((written * old).sum()) / math.sqrt(power * new_power) if new_power > 0.0 else 0.0,
        math.sqrt(new_power / power),
        measure_rate([old], options.step),
        measure_rate([written], options.step),
    )
