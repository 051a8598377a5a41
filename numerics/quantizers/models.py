"""The reference quantizer in float64 with every step exchangeable: what models of faulty quantizers are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import Overflow, Rounding, Scheme, get
from narrowgauge.formats.tiles import spread, tile_max, tile_sides
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.quantizers.grid import (
    factors_of_amax,
    levels,
    neighbours,
    per_element,
    round_elements,
    scale_factors,
    static_factors,
    tile_amax,
)
from narrowgauge.numerics.quantizers.terms import Terms


@dataclass(frozen=True, eq=False)
class Setting:
    """One call to be modelled. x: float64 [rows, cols]; before: the input of the call before, or None."""

    terms: Terms
    x: FloatArray
    before: FloatArray | None
    is_wide: bool = False

    @property
    def scheme(self) -> Scheme:
        """The scheme that the function claims to follow."""
        return self.terms.scheme

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.x.shape[0], self.x.shape[1]

    @cached_property
    def finite(self) -> FloatArray:
        """x with zeros for NaN and infinities."""
        return np.where(np.isfinite(self.x), self.x, 0.0)

    @cached_property
    def amax(self) -> NDArray[np.float32]:
        """Largest finite magnitude of each group."""
        return tile_amax(self.finite, self.scheme)

    @cached_property
    def factors(self) -> FloatArray:
        """The right factors, of the finite elements alone; [factor tiles]. Kept, since every model asks for them."""
        static = self.scheme.static
        if static is not None:
            return static_factors(static, self.scheme, self.shape)
        return scale_factors(self.finite, self.scheme).astype(np.float64)


Elements: TypeAlias = Callable[[FloatArray, Setting], FloatArray]
"""y [rows, cols] in units of the scale → element values; y may hold NaN and infinities."""
Model: TypeAlias = Callable[[Setting], FloatArray | None]
"""What a faulty quantizer returns (dequantised values), or None where the fault does not exist."""


@dataclass(frozen=True)
class Fault:
    """kind: the name that a report prints. model: what a quantizer with this fault returns."""

    kind: str
    model: Model


def no_nan(y: FloatArray) -> FloatArray:
    """y with NaN replaced by 0, for encoders."""
    return np.where(np.isnan(y), 0.0, y)


def rounded(y: FloatArray, setting: Setting, rounding: Rounding | None = None) -> FloatArray:
    """Element values in the right rounding, or in the mode given; NaN stays."""
    elements = round_elements(no_nan(y), setting.scheme, setting.terms.overflow, rounding)
    return np.where(np.isnan(y), np.nan, elements)


def is_dynamic(setting: Setting) -> bool:
    """Whether scales come from largest magnitudes alone, one for each group."""
    scheme = setting.scheme
    return scheme.static is None and not scheme.rule.searches and scheme.factor_tile == scheme.tile


def scaled_by(setting: Setting, factors: FloatArray) -> FloatArray:
    """y = fl(x · fl(1 / s)) (float64 throughout for float64 inputs); 0 where the scale is."""
    inverse = np.where(factors == 0, 0.0, 1.0 / factors)
    if setting.is_wide:
        return setting.x * inverse
    product = setting.x.astype(np.float32) * inverse.astype(np.float32)
    # A scale so small that its reciprocal is infinite: divided, as such code does.
    return np.where(np.isinf(inverse.astype(np.float32)), setting.x / factors, product.astype(np.float64))


def quantised(
    setting: Setting,
    elements: Elements = rounded,
    *,
    factors: FloatArray | None = None,
    back: FloatArray | None = None,
) -> FloatArray:
    """Values of a quantizer that uses these factors of each element (default: the right ones) for scaling, and `back`
    (default: the same) for scaling back."""
    if factors is None:
        factors = per_element(setting.factors, setting.scheme, setting.shape)
    result = elements(scaled_by(setting, factors), setting)
    return result * (factors if back is None else back)


def with_elements(elements: Elements) -> Model:
    """A fault in rounding alone."""
    return lambda setting: quantised(setting, elements)


def with_tiles(tiles: Callable[[Setting], FloatArray | None], *, back_only: bool = False) -> Model:
    """A fault in the factors [factor tiles]: used for both directions, or for scaling back alone."""

    def model(setting: Setting) -> FloatArray | None:
        if not is_dynamic(setting):
            return None
        found = tiles(setting)
        if found is None:
            return None
        wrong = per_element(found, setting.scheme, setting.shape)
        return quantised(setting, back=wrong) if back_only else quantised(setting, factors=wrong)

    return model


def with_amax(amax: Callable[[Setting], FloatArray | None]) -> Model:
    """A fault in the largest magnitudes [tiles] from which the scales come."""

    def tiles(setting: Setting) -> FloatArray | None:
        found = amax(setting)
        return None if found is None else factors_of_amax(found.astype(np.float32), setting.scheme).astype(np.float64)

    return with_tiles(tiles)


def ties_up(y: FloatArray, setting: Setting) -> FloatArray:
    """Nearest rounding, ties to the larger value."""
    clean = no_nan(y)
    below, above = neighbours(clean, setting.scheme.element)
    is_tie = (clean - below == above - clean) & (below != above)
    return np.where(is_tie, above, rounded(y, setting))


def staged(through: Callable[[FloatArray], FloatArray]) -> Elements:
    """Double rounding: y is first rounded to another type."""
    return lambda y, setting: rounded(through(y), setting)


def to_float16(y: FloatArray) -> FloatArray:
    """float64 → float16, to nearest even, once (values beyond it become infinite)."""
    with np.errstate(over="ignore"):
        return y.astype(np.float16).astype(np.float64)


def to_bfloat16(y: FloatArray) -> FloatArray:
    """float64 → float32 → bfloat16, to nearest even, as hardware that starts from float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        return get("bf16").round(y.astype(np.float32), overflow=Overflow.NONSATURATING)


