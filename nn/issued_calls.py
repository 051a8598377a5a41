"""`IssuedCalls`: which of a layer's forwards is running again, when activation checkpointing repeats one in backward.

A layer that draws random numbers, or reads a scale that changes from call to call, has to repeat them in a forward that
is run again: else the gradients belong to a forward that never was. The last call is not always the one: a layer may be
used twice in one checkpointed part, and several forwards may come before one backward. But a repeated forward has the
input of its first run, bit for bit, so the input tells which it is.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

REMEMBERED = 256
"""Calls of one layer that are remembered, the newest."""
SAMPLES = 8
"""Rows and columns, about, of the sample by which an input is known again."""


class _Call(NamedTuple):
    shape: torch.Size
    sample: Tensor
    value: Any


class IssuedCalls:
    """The newest forwards of a layer, each with a sample of its input and what belongs to it. Copies are empty."""

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque(maxlen=REMEMBERED)
        self._task, self._repeated = -1, set[int]()

    def __reduce__(self) -> tuple[type[IssuedCalls], tuple[()]]:
        return IssuedCalls, ()

    def remember(self, x: Tensor, value: Any) -> None:
        """A forward with input x [T, K], and what it has to find again."""
        self._calls.append(_Call(x.shape, _sample(x), value))

    def recall(self, x: Tensor) -> Any:
        """The value of the forward that had this input; of several, the newest that was not repeated yet in this
        backward. Where none had it, because the part is not deterministic, the newest. LookupError before any."""
        if not self._calls:
            raise LookupError("a forward runs inside of backward, and no forward came before it")
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._repeated = task, set()
        sample, chosen = _sample(x), None
        # The newest first: backward repeats them in this order, so that few are compared.
        for index in range(len(self._calls) - 1, -1, -1):
            if not _is_same(self._calls[index], x.shape, sample):
                continue
            if index not in self._repeated:
                chosen = index
                break
            chosen = index if chosen is None else chosen
        if chosen is None:
            chosen = len(self._calls) - 1
        self._repeated.add(chosen)
        return self._calls[chosen].value


def _is_same(call: _Call, shape: torch.Size, sample: Tensor) -> bool:
    return call.shape == shape and call.sample.dtype == sample.dtype and torch.equal(call.sample, sample)


def _sample(x: Tensor) -> Tensor:
    """Some of the values, as bits, so that NaN equals itself."""
    rows, columns = (max(1, size // SAMPLES) for size in x.shape)
    return x.detach()[::rows, ::columns].clone(memory_format=torch.contiguous_format).view(torch.uint8)
