"""`assert_close_to_format`: what a quantizer returned is what rounding its input under a scheme may give.

The check is that of the scheme's definition with room for another order of its float32 operations, and no more. With
u = 2^-24, s the scale of an element's group, y = x / s held to the format's range, and an implementation that makes n
roundings on the way to y (γ_n = n·u / (1 - n·u), Higham 2002, §3.1):

    nearest       a = v · s   with v a value of the format,  round(y (1 - γ_n)) <= v <= round(y (1 + γ_n))
    stochastic    the same with round towards -inf on the left and towards +inf on the right; with `seed` both round
                  by the definition's random bits
    max_ulp = m   v is any value of the format within m·ulp(y) + γ_n·|y| of y (ulp: the distance of values there)

So values beyond the range saturate, a tie may go to either side only if a rounding can reach it, and what lies between
two values is found even where it is near. A group with a NaN or an infinity is NaN throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, Rounding, ScaleRule, Scheme, parse
from narrowgauge.formats.philox import rounding_bits
from narrowgauge.formats.rounding import Subnormals
from narrowgauge.formats.tiles import rows_cols, tile_max
from narrowgauge.numerics._arrays import FloatArray, Operand, as_float64, place
from narrowgauge.numerics.check import gamma
from narrowgauge.numerics.gemms.operands import PLAIN_DTYPES
from narrowgauge.numerics.gemms.precision import largest
from narrowgauge.numerics.quantizers.grid import (
    any_in_group,
    neighbours,
    per_element,
    per_group,
    round_elements,
    scale_factors,
    spacing,
    tile_amax,
)
from narrowgauge.numerics.quantizers.read import Reading, dtype_name, read

SCALE_ROUNDINGS = 3
"""Of an `amax` scale: amax to float32, 1/M where a kernel multiplies by it, the quotient or product."""
SCALED_ROUNDINGS = 3
"""Of y: x to float32, 1/s, the product."""
DEQUANTIZE_ROUNDINGS = 2
"""Of v · s: the products with the block's and with the tensor's scale."""


@dataclass(frozen=True)
class _Result:
    """What came, and the largest number of the dtype that it came in."""

    reading: Reading
    largest: float


@dataclass(frozen=True)
class _Judged:
    """One candidate for the scales, and what it says of every element of the matrix; float64 [rows, columns].

    low, high: the smallest and largest value of the format that rounding may give, in units of the scale.
    """

    scale: FloatArray
    y: FloatArray
    low: FloatArray
    high: FloatArray
    is_wrong: NDArray[np.bool_]


def assert_close_to_format(
    actual: object,
    reference: Operand,
    scheme: Scheme | str,
    *,
    max_ulp: float | None = None,
    seed: int | None = None,
    name: str = "",
) -> None:
    """Every element of `actual` is what rounding `reference` under `scheme` may give (the module has the definition).

    actual: the dequantised values (tensor or array of the reference's shape; of float16 and bfloat16 their own
    rounding is allowed for), or what they are made of: an object with `codes`, `scale` and perhaps `outer`, or a tuple
    of these. Then the scales are checked as well, except those of groups that are zero. reference: real numbers.
    max_ulp: how far from `reference` a value may be, in units of the format's last place there, instead of what the
    scheme's rounding allows (nearest: half a unit, stochastic: one). seed: the random stream of a `+sr` scheme; without
    it either neighbour will do.

    AssertionError says how many elements are wrong and which is worst: its error in ulp, what was expected and the
    format's values around it. ValueError and TypeError for arguments that cannot be meant.
    """
    __tracebackhide__ = True  # pytest shows the caller's line instead
    spec = parse(scheme)
    if max_ulp is not None and not max_ulp >= 0:
        raise ValueError(f"max_ulp: got {max_ulp}, accepted: a number >= 0, or None for the scheme's own rounding")
    x = as_float64(reference, "reference")
    prefix = f"{name}: " if name else ""
    try:
        reading = read(actual, spec, x.shape)
    except ValueError as error:  # a shape that does not fit is a wrong result, not a wrong call
        raise AssertionError(f"{prefix}{error}") from None
    result = _Result(reading, _largest(actual))
    matrix = x.reshape(rows_cols(x.shape))
    candidates, tolerance = _scales(matrix, spec)
    if reading.factors is not None:
        _check_scales(reading.factors, candidates, tolerance, matrix, spec, prefix)
        candidates, tolerance = (reading.factors,), 0.0
    judged = [_judge(result, matrix, spec, scale, tolerance, max_ulp, seed) for scale in candidates]
    best = judged[0] if len(judged) == 1 else _better(judged[0], judged[1], spec)
    if best.is_wrong.any():
        raise AssertionError(prefix + _describe(best, result, tolerance, x, spec, max_ulp, seed))


def _largest(actual: object) -> float:
    """The largest number of the dtype in which dequantised values came; infinity for wider ones, and for codes, whose
    products are made here in float64."""
    name = dtype_name(actual) if hasattr(actual, "dtype") and hasattr(actual, "shape") else ""
    return largest(name) if name in PLAIN_DTYPES else np.inf


def _scales(matrix: FloatArray, spec: Scheme) -> tuple[tuple[FloatArray, ...], float]:
    """The defined scale of each group, and the relative error that another implementation's may have. Two candidates
    where the scales are themselves rounded to a narrow format, and may fall either way."""
    defined = scale_factors(matrix, spec).astype(np.float64)
    fmt = spec.format
    if not isinstance(fmt, BlockFormat):
        is_exact = spec.rule.power_of_two or spec.static is not None
        return (defined,), 0.0 if is_exact else gamma(SCALE_ROUNDINGS)
    if not fmt.two_level:
        return (defined,), 0.0
    amax = tile_amax(matrix, spec)
    finite = amax[np.isfinite(amax)]
    outer = float(fmt.outer_scale(finite.max() if finite.size else np.float32(0)))
    # The quotient amax / (M · outer) takes two roundings more than outer itself.
    slack = gamma(SCALE_ROUNDINGS + 2)
    exact = np.where(np.isfinite(amax), amax.astype(np.float64), np.nan) / (fmt.element.max * outer)
    rounding = Rounding.UP if spec.rule is ScaleRule.RCEIL else Rounding.NEAREST_EVEN
    first, second = (fmt.scale_format.round(exact * side, rounding) * outer for side in (1 - slack, 1 + slack))
    same = np.array_equal(first, second, equal_nan=True)
    return ((first,) if same else (first, second)), gamma(SCALE_ROUNDINGS + 1)


def _check_scales(
    actual: FloatArray,
    candidates: tuple[FloatArray, ...],
    tolerance: float,
    matrix: FloatArray,
    spec: Scheme,
    prefix: str,
) -> None:
    """AssertionError unless every scale is the defined one, within the roundings it may have."""
    __tracebackhide__ = True
    amax = tile_max(np.abs(matrix), spec.factor_tile)
    low, high = candidates[0] * (1 - tolerance), candidates[-1] * (1 + tolerance)
    wrong = ~((low <= actual) & (actual <= high)) & ~(np.isnan(actual) & np.isnan(low)) & (amax != 0)
    if not wrong.any():
        return
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = np.nan_to_num(np.abs(actual / candidates[0] - 1), nan=np.inf)
    worst = place(int(np.argmax(np.where(wrong, error, -1.0))), wrong.shape)
    raise AssertionError(
        f"{prefix}{int(wrong.sum())} of {wrong.size} scales are wrong; worst at group {worst}: actual "
        f"{actual[worst]:.9g}, expected {candidates[0][worst]:.9g} (amax {amax[worst]:.6g}; x = value * scale)"
    )


def _judge(
    result: _Result,
    x: FloatArray,
    spec: Scheme,
    scale: FloatArray,
    tolerance: float,
    max_ulp: float | None,
    seed: int | None,
) -> _Judged:
    element = spec.element
    factor = per_element(scale, spec, (x.shape[0], x.shape[1]))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        y = np.where(np.isnan(factor) | (factor == 0) | (x == 0), 0.0, x / factor)
    y = np.clip(y, element.min, element.max)
    slack = np.abs(y) * (gamma(SCALED_ROUNDINGS) + tolerance)
    if max_ulp is None:
        low, high = _may_round_to(y, slack, spec, seed)
    else:
        reach = max_ulp * spacing(y, element) + slack
        low = round_elements(y - reach, spec, rounding=Rounding.UP)
        high = round_elements(y + reach, spec, rounding=Rounding.DOWN)
    return _Judged(factor, y, low, high, ~_is_from(low, high, result, factor, spec, tolerance))


def _may_round_to(y: FloatArray, slack: FloatArray, spec: Scheme, seed: int | None) -> tuple[FloatArray, FloatArray]:
    """The values at both ends of what y may become; rounding is monotone."""
    if not spec.stochastic:
        return round_elements(y - slack, spec), round_elements(y + slack, spec)
    if seed is None:
        down = round_elements(y - slack, spec, rounding=Rounding.DOWN)
        return down, round_elements(y + slack, spec, rounding=Rounding.UP)
    flush = Subnormals.FLUSH if spec.flush else Subnormals.GRADUAL
    bits = rounding_bits(y.shape, seed, 0)
    first, second = (
        spec.element.round(side, Rounding.STOCHASTIC, random_bits=bits, subnormals=flush)
        for side in (y - slack, y + slack)
    )
    # Of negative numbers the magnitude is rounded, and where the slack crosses a value the ends may change places.
    return np.minimum(first, second), np.maximum(first, second)


def _is_from(
    low: FloatArray, high: FloatArray, result: _Result, factor: FloatArray, spec: Scheme, tolerance: float
) -> NDArray[np.bool_]:
    """Whether an element is one of the format's values from low to high times the scale, or NaN where the scale is."""
    actual = result.reading.values
    isnan = np.isnan(factor)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        near = np.where(isnan | np.isnan(actual) | (factor == 0), 0.0, actual / factor)
        near = np.clip(near, low, np.maximum(low, high))
        expected = np.clip(spec.element.round(near, Rounding.NEAREST_EVEN), low, high) * factor
        own = 0.0 if result.reading.factors is not None else gamma(DEQUANTIZE_ROUNDINGS)
        relative = (1 + tolerance) * (1 + own) * (1 + result.reading.unit_roundoff) - 1
        is_near = np.abs(actual - expected) <= np.abs(expected) * relative + result.reading.underflow
        overflows = (np.abs(expected) * (1 + relative) > result.largest) & (actual == np.copysign(np.inf, expected))
    return np.where(isnan, np.isnan(actual), (is_near | overflows) & (low <= high))


