"""The contract `nearest` of `check_quantizer`, see `narrowgauge.numerics.quantizers.contract`."""

from __future__ import annotations

import numpy as np

from narrowgauge.formats import BlockFormat, Rounding, Scheme
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.quantizers.grid import (
    any_in_group,
    has_negative_zero,
    neighbours,
    per_element,
    per_group,
    round_elements,
    scale_factors,
    static_factors,
    tile_amax,
)
from narrowgauge.numerics.quantizers.read import Reading
from narrowgauge.numerics.quantizers.terms import (
    ASSUMED_SLACK,
    GIVEN_SLACK,
    SCALE_TOLERANCE,
    BoolArray,
    NanRule,
    Terms,
    Verdict,
)


def judge_nearest(terms: Terms, x: FloatArray, reading: Reading, is_wide: bool) -> Verdict:
    """The verdict on what came back for x [rows, cols]; is_wide: the function saw it as float64."""
    scheme = terms.scheme
    shape = (x.shape[0], x.shape[1])
    nonfinite_group = per_group(any_in_group(~np.isfinite(x), scheme), scheme, shape)
    defined = _defined_factors(terms, x)
    # A scale that is no number counts as wrong below; the elements are held to the one that it should be.
    tiles = defined if reading.factors is None else np.where(np.isfinite(reading.factors), reading.factors, defined)
    factors = per_element(tiles, scheme, shape)
    y = np.where((factors == 0) | (x == 0), x * 0.0, x / factors)
    y = np.where(np.isfinite(y), y, 0.0)
    exact = _is_exact(factors, reading, terms)
    # Below the normal float32 numbers even a product with a power of two is rounded, perhaps past several values.
    tiny = (np.abs(y) < 2.0**-125) & (y != 0) & (not is_wide)
    relative = ASSUMED_SLACK if reading.factors is None else GIVEN_SLACK
    slack = np.where(exact, 0.0, np.abs(y) * relative) + np.where(tiny, 2.0**-149, 0.0)
    candidates = _candidates(y, slack, x, terms)
    matches = np.zeros(shape, dtype=np.bool_)
    for candidate in candidates:
        matches |= _matches(reading, candidate, factors, exact)
    if tiny.any():
        matches |= tiny & _is_between(reading, candidates, factors)
    if reading.factors is None and scheme.two_level:
        matches |= _matches_other_scale(reading, x, terms, defined)
    matches &= _zero_sign_is_right(reading, x, candidates[0], scheme)
    # An infinity in a cast is beyond the range like any other; NaN and what shares a group with either have rules.
    expected = candidates[0] * factors
    matches = np.where(np.isinf(x) & terms.is_cast, _matches_infinity(reading, x, terms, expected), matches)
    judged = ~nonfinite_group | terms.is_cast | ~np.isfinite(x)
    judged &= ~_is_free(terms, x, reading)
    special, is_special = _special_values(terms, x)
    expected = np.where(is_special, special, expected)
    matches = np.where(is_special, _special_matches(reading, special, factors, terms), matches)
    all_nan = per_group(~any_in_group(~np.isnan(reading.values), scheme), scheme, shape)
    matches |= all_nan & nonfinite_group
    wrong_scales = _wrong_scales(terms, x, reading, defined)
    return Verdict(
        expected, factors, None, ~matches & judged, judged, wrong_scales, defined.astype(np.float64), reading.factors
    )


def _defined_factors(terms: Terms, x: FloatArray) -> FloatArray:
    if terms.scheme.static is not None:
        return static_factors(terms.scheme.static, terms.scheme, (x.shape[0], x.shape[1]))
    return scale_factors(x, terms.scheme).astype(np.float64)


def _is_exact(factors: FloatArray, reading: Reading, terms: Terms) -> BoolArray:
    """Where scales are powers of two and known to be those of the function: products and quotients are exact."""
    mantissa, exponent = np.frexp(factors)
    exact: BoolArray = (mantissa == 0.5) & (np.abs(exponent) <= 126)
    scheme = terms.scheme
    if reading.factors is not None or terms.is_cast or (scheme.rule.power_of_two and not scheme.two_level):
        return exact
    # An assumed scale amax / M may be another by a rounding (amax · (1 / M)); the largest element shows it.
    shape = (factors.shape[0], factors.shape[1])
    largest = per_group(tile_amax(reading.values, scheme), scheme, shape).astype(np.float64)
    return exact & (largest == scheme.element.max * factors)


