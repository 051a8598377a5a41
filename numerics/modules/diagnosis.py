"""Which slot of a linear layer is wrong, and how: models of each operand, tried one by one and in pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats import BlockFormat, Scheme, quantize_reference
from narrowgauge.formats.operand import OperandScheme
from narrowgauge.formats.slots import GEMMS
from narrowgauge.formats.stages import Draw
from narrowgauge.numerics._arrays import FloatArray
from narrowgauge.numerics.gemms.operands import coded_operand
from narrowgauge.numerics.modules.reference import GemmReference
from narrowgauge.numerics.modules.slots import SlotOperand, Slots, Upcoming, slot_operand, to_nearest

OUT_OF_BOUND = "out of bound"


@dataclass(frozen=True)
class SlotFault:
    """kind: the fault with the slot's name. detail: in words. operand: what the GEMM would have seen."""

    kind: str
    detail: str
    operand: SlotOperand


def slot_faults(slot: str, slots: Slots, matrices: dict[str, NDArray[Any]], upcoming: Upcoming) -> Iterator[SlotFault]:
    """Models of one operand that differ from what the recipe says."""
    x, own = matrices[slot], slots[slot]
    if isinstance(own, OperandScheme):
        yield from _stage_faults(slot, own, x, *upcoming.get(slot, (None, None)))
        return
    if own is not None:
        yield SlotFault(f"{slot} not quantised", "the operand as it came", SlotOperand.exactly(x.astype(np.float64)))
        turned = _turned(slot_operand(np.ascontiguousarray(x.T), own))
        yield SlotFault(f"{slot} scaled along the wrong axis", f"{own} of the transposed operand", turned)
        nearest = replace(own, stochastic=False)
        if own.stochastic:
            yield SlotFault(f"{slot} rounds to nearest", f"{nearest} in place of {own}", slot_operand(x, nearest))
        coded = coded_operand(own, quantize_reference(x, nearest))
        yield SlotFault(f"{slot} without scale", "the codes' values", SlotOperand.exactly(coded.elements))
        for tile, name in (((None, None), "tensor"), ((1, None), "row")):
            if not isinstance(own.format, BlockFormat) and own.tile != tile:
                yield SlotFault(f"{slot} scaled per {name}", f"{own} means other groups",
                                slot_operand(x, replace(own, tile=tile)))  # fmt: skip
        squared = SlotOperand.exactly(coded.elements * coded.grid**2)
        yield SlotFault(f"{slot} scaled twice", "the codes' values times the square of the scale", squared)
    for other, scheme in slots.items():
        if not isinstance(scheme, Scheme) or other == slot:
            continue
        same_source = other[0] == slot[0]
        if same_source:
            copy = _turned(slot_operand(np.ascontiguousarray(x.T), scheme))
            yield SlotFault(f"{slot} is the copy of {other}", f"{scheme} of the transposed operand", copy)
            if own is not None:
                again = slot_operand(copy.mean.astype(np.float32), replace(own, stochastic=False))
                yield SlotFault(f"{slot} quantised twice", f"{own} of what {scheme} had left in {other}", again)
        if scheme != own:
            yield SlotFault(f"{slot} has the scheme of {other}", f"{scheme}", slot_operand(x, scheme))


def _stage_faults(
    slot: str, own: OperandScheme, x: NDArray[Any], draw: Draw | None, scale: float | None
) -> Iterator[SlotFault]:
    """The operand as it came, rounded to nearest, without its stateful scale, and without each of its stages."""
    yield SlotFault(f"{slot} not quantised", "the operand as it came", SlotOperand.exactly(x.astype(np.float64)))
    if own.stochastic:
        nearest = slot_operand(x, to_nearest(own), draw, scale)
        yield SlotFault(f"{slot} rounds to nearest", f"{to_nearest(own)} in place of {own}", nearest)
    if scale is not None:
        fresh = slot_operand(x, own, draw, None)
        yield SlotFault(f"{slot} with the scale of this call", f"{own.scaling} means that of earlier ones", fresh)
    for stage in own.stages:
        less = replace(own, stages=tuple(other for other in own.stages if other != stage))
        yield SlotFault(f"{slot} without {stage}", f"{less} in place of {own}", slot_operand(x, less, draw, scale))


def _turned(x: SlotOperand) -> SlotOperand:
    return SlotOperand(x.low.T, x.high.T, x.mean.T, x.variance.T)


def diagnose(
    gemm: str,
    slots: Slots,
    matrices: dict[str, NDArray[Any]],
    actual: FloatArray,
    reference: Callable[[SlotOperand, SlotOperand], GemmReference],
    bias: FloatArray | None,
    upcoming: Upcoming,
) -> tuple[str, str]:
    """(kind, detail) of the first model that explains all of a single result: faults of one operand, of the result, of
    both operands. OUT_OF_BOUND if none does."""
    first, second = GEMMS[gemm]
    told = [upcoming.get(slot, (None, None)) for slot in (first, second)]
    right = [slot_operand(matrices[slot], slots[slot], *t) for slot, t in zip((first, second), told, strict=True)]
    # A model without the rotation may have other columns than the second operand: no product, no explanation.
    faults = [
        [f for f in slot_faults(slot, slots, matrices, upcoming) if f.operand.mean.shape == own.mean.shape]
        for slot, own in zip((first, second), right, strict=True)
    ]
    for fault in faults[0]:
        if reference(fault.operand, right[1]).agrees(actual).all():
            return fault.kind, fault.detail
    for fault in faults[1]:
        if reference(right[0], fault.operand).agrees(actual).all():
            return fault.kind, fault.detail
    known = _output_kind(actual, reference(right[0], right[1]), bias)
    if known is not None:
        return known
    for a in faults[0]:
        for b in faults[1]:
            if reference(a.operand, b.operand).agrees(actual).all():
                return f"{a.kind}, {b.kind}", f"{a.detail}; {b.detail}"
    return OUT_OF_BOUND, "no known fault explains it"


def _output_kind(actual: FloatArray, reference: GemmReference, bias: FloatArray | None) -> tuple[str, str] | None:
    """(kind, detail) of a fault of the whole result: the bias, a NaN, zero, transposed, a factor; None otherwise."""
    centre, reach = reference.centre, reference.reach
    for times, kind in ((-1.0, "bias missing"), (1.0, "bias added twice")):
        if bias is not None and replace(reference, centre=centre + times * bias).agrees(actual).all():
            return kind, f"the result with {1.0 + times:g} times the bias"
    lost, leaked = np.isnan(centre) & ~np.isnan(actual), np.isnan(actual) & ~np.isnan(centre)
    if leaked.any():
        return "non-finite leak", f"{int(leaked.sum())} elements are NaN whose operands are finite"
    if lost.any():
        return "non-finite lost", "a NaN of an operand is missing in the result"
    if not actual.any():
        return "result is zero", "every element is 0"
    if actual.shape[0] == actual.shape[1] and reference.agrees(actual.T).all():
        return "result transposed", "rows and columns are exchanged"
    with np.errstate(divide="ignore", invalid="ignore"):
        clear = np.where((reach > 0.0) & np.isfinite(actual), np.abs(centre) / reach, 0.0)
        best = np.unravel_index(int(np.argmax(clear)), clear.shape)
        factor = float(actual[best] / centre[best]) if clear[best] > 4.0 else 1.0
        scaled = replace(reference, centre=factor * centre, reach=(2.0 * max(1.0, abs(factor)) + 1.0) * reach)
    if abs(factor - 1.0) > 0.01 and scaled.agrees(actual).all():
        return "wrong factor", f"the result is {factor:.4g} times what is right"
    return None
