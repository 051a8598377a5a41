"""Calls of a layer: their streams, their scales, and which of them a repeated forward is."""

from __future__ import annotations

import copy
import pickle

import torch

from narrowgauge.formats.operand import parse_operand
from narrowgauge.nn import SLOTS
from narrowgauge.nn.calls import OUTPUTS, SAMPLES, SIGNS, STREAMS_PER_CALL, SUMS, Call, LayerCalls, slot_draw
from narrowgauge.nn.scaling import ScaleState


def test_streams_of_a_call_do_not_meet() -> None:
    draws = [slot_draw(0, 32, slot) for slot in range(6)]
    own = {draw.offset for draw in draws} | {draw.shared for draw in draws}
    own |= {32 + SUMS + i for i in range(3)} | {32 + OUTPUTS + i for i in range(3)} | {32 + SAMPLES}
    assert len(own) == 6 + 3 + 3 + 3 + 1 == STREAMS_PER_CALL
    assert (min(own), max(own)) == (32, 32 + STREAMS_PER_CALL - 1)
    assert len(SLOTS) == SIGNS


def test_training_counts_and_evaluation_does_not() -> None:
    calls, step, x = LayerCalls(), torch.zeros((), dtype=torch.int64), torch.randn(4, 8)
    offsets = [calls.begin(x, 0, step, training).offset for training in (True, True, False, False, True)]
    assert offsets == [0, 16, 32, 32, 32]
    assert int(step) == 3


def test_a_forward_inside_of_backward_is_the_call_that_had_its_input() -> None:
    calls, step = LayerCalls(), torch.zeros((), dtype=torch.int64)
    inputs = list(torch.randn(3, 4, 8))
    begun = [calls.begin(x, 7, step, True) for x in inputs]
    found: list[Call] = []

    class Backward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, g: torch.Tensor) -> torch.Tensor:
            found.extend(calls.begin(inputs[i], 7, step, True) for i in (1, 0, 2))
            return g

    Backward.apply(torch.zeros(1, requires_grad=True)).backward()
    assert found == [begun[1], begun[0], begun[2]]
    assert all(call.again for call in found)
    assert int(step) == 3


def test_scales_of_forward_are_remembered_for_a_second_run() -> None:
    spec = parse_operand("e4m3fn:delayed=1")
    state, call = ScaleState(spec.scaling, spec.scheme.element), Call(records=True)
    x, g = torch.full((2, 2), 448.0), torch.full((2, 2), 896.0)
    first = call.scale(state, x, 0, forward=True)
    assert call.scale(state, g, 2, forward=False) == first == 1.0
    call.again = True
    assert call.scale(state, x, 0, forward=True) == 1.0
    assert int(state.steps) == 2
    # What the first run had no use for is seen in the second.
    assert call.scale(state, x, 5, forward=True) == 2.0
    assert int(state.steps) == 3
    assert Call().scale(state, g, 0, forward=True) == 1.0
    assert int(state.steps) == 3


def test_copies_are_other_layers() -> None:
    calls, step, x = LayerCalls(), torch.zeros((), dtype=torch.int64), torch.randn(4, 8)
    calls.begin(x, 0, step, True)
    for other in (copy.deepcopy(calls), pickle.loads(pickle.dumps(calls))):
        assert int(other.key) != int(calls.key)
        assert LayerCalls.find(other.key) is other
        assert LayerCalls.find(calls.key) is calls
