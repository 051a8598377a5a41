"""What a quantised linear layer has to compute, and how far off it may be: three products of six operands.

    |Ĉ - A·Bᵀ| <= r_A|B| + |A|r_B + r_A r_B  +  accumulator bound

with A, B the middles and r the radii of what stochastic rounding may give (0 for the other slots). The variance of an
element is Σ_k (v_A v_B + v_A B² + A² v_B), exactly, because the slots draw independently.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import Scheme
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.gemms.precision import Arithmetic, Product, unit_roundoff
from narrowgauge.numerics.modules.slots import SlotOperand, slot_operand


@dataclass(frozen=True)
class GemmReference:
    """One of the three products. mean, variance: of every element of the result; variance is 0 where nothing is random.
    centre ± reach: where every single result lies. slack: the part of reach that is rounding."""

    mean: FloatArray
    variance: FloatArray
    centre: FloatArray
    reach: FloatArray
    slack: FloatArray

    @property
    def random(self) -> bool:
        """Whether any element is."""
        return bool((self.variance > 0.0).any())

    def agrees(self, actual: FloatArray) -> NDArray[np.bool_]:
        """Where a single result is what it may be; NaN where NaN is expected."""
        with np.errstate(invalid="ignore"):
            near = np.abs(actual - self.centre) <= self.reach
            special = (actual == self.centre) | (np.isnan(actual) & np.isnan(self.centre))
        return np.asarray(np.where(np.isfinite(self.centre), near, special))


def gemm_reference(
    a: SlotOperand, b: SlotOperand, dtype: str, accumulate: float, high_precision: bool, bias: FloatArray | None = None
) -> GemmReference:
    """A·Bᵀ (+ bias) of operands [M, K] and [N, K].

    dtype: of the result. accumulate: unit roundoff of the accumulator. high_precision: a GEMM with an empty slot, whose
    operands are rounded to `dtype` first. The bias may be added before or after the result is rounded.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        added = np.zeros(1) if bias is None else bias
        mean = a.mean @ b.mean.T + added
        centre = a.centre @ b.centre.T + added
        size_a, size_b = (np.nan_to_num(np.abs(x.centre) + x.radius) for x in (a, b))
        magnitude = size_a @ size_b.T
        spread = np.abs(a.centre) @ b.radius.T + a.radius @ np.abs(b.centre).T + a.radius @ b.radius.T
        u = unit_roundoff(dtype)
        operand = 2.0 * u + u * u if high_precision else 0.0
        arithmetic = Arithmetic(accumulate, dtype)
        zero = np.zeros_like(magnitude)
        total = magnitude + np.abs(added)
        limit = arithmetic.bound(Product(total, total, total, zero, a.mean.shape[1]))
        # The product is rounded before the bias comes to it, where the two are separate operations.
        slack = limit + operand * magnitude + (0.0 if bias is None else u * magnitude)
        variance = a.variance @ b.variance.T + a.variance @ np.square(b.mean).T + np.square(a.mean) @ b.variance.T
    return GemmReference(mean, variance, centre, spread + slack, slack)


def through_output(right: GemmReference, scheme: Scheme) -> GemmReference:
    """The result quantised under `scheme`: what lies between the neighbours, on its grid, of where it may lie."""
    ends = (slot_operand(end, replace(scheme, stochastic=True)) for end in (right.centre - right.reach,
                                                                           right.centre + right.reach))  # fmt: skip
    low, high = next(ends).low, next(ends).high
    # The grid of the result itself lies between those of the two ends.
    reach = 1.01 * np.maximum(high - right.centre, right.centre - low)
    return GemmReference(right.mean, right.variance, right.centre, reach + right.slack, right.slack)


def projected_variance(a: SlotOperand, b: SlotOperand, weights: FloatArray) -> float:
    """Variance of Σ weights · Ĉ over all elements, which share their operands."""
    of_a = np.sum(a.variance * np.square(weights @ b.mean))
    of_b = np.sum(b.variance * np.square(weights.T @ a.mean))
    both = np.sum(np.square(weights) * (a.variance @ b.variance.T))
    return float(of_a + of_b + both)
