"""Known faults of rounding, saturation, signs and codes, each as a model of what a quantizer with it returns.

Casts in the field have had them: ties away from zero (QPyTorch, microxcaling's default mode), staging through
bfloat16 or float16, float64 through float32 (ml_dtypes, torch), the top binade of E4M3 taken for NaN and infinity
(QPyTorch the other way round), half of the smallest subnormal rounded up (QPyTorch), NaN turned into -0 or the
largest value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from narrowgauge.formats import FloatFormat, IntFormat, Overflow, Rounding
from narrowgauge.formats.rounding import Subnormals
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.quantizers.grid import has_negative_zero, per_element
from narrowgauge.numerics.quantizers.models import (
    Elements,
    Fault,
    Model,
    Setting,
    below_largest,
    below_top_binade,
    limited,
    no_nan,
    overflowing,
    quantised,
    rounded,
    scaled_by,
    staged,
    ties_up,
    to_bfloat16,
    to_float16,
    with_elements,
)


def _mode(rounding: Rounding) -> Elements:
    return lambda y, setting: rounded(y, setting, rounding)


def _staged_input(through: Callable[[FloatArray], FloatArray]) -> Model:
    return lambda setting: None if setting.terms.is_cast else quantised(replace(setting, x=through(setting.x)))


def _through_float32(setting: Setting) -> FloatArray | None:
    if not setting.is_wide:
        return None
    return quantised(setting, staged(lambda y: y.astype(np.float32).astype(np.float64)))


def _flushed(policy: Subnormals) -> Model:
    def model(setting: Setting) -> FloatArray | None:
        element = setting.scheme.element
        if not isinstance(element, FloatFormat) or not element.subnormals or setting.scheme.flush:
            return None

        def elements(y: FloatArray, s: Setting) -> FloatArray:
            found = element.round(no_nan(y), overflow=s.terms.overflow, subnormals=policy)
            return np.where(np.isnan(y), np.nan, found)

        return quantised(setting, elements)

    return model


def _in_subnormals(other: Elements) -> Model:
    def model(setting: Setting) -> FloatArray | None:
        element = setting.scheme.element
        if not isinstance(element, FloatFormat) or not element.subnormals:
            return None
        return quantised(
            setting, lambda y, s: np.where(np.abs(y) < element.smallest_normal, other(y, s), rounded(y, s))
        )

    return model


def _underflow_kept(y: FloatArray, setting: Setting) -> FloatArray:
    element = setting.scheme.element
    tiny = element.smallest_subnormal
    return np.where((np.abs(y) < tiny) & (y != 0), np.copysign(tiny, y), rounded(y, setting))


def _half_subnormal_up(y: FloatArray, setting: Setting) -> FloatArray:
    tiny = setting.scheme.element.smallest_subnormal
    return np.where(np.abs(y) == tiny / 2, np.copysign(tiny, y), rounded(y, setting))


def _zero_sign_lost(setting: Setting) -> FloatArray | None:
    return quantised(setting) + 0.0 if has_negative_zero(setting.scheme.element) else None


def _sign_lost(setting: Setting) -> FloatArray | None:
    return np.abs(quantised(setting)) if setting.scheme.element.signed else None


def _laundered(to_max: bool) -> Model:
    def model(setting: Setting) -> FloatArray:
        factors = per_element(setting.factors, setting.scheme, setting.shape)
        largest = np.where(np.signbit(setting.x), -1.0, 1.0) * setting.scheme.element.max * factors
        substitute = largest if to_max else np.zeros_like(factors)
        return np.where(np.isnan(setting.x), substitute, quantised(setting))

    return model


def _special_to_zero(setting: Setting) -> FloatArray:
    """x / Inf is 0: a group with an infinity, or of maximum NaN ignored, comes back as zeros."""
    return np.where(np.isfinite(setting.x), quantised(setting), 0.0)


def _infinity_kept(as_nan: bool) -> Model:
    def model(setting: Setting) -> FloatArray | None:
        if not setting.terms.is_cast:
            return None
        return np.where(np.isinf(setting.x), np.nan if as_nan else setting.x, quantised(setting))

    return model


def _wrapped(setting: Setting) -> FloatArray | None:
    element = setting.scheme.element
    if not isinstance(element, IntFormat):
        return None

    def elements(y: FloatArray, s: Setting) -> FloatArray:
        whole = np.rint(np.nan_to_num(y / element.step, posinf=2.0**40, neginf=-(2.0**40)))
        size = 2.0**element.width
        low = -size / 2 if element.is_signed else 0.0
        return (np.mod(whole - low, size) + low) * element.step

    return quantised(setting, elements)


def _asymmetric_clip(setting: Setting) -> FloatArray | None:
    element = setting.scheme.element
    if not isinstance(element, IntFormat) or not element.is_signed or not element.restricted:
        return None
    full = replace(element, name="", restricted=False)
    return quantised(setting, lambda y, s: np.where(np.isnan(y), np.nan, full.round(no_nan(y))))


def _symmetric_clip(setting: Setting) -> FloatArray | None:
    element = setting.scheme.element
    if not isinstance(element, IntFormat) or not element.is_signed or element.restricted:
        return None
    return quantised(setting, lambda y, s: np.maximum(rounded(y, s), -element.max))


def _permuted(order: str) -> Model:
    """Element values by a wrong table of the same values."""

    def model(setting: Setting) -> FloatArray | None:
        element = setting.scheme.element
        if element.bits > 8:
            return None
        values = element.values()
        codes = np.arange(len(values))
        mask = len(values) - 1
        source = {
            "reversed": mask - codes,
            "one too high": (codes + 1) & mask,
            "one too low": (codes - 1) & mask,
            "offset": codes ^ (len(values) // 2),
            "ascending": np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable"),
        }[order]

        def elements(y: FloatArray, s: Setting) -> FloatArray:
            found = element.encode(rounded(no_nan(y), s), nan="zero").astype(np.int64) & mask
            return values[source][found]

        return quantised(setting, elements)

    return model


def _nibbles_swapped(setting: Setting) -> FloatArray | None:
    if setting.scheme.element.bits != 4 or setting.shape[1] < 2:
        return None
    factors = per_element(setting.factors, setting.scheme, setting.shape)
    elements = rounded(scaled_by(setting, factors), setting)
    even = setting.shape[1] // 2 * 2
    swapped = elements.copy()
    swapped[:, 0:even:2], swapped[:, 1:even:2] = elements[:, 1:even:2], elements[:, 0:even:2]
    return swapped * factors


def _only_clipped(y: FloatArray, setting: Setting) -> FloatArray:
    return np.clip(y, setting.scheme.element.min, setting.scheme.element.max)


ELEMENT_FAULTS: tuple[Fault, ...] = (
    Fault("ties away from zero instead of to even", with_elements(_mode(Rounding.NEAREST_AWAY))),
    Fault("ties toward zero instead of to even", with_elements(_mode(Rounding.NEAREST_ZERO))),
    Fault("ties upwards (floor(y + 0.5)) instead of to even", with_elements(ties_up)),
    Fault("ties to odd instead of to even", with_elements(_mode(Rounding.NEAREST_ODD))),
    Fault("truncation instead of rounding to nearest", with_elements(_mode(Rounding.TOWARD_ZERO))),
    Fault("rounding down (floor) instead of to nearest", with_elements(_mode(Rounding.DOWN))),
    Fault("rounding up (ceil) instead of to nearest", with_elements(_mode(Rounding.UP))),
    Fault("double rounding through bfloat16", with_elements(staged(to_bfloat16))),
    Fault("double rounding through bfloat16", _staged_input(to_bfloat16)),
    Fault("double rounding through float16", with_elements(staged(to_float16))),
    Fault("double rounding through float16", _staged_input(to_float16)),
    Fault("double rounding of float64 through float32", _through_float32),
    Fault("missing saturation: overflow becomes NaN or infinity", overflowing(Overflow.NONSATURATING)),
    Fault("saturation where overflow should give infinity or NaN", overflowing(Overflow.SATURATE)),
    Fault("infinities stay infinite instead of saturating", overflowing(Overflow.PROPAGATE)),
    Fault("infinities stay infinite instead of saturating", _infinity_kept(as_nan=False)),
    Fault("infinities become NaN instead of saturating", _infinity_kept(as_nan=True)),
    Fault("integer overflow wraps around", _wrapped),
    Fault("saturates one step early", limited(below_largest)),
    Fault("saturates early: the top binade is not used", limited(below_top_binade)),
    Fault("subnormals flushed to zero", _flushed(Subnormals.FLUSH_INPUT)),
    Fault("subnormals flushed to zero", _flushed(Subnormals.FLUSH)),
    Fault("subnormal rounding wrong: truncated", _in_subnormals(_mode(Rounding.TOWARD_ZERO))),
    Fault("subnormal rounding wrong: ties away from zero", _in_subnormals(_mode(Rounding.NEAREST_AWAY))),
    Fault("subnormal rounding wrong: half of the smallest subnormal rounds up", with_elements(_half_subnormal_up)),
    Fault("underflow kept at the smallest subnormal instead of rounding to zero", with_elements(_underflow_kept)),
    Fault("sign of zero lost", _zero_sign_lost),
    Fault("sign lost", _sign_lost),
    Fault("NaN laundered into zero", _laundered(to_max=False)),
    Fault("NaN laundered into the largest value", _laundered(to_max=True)),
    Fault("NaN and infinities laundered into zero", _special_to_zero),
    Fault("asymmetric clip: the most negative code is used", _asymmetric_clip),
    Fault("symmetric clip: the most negative code is not used", _symmetric_clip),
    Fault("wrong codebook order: reversed", _permuted("reversed")),
    Fault("wrong codebook order: codes one too high", _permuted("one too high")),
    Fault("wrong codebook order: codes one too low", _permuted("one too low")),
    Fault("wrong codebook order: sign bit inverted", _permuted("offset")),
    Fault("wrong codebook order: codes taken for ranks", _permuted("ascending")),
    Fault("two 4-bit codes of a byte exchanged", _nibbles_swapped),
    Fault("not rounded to the format: values come back as they were", with_elements(lambda y, s: y)),
    Fault("not rounded to the format: values come back as they were, but clipped", with_elements(_only_clipped)),
)
"""In order of preference where several explain the same."""
