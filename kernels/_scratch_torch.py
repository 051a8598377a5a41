"""Working memory of the optimizer step on a CPU, and the draws that are made in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.kernels._draws_torch import FACTORS, SHIFTS, signed, spans
from narrowgauge.kernels.random_words import block_key, torch_table

# Tensors, because torch would make one of a Python integer in every call.
_SHIFTS = [(torch.tensor(shift, dtype=torch.int32), torch.tensor(mask, dtype=torch.int32)) for shift, mask in SHIFTS]
_FACTORS = [torch.tensor(factor, dtype=torch.int32) for factor in FACTORS]
_SIGNS = torch.tensor(signed(0x80008000), dtype=torch.int32)

UNIT = 2.0**-16
CENTRE = 0.5 + 2.0**-17
"""u = half · UNIT + CENTRE, half as `Scratch.draw` writes it."""


class Stretch(NamedTuple):
    """Elements of a block that draw under one key: `length` of them from `place` on (even) are those from `offset` on
    (even) of a parameter."""

    place: int
    length: int
    offset: int
    key: int


class Scratch:
    """Memory for blocks of at most `size` elements: one allocation, which the allocator then keeps at hand.

    p, g, m, v: float32 operands of an update. a, b: for whoever is called. u: draws. half: int16, for codes on their
    way.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        even = size + size % 2
        rows = torch.empty(8, even, device=device)
        self.a, self.b, self.p, self.g, self.m, self.v, self.u, words = rows.unbind()
        self._words, self._other = words.view(torch.int32).split(even // 2)
        self.half = words.view(torch.int16)[:even]

    def draw(self, stretches: Sequence[Stretch], count: int) -> Tensor:
        """Draws of `count` elements as float32 (half - 2^15), in `u`; overwrites `half`."""
        return self.u[:count].copy_(self._halves(stretches, count))

    def draw_bits(self, stretches: Sequence[Stretch], count: int) -> Tensor:
        """The same as int32."""
        return self.u[:count].view(torch.int32).copy_(self._halves(stretches, count))

    def _halves(self, stretches: Sequence[Stretch], count: int) -> Tensor:
        """int16, half - 2^15."""
        table = torch_table()
        for place, length, offset, key in stretches:
            for start, stop, block, first in spans(length, offset):
                size = (stop - start + 1) // 2
                into = self._words[(place + start) // 2 :][:size]
                torch.bitwise_xor(table[first : first + size], signed(block_key(key, block)), out=into)
        size = (count + 1) // 2
        x, other = self._words[:size], self._other[:size]
        for (shift, mask), factor in zip(_SHIFTS, _FACTORS, strict=False):
            torch.bitwise_right_shift(x, shift, out=other)
            x.bitwise_xor_(other.bitwise_and_(mask)).mul_(factor)
        shift, mask = _SHIFTS[-1]
        x.bitwise_xor_(torch.bitwise_right_shift(x, shift, out=other).bitwise_and_(mask)).bitwise_xor_(_SIGNS)
        return x.view(torch.int16)[:count]
