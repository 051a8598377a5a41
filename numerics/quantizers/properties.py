"""Relations between calls that every quantizer of a scheme fulfils, whatever its exact values: idempotence, symmetry,
order, equivariance, independence of layout, tiling and history.

Each relation takes a `Subject` and an input and says in a sentence what is broken, or returns None. `RELATIONS` says
for which schemes each one holds, with the fault's name for where the diagnosis finds none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from narrowgauge.formats import Scheme
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.cases import Float32Array
from narrowgauge.numerics.quantizers.call import LAYOUTS, Matrix, Subject
from narrowgauge.numerics.quantizers.cases import assembled, group_layout, ragged_shapes
from narrowgauge.numerics.quantizers.explain import number
from narrowgauge.numerics.quantizers.grid import is_symmetric
from narrowgauge.numerics.quantizers.terms import SCALE_TOLERANCE, Contract, Terms

Relation = Callable[[Subject, Matrix], str | None]
_SEED = 11


@dataclass(frozen=True)
class Property:
    """name and kind: as a report prints them. holds: for which terms. check: the relation. inputs: makes its input."""

    name: str
    kind: str
    holds: Callable[[Terms], bool]
    check: Relation
    inputs: Callable[[Scheme, np.random.Generator], Float32Array]


def difference(
    terms: Terms, actual: FloatArray, expected: FloatArray, x: Matrix, *, exact: bool | None = None
) -> str | None:
    """The first element in which two results of one relation differ; unless they have to be `exact` (casts and the
    bitwise contract, if not said), by more than the float32 roundings of scaling."""
    if exact is None:
        exact = terms.is_cast or terms.contract is Contract.NARROWGAUGE
    tolerance = 0.0 if exact else SCALE_TOLERANCE
    with np.errstate(invalid="ignore", over="ignore"):
        close = np.abs(actual - expected) <= np.abs(expected) * tolerance
    same = (actual == expected) | close | (np.isnan(actual) & np.isnan(expected))
    if same.all():
        return None
    at = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"{number(float(actual[at]))} instead of {number(float(expected[at]))} for x[{at[0]},{at[1]}] = " + number(
        float(x[at])
    )


def _values(subject: Subject, x: Matrix, layout: str = "contiguous") -> FloatArray:
    return subject.call(np.ascontiguousarray(x), layout=layout, seed=_SEED).values


def idempotent(subject: Subject, x: Matrix) -> str | None:
    """q(q(x)) = q(x)."""
    reading = subject.call(np.ascontiguousarray(x), seed=_SEED)
    if reading.unit_roundoff > 2.0**-24 and not has_exact_scales(subject.terms):
        return None  # products that were rounded to a narrow dtype are no values of any scale
    once = reading.values
    with np.errstate(over="ignore"):
        again = _values(subject, once.astype(np.float32))
        again = again.astype(np.float32).astype(np.float64)
    # The largest element's product with its scale was rounded, so the scale may come back a rounding away.
    found = difference(subject.terms, again, once.astype(np.float32), x, exact=subject.terms.is_cast)
    return found and f"q(q(x)) gives {found}"


def odd(subject: Subject, x: Matrix) -> str | None:
    """q(-x) = -q(x)."""
    found = difference(subject.terms, _values(subject, -x), -_values(subject, x), -x)
    return found and f"q(-x) gives {found}"


def monotone(subject: Subject, x: Matrix) -> str | None:
    """x <= y in one group gives q(x) <= q(y)."""
    values = _values(subject, x)
    order = np.argsort(x, axis=None, kind="stable")
    flat, result = x.reshape(-1)[order], values.reshape(-1)[order]
    falls = np.flatnonzero(result[1:] < result[:-1])
    if not falls.size:
        return None
    i = int(falls[0])
    return (
        f"order is not kept: {number(float(flat[i]))} gives {number(float(result[i]))}, the larger "
        f"{number(float(flat[i + 1]))} gives {number(float(result[i + 1]))}"
    )


def equivariant(subject: Subject, x: Matrix) -> str | None:
    """q(2^j x) = 2^j q(x)."""
    values = _values(subject, x)
    for power in (-20, -3, 1, 7, 24):
        with np.errstate(under="ignore"):
            scaled = np.ldexp(x, power).astype(x.dtype)
        found = difference(subject.terms, _values(subject, scaled), np.ldexp(values, power), scaled)
        if found:
            return f"2^{power} · x gives {found}, which is 2^{power} · q(x)"
    return None


def permutable(subject: Subject, x: Matrix) -> str | None:
    """Columns and rows exchanged inside their groups (here: reversed within every tile)."""
    rows, cols = (_reversed_within(n, side) for n, side in zip(x.shape, subject.terms.scheme.tile, strict=True))
    moved = x[np.ix_(rows, cols)]
    found = difference(subject.terms, _values(subject, moved), _values(subject, x)[np.ix_(rows, cols)], moved)
    return found and f"the elements of each group in reverse order give {found}"


def _reversed_within(size: int, side: int | None) -> np.ndarray:
    index = np.arange(size)
    if side is None:
        return index[::-1]
    start = index // side * side
    return start + np.minimum(side, size - start) - 1 - (index - start)


def padded(subject: Subject, x: Matrix) -> str | None:
    """Rows and columns of zeros at the end change nothing else."""
    rows, cols = x.shape
    height, width = (side or 3 for side in subject.terms.scheme.tile)
    larger = np.zeros((rows + height, cols + width), dtype=x.dtype)
    larger[:rows, :cols] = x
    found = difference(subject.terms, _values(subject, larger)[:rows, :cols], _values(subject, x), x)
    return found and f"zeros appended give {found}"


def tiled(subject: Subject, x: Matrix) -> str | None:
    """A part of whole groups gives what it gives within the whole."""
    height, width = subject.terms.scheme.tile
    values = _values(subject, x)
    parts = []
    if height is not None and x.shape[0] > height:
        parts.append((slice(height, None), slice(None)))
    if width is not None and x.shape[1] > width:
        parts.append((slice(None), slice(width, None)))
    if subject.terms.is_cast and x.shape[0] > 1:
        parts.append((slice(1, None), slice(None)))
    for part in parts:
        found = difference(subject.terms, _values(subject, x[part]), values[part], x[part], exact=True)
        if found:
            return f"the part x[{part[0].start or 0}:, {part[1].start or 0}:] alone gives {found}"
    return None


def any_layout(subject: Subject, x: Matrix) -> str | None:
    """Strides do not matter."""
    values = _values(subject, x)
    for layout in LAYOUTS[1:]:
        found = difference(subject.terms, _values(subject, x, layout), values, x, exact=True)
        if found:
            return f"the same numbers in a {layout} view give {found}"
    return None


def repeatable(subject: Subject, x: Matrix) -> str | None:
    """The same input gives the same bits, whatever came between."""
    first = _values(subject, x)
    again = _values(subject, x)
    found = difference(subject.terms, again, first, x, exact=True)
    if found:
        return f"the same call a second time gives {found}"
    _values(subject, x[::-1] * np.float32(0.125))
    found = difference(subject.terms, _values(subject, x), first, x, exact=True)
    return found and f"the same call after one with another input gives {found}"


def empty(subject: Subject, x: Matrix) -> str | None:
    """Tensors without elements give tensors without elements."""
    for shape in ((0, x.shape[1]), (x.shape[0], 0), (0, 0)):
        subject.call(np.zeros(shape, dtype=np.float32), seed=_SEED)
    return None


def _normal(scheme: Scheme, rng: np.random.Generator) -> Float32Array:
    layout = group_layout(scheme, 6, 300)
    tall, wide, height, width = layout
    x = rng.standard_normal((tall * height, wide * width)).astype(np.float32)
    return x if scheme.element.signed else np.abs(x)


def _one_group(scheme: Scheme, rng: np.random.Generator) -> Float32Array:
    layout = group_layout(scheme, 1, 300)
    tall, wide, height, width = layout
    table = rng.standard_normal((tall * wide, height * width)).astype(np.float32)
    return assembled(table, layout)


def _cast_range(scheme: Scheme, rng: np.random.Generator) -> Float32Array:
    return _normal(scheme, rng) * np.float32((scheme.static or 1.0) * max(scheme.element.smallest_normal, 2.0**-40) * 8)


def _ragged(scheme: Scheme, rng: np.random.Generator) -> Float32Array:
    x = rng.standard_normal(ragged_shapes(scheme)[-1]).astype(np.float32)
    return x if scheme.element.signed else np.abs(x)


def _nearest(terms: Terms) -> bool:
    return not terms.scheme.stochastic


def _plain_groups(terms: Terms) -> bool:
    return _nearest(terms) and terms.scheme.factor_tile == terms.scheme.tile


def _exact_again(terms: Terms) -> bool:
    scheme = terms.scheme
    element = scheme.element
    # A table whose ends differ clips the largest element of one sign.
    clips = element.signed and element.min > -element.max and not terms.is_cast
    if scheme.rule.searches or not element.has_zero or clips:
        return False
    return has_exact_scales(terms) if scheme.stochastic else True


def has_exact_scales(terms: Terms) -> bool:
    """Whether every scale is a power of two, so that products with it are exact."""
    scheme = terms.scheme
    exact = scheme.rule.power_of_two and not scheme.two_level
    return exact or (scheme.static is not None and float(np.frexp(scheme.static)[0]) == 0.5)


RELATIONS: tuple[Property, ...] = (
    Property("idempotence", "not idempotent", _exact_again, idempotent, _normal),
    Property(
        "sign symmetry",
        "positive and negative numbers treated differently",
        lambda t: _nearest(t) and is_symmetric(t.scheme.element),
        odd,
        _normal,
    ),
    Property("monotonicity", "order not kept", _plain_groups, monotone, _one_group),
    Property(
        "power-of-two equivariance",
        "depends on the absolute size of its input",
        # Of formats with larger values a scale may reach the end of float32.
        lambda t: _nearest(t) and not t.is_cast and t.scheme.element.max <= 2.0**64,
        equivariant,
        _normal,
    ),
    Property("permutation inside groups", "depends on the order inside a group", _plain_groups, permutable, _normal),
    Property(
        "zero padding",
        "zeros at the end change other elements",
        lambda t: _nearest(t) and not t.scheme.rule.searches,
        padded,
        _ragged,
    ),
    Property(
        "independence of tiling",
        "groups influence each other",
        lambda t: _nearest(t) and not t.scheme.two_level and (t.is_cast or t.scheme.tile != (None, None)),
        tiled,
        _normal,
    ),
    Property(
        "strided inputs",
        "strides ignored",
        lambda t: _nearest(t) or t.contract is Contract.NARROWGAUGE,
        any_layout,
        _normal,
    ),
    Property("determinism", "not deterministic: depends on earlier calls", _nearest, repeatable, _normal),
    Property("empty input", "fails on tensors without elements", lambda t: True, empty, _normal),
)
