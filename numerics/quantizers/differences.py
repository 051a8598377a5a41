"""`diff`: where two implementations of the same cast or quantizer differ, code by code, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, Format, Scheme, get, parse
from narrowgauge.formats.scaling import ScaleRule
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.quantizers.battery import battery
from narrowgauge.numerics.quantizers.explain import code_text, number, why
from narrowgauge.numerics.quantizers.grid import element_factors, neighbours, per_element
from narrowgauge.numerics.quantizers.implementations import Implementation, implementation
from narrowgauge.numerics.quantizers.read import Reading, read
from narrowgauge.numerics.quantizers.terms import BoolArray

CAUSES = (
    "NaN sign",
    "NaN code",
    "NaN to a number",
    "infinity",
    "overflow",
    "signed zero",
    "scale",
    "ties",
    "subnormal",
    "next to a tie (double rounding)",
    "other",
)
"""In order: a difference belongs to the first that fits."""
NEAR = 2.0**-8
"""Relative distance from a midpoint within which a rounding to bfloat16 may reach it."""
BUDGET = 1 << 18


@dataclass(frozen=True)
class Difference:
    """All differences of one cause. count: inputs; x: an example, `a` and `b` what it becomes, `reason`: where x lies
    between the values of the format."""

    cause: str
    count: int
    x: float
    a: str
    b: str
    reason: str


@dataclass(frozen=True)
class DiffReport:
    """What `diff` found. inputs: how many were compared; what: `codes` or `values`."""

    a: str
    b: str
    scheme: str
    what: str
    inputs: int
    groups: tuple[Difference, ...]

    @property
    def differences(self) -> int:
        """Inputs for which the two differ."""
        return sum(group.count for group in self.groups)

    @property
    def ok(self) -> bool:
        """True if they never differ."""
        return not self.groups

    def table(self) -> str:
        """One aligned line per cause, with an example."""
        head = f"{self.a} and {self.b}, {self.scheme}: {self.differences} of {self.inputs} {self.what} differ"
        rows = [("cause", "count", "example x", self.a, self.b, "x lies")] + [
            (g.cause, f"{g.count}", number(g.x), g.a, g.b, g.reason) for g in self.groups
        ]
        if not self.groups:
            return head
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([head, *(f"  {line.rstrip()}" for line in lines)])

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, texts and numbers; examples that are not finite as texts, for strict JSON."""
        content = asdict(self)
        for group in content["groups"]:
            group["x"] = group["x"] if np.isfinite(group["x"]) else number(group["x"])
        content["groups"] = list(content["groups"])
        return content | {"differences": self.differences}


def diff(
    a: Implementation | str,
    b: Implementation | str,
    scheme: Scheme | Format | str,
    *,
    budget: int = BUDGET,
    seed: int = 0,
) -> DiffReport:
    """Where `a` and `b` differ on all finite float16 and bfloat16 numbers, every value of the format, every midpoint,
    their float32 neighbours, borders of the range, NaN and infinities of both signs.

    a, b: a name (`reference`, `reference_nonsaturating`, `ml_dtypes`, `torch`, or what `register_implementation` added)
    or a function of a float32 array [rows, cols] that returns what `check_quantizer` accepts. scheme: a format or its
    bare name (`e4m3fn`) is the cast without a scale; anything else is a scheme, with its scales. budget: inputs of one
    kind at most.

    Codes are compared where both return codes, else values (signs of zeros included). ValueError for unknown names,
    implementations that do not have the scheme, and results of other shapes; TypeError for unreadable results.
    """
    spec = _as_scheme(scheme)
    (first_name, first), (second_name, second) = (implementation(which, spec) for which in (a, b))
    matrices = _inputs(spec, budget, seed)
    found: dict[str, Difference] = {}
    total, what = 0, "codes"
    for x in matrices:
        with np.errstate(all="ignore"):
            readings = [read(fn(x.copy()), spec, (x.shape[0], x.shape[1])) for fn in (first, second)]
            differs, compared = _differs(readings[0], readings[1])
            causes = _causes(spec, x, readings[0], readings[1]) if differs.any() else {}
        what = compared if compared == "values" else what
        total += x.size
        for cause, mask in causes.items():
            _add(found, spec, cause, x, differs & mask, readings)
    groups = tuple(found[cause] for cause in CAUSES if cause in found)
    return DiffReport(first_name, second_name, str(spec), what, total, groups)


def _as_scheme(scheme: Scheme | Format | str) -> Scheme:
    if isinstance(scheme, str) and not set(scheme) & set("/:+"):
        scheme = get(scheme)
    if isinstance(scheme, BlockFormat):
        return parse(scheme.name)
    if isinstance(scheme, Format):
        return Scheme(scheme, rule=ScaleRule.STATIC, value=1.0)
    return parse(scheme)