def _better(first: _Judged, second: _Judged, spec: Scheme) -> _Judged:
    """The first candidate's verdict, but the second's in groups where only the second is right throughout."""
    wrong = [any_in_group(judged.is_wrong, spec) for judged in (first, second)]
    take = per_group(wrong[0] & ~wrong[1], spec, (first.y.shape[0], first.y.shape[1])).astype(np.bool_)
    names = ("scale", "y", "low", "high", "is_wrong")
    return _Judged(*(np.where(take, getattr(second, name), getattr(first, name)) for name in names))


def _describe(
    judged: _Judged,
    result: _Result,
    tolerance: float,
    x: FloatArray,
    spec: Scheme,
    max_ulp: float | None,
    seed: int | None,
) -> str:
    """How many elements are wrong, which is worst, by how much, and what it should be."""
    values, element = result.reading.values, spec.element
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = np.abs(values / judged.scale - judged.y) / spacing(judged.y, element)
    flat = int(np.argmax(np.where(judged.is_wrong, np.nan_to_num(error, nan=np.inf, posinf=np.inf), -1.0)))
    at = place(flat, judged.y.shape)
    scale, value, off = (part[at].item() for part in (judged.scale, values, error))
    text = (
        f"{int(judged.is_wrong.sum())} of {x.size} elements are not what rounding to {spec} may give; worst at "
        f"{place(flat, x.shape)}: actual {value:.9g}, reference {x.reshape(-1)[flat]:.9g}, "
    )
    if np.isnan(scale):
        return text + "expected nan: its group holds a NaN or an infinity"
    allowed, expected = _allowance(judged, at, spec, max_ulp, seed)
    if not np.isnan(value):
        text += f"{off:.4g} ulp off, allowed {allowed}; "
        whole = np.full(values.shape, element.min), np.full(values.shape, element.max)
        is_value = _is_from(*whole, result, judged.scale, spec, tolerance)[at]
        text += "" if is_value else "it is no value of the format; "
    # Just beside y, so that a value is not its own neighbour.
    sides = (np.nextafter(judged.y[at], np.array([end])) for end in (-np.inf, np.inf))
    below, above = (neighbours(side, element)[end].item() * scale for end, side in enumerate(sides))
    return f"{text}expected {expected}, neighbours {below:.9g} and {above:.9g}, scale {scale:.9g}"


def _allowance(
    judged: _Judged, at: tuple[int, ...], spec: Scheme, max_ulp: float | None, seed: int | None
) -> tuple[str, str]:
    """How far off a value may be, and which was expected, as texts."""
    low, high, scale = (part[at].item() for part in (judged.low, judged.high, judged.scale))
    ends = [f"{end * scale:.9g}" for end in dict.fromkeys((low, high))]
    if max_ulp is not None:
        return f"{max_ulp:g}", " to ".join(ends) if low <= high else "none: no value is that near"
    if spec.stochastic:
        return ("less than 1" if seed is None else f"what seed {seed} gives"), " or ".join(ends)
    own = spec.element.default_rounding is None
    return (f"what {spec.element.name}'s own rounding gives" if own else "0.5"), " or ".join(ends)
