"""The six operands of a linear layer's three GEMMs, as a recipe defines them, in float64.

    fprop   Y  = X·Wᵀ    x_fprop [T, K], w_fprop [N, K]
    dgrad   dX = dY·W    g_dgrad [T, N], w_dgrad [K, N]
    wgrad   dW = dYᵀ·X   g_wgrad [N, T], x_wgrad [K, T]

A slot with stochastic rounding does not say which values an operand has, but between which neighbours they lie, and
with which mean and variance.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import Rounding, Scheme, quantize_reference
from narrowgauge.formats.hadamard import rotate_back, signs
from narrowgauge.formats.operand import (
    AnyScheme,
    OperandScheme,
    operand_reference,
    parse_operand,
    run_before,
    unscaled,
)
from narrowgauge.formats.quantizer import as_matrix, rescaled
from narrowgauge.formats.rounding import Subnormals
from narrowgauge.formats.scaling import inverse_scale
from narrowgauge.formats.slots import GEMMS, SLOTS
from narrowgauge.formats.stages import Draw
from narrowgauge.formats.tiles import spread
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.gemms.operands import scale_factors

FLOAT32_ROUNDOFF = 2.0**-24

Slots = Mapping[str, AnyScheme | None]

Upcoming = Mapping[str, tuple[Draw, float | None]]
"""Of each slot the random streams of one call, and the scale of a stateful rule."""


def resolve_slots(recipe: object, module: object) -> dict[str, AnyScheme | None]:
    """The six schemes of a recipe: an object with `slots`, a mapping of slot to scheme (text, scheme or None; absent
    slots are None), a name that `narrowgauge.nn` knows, or None for what `module.recipe` is.

    ValueError for unknown slots and names, TypeError for anything else.
    """
    if recipe is None:
        recipe = getattr(module, "recipe", None)
        if recipe is None:
            raise TypeError(f"recipe: {type(module).__name__} has no attribute `recipe`; accepted: recipe=… said here")
    if isinstance(recipe, str):
        nn = sys.modules.get("narrowgauge.nn")
        if nn is None:
            raise ValueError(f"recipe: got the name {recipe!r}, but narrowgauge.nn is not imported; import it first")
        recipe = nn.get_recipe(recipe)
    given = recipe if isinstance(recipe, Mapping) else getattr(recipe, "slots", None)
    if not isinstance(given, Mapping):
        raise TypeError(f"recipe: got {type(recipe).__name__}, accepted: a name, an object with `slots`, or a mapping")
    unknown = [slot for slot in given if slot not in SLOTS]
    if unknown:
        raise ValueError(f"recipe: got the slots {unknown}, accepted: {', '.join(SLOTS)}")
    return {slot: None if given.get(slot) is None else parse_operand(given[slot]) for slot in SLOTS}


@dataclass(frozen=True)
class SlotOperand:
    """An operand [rows, reduction] as it may be: float64 bounds, mean and variance of each element. high = low = mean
    where nothing is random."""

    low: FloatArray
    high: FloatArray
    mean: FloatArray
    variance: FloatArray

    @classmethod
    def exactly(cls, values: FloatArray) -> SlotOperand:
        """An operand without chance."""
        return cls(values, values, values, np.zeros_like(values))

    def linear(self, factor: float | FloatArray, rest: float | FloatArray) -> SlotOperand:
        """The operand times a positive factor plus something that is no matter of chance."""
        low, high, mean = (np.asarray(part * factor + rest) for part in (self.low, self.high, self.mean))
        return SlotOperand(low, high, mean, np.asarray(self.variance * np.square(factor)))

    def widened(self, rest: float | FloatArray) -> SlotOperand:
        """With room for the float32 sum of a product and `rest`."""
        if not np.any(rest):
            return self
        room = FLOAT32_ROUNDOFF * (np.maximum(np.abs(self.low), np.abs(self.high)) + np.abs(rest))
        return SlotOperand(self.low - room, self.high + room, self.mean, self.variance)

    @property
    def centre(self) -> FloatArray:
        """Middle of the bounds."""
        return np.asarray((self.low + self.high) / 2.0)

    @property
    def radius(self) -> FloatArray:
        """Half the distance of the bounds."""
        return np.asarray((self.high - self.low) / 2.0)


def slot_operand(
    x: NDArray[np.floating], spec: AnyScheme | None, draw: Draw | None = None, scale: float | None = None
) -> SlotOperand:
    """What a GEMM sees of `x` [rows, reduction] (float32, float64): the reference's dequantised values; of a stochastic
    scheme the neighbours of each value, and the mean and variance of the choice between them.

    draw, scale: of the call, where the layer tells them: signs that are drawn anew and stateful scales need them, and
    so do stages that bend the values, which are then exact. ValueError where they are missing.
    """
    if spec is None:
        return SlotOperand.exactly(x.astype(np.float64))
    if isinstance(spec, Scheme):
        return _scheme_operand(x, spec)
    if draw is None and (spec.random and not spec.stochastic):
        raise ValueError(f"recipe: {spec} draws anew in every call, and the module does not tell what (`upcoming`)")
    if not all(stage.linear for stage in spec.stages):
        if draw is None and spec.stochastic:
            raise ValueError(
                f"recipe: {spec} needs the draws of each call, which the module does not tell (`upcoming`)"
            )
        return SlotOperand.exactly(operand_reference(x, spec, draw, scale))
    u, memos = run_before(x, spec, draw or Draw())
    result = _scheme_operand(u, spec.scheme)
    if scale is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            y = u * (np.float32(1) / np.float32(scale))
        result = _scheme_operand(y, unscaled(spec.scheme)).linear(float(np.float32(scale)), 0.0)
    for factor, rest in reversed(memos):
        result = result.linear(factor, rest).widened(rest)
    return result


def _scheme_operand(x: NDArray[np.floating], scheme: Scheme) -> SlotOperand:
    if not scheme.stochastic:
        return SlotOperand.exactly(quantize_reference(x, scheme).dequantize())
    q = quantize_reference(x, replace(scheme, stochastic=False))
    matrix = as_matrix(x)
    shape = matrix.shape[0], matrix.shape[1]
    factors = scale_factors(scheme, q.scale, q.outer).astype(np.float32)
    y = rescaled(matrix, spread(inverse_scale(factors), scheme.factor_tile, shape), x.dtype)
    grid = spread(factors, scheme.factor_tile, shape).astype(np.float64)
    element = scheme.element
    inside = np.clip(np.nan_to_num(y.astype(np.float64)), element.min, element.max)
    down, up = (element.round(inside, mode) for mode in (Rounding.DOWN, Rounding.UP))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(up > down, (inside - down) / (up - down), 0.0)
    if scheme.flush:
        down, up = (element.round(v, subnormals=Subnormals.FLUSH) for v in (down, up))
    down, up = np.minimum(down, up), np.maximum(down, up)
    mean = down + share * (up - down)
    return SlotOperand(down * grid, up * grid, mean * grid, share * (1.0 - share) * ((up - down) * grid) ** 2)


def stochastic_slots(gemm: str, slots: Slots) -> dict[str, AnyScheme]:
    """The operands of a product that are rounded stochastically, and their schemes."""
    return {slot: spec for slot in GEMMS[gemm] if (spec := slots[slot]) is not None and spec.stochastic}


def to_nearest(spec: AnyScheme) -> AnyScheme:
    """The same, rounding to nearest."""
    if isinstance(spec, Scheme):
        return replace(spec, stochastic=False)
    return replace(spec, scheme=replace(spec.scheme, stochastic=False))


def operands(
    x: NDArray[np.floating],
    w: NDArray[np.floating],
    g: NDArray[np.floating],
    slots: Slots | None = None,
    upcoming: Upcoming | None = None,
) -> dict[str, Any]:
    """The matrix that each slot quantises, of x [T, K], w [N, K] and g [T, N]. slots: given where the backward operands
    are made from the quantised forward ones; upcoming: the draws of the call."""
    x_back, w_back = x, w
    if slots is not None:
        told = upcoming or {}
        x_back, w_back = (
            restored(a, slots[slot], *told.get(slot, (None, None))) for a, slot in ((x, "x_fprop"), (w, "w_fprop"))
        )
    return {"x_fprop": x, "w_fprop": w, "g_dgrad": g, "w_dgrad": w_back.T, "g_wgrad": g.T, "x_wgrad": x_back.T}


def restored(
    x: NDArray[np.floating], spec: AnyScheme | None, draw: Draw | None, scale: float | None
) -> NDArray[np.floating]:
    """The operand's values as float32 in the basis of `x`: a rotation turned back."""
    if spec is None:
        return x
    values = operand_reference(x, spec, draw, scale).astype(np.float32)
    rotation = spec.rotation if isinstance(spec, OperandScheme) else None
    if rotation is None:
        return values
    stream = rotation.stream(draw or Draw())
    sign = None if stream is None else signs(rotation.size, *stream)
    return rotate_back(values, rotation.size, sign, x.shape[1])
