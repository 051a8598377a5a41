"""Known faults of scales and groups, each as a model of what a quantizer with it returns.

Quantizers in the field have had them: log2 in floating point next to powers of two (microxcaling, gfloat, MLX),
exponents rounded to nearest (MLX), the scale's reciprocal taken for the scale, tails of ragged tensors, zeros divided
by zero."""

from __future__ import annotations

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
    finite_amax,
    grouped,
    is_dynamic,
    other_tile,
    quantised,
    right_factors,
    to_bfloat16,
    to_float16,
    with_amax,
    with_tiles,
    without_block_scale,
)


def _factor(multiple: float) -> Model:
    return with_tiles(lambda setting: right_factors(setting) * multiple)


def _log2_in_float32(setting: Setting) -> FloatArray | None:
    scheme = setting.scheme
    if not scheme.rule.power_of_two or (isinstance(scheme.format, BlockFormat) and scheme.format.two_level):
        return None
    amax = finite_amax(setting.x, setting)
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
    right = right_factors(setting)
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
        return factors_of_amax(finite_amax(setting.x, setting), other).astype(np.float64)

    return with_tiles(tiles)


def _nearest_exponent(setting: Setting) -> FloatArray | None:
    scheme = setting.scheme
    if not scheme.rule.power_of_two:
        return None
    amax = finite_amax(setting.x, setting).astype(np.float64)
    exponent = np.rint(np.log2(np.where(amax > 0, amax, 1.0) / scheme.element.max))
    return np.where(amax > 0, np.exp2(exponent), right_factors(setting))


def _neighbour(step: int, axis: int) -> Model:
    def tiles(setting: Setting) -> FloatArray | None:
        right = right_factors(setting)
        return np.roll(right, step, axis=axis) if right.shape[axis] > 1 else None

    return with_tiles(tiles)


def _neighbour_back(step: int, axis: int) -> Model:
    def tiles(setting: Setting) -> FloatArray | None:
        right = right_factors(setting)
        return np.roll(right, step, axis=axis) if right.shape[axis] > 1 else None

    return with_tiles(tiles, back_only=True)


def _signed_amax(setting: Setting) -> FloatArray:
    """Of the plain maximum; a group without positive numbers gets that negative number's magnitude or nothing."""
    return tile_max(np.where(np.isfinite(setting.x), setting.x, 0.0), setting.scheme.tile)


def _signed_amax_negative(setting: Setting) -> FloatArray | None:
    if isinstance(setting.scheme.format, BlockFormat) or not is_dynamic(setting):
        return None
    finite = np.where(np.isfinite(setting.x), setting.x, 0.0)
    largest = grouped(finite, setting.scheme.tile, -np.inf).max(axis=(2, 3))
    factors = np.where(largest == 0, 1.0, largest / setting.scheme.element.max)
    return quantised(setting, factors=per_element(factors, setting.scheme, setting.shape))


def _first_elements(count: int | None) -> Model:
    def amax(setting: Setting) -> FloatArray | None:
        groups = grouped(np.where(np.isfinite(setting.x), np.abs(setting.x), 0.0), setting.scheme.tile, 0.0)
        flat = groups.reshape(*groups.shape[:2], -1)
        size = flat.shape[-1]
        kept = size - 1 if count is None else count
        return flat[..., :kept].max(axis=-1) if 1 <= kept < size else None

    return with_amax(amax)


