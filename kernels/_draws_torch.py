"""The draws of kernels/random_words.py in torch, on any device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from narrowgauge.kernels.random_words import MULTIPLIERS, TABLE_ELEMENTS, block_key, torch_table


def signed(word: int) -> int:
    """A 32-bit number as int32 has it."""
    return word - (word >> 31 << 32)


FACTORS = [signed(factor) for factor in MULTIPLIERS]
"""The finalizer's multipliers as int32 has them."""
SHIFTS = ((16, 0xFFFF), (15, 0x1FFFF), (16, 0xFFFF))
"""The finalizer's shifts, and the masks that take their signs away."""


def mix_words(x: Tensor) -> Tensor:
    """The finalizer, of int32."""
    for (shift, mask), factor in zip(SHIFTS, FACTORS, strict=False):
        x = (x ^ ((x >> shift) & mask)) * factor
    shift, mask = SHIFTS[-1]
    return x ^ ((x >> shift) & mask)


def spans(count: int, offset: int) -> Iterator[tuple[int, int, int, int]]:
    """(start, stop, block, first word) of the parts of elements 0 to count - 1 of a tensor from place `offset` (even)
    of its parameter, that lie in one block of the table."""
    start = 0
    while start < count:
        block, inner = divmod(offset + start, TABLE_ELEMENTS)
        stop = min(count, start + TABLE_ELEMENTS - inner)
        yield start, stop, block, inner // 2
        start = stop


def draws(count: int, key: int, offset: int, device: torch.device) -> Tensor:
    """u, float32 [count], of elements offset (even) to offset + count - 1."""
    table = torch_table().to(device)
    parts = []
    for start, stop, block, first in spans(count, offset):
        words = mix_words(table[first : first + (stop - start + 1) // 2] ^ signed(block_key(key, block)))
        halves = torch.stack((words & 0xFFFF, (words >> 16) & 0xFFFF), dim=-1).view(-1)[: stop - start]
        parts.append((halves.float() + 0.5) * (1 / 65536))
    return torch.cat(parts) if parts else torch.empty(0, device=device)
