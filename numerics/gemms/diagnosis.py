"""Which fault explains a wrong product: models are computed and compared with what came out.

A model explains a result if every element lies within the arithmetic's bound of what the model gives. Loose models only
say where errors are and how large they may be, so that they count half. Weak ones go with any small result: they count
where their kind was found elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import IntFormat, Scheme
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.gemms.cases import GemmCase
from narrowgauge.numerics.gemms.faults import OperandFault, operand_faults, tail_faults, wrapped
from narrowgauge.numerics.gemms.precision import Arithmetic, Product, largest, product, rounded, smallest_normal
from narrowgauge.numerics.statistics import accumulation_bound, round_significand

TILE_SIDES = (4, 8, 16, 32, 64, 128)
LONGEST_EMULATED = 4096
FEWEST_OCTAVES, MOST_OCTAVES = 5.0, 1.5
"""How much smaller (sums in blocks of up to 1024) and larger errors may be than those of one sum after the other."""
LOW_PRECISIONS = (("float16", 11), ("bfloat16", 8))


@dataclass(frozen=True)
class Outcome:
    """One call: what came out, what is right, and where the two are too far apart."""

    case: GemmCase
    arithmetic: Arithmetic
    actual: FloatArray
    right: Product
    bound: FloatArray
    is_wrong: NDArray[np.bool_]

    @property
    def ok(self) -> bool:
        """No element is wrong."""
        return not self.is_wrong.any()


EXACT, LOOSE, FAINT, WEAK = 1.0, 0.5, 0.2, 0.0
"""What an explanation of one case counts; a result that is all zero has many causes."""


@dataclass(frozen=True)
class Explanation:
    """A fault's name, its detail, and what the model's agreement counts."""

    kind: str
    detail: str
    weight: float = EXACT


def outcome(case: GemmCase, actual: FloatArray, arithmetic: Arithmetic) -> Outcome:
    """`actual` [M, N] against the float64 product of the case's operands."""
    right = product(case.a.values, case.b.values, case)
    bound = arithmetic.bound(right)
    if case.exact and arithmetic.unit_roundoff <= 2.0**-24:
        expected = rounded(right.expected, arithmetic.out_dtype)
        right, bound = Product(expected, right.magnitude, right.exact_magnitude, right.codes, right.k), 0.0 * bound
    return Outcome(case, arithmetic, actual, right, bound, ~agrees(actual, right.expected, bound, arithmetic.out_dtype))


def agrees(actual: FloatArray, expected: FloatArray, bound: FloatArray, dtype: str) -> NDArray[np.bool_]:
    """Within the bound; NaN where NaN is expected; infinite only where the dtype's range may be exceeded."""
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(actual - expected) <= bound
        beyond = (
            np.isinf(actual) & (np.sign(actual) == np.sign(expected)) & (np.abs(expected) + bound >= largest(dtype))
        )
        special = ~np.isfinite(expected) & ((actual == expected) | (np.isnan(actual) & np.isnan(expected)))
    return np.asarray(np.where(np.isfinite(expected), near | beyond, special))


def explanations(found: Outcome) -> Iterator[Explanation]:
    """Every model that explains all of a wrong outcome."""
    # That all is NaN agrees with any model that gives NaN everywhere.
    only_nan = bool(np.isnan(found.actual[found.is_wrong]).all()) and not np.isnan(found.right.expected).any()
    for explanation in (*_operand_explanations(found), *_output_explanations(found)):
        yield replace(explanation, weight=WEAK) if only_nan else explanation
    yield from _loose_explanations(found)
    if found.case.shape[2]:
        yield from _accumulator_explanations(found)


def choose(known: list[list[Explanation]]) -> list[str]:
    """A kind for each case, from its explanations: greedily the kinds that weigh most, over all cases; a case that
    nothing explains is "out of bound"."""
    kinds = ["out of bound"] * len(known)
    while True:
        weights: dict[str, float] = {}
        for possible, chosen in zip(known, kinds, strict=True):
            best: dict[str, float] = {}
            for e in possible if chosen == "out of bound" else ():
                best[e.kind] = max(best.get(e.kind, 0.0), e.weight)
            for kind, weight in best.items():
                weights[kind] = weights.get(kind, 0.0) + weight
        top = max(weights, key=lambda kind: weights[kind], default="")
        if weights.get(top, 0.0) <= 0.0:
            return kinds
        for index, possible in enumerate(known):
            if kinds[index] == "out of bound" and any(e.kind == top for e in possible):
                kinds[index] = top


