"""`TracedCall`: a `Call` while torch.compile traces, so that layers that draw or remember are part of one graph.

What depends on the number of a call, or on whether its forward runs a second time, is known when the graph runs, not
when it is traced: it becomes one call of an operation, which does in that moment what eager code does, to the bit.

| torch.ops.narrowgauge         | eager                 | gives                                                        |
|-------------------------------|-----------------------|--------------------------------------------------------------|
| `begin_call`                  | `LayerCalls.begin`    | int64 [3]: seed and offset of the streams, the call's number |
| `stateful_scale`              | `Call.scale`          | float32 []; writes the state's buffers                       |
| `operand`                     | `Call.operand`        | codes, scale, outer scale, or values and two empty tensors   |
| `product_signs`               | `sign_vector`         | float32 [size of the rotation]                               |
| `drawn_sums`                  | `accumulate`          | float32 [M, N]                                               |
| `sampled`                     | `Call.sampled`        | float32, the shape of the operand                            |

Schemes that round to nearest stay formulas for the compiler to fuse; scaled GEMMs are operations of their own.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.formats.operand import AnyScheme, OperandScheme, parse_operand
from narrowgauge.formats.stages import Draw, Fallback, Householder, Rotation
from narrowgauge.kernels.op import LIBRARY
from narrowgauge.kernels.tiles import empty_codes
from narrowgauge.nn.accumulate import accumulate
from narrowgauge.nn.calls import OUTPUTS, SIGNS, SUMS, Call, LayerCalls
from narrowgauge.nn.operand import (
    Operand,
    code_text,
    dequantized,
    gemm,
    is_coded,
    make_both,
    make_operand,
    restored,
    with_bias,
)
from narrowgauge.nn.scaling import ScaleState
from narrowgauge.nn.stages.rotation import rotated_back, sign_vector

ops = torch.ops.narrowgauge


class TracedCall:
    """numbers: what `begin_call` gave, None for layers that draw nothing and remember nothing. texts: of the slots."""

    def __init__(self, numbers: Tensor | None, texts: tuple[str | None, ...], *, records: bool) -> None:
        self.numbers, self.texts, self.records = numbers, texts, records

    def scale(self, state: ScaleState, x: Tensor, slot: int, *, forward: bool) -> Tensor:
        buffers = list(state.buffers())
        result: Tensor = ops.stateful_scale(x, buffers, self.texts[slot], self.numbers, slot, forward, self.records)
        return result

    def operand(self, x: Tensor, text: str | None, slot: int, scale: Tensor | None = None) -> Operand:
        return self._operand(x, text, slot, SIGNS + slot // 2, scale)

    def both(
        self, x: Tensor, texts: tuple[str | None, str | None], slots: tuple[int, int]
    ) -> tuple[Operand, Operand] | None:
        if all(text is None or _rounds_to_nearest(parse_operand(text)) for text in texts):
            return make_both(x, *texts, Draw(), Draw())
        return None

    def _operand(self, x: Tensor, text: str | None, stream: int, shared: int, scale: Tensor | None) -> Operand:
        if text is None or _rounds_to_nearest(parse_operand(text)):
            return make_operand(x, text, Draw(), scale)
        spec = parse_operand(text)
        values, factor, outer = ops.operand(x, scale, text, self.numbers, stream, shared)
        if not is_coded(spec):
            return Operand(values)
        gain = spec.gain if isinstance(spec, OperandScheme) else 1.0
        return Operand(values, factor, outer, code_text(spec, scale is not None), gain)

    def restored(self, operand: Operand, text: str | None, slot: int, columns: int, dtype: torch.dtype) -> Tensor:
        spec = None if text is None else parse_operand(text)
        rotation = spec.rotation if isinstance(spec, OperandScheme) else None
        if rotation is None or rotation.kind == "none":
            return restored(operand, text, Draw(), columns, dtype)
        values = dequantized(operand, torch.float32)
        sign = ops.product_signs(values, text, self.numbers, SIGNS + slot // 2)
        return rotated_back(values, rotation.size, sign, columns).to(dtype)

    def product(
        self, a: Operand, b: Operand, index: int, bias: Tensor | None, dtype: torch.dtype, accumulate: str | None
    ) -> Tensor:
        if accumulate is None or "+sr" not in accumulate:
            return gemm(a, b, bias, dtype, accumulate)
        first, second = (dequantized(operand, torch.float32) for operand in (a, b))
        return with_bias(ops.drawn_sums(first, second, accumulate, self.numbers, SUMS + index), bias, dtype)

    def output(self, y: Tensor, text: str, index: int) -> Tensor:
        return dequantized(self._operand(y, text, OUTPUTS + index, 0, None), y.dtype)

    def sampled(
        self, values: Tensor, text: str | None, g: Tensor, share: float, index: int, others: Tensor | None
    ) -> Tensor:
        result: Tensor = ops.sampled(values, text, g, share, self.numbers, index, others)
        return result


def traced_call(layer: Any, x: Tensor) -> TracedCall:
    """The call of a layer with input x [T, K] that is being traced."""
    calls: LayerCalls | None = layer._calls
    if calls is None:
        return TracedCall(None, layer._plan.slots, records=False)
    counter = layer.rounding_step if layer._draws else calls.counter
    # A tensor, so that layers which differ in their seeds share a graph; parts of a layer have no other than their own.
    seed = layer._seed if isinstance(layer, torch.nn.Module) else torch.tensor(layer.seed)
    numbers = ops.begin_call(x.detach(), counter, calls.key, seed, layer._draws, layer.training)
    return TracedCall(numbers, layer._plan.slots, records=layer.training)


def _rounds_to_nearest(spec: AnyScheme) -> bool:
    """Whether the formula is all there is: no draws, no stages."""
    return not spec.stochastic and (isinstance(spec, Scheme) or len(spec.stages) == 0)


_NUMBERS = count(1)
_RUNNING: WeakValueDictionary[int, Call] = WeakValueDictionary()
"""Calls by number; the layer keeps those that may be repeated."""


def _begin_call(x: Tensor, counter: Tensor, key: Tensor, seed: Tensor, draws: bool, training: bool) -> Tensor:
    call = LayerCalls.find(key).begin(x, int(seed), counter if draws else None, training)
    if call.number is None:
        call.number = next(_NUMBERS)
        _RUNNING[call.number] = call
    return torch.tensor([call.seed, call.offset, call.number])


def _draw(numbers: Tensor | None, stream: int, shared: int = 0) -> Draw:
    if numbers is None:
        return Draw()
    seed, offset, _ = numbers.tolist()
    return Draw(seed, offset + stream, offset + shared)


@lru_cache(maxsize=64)
def _state_of(text: str) -> ScaleState:
    spec = parse_operand(text)
    assert isinstance(spec, OperandScheme)
    assert spec.scaling is not None
    return ScaleState(spec.scaling, spec.scheme.element, device="cpu")


def _stateful_scale(
    x: Tensor, buffers: list[Tensor], text: str, numbers: Tensor, slot: int, forward: bool, records: bool
) -> Tensor:
    state = copy.copy(_state_of(text))
    state._buffers = dict(zip(state._buffers, buffers, strict=True))
    call = _RUNNING.get(int(numbers[2])) or Call(records=records)
    return call.scale(state, x, slot, forward=forward).clone()


def _operand(
    x: Tensor, scale: Tensor | None, text: str, numbers: Tensor | None, stream: int, shared: int
) -> tuple[Tensor, Tensor, Tensor]:
    made = make_operand(x, text, _draw(numbers, stream, shared), scale)
    if made.scale is None or made.outer is None:
        return made.values, x.new_empty(0, dtype=torch.float32), x.new_empty(0, dtype=torch.float32)
    return made.values, made.scale, made.outer


def _operand_fake(
    x: Tensor, scale: Tensor | None, text: str, numbers: Tensor | None, stream: int, shared: int
) -> tuple[Tensor, Tensor, Tensor]:
    spec = parse_operand(text)
    stages = () if isinstance(spec, Scheme) else spec.stages
    if stages and x.dtype != torch.float32:
        x = torch.empty_like(x, dtype=torch.float32)
    for stage in stages:
        if isinstance(stage, Rotation):
            x = ops.rotate(x, stage.size, None)
        elif not isinstance(stage, Fallback):
            x = _after_stage(x, stage)
    if is_coded(spec):
        codes, factor, outer = ops.quantize(x, code_text(spec, scale is not None), 0, 0)
        return codes, factor, outer
    plain = isinstance(spec, Scheme) and x.dtype == torch.float64
    values = empty_codes(x, torch.float64 if plain else torch.float32)
    for stage in reversed(stages):
        values = _after_stage(values, stage)
    return values, x.new_empty(0, dtype=torch.float32), x.new_empty(0, dtype=torch.float32)


def _after_stage(x: Tensor, stage: object) -> Tensor:
    """Where a stage leaves its result: one that mixes rows makes a row-major matrix, others keep the layout."""
    if isinstance(stage, Householder):
        return x.new_empty(x.shape, dtype=torch.float32)
    return torch.empty_like(x, dtype=torch.float32)


def _product_signs(like: Tensor, text: str, numbers: Tensor | None, shared: int) -> Tensor:
    spec = parse_operand(text)
    assert isinstance(spec, OperandScheme)
    assert spec.rotation is not None
    sign = sign_vector(spec.rotation, _draw(numbers, 0, shared), like.device)
    assert sign is not None
    return sign.clone()


def _product_signs_fake(like: Tensor, text: str, numbers: Tensor | None, shared: int) -> Tensor:
    spec = parse_operand(text)
    assert isinstance(spec, OperandScheme)
    assert spec.rotation is not None
    return like.new_empty(spec.rotation.size, dtype=torch.float32)


def _drawn_sums(a: Tensor, b: Tensor, text: str, numbers: Tensor, stream: int) -> Tensor:
    draw = _draw(numbers, stream)
    return accumulate(a, b, text, draw.seed, draw.offset)


def _sampled(
    values: Tensor, text: str | None, g: Tensor, share: float, numbers: Tensor, index: int, others: Tensor | None
) -> Tensor:
    seed, offset, _ = numbers.tolist()
    return Call(seed, offset).sampled(values, text, g, share, index, others)


def _define(name: str, schema: str, implementation: Any, fake: Any) -> None:
    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, implementation, "CompositeExplicitAutograd")
    torch.library.register_fake(f"narrowgauge::{name}", fake, lib=LIBRARY)


_define(
    "begin_call",
    "(Tensor x, Tensor(a!) counter, Tensor key, Tensor seed, bool draws, bool training) -> Tensor",
    _begin_call,
    lambda x, *rest: torch.empty(3, dtype=torch.int64, device="cpu"),
)
_define(
    "stateful_scale",
    "(Tensor x, Tensor(a!)[] buffers, str text, Tensor numbers, int slot, bool forward, bool records) -> Tensor",
    _stateful_scale,
    lambda x, *rest: x.new_empty((), dtype=torch.float32),
)
_define(
    "operand",
    "(Tensor x, Tensor? scale, str text, Tensor? numbers, int stream, int shared) -> (Tensor, Tensor, Tensor)",
    _operand,
    _operand_fake,
)
_define(
    "product_signs", "(Tensor like, str text, Tensor? numbers, int shared) -> Tensor",
    _product_signs, _product_signs_fake,
)  # fmt: skip
_define(
    "drawn_sums",
    "(Tensor a, Tensor b, str text, Tensor numbers, int stream) -> Tensor",
    _drawn_sums,
    lambda a, b, *rest: a.new_empty((a.shape[0], b.shape[0])),
)
_define(
    "sampled",
    "(Tensor values, str? text, Tensor g, float share, Tensor numbers, int index, Tensor? others) -> Tensor",
    _sampled,
    lambda values, *rest: torch.empty_like(values, dtype=torch.float32),
)