def limited(limit: Callable[[Setting], float | None]) -> Model:
    """Saturation at another magnitude."""

    def model(setting: Setting) -> FloatArray | None:
        found = limit(setting)
        if found is None:
            return None
        return quantised(
            setting, lambda y, s: np.clip(rounded(y, s), -found if s.scheme.element.signed else 0.0, found)
        )

    return model


def below_largest(setting: Setting) -> float | None:
    """The second largest value."""
    table = _table(setting)
    return None if table is None or len(table) < 3 else float(table[-2])


def below_top_binade(setting: Setting) -> float | None:
    """The largest value of the binade below the last one: where a last exponent is taken for that of NaN and Inf."""
    table = _table(setting)
    if table is None:
        return None
    lower = table[table < 2.0 ** np.floor(np.log2(table[-1]))]
    return float(lower[-1]) if len(lower) and lower[-1] > 0 else None


def _table(setting: Setting) -> FloatArray | None:
    return levels(setting.scheme.element) if setting.scheme.element.bits <= 16 else None


def other_tile(setting: Setting, tile: tuple[int | None, int | None]) -> FloatArray | None:
    """Values with scales of groups of another shape, scaling and all."""
    scheme = setting.scheme
    if not is_dynamic(setting) or tile == scheme.tile:
        return None
    amax = tile_max(np.abs(setting.finite), tile).astype(np.float32)
    factors = factors_of_amax(amax, scheme).astype(np.float64)
    return quantised(setting, factors=spread(factors, tile, setting.shape))


def grouped(x: FloatArray, tile: tuple[int | None, int | None], fill: float) -> FloatArray:
    """[tiles down, tiles across, height, width] of a matrix, the last groups filled up."""
    height, width = tile_sides(tile, x.shape)
    tall, wide = -(-x.shape[0] // height), -(-x.shape[1] // width)
    padded = np.full((tall * height, wide * width), fill)
    padded[: x.shape[0], : x.shape[1]] = x
    return padded.reshape(tall, height, wide, width).transpose(0, 2, 1, 3)


def overflowing(overflow: Overflow) -> Model:
    """Another treatment of what lies beyond the range."""

    def model(setting: Setting) -> FloatArray | None:
        if setting.terms.overflow is overflow:
            return None
        return quantised(replace(setting, terms=replace(setting.terms, overflow=overflow)))

    return model