def _fits(found: Outcome, a: FloatArray, b: FloatArray, bias: float = 1.0) -> bool:
    """Whether the product of other operands is what came out; beyond the dtype's range anything infinite or NaN is."""
    model = product(a, b, found.case, bias)
    overflows = ~np.isfinite(found.actual) & (model.magnitude >= largest(found.arithmetic.out_dtype))
    expected = np.where(overflows, found.actual, model.expected) if overflows.any() else model.expected
    return _is(found, expected, found.arithmetic.bound(model))


def _is(found: Outcome, expected: FloatArray, bound: FloatArray) -> bool:
    if expected.shape != found.actual.shape:
        return False
    return bool(agrees(found.actual, expected, bound, found.arithmetic.out_dtype).all())


def _operand_explanations(found: Outcome) -> Iterator[Explanation]:
    a, b = found.case.a, found.case.b
    for fault in tail_faults(a):
        if _fits(found, fault.values, b.values):
            yield Explanation(fault.kind, fault.detail)
    of_a, of_b = list(operand_faults(a)), list(operand_faults(b))
    for name, faults in (("a", of_a), ("b", of_b)):
        for fault in faults:
            pair = (fault.values, b.values) if name == "a" else (a.values, fault.values)
            if _fits(found, *pair):
                yield Explanation(fault.kind, f"operand {name}: {fault.detail}")
    same: dict[tuple[str, str], OperandFault] = {(fault.kind, fault.detail): fault for fault in of_b}
    for fault in of_a:
        other = same.get((fault.kind, fault.detail))
        if other is not None and _fits(found, fault.values, other.values):
            yield Explanation(fault.kind, f"both operands: {fault.detail}")


def _output_explanations(found: Outcome) -> Iterator[Explanation]:
    case, right, bound = found.case, found.right, found.bound
    a, b = case.a.values, case.b.values
    if case.bias is not None and case.bias.any():
        for times, kind in ((0.0, "bias missing"), (2.0, "bias added twice"), (-1.0, "bias subtracted")):
            if _fits(found, a, b, times):
                yield Explanation(kind, f"the result with {times:g} times the bias")
    if right.expected.shape[0] == right.expected.shape[1] and _is(found, right.expected.T, bound.T):
        yield Explanation("stale transpose", "the result is transposed")
    if not found.actual.any() and right.expected.any():
        yield Explanation("result is zero", "every element is 0", FAINT)
    yield from _integer_explanations(found)
    yield from _rounding_explanations(found)
    yield from _factor_explanations(found)


def _integer_explanations(found: Outcome) -> Iterator[Explanation]:
    """Sums of integer codes that left their type; only where the scales do not change along K."""
    a, b = found.case.a, found.case.b
    specs = (a.spec, b.spec)
    if not all(isinstance(s, Scheme) and isinstance(s.element, IntFormat) and s.tile[1] is None for s in specs):
        return
    if a.codes is None or b.codes is None or not a.elements.size or not b.elements.size:
        return
    sums = a.codes.astype(np.int64) @ b.codes.astype(np.int64).T
    unit = a.spec.element.smallest_subnormal * b.spec.element.smallest_subnormal  # type: ignore[union-attr]
    factor = unit * np.outer(a.grid[:, 0], b.grid[:, 0])
    added = 0.0 if found.case.bias is None else found.case.bias.astype(np.float64)
    for bits in (8, 16, 32):
        limit = 2 ** (bits - 1)
        for kept, how in ((wrapped(sums, bits), "wrap"), (np.clip(sums, -limit, limit - 1), "saturate")):
            if (kept != sums).any() and _is(found, kept * factor + added, found.bound):
                yield Explanation("integer overflow", f"the sums {how} at {bits} bits")


def _rounding_explanations(found: Outcome) -> Iterator[Explanation]:
    """Results with fewer significant bits than their dtype has, or rounded towards zero."""
    use = np.isfinite(found.actual) & np.isfinite(found.right.expected)
    if (found.is_wrong & ~use).any():
        return
    actual, expected = found.actual[use], found.right.expected[use]
    before = replace(found.arithmetic, out_dtype="float64").bound(found.right)[use]
    error = np.abs(actual - expected)
    for name, bits in LOW_PRECISIONS:
        if not np.array_equal(round_significand(actual, bits), actual):
            continue
        unit = 2.0**-bits
        if (error <= before + unit * (np.abs(expected) + before)).all() and name != found.arithmetic.out_dtype:
            yield Explanation(f"output rounded to {name}", f"every element has at most {bits} significant bits")
        inward = (np.abs(actual) <= np.abs(expected) + before) & (actual * expected >= 0)
        if (inward & (error <= before + 2 * unit * (np.abs(expected) + before))).all():
            yield Explanation("output truncated", f"rounded towards zero to {bits} significant bits")


