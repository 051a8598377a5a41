"""Says in words what is wrong at one place: the code that was expected, why, and what came instead."""

from __future__ import annotations

import numpy as np

from narrowgauge.formats import Format, Rounding, Scheme
from narrowgauge.numerics.quantizers.call import Observation
from narrowgauge.numerics.quantizers.grid import neighbours, tile_amax
from narrowgauge.numerics.quantizers.read import Reading
from narrowgauge.numerics.quantizers.terms import Terms

MOST_SHOWN = 12


def number(value: float) -> str:
    """Shortest text that reads back as the same float32 where it is one, else as the same float64."""
    if np.isnan(value):
        return "nan"
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    if float(narrow) == value:
        text = str(narrow)
        return text if abs(value) < 1e7 or np.isinf(value) else f"{float(str(narrow)):.9g}"
    return repr(float(value))


def matrix_text(x: np.ndarray) -> str:
    """A small matrix in full; of a larger one its shape and non-zero elements."""
    if x.size <= MOST_SHOWN:
        return "[" + ", ".join("[" + ", ".join(number(float(v)) for v in row) + "]" for row in x) + "]"
    places = np.argwhere((x != 0) | np.signbit(x))
    shown = ", ".join(f"[{i},{j}]={number(float(x[i, j]))}" for i, j in places[:MOST_SHOWN])
    more = f" and {len(places) - MOST_SHOWN} more" if len(places) > MOST_SHOWN else ""
    return (
        f"{x.shape[0]}x{x.shape[1]}, zero but for {shown}{more}" if len(places) else f"{x.shape[0]}x{x.shape[1]} zeros"
    )


def code_text(element: Format, value: float, code: int | None = None) -> str:
    """`0x7e (448.0)` of a value of the format, or of a code."""
    if code is None:
        if np.isnan(value):
            code = element.nan_code
        elif np.isinf(value):
            code = int(element.encode(value, overflow="propagate")) if element.has_inf else None
        elif float(element.round(value)) == value:
            code = int(element.encode(value))
    if code is None:
        return number(value)
    digits = -(-element.bits // 4)
    return f"0x{code & (2**element.bits - 1):0{digits}x} ({number(value)})"


def why(y: float, element: Format, stochastic: bool) -> str:
    """Where y lies between the values of the format."""
    if np.isnan(y):
        return "NaN stays NaN"
    if y > element.max or y < element.min:
        end = element.max if y > 0 else element.min
        return f"beyond {number(end)}"
    below, above = (float(side[0]) for side in neighbours(np.array([y]), element))
    if below == above:
        return "a value of the format"
    between = f"between {number(below)} and {number(above)}"
    if stochastic:
        return between
    middle = (below + above) / 2
    if y == middle:
        return f"a tie {between}, to even" if element.default_rounding is Rounding.NEAREST_EVEN else f"a tie {between}"
    near = abs(y - middle) <= 2.0**-20 * (above - below)
    side = "above" if y > middle else "below"
    return f"just {side} the tie {between}" if near else between


def explain_element(terms: Terms, seen: Observation, at: tuple[int, int]) -> str:
    """One sentence about one element."""
    scheme, verdict, reading = terms.scheme, seen.verdict, seen.reading
    element = scheme.element
    x, factor = float(seen.x[at]), float(verdict.factors[at])
    expected = float(verdict.expected[at])
    with np.errstate(all="ignore"):
        y = x / factor if factor != 0 and np.isfinite(factor) else x
        unit = expected / factor if factor != 0 else 0.0
    if x == 0:
        unit = np.copysign(0.0, x)
    wanted_code = None if verdict.codes is None else int(np.asarray(verdict.codes).reshape(seen.x.shape)[at])
    wanted = code_text(element, _decoded(element, wanted_code, unit), wanted_code)
    got = _got(element, reading, at, factor)
    scaled = "" if factor == 1.0 or np.isnan(factor) else f", {number(y)} at scale {number(factor)}"
    stochastic = "either neighbour of " if scheme.stochastic else ""
    kind = "value" if reading.elements is None else "code"
    reason = why(y, element, scheme.stochastic)
    if not terms.is_cast and not np.isfinite(x):
        return f"a group with {number(x)} has to decode to nan, got {got} for {number(x)}"
    return f"expected {kind} {stochastic}{wanted} for {number(x)}{scaled} ({reason}), got {got}"


def _decoded(element: Format, code: int | None, value: float) -> float:
    return value if code is None else float(element.decode(np.array([code]))[0])


def _got(element: Format, reading: Reading, at: tuple[int, int], factor: float) -> str:
    value = float(reading.values[at])
    if reading.elements is not None:
        code = None if reading.codes is None else int(reading.codes[at])
        return code_text(element, float(reading.elements[at]), code)
    with np.errstate(all="ignore"):
        unit = value / factor if factor != 0 else value
    text = code_text(element, unit if value != 0 else value)
    return text if factor == 1.0 or np.isnan(factor) else f"{number(value)} = {text} x scale"


def explain_scale(scheme: Scheme, seen: Observation) -> str:
    """One sentence about the first wrong scale."""
    verdict = seen.verdict
    at = tuple(int(i) for i in np.argwhere(verdict.wrong_scales)[0])
    amax = tile_amax(seen.x.astype(np.float64), scheme)
    largest = f" for amax {number(float(amax[at]))}" if amax.shape == verdict.wrong_scales.shape else ""
    got = float("nan") if verdict.scales is None else float(verdict.scales[at])
    return (
        f"expected scale {number(float(verdict.expected_scales[at]))} ({scheme.rule.value} rule){largest}, "
        f"got {number(got)}"
    )


def explain(terms: Terms, seen: Observation) -> str:
    """What is wrong in a judged call that is not ok."""
    parts = []
    if seen.verdict.is_wrong.any():
        at = tuple(int(i) for i in np.argwhere(seen.verdict.is_wrong)[0])
        parts.append(explain_element(terms, seen, (at[0], at[1])))
    if seen.verdict.wrong_scales.any():
        parts.append(explain_scale(terms.scheme, seen))
    return "; ".join(reversed(parts) if len(parts) == 2 else parts)
