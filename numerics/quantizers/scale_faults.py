"""Known faults of scales and groups, each as a model of what a quantizer with it returns.

Quantizers in the field have had them: log2 in floating point next to powers of two (microxcaling, gfloat, MLX),
exponents rounded to nearest (MLX), the scale's reciprocal taken for the scale, tails of ragged tensors, zeros divided
by zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from narrowgauge.formats import BlockFormat, Scheme
from narrowgauge.formats.scaling import ScaleRule
from narrowgauge.formats.tiles import tile_max
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.quantizers.grid import factors_of_amax, per_element, per_group
from narrowgauge.numerics.quantizers.models import (
    Fault,
    Model,
    Setting,
    below_top_binade,
    grouped,
    is_dynamic,
    other_tile,
    quantised,
    to_bfloat16,
    to_float16,
    with_amax,
    with_tiles,
)


def _factor(multiple: float) -> Model:
    return with_tiles(lambda setting: setting.factors * multiple)


def _log2_in_float32(setting: Setting) -> FloatArray | None:
    scheme = setting.scheme
    if not scheme.rule.power_of_two or scheme.two_level:
        return None
    amax = setting.amax
    safe = np.where(amax > 0, amax, np.float32(1))
    emax = np.frexp(scheme.element.max)[1] - 1
    if scheme.rule is ScaleRule.FLOOR:
        exponent = np.floor(np.log2(safe)) - emax
    elif scheme.rule is ScaleRule.CEIL:
        exponent = np.ceil(np.log2(safe)) - emax
    elif scheme.rule in (ScaleRule.RCEIL, ScaleRule.POW2):
        exponent = np.ceil(np.log2(safe / np.float32(scheme.element.max)))
    else:
        return None
    right = setting.factors
    return np.where(amax > 0, np.exp2(np.clip(exponent, -127, 127).astype(np.float64)), right)


def _other_rule(rule: ScaleRule) -> Model:
    def tiles(setting: Setting) -> FloatArray | None:
        scheme = setting.scheme
        if scheme.rule is rule or {scheme.rule, rule} == {ScaleRule.RCEIL, ScaleRule.POW2}:
            return None
        try:
            other = replace(scheme, rule=rule)
        except ValueError:  # a rule that the element or the block format cannot have
            return None
        return factors_of_amax(setting.amax, other).astype(np.float64)

    return with_tiles(tiles)


def _nearest_exponent(setting: Setting) -> FloatArray | None:
    scheme = setting.scheme
    if not scheme.rule.power_of_two:
        return None
    amax = setting.amax.astype(np.float64)
    exponent = np.rint(np.log2(np.where(amax > 0, amax, 1.0) / scheme.element.max))
    return np.where(amax > 0, np.exp2(exponent), setting.factors)


def _neighbour(step: int, axis: int, *, back_only: bool = False) -> Model:
    def tiles(setting: Setting) -> FloatArray | None:
        right = setting.factors
        return np.roll(right, step, axis=axis) if right.shape[axis] > 1 else None

    return with_tiles(tiles, back_only=back_only)


def _signed_amax(setting: Setting) -> FloatArray:
    """Of the plain maximum; a group without positive numbers gets that negative number's magnitude or nothing."""
    return tile_max(setting.finite, setting.scheme.tile)


def _signed_amax_negative(setting: Setting) -> FloatArray | None:
    if isinstance(setting.scheme.format, BlockFormat) or not is_dynamic(setting):
        return None
    largest = grouped(setting.finite, setting.scheme.tile, -np.inf).max(axis=(2, 3))
    factors = np.where(largest == 0, 1.0, largest / setting.scheme.element.max)
    return quantised(setting, factors=per_element(factors, setting.scheme, setting.shape))


def _magnitudes(setting: Setting) -> FloatArray:
    """[tiles down, tiles across, elements] of the finite elements; zeros for the others and where groups end early."""
    groups = grouped(np.abs(setting.finite), setting.scheme.tile, 0.0)
    return groups.reshape(*groups.shape[:2], -1)


def _first_elements(count: int | None) -> Model:
    def amax(setting: Setting) -> FloatArray | None:
        flat = _magnitudes(setting)
        size = flat.shape[-1]
        kept = size - 1 if count is None else count
        return flat[..., :kept].max(axis=-1) if 1 <= kept < size else None

    return with_amax(amax)