def _candidates(y: FloatArray, slack: FloatArray, x: FloatArray, terms: Terms) -> list[FloatArray]:
    """Values that are allowed, in units of the scale, the one nearest to y first."""
    scheme = terms.scheme
    y = np.where(y == 0, np.copysign(0.0, x), y)
    if scheme.stochastic:
        below, above = neighbours(y - slack, scheme.element)[0], neighbours(y + slack, scheme.element)[1]
        near = round_elements(y, scheme, rounding=Rounding.NEAREST_EVEN)
        return [near, below, above]
    first = round_elements(y, scheme, terms.overflow)
    if not slack.any():
        return [first]
    sign = np.copysign(1.0, y)
    inner = np.where(slack >= np.abs(y), sign * 0.0, y - sign * slack)  # what underflows in float32 is a zero
    return [first, *(round_elements(side, scheme, terms.overflow) for side in (inner, y + sign * slack))]


def _matches(reading: Reading, candidate: FloatArray, factors: FloatArray, is_exact: BoolArray) -> BoolArray:
    if reading.elements is not None:
        same: BoolArray = (reading.elements == candidate) | (np.isnan(reading.elements) & np.isnan(candidate))
        return same | ((factors == 0) & (reading.values == 0))
    expected = candidate * factors
    scaled = np.where(is_exact, 0.0, SCALE_TOLERANCE)
    narrow = reading.unit_roundoff if reading.unit_roundoff > 2.0**-24 else 0.0
    allowed = np.abs(expected) * (scaled + narrow) + (reading.underflow if narrow else 0.0)
    close = np.abs(reading.values - expected) <= allowed
    single = reading.values == expected.astype(np.float32)  # of formats with more bits than that
    overflows = (np.abs(expected) >= reading.overflow) & (reading.values == np.copysign(np.inf, expected))
    exact = (reading.values == expected) | (np.isnan(reading.values) & np.isnan(expected))
    return exact | close | single | overflows


def _is_between(reading: Reading, candidates: list[FloatArray], factors: FloatArray) -> BoolArray:
    """Whether what came lies between the outermost candidates."""
    low, high = np.minimum.reduce(candidates), np.maximum.reduce(candidates)
    if reading.elements is not None:
        return np.asarray((low <= reading.elements) & (reading.elements <= high))
    return np.asarray((low * factors <= reading.values) & (reading.values <= high * factors))


def _zero_sign_is_right(reading: Reading, x: FloatArray, candidate: FloatArray, scheme: Scheme) -> BoolArray:
    """-0 where the format has it, for every x that is negative or -0; a group whose scale is 0 is free."""
    actual = reading.values if reading.elements is None else reading.elements
    if not has_negative_zero(scheme.element):
        return np.ones(x.shape, dtype=np.bool_)
    return np.asarray((actual != 0) | (candidate != 0) | (np.signbit(actual) == np.signbit(x)))


def _matches_infinity(reading: Reading, x: FloatArray, terms: Terms, expected: FloatArray) -> BoolArray:
    limit = round_elements(np.where(np.isinf(x), x, 0.0), terms.scheme, terms.overflow)
    actual = reading.values if reading.elements is None else reading.elements
    target = limit if reading.elements is not None else limit * float(np.float32(terms.scheme.static or 1.0))
    return np.asarray((actual == target) | (np.isnan(actual) & np.isnan(target)))


def _special_values(terms: Terms, x: FloatArray) -> tuple[FloatArray, BoolArray]:
    """What NaN (anywhere) and infinities (under a dynamic scale: like NaN, no finite number) have to become."""
    isnan = np.isnan(x)
    is_special = isnan if terms.is_cast else ~np.isfinite(x)
    value = {NanRule.ZERO: 0.0, NanRule.MAX: terms.scheme.element.max}.get(terms.nan, np.nan)
    return np.where(isnan, value, np.nan), is_special


