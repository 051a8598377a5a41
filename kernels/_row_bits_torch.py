"""Rounding bits of the rows of a matrix on a CPU, drawn for so many rows at a time that threads can share it,
in memory that is used again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from narrowgauge.kernels._cast_torch import rounding_bits

DRAWN = 1 << 22
"""Elements drawn at a time: threads that share them work for milliseconds, and starting them takes far less."""

RowBits = Callable[[slice], "Tensor | None"]
"""Rows of a matrix → int32 of their shape, or None where rounding takes no random bits."""


def drawn_rows(shape: torch.Size | tuple[int, int], seed: int, offset: int) -> RowBits:
    """`rounding_bits` of the rows of a row-major matrix, asked for from the first on, in runs without gaps. What was
    given before is then gone."""
    rows, cols = shape
    last = 0
    first = 0
    bits = torch.empty(0, cols, dtype=torch.int32)
    memory: Tensor | None = None

    def of(chosen: slice) -> Tensor:
        nonlocal first, last, bits, memory
        start, stop, _ = chosen.indices(rows)
        if stop > last:
            times = max(1, DRAWN // max((stop - start) * cols, 1))
            first, last = start, min(rows, start + times * (stop - start))
            count = (last - first) * cols
            if memory is None:
                memory = torch.empty((count // 4 + 2, 2), dtype=torch.int64)
            bits = rounding_bits((last - first, cols), seed, offset, torch.device("cpu"), first * cols, memory)
        return bits[start - first : stop - first]

    return of