def _first_half(setting: Setting) -> FloatArray | None:
    flat = _magnitudes(setting)
    return flat[..., : flat.shape[-1] // 2].max(axis=-1) if flat.shape[-1] > 1 else None


def _mean_magnitude(setting: Setting) -> FloatArray:
    finite = np.isfinite(setting.x)
    total, count = (
        grouped(part, setting.scheme.tile, 0.0).sum(axis=(2, 3))
        for part in (np.abs(setting.finite), finite.astype(np.float64))
    )
    return total / np.maximum(count, 1.0)


def _floored(floor: float, added: bool = False) -> Model:
    """A guard against division by zero that ordinary small groups run into."""

    def amax(setting: Setting) -> FloatArray:
        found = setting.amax.astype(np.float64)
        return found + floor if added else np.maximum(found, floor)

    return with_amax(amax)


def _stale(setting: Setting) -> FloatArray | None:
    if setting.before is None:
        return None
    old = replace(setting, x=setting.before).amax
    return old.astype(np.float64) if old.shape == setting.amax.shape else None


def _narrow_scale(through: Callable[[FloatArray], FloatArray]) -> Model:
    def tiles(setting: Setting) -> FloatArray | None:
        if isinstance(setting.scheme.format, BlockFormat) or setting.scheme.rule.power_of_two:
            return None
        return through(setting.factors)

    return with_tiles(tiles)


def _zero_groups_nan(setting: Setting) -> FloatArray | None:
    if setting.terms.is_cast:
        return None
    empty = setting.amax == 0
    return np.where(per_group(empty, setting.scheme, setting.shape), np.nan, quantised(setting))


def _tail(what: str) -> Model:
    def model(setting: Setting) -> FloatArray | None:
        height, width = setting.scheme.tile
        rows, cols = setting.shape
        whole_rows = rows if height is None else rows // height * height
        whole_cols = cols if width is None else cols // width * width
        if (whole_rows, whole_cols) == (rows, cols):
            return quantised(setting)
        values = quantised(setting)
        tail = np.ones(setting.shape, dtype=np.bool_)
        tail[:whole_rows, :whole_cols] = False
        return np.where(tail, setting.x if what == "unchanged" else 0.0, values)

    return model


def _inverse_back(setting: Setting) -> FloatArray | None:
    right = setting.factors
    return np.where(right == 0, 0.0, 1.0 / right)


def _not_scaled_back(setting: Setting) -> FloatArray | None:
    return np.ones_like(setting.factors)


def _maximum_of_one_more(setting: Setting) -> FloatArray | None:
    scheme = setting.scheme
    if scheme.rule is not ScaleRule.AMAX or isinstance(scheme.format, BlockFormat):
        return None
    wanted = scheme.element.max + scheme.element.epsilon
    return None if wanted == scheme.element.max else setting.factors * scheme.element.max / wanted


def _top_binade_scale(setting: Setting) -> FloatArray | None:
    limit = below_top_binade(setting)
    if limit is None or setting.scheme.rule is not ScaleRule.AMAX or isinstance(setting.scheme.format, BlockFormat):
        return None
    return setting.factors * setting.scheme.element.max / limit


def _no_outer(setting: Setting) -> FloatArray | None:
    fmt = setting.scheme.format
    if not isinstance(fmt, BlockFormat) or not fmt.two_level:
        return None
    amax = setting.amax
    outer = float(fmt.outer_scale(amax.max() if amax.size else np.float32(0)))
    return setting.factors / outer


def _swapped(scheme: Scheme) -> tuple[int | None, int | None]:
    return scheme.tile[1], scheme.tile[0]


SCALE_FAULTS: tuple[Fault, ...] = (
    Fault("the top binade is not used: scale from its lower neighbour", with_tiles(_top_binade_scale)),
    Fault("log2 of the scale in float32: wrong next to powers of two", with_tiles(_log2_in_float32)),
    Fault("scale one power of two too large", _factor(2.0)),
    Fault("scale one power of two too small", _factor(0.5)),
    Fault("scale exponent rounded to nearest instead of by its rule", with_tiles(_nearest_exponent)),
    *(
        Fault(f"scale rule {rule.value} instead", _other_rule(rule))
        for rule in (ScaleRule.FLOOR, ScaleRule.CEIL, ScaleRule.RCEIL, ScaleRule.EVEN, ScaleRule.AMAX)
    ),
    Fault("scale from neighbouring block", _neighbour(1, 1)),
    Fault("scale from neighbouring block", _neighbour(-1, 1)),
    Fault("scale from neighbouring block", _neighbour(1, 0)),
    Fault("scale from neighbouring block", _neighbour(-1, 0)),
    Fault("scaled back with the neighbouring block's scale", _neighbour(1, 1, back_only=True)),
    Fault("scaled back with the neighbouring block's scale", _neighbour(-1, 1, back_only=True)),
    Fault("scaled back with the neighbouring block's scale", _neighbour(1, 0, back_only=True)),
    Fault("scaled back with the neighbouring block's scale", _neighbour(-1, 0, back_only=True)),
    Fault("scale of the wrong axis: rows and columns exchanged", lambda s: other_tile(s, _swapped(s.scheme))),
    Fault("one scale for the whole tensor", lambda s: other_tile(s, (None, None))),
    Fault("amax without abs", with_amax(_signed_amax)),
    Fault("amax without abs", _signed_amax_negative),
    Fault("amax of the first elements only", _first_elements(1)),
    Fault("amax of the first elements only", with_amax(_first_half)),
    *(Fault("amax of the first elements only", _first_elements(n)) for n in (2, 4, 8, 16, 32, 64, 128, 256, 1024)),
    Fault("amax of the first elements only", _first_elements(None)),
    Fault("mean magnitude instead of amax", with_amax(_mean_magnitude)),
    *(
        Fault(f"amax has a floor of {floor:g} (accepted with smallest_amax={10 * floor:g})", _floored(floor, added))
        for floor in (1e-4, 1e-5, 1e-6, 1e-8, 1e-10, 1e-12, 1e-15, 1e-20, 1e-30)
        for added in (False, True)
    ),
    Fault("stale amax: the scale belongs to the previous call", with_amax(_stale)),
    Fault("scale rounded to bfloat16", _narrow_scale(to_bfloat16)),
    Fault("scale rounded to float16", _narrow_scale(to_float16)),
    Fault("division by zero in groups of zeros", _zero_groups_nan),
    Fault("tail block dropped: zeros", _tail("zeros")),
    Fault("tail block dropped: left as it was", _tail("unchanged")),
    Fault("inverse scale used as scale", with_tiles(_inverse_back, back_only=True)),
    Fault("inverse scale used as scale", with_tiles(_inverse_back)),
    Fault("not scaled back", with_tiles(_not_scaled_back, back_only=True)),
    Fault("not scaled at all", with_tiles(_not_scaled_back)),
    Fault("scale from one more than the largest value (amax / 128)", with_tiles(_maximum_of_one_more)),
    Fault("the tensor's outer scale left out when scaling back", with_tiles(_no_outer, back_only=True)),
)
"""In order of preference where several explain the same."""