def _special_matches(reading: Reading, special: FloatArray, factors: FloatArray, terms: Terms) -> BoolArray:
    lost = np.isfinite(reading.values)
    if terms.nan is NanRule.ANY:
        return np.ones(special.shape, dtype=np.bool_)
    if terms.nan is NanRule.ZERO:
        return np.where(np.isnan(special), ~lost, reading.values == 0)
    if terms.nan is NanRule.MAX and terms.is_cast:
        return np.where(np.isnan(special), ~lost, np.abs(reading.values) == np.abs(special * factors))
    if terms.nan is NanRule.MAX:
        return np.where(np.isnan(special), ~lost, lost & (reading.values != 0))
    return np.asarray(~lost)


def _is_free(terms: Terms, x: FloatArray, reading: Reading) -> BoolArray:
    """What is not judged: NaN in a cast to a format that has none; values of tiny groups whose scale is not known."""
    free = np.zeros(x.shape, dtype=np.bool_)
    if terms.is_cast and not terms.scheme.element.has_nan and terms.nan is NanRule.KEEP:
        free |= np.isnan(x)
    if terms.nan is NanRule.ANY:
        free |= np.isnan(x)
    if reading.factors is None and not terms.is_cast:
        tiny = tile_amax(x, terms.scheme) < terms.smallest_amax
        spread_tiny = per_group(tiny, terms.scheme, (x.shape[0], x.shape[1]))
        free |= spread_tiny & (x != 0) & np.isfinite(reading.values)
    return free


def _wrong_scales(terms: Terms, x: FloatArray, reading: Reading, defined: FloatArray) -> BoolArray:
    if reading.factors is None:
        return np.zeros(defined.shape, dtype=np.bool_)
    scheme = terms.scheme
    mine = reading.factors
    if terms.is_cast:
        return np.asarray((mine != defined) & ~np.isnan(mine))
    amax = tile_amax(x, scheme).astype(np.float64)
    if amax.shape != defined.shape:  # pairs: only finite groups' factors are known to be right or wrong
        return np.asarray(np.isfinite(defined) & (mine != defined) & (reading.stored is not None))
    exact = scheme.rule.power_of_two and not scheme.two_level
    right = mine == defined if exact else np.abs(mine - defined) <= np.abs(defined) * SCALE_TOLERANCE
    if scheme.two_level:
        right |= _other_block_scale(scheme, amax, mine, defined)
    free = ~np.isfinite(amax) | (amax < terms.smallest_amax)
    return np.where(free, (amax == 0) & ~np.isfinite(mine), ~right)


def _matches_other_scale(reading: Reading, x: FloatArray, terms: Terms, defined: FloatArray) -> BoolArray:
    """Whether values are right at the other block scale, where the quotient is within a few roundings of a tie."""
    matches = np.zeros(x.shape, dtype=np.bool_)
    for tiles in _block_scales(terms.scheme, tile_amax(x, terms.scheme).astype(np.float64)):
        if np.array_equal(tiles, defined, equal_nan=True):
            continue
        factors = per_element(np.where(np.isfinite(tiles), tiles, 1.0), terms.scheme, (x.shape[0], x.shape[1]))
        y = np.where((factors == 0) | ~np.isfinite(x), 0.0, x / factors)
        for candidate in _candidates(y, np.abs(y) * ASSUMED_SLACK, x, terms):
            matches |= _matches(reading, candidate, factors, np.zeros(x.shape, dtype=np.bool_))
    return matches


def _other_block_scale(scheme: Scheme, amax: FloatArray, mine: FloatArray, defined: FloatArray) -> BoolArray:
    """Whether the scale is what a block scale's quotient within a few roundings becomes."""
    sides = _block_scales(scheme, amax)
    near = [np.abs(mine - side) <= np.abs(side) * SCALE_TOLERANCE for side in sides]
    return np.asarray(near[0] | near[1]) & np.isfinite(defined)


def _block_scales(scheme: Scheme, amax: FloatArray) -> list[FloatArray]:
    """The factors of a two-level format with its quotient a few roundings lower, and higher."""
    fmt = scheme.format
    assert isinstance(fmt, BlockFormat)
    finite = amax[np.isfinite(amax)]
    outer = float(fmt.outer_scale(np.float32(finite.max() if finite.size else 0.0)))
    quotient = np.where(np.isfinite(amax), amax, 0.0) / (fmt.element.max * outer)
    mode = Rounding.UP if scheme.rule.value == "rceil" else Rounding.NEAREST_EVEN
    return [fmt.scale_format.round(quotient * (1 + side), mode) * outer for side in (-(2.0**-21), 2.0**-21)]
