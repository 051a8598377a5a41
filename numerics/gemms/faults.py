"""What goes wrong with one operand of a GEMM, as models: the values that a faulty kernel would have multiplied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import FloatFormat, IntFormat, Scheme, get
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.gemms.operands import GemmOperand
from narrowgauge.numerics.statistics import round_significand, truncate_significand

TAILS = (128, 64, 32, 16, 8)
OTHER_FORMATS = (
    "e4m3fn", "e4m3fnuz", "e4m3", "e5m2", "e5m2fnuz", "e3m4", "e2m3fn", "e3m2fn", "e2m1fn", "int8", "int4",
)  # fmt: skip


@dataclass(frozen=True)
class OperandFault:
    """kind: the fault's name. detail: where and how. values: [rows, K] (or fewer columns) as the kernel saw them."""

    kind: str
    detail: str
    values: FloatArray


def operand_faults(x: GemmOperand) -> Iterator[OperandFault]:
    """Every model of one operand that differs from what is right."""
    with np.errstate(all="ignore"):
        for fault in (*_scale_faults(x), *_decode_faults(x), *_layout_faults(x), *_rounding_faults(x)):
            if not np.array_equal(fault.values, x.values, equal_nan=True):
                yield fault


def tail_faults(a: GemmOperand) -> Iterator[OperandFault]:
    """Sums that end at a multiple of a block, or begin late. One operand says it for both."""
    k = a.values.shape[1]
    for block in TAILS:
        if k % block:
            kept = _without(a.values, slice(k - k % block, k))
            yield OperandFault("k tail dropped", f"k {k - k % block} to {k} (K mod {block}) does not count", kept)
    for block in (1, *reversed(TAILS)):
        if k > block:
            late = _without(a.values, slice(block))
            yield OperandFault("k head dropped", f"k 0 to {block} does not count", late)
    if k > 1:
        yield OperandFault("k tail dropped", "the last product does not count", _without(a.values, slice(k - 1, k)))


def _without(x: FloatArray, columns: slice) -> FloatArray:
    kept = x.copy()
    kept[:, columns] = 0.0
    return kept


def _scale_faults(x: GemmOperand) -> Iterator[OperandFault]:
    if not isinstance(x.spec, Scheme):
        return
    factors = x.factors

    def fault(kind: str, detail: str, wrong: FloatArray) -> OperandFault:
        return OperandFault(kind, detail, x.elements * x.spread(wrong))

    yield fault("scale missing", "the codes' values without scale", np.ones_like(factors))
    yield fault("scale inverted", "divided by the scale, not multiplied", 1.0 / factors)
    yield fault("scale applied twice", "multiplied by the square of the scale", factors**2)
    for axis, name in ((1, "along K"), (0, "across rows")):
        if factors.shape[axis] > 1:
            for step in (1, -1):
                yield fault("neighbour's scale", f"the scale {name} is off by {step:+d}", _shifted(factors, axis, step))
                yield fault("neighbour's scale", f"the scale {name} is off by {step:+d}, cyclic",
                            np.roll(factors, -step, axis))  # fmt: skip
            first = np.take(factors, [0], axis)
            last = np.take(factors, [-1], axis)
            for part, which in ((first, "first"), (last, "last")):
                spread = np.broadcast_to(part, factors.shape)
                yield fault("one scale for all blocks", f"the {which} scale {name} serves all", spread)
    if factors.size > 1:
        single = np.full_like(factors, factors[0, 0])
        yield fault("one scale for all blocks", "the very first scale serves all", single)
    if min(factors.shape) > 1:
        turned = factors.reshape(factors.shape[::-1]).T
        yield fault("stale transpose", "the scales are read as the transposed matrix", turned)


def _shifted(x: FloatArray, axis: int, step: int) -> FloatArray:
    """x[i + step], the index held inside."""
    index = np.clip(np.arange(x.shape[axis]) + step, 0, x.shape[axis] - 1)
    return np.asarray(np.take(x, index, axis))


def _decode_faults(x: GemmOperand) -> Iterator[OperandFault]:
    if not isinstance(x.spec, Scheme) or x.codes is None:
        return
    element = x.spec.element
    raw = x.codes.astype(np.float64)
    yield OperandFault("operand not dequantised", "the codes count as integers, with scale", raw * x.grid)
    yield OperandFault("operand not dequantised", "the codes count as integers, without scale", raw)
    unsigned = x.codes.astype(np.int64) & (2**element.bits - 1)
    if isinstance(element, IntFormat):
        wrong = unsigned.astype(np.float64) * element.smallest_subnormal * x.grid
        yield OperandFault("integer wrap", "signed codes count as unsigned", wrong)
    for name in OTHER_FORMATS if isinstance(element, FloatFormat | IntFormat) else ():
        other = get(name)
        if other.bits == element.bits and name != element.name:
            yield OperandFault("codes of another format", f"decoded as {name}", other.values()[unsigned] * x.grid)
    if element.smallest_subnormal < element.smallest_normal:
        flushed = np.where(np.abs(x.elements) < element.smallest_normal, 0.0, x.elements)
        yield OperandFault("subnormals flushed", "subnormal codes count as 0", flushed * x.grid)
    yield OperandFault("sign lost", "magnitudes only", np.abs(x.values))
    yield OperandFault("sign inverted", "every sign is wrong", -x.values)


def _layout_faults(x: GemmOperand) -> Iterator[OperandFault]:
    """The memory of codes or values, read as that of the transposed matrix; the scales stay where they belong."""
    rows, cols = x.elements.shape
    if rows < 2 or cols < 2:
        return
    grid = np.broadcast_to(x.grid, x.elements.shape)
    contiguous = np.ascontiguousarray(x.elements)
    yield OperandFault("stale transpose", "[K, rows] is read where [rows, K] lies",
                       contiguous.reshape(cols, rows).T * grid)  # fmt: skip
    yield OperandFault("stale transpose", "the strides of a transposed view are ignored",
                       np.ascontiguousarray(contiguous.T).reshape(rows, cols) * grid)  # fmt: skip
    if rows == cols:
        yield OperandFault("stale transpose", "the operand with its scales is transposed", x.values.T)


def _rounding_faults(x: GemmOperand) -> Iterator[OperandFault]:
    for bits, name in ((11, "tf32 or float16"), (8, "bfloat16"), (4, "E4M3")):
        yield OperandFault(
            f"operands rounded to {name}", f"to {bits} significant bits", round_significand(x.values, bits)
        )
        yield OperandFault(f"operands truncated to {name}", f"to {bits} significant bits",
                           truncate_significand(x.values, bits))  # fmt: skip


def wrapped(sums: NDArray[np.int64], bits: int) -> NDArray[np.int64]:
    """Integers as two's complement of `bits` bits keeps them."""
    low = -(2 ** (bits - 1))
    return np.asarray((sums - low) % 2**bits + low)
