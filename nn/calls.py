"""`Call`: one forward of a layer and its backward, with the random streams it draws from and the scales it used.

A call has `STREAMS_PER_CALL` Philox streams, from `offset` on: six of the slots, then those that two operands share,
three of the accumulators, three of the outputs, one of sampled rows. Whether a forward is new or one that activation
checkpointing runs again is known by `LayerCalls`.
"""

from __future__ import annotations

from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from narrowgauge.formats.stages import Draw
from narrowgauge.nn.issued_calls import IssuedCalls
from narrowgauge.nn.operand import Operand, dequantized, gemm, make_both, make_operand, restored
from narrowgauge.nn.sampling import sampled_rows, sampling_draws
from narrowgauge.nn.scaling import ScaleState

STREAMS_PER_CALL = 16
SIGNS, SUMS, OUTPUTS, SAMPLES = 6, 9, 12, 15
"""The first stream of what comes after the slots."""


def in_backward() -> bool:
    """Whether autograd is running a backward: a forward is then a recomputation by activation checkpointing."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def slot_draw(seed: int, offset: int, slot: int) -> Draw:
    """The streams of a slot in the call that begins at `offset`; slots 2i and 2i + 1 share those of product i."""
    return Draw(seed, offset + slot, offset + SIGNS + slot // 2)


class Call:
    """seed, offset: where its streams begin. records: whether stateful scales see its tensors, as in training.

    again: its forward is running a second time. Scales of forward slots are remembered by slot for that. number: that
    compiled code has given it.
    """

    def __init__(self, seed: int = 0, offset: int = 0, *, records: bool = False) -> None:
        self.seed, self.offset, self.records, self.again = seed, offset, records, False
        self.number: int | None = None
        self._scales: dict[int, Tensor] = {}

    def scale(self, state: ScaleState, x: Tensor, slot: int, *, forward: bool) -> Tensor:
        """The scale for x, float32 [], which the state sees once; forward: that of X or W, when they are quantised."""
        if not self.records:
            return state.peek(x)
        if not forward:
            return state(x)
        if slot not in self._scales or not self.again:
            self._scales[slot] = state(x)
        return self._scales[slot]

    def operand(self, x: Tensor, text: str | None, slot: int, scale: Tensor | None = None) -> Operand:
        """The operand of a slot, see `make_operand`."""
        return make_operand(x, text, slot_draw(self.seed, self.offset, slot), scale)

    def both(
        self, x: Tensor, texts: tuple[str | None, str | None], slots: tuple[int, int]
    ) -> tuple[Operand, Operand] | None:
        """The operands of x and of its transpose, see `make_both`."""
        draws = (slot_draw(self.seed, self.offset, slot) for slot in slots)
        return make_both(x, *texts, *draws)

    def restored(self, operand: Operand, text: str | None, slot: int, columns: int, dtype: torch.dtype) -> Tensor:
        """The operand's values, rotations turned back."""
        return restored(operand, text, slot_draw(self.seed, self.offset, slot), columns, dtype)

    def product(
        self, a: Operand, b: Operand, index: int, bias: Tensor | None, dtype: torch.dtype, accumulate: str | None
    ) -> Tensor:
        """a [M, K] · b [N, K]ᵀ + bias, product `index` of (fprop, dgrad, wgrad)."""
        return gemm(a, b, bias, dtype, accumulate, Draw(self.seed, self.offset + SUMS + index))

    def output(self, y: Tensor, text: str, index: int) -> Tensor:
        """The result of product `index` in its own format."""
        return dequantized(make_operand(y, text, Draw(self.seed, self.offset + OUTPUTS + index)), y.dtype)

    def sampled(
        self, values: Tensor, text: str | None, g: Tensor, share: float, index: int, others: Tensor | None
    ) -> Tensor:
        """Rows of the operand that was made of g, sampled for product `index` (1 or 2); see `sampled_rows`."""
        draws = sampling_draws(values.shape[0], self.seed, self.offset + SAMPLES, g.device)[index - 1]
        return sampled_rows(values, text, g, share, draws, others)


_NUMBERS = count(1)


class LayerCalls(IssuedCalls):
    """The newest calls of one layer. Copies are empty, and another layer's.

    key: int64 [], by which compiled code finds the layer again (`find`). counter: int64 [], moved with each compiled
    call of layers that have no other counter.
    """

    def __init__(self) -> None:
        super().__init__()
        number = next(_NUMBERS)
        _EVERY[number] = self
        self.key = torch.tensor(number, device="cpu")
        self.counter = torch.zeros((), dtype=torch.int64, device="cpu")

    def __reduce__(self) -> tuple[type[LayerCalls], tuple[()]]:
        return LayerCalls, ()

    @staticmethod
    def find(key: Tensor) -> LayerCalls:
        """The calls of the layer with this key."""
        return _EVERY[int(key)]

    def begin(self, x: Tensor, seed: int, step: Tensor | None, training: bool) -> Call:
        """The call that a forward with input x [T, K] belongs to. step: the layer's counter, which moves on in
        training; None for layers that draw nothing. Evaluation leaves everything as it is: how often one looks does not
        change a training run."""
        if training and in_backward():
            call: Call = self.recall(x)
            call.again = True
            return call
        call = Call(seed, 0 if step is None else int(step) * STREAMS_PER_CALL, records=training)
        if training:
            if step is not None:
                step.add_(1)
            self.remember(x, call)
        return call


_EVERY: WeakValueDictionary[int, LayerCalls] = WeakValueDictionary()

PLAIN: Any = Call()
"""The call of layers that draw nothing and remember nothing."""