def _inputs(scheme: Scheme, budget: int, seed: int) -> list[NDArray[np.float32]]:
    matrices = [x.astype(np.float32) for _, _, group in battery(scheme, ("float32",), budget, seed) for x in group]
    if scheme.static is None:
        return [x for x in matrices if x.size]
    # One element stands for itself: every input once, and apart from those that may make a whole group NaN.
    once = np.unique(np.concatenate([x.reshape(-1).view(np.uint32) for x in matrices])).view(np.float32)
    special = np.array([np.nan, -np.nan, np.inf, -np.inf], dtype=np.float32)
    return [once[np.isfinite(once)].reshape(-1, 1), special.reshape(-1, 1)]


def _differs(first: Reading, second: Reading) -> tuple[BoolArray, str]:
    if first.codes is not None and second.codes is not None:
        mask = 2 ** (8 * max(first.codes.dtype.itemsize, second.codes.dtype.itemsize)) - 1
        same_codes = (first.codes.astype(np.int64) & mask) == (second.codes.astype(np.int64) & mask)
        same_scales = (first.values == second.values) | (np.isnan(first.values) & np.isnan(second.values))
        return ~(same_codes & same_scales), "codes"
    return ~_same_bits(first.values, second.values), "values"


def _same_bits(first: FloatArray, second: FloatArray) -> BoolArray:
    same_sign = np.signbit(first) == np.signbit(second)
    return np.where(np.isnan(first), np.isnan(second), first == second) & (same_sign | (first != 0))


def _causes(scheme: Scheme, x: NDArray[np.float32], first: Reading, second: Reading) -> dict[str, BoolArray]:
    """For every element which cause a difference there has."""
    element = scheme.element
    shape = (x.shape[0], x.shape[1])
    wide = x.astype(np.float64)
    if scheme.static is not None:
        factors = np.full(shape, float(np.float32(scheme.static)))
    else:
        factors = element_factors(x, scheme)
    y = np.where(np.isfinite(wide) & np.isfinite(factors) & (factors != 0), wide / factors, 0.0)
    below, above = neighbours(y, element)
    units = [np.where(factors > 0, reading.values / factors, 0.0) for reading in (first, second)]
    chosen = [(unit == below) | (unit == above) for unit in units]
    is_tie = (y - below == above - y) & (below != above) & chosen[0] & chosen[1]
    middle = (below + above) / 2
    one, two = first.values, second.values
    both_nan = np.isnan(one) & np.isnan(two)
    codes = None if first.codes is None or second.codes is None else (first.codes, second.codes)
    sign = 1 << (element.bits - 1)
    flipped = np.zeros(shape, dtype=np.bool_)
    if codes is not None:
        mask = 2**element.bits - 1
        flipped = ((codes[0].astype(np.int64) ^ codes[1].astype(np.int64)) & mask) == sign
    other_scale = np.zeros(shape, dtype=np.bool_)
    if first.factors is not None and second.factors is not None and first.factors.shape == second.factors.shape:
        unequal = (first.factors != second.factors) & ~(np.isnan(first.factors) & np.isnan(second.factors))
        other_scale = per_element(unequal.astype(np.float64), scheme, shape) > 0
    masks = {
        "NaN sign": np.isnan(wide) & both_nan & flipped,
        "NaN code": np.isnan(wide) & both_nan,
        "NaN to a number": np.isnan(wide),
        "infinity": np.isinf(wide),
        "overflow": (y > element.max) | (y < element.min),
        "signed zero": (one == 0) & (two == 0),
        "scale": other_scale,
        "ties": is_tie,
        "subnormal": np.abs(y) < element.smallest_normal,
        "next to a tie (double rounding)": np.abs(y - middle) <= np.abs(y) * NEAR,
        "other": np.ones(shape, dtype=np.bool_),
    }
    taken = np.zeros(shape, dtype=np.bool_)
    exclusive = {}
    for cause in CAUSES:
        exclusive[cause] = masks[cause] & ~taken
        taken |= masks[cause]
    return exclusive


def _add(
    found: dict[str, Difference],
    scheme: Scheme,
    cause: str,
    x: NDArray[np.float32],
    mask: BoolArray,
    readings: list[Reading],
) -> None:
    count = int(np.count_nonzero(mask))
    if not count:
        return
    if cause in found:
        old = found[cause]
        found[cause] = Difference(cause, old.count + count, old.x, old.a, old.b, old.reason)
        return
    places = np.argwhere(mask)
    at = tuple(int(i) for i in places[int(np.argmin(np.abs(np.nan_to_num(x[mask]))))])
    shown = [_shown(scheme.element, reading, (at[0], at[1])) for reading in readings]
    value = float(x[at])
    factor = scheme.static or float("nan")
    if scheme.static is None:
        factor = float(element_factors(x, scheme)[at])
    reason = why(value / factor, scheme.element, False) if np.isfinite(value) else "not a finite number"
    found[cause] = Difference(cause, count, value, shown[0], shown[1], reason)


def _shown(element: Format, reading: Reading, at: tuple[int, int]) -> str:
    if reading.elements is None:
        return number(float(reading.values[at]))
    code = None if reading.codes is None else int(reading.codes[at])
    return code_text(element, float(reading.elements[at]), code)