def _first_half(setting: Setting) -> FloatArray | None:
    groups = grouped(np.where(np.isfinite(setting.x), np.abs(setting.x), 0.0), setting.scheme.tile, 0.0)
    flat = groups.reshape(*groups.shape[:2], -1)
    return flat[..., : flat.shape[-1] // 2].max(axis=-1) if flat.shape[-1] > 1 else None


def _mean_magnitude(setting: Setting) -> FloatArray:
    finite = np.isfinite(setting.x)
    total, count = (
        grouped(part, setting.scheme.tile, 0.0).sum(axis=(2, 3))
        for part in (np.where(finite, np.abs(setting.x), 0.0), finite.astype(np.float64))
    )
    return total / np.maximum(count, 1.0)


def _floored(floor: float, added: bool = False) -> Model:
    """A guard against division by zero that ordinary small groups run into."""

    def amax(setting: Setting) -> FloatArray:
        found = finite_amax(setting.x, setting).astype(np.float64)
        return found + floor if added else np.maximum(found, floor)

    return with_amax(amax)


def _stale(setting: Setting) -> FloatArray | None:
    before = setting.before
    if before is None:
        return None
    old = finite_amax(before.astype(np.float64), setting)
    new = finite_amax(setting.x, setting)
    if old.shape != new.shape:
        return None
    return old.astype(np.float64)


def _narrow_scale(through: str) -> Model:
    def tiles(setting: Setting) -> FloatArray | None:
        if not without_block_scale(setting.scheme) or setting.scheme.rule.power_of_two:
            return None
        right = right_factors(setting)
        return to_bfloat16(right) if through == "bfloat16" else to_float16(right)

    return with_tiles(tiles)


def _zero_groups_nan(setting: Setting) -> FloatArray | None:
    if setting.terms.is_cast:
        return None
    empty = finite_amax(setting.x, setting) == 0
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
    right = right_factors(setting)
    return np.where(right == 0, 0.0, 1.0 / right)


def _not_scaled_back(setting: Setting) -> FloatArray | None:
    return np.ones_like(right_factors(setting))


def _wrong_maximum(largest: float) -> Model:
    def tiles(setting: Setting) -> FloatArray | None:
        scheme = setting.scheme
        if scheme.rule is not ScaleRule.AMAX or isinstance(scheme.format, BlockFormat):
            return None
        wanted = scheme.element.max + scheme.element.epsilon if largest == 0.0 else largest
        if wanted == scheme.element.max:
            return None
        return right_factors(setting) * scheme.element.max / wanted

    return with_tiles(tiles)


def _top_binade_scale(setting: Setting) -> FloatArray | None:
    limit = below_top_binade(setting)
    if limit is None or setting.scheme.rule is not ScaleRule.AMAX or isinstance(setting.scheme.format, BlockFormat):
        return None
    return right_factors(setting) * setting.scheme.element.max / limit


def _no_outer(setting: Setting) -> FloatArray | None:
    fmt = setting.scheme.format
    if not isinstance(fmt, BlockFormat) or not fmt.two_level:
        return None
    amax = finite_amax(setting.x, setting)
    outer = float(fmt.outer_scale(amax.max() if amax.size else np.float32(0)))
    return right_factors(setting) / outer


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
    Fault("scaled back with the neighbouring block's scale", _neighbour_back(1, 1)),
    Fault("scaled back with the neighbouring block's scale", _neighbour_back(-1, 1)),
    Fault("scaled back with the neighbouring block's scale", _neighbour_back(1, 0)),
    Fault("scaled back with the neighbouring block's scale", _neighbour_back(-1, 0)),
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
    Fault("scale rounded to bfloat16", _narrow_scale("bfloat16")),
    Fault("scale rounded to float16", _narrow_scale("float16")),
    Fault("division by zero in groups of zeros", _zero_groups_nan),
    Fault("tail block dropped: zeros", _tail("zeros")),
    Fault("tail block dropped: left as it was", _tail("unchanged")),
    Fault("inverse scale used as scale", with_tiles(_inverse_back, back_only=True)),
    Fault("inverse scale used as scale", with_tiles(_inverse_back)),
    Fault("not scaled back", with_tiles(_not_scaled_back, back_only=True)),
    Fault("not scaled at all", with_tiles(_not_scaled_back)),
    Fault("scale from one more than the largest value (amax / 128)", _wrong_maximum(0.0)),
    Fault("the tensor's outer scale left out when scaling back", with_tiles(_no_outer, back_only=True)),
)
"""In order of preference where several explain the same."""