def _factor_explanations(found: Outcome) -> Iterator[Explanation]:
    """All of the result times one number, that of the element where it shows best."""
    actual, expected = found.actual, found.right.expected
    bound = found.arithmetic.bound(found.right)
    usable = np.isfinite(actual) & np.isfinite(expected) & (np.abs(expected) > 4.0 * bound)
    if not usable.any():
        return
    best = int(np.argmax(np.abs(expected[usable]) / bound[usable]))
    factor = float(actual[usable][best] / expected[usable][best])
    slack = 2.0 * max(abs(factor), 1.0) * bound + 2.0**-20 * np.abs(factor * expected)
    if factor != 0.0 and abs(factor - 1.0) > 1e-5 and _is(found, factor * expected, slack):
        weight = EXACT if np.count_nonzero(usable) > 1 else LOOSE
        yield Explanation("wrong factor", f"the result is {factor:.6g} times what is right", weight)


def _loose_explanations(found: Outcome) -> Iterator[Explanation]:
    actual, expected = found.actual, found.right.expected
    nan, right_nan = np.isnan(actual), np.isnan(expected)
    if (nan & ~right_nan).any() and not (found.is_wrong & ~nan).any():
        row = int(np.argmax((nan & ~right_nan).any(axis=1)))
        if right_nan.any():
            yield Explanation("non-finite leak", f"NaN where both operands are finite, row {row} the first", LOOSE)
        detail = "NaN, which freed memory was filled with before the call"
        yield Explanation("uninitialised output", detail, WEAK if right_nan.any() else LOOSE)
    if (right_nan & ~nan).any() and not (found.is_wrong & ~right_nan).any():
        yield Explanation("non-finite lost", "finite numbers where an operand was not", LOOSE)
    flushing = replace(found.arithmetic, underflow=max(found.arithmetic.underflow, smallest_normal("float32")))
    if _is(found, expected, flushing.bound(found.right)):
        detail = "sums and products below 2^-126 count as 0; flushes_subnormals=True allows it"
        yield Explanation("subnormals flushed", detail, LOOSE)
    if found.case.shape[2] == 0:
        yield Explanation("empty sum is not zero", "K = 0", LOOSE)
    if found.case.layout != "contiguous":
        yield Explanation("strides ignored", f"the operands are {found.case.name}", LOOSE)
    for axis, name in ((0, "m"), (1, "n")):
        size = actual.shape[axis]
        first = int(np.argmax(found.is_wrong.any(axis=1 - axis)))
        for side in TILE_SIDES:
            if size % side and first >= size - size % side:
                weight = LOOSE if size > side else WEAK
                yield Explanation(f"{name} tail wrong", f"only index {size - size % side} to {size} of {name}", weight)


def _accumulator_explanations(found: Outcome) -> Iterator[Explanation]:
    """Errors no larger than sums in a low precision may have, and about as large as emulated sums in it have."""
    use = np.isfinite(found.actual) & np.isfinite(found.right.expected)
    if (found.is_wrong & ~use).any():
        return
    error = np.abs(found.actual[use] - found.right.expected[use])
    factors = np.outer(found.case.a.grid[:, 0], found.case.b.grid[:, 0])
    with np.errstate(all="ignore"):
        unscaled = (found.actual / factors)[use]
    emulable = found.case.shape[2] <= LONGEST_EMULATED and bool(use.all())
    distance: dict[str, float] = {}
    for name, bits in LOW_PRECISIONS:
        limit = accumulation_bound(found.arithmetic.roundings(found.right.k), 2.0**-bits) * found.right.magnitude[use]
        if 2.0**-bits <= found.arithmetic.unit_roundoff or not (error <= limit).all():
            continue
        octaves = _octaves_from_emulated(found, bits) if emulable else 0.0
        if -FEWEST_OCTAVES <= octaves <= MOST_OCTAVES:
            kept = np.abs(round_significand(unscaled, bits) - unscaled) <= 2.0**-21 * np.abs(unscaled)
            distance[name] = abs(octaves) - (100.0 if kept.all() else 0.0)
    names = [min(distance, key=lambda key: distance[key])] if distance and emulable else list(distance)
    for name in names:
        yield Explanation(f"accumulated in {name}", "errors as sums in that precision have them",
                          LOOSE if emulable else WEAK)  # fmt: skip


def _octaves_from_emulated(found: Outcome, bits: int) -> float:
    """log2 of the errors' size over that of products added one after the other in `bits` bits."""
    a, b = found.case.a.values, found.case.b.values
    total = np.zeros((a.shape[0], b.shape[0]))
    for k in range(a.shape[1]):
        total = round_significand(total + np.outer(a[:, k], b[:, k]), bits)
    emulated, actual = (np.sqrt(np.mean(np.square(x))) for x in (total - a @ b.T, found.actual - found.right.expected))
    return float(np.log2(actual / emulated)) if emulated > 0 and actual > 0 else np.inf
