"""fused_quantize on a CPU: blocks of rows go through the prologue into float32 memory that the caches hold, and from
there into codes. Where tiles reach over more rows than a block has, the whole float32 result is made first.

Functions of single 16-bit numbers are read off a table of all 65536, which the float32 function itself has filled.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme, parse
from narrowgauge.kernels._cast_torch import rounding_bits
from narrowgauge.kernels._fused_quantize_checks import check_call
from narrowgauge.kernels._quantize_torch import (
    CHUNK_ELEMENTS,
    _encode_blocks,
    _encode_pairs,
    clipping_points,
    quantize_torch,
)
from narrowgauge.kernels._row_bits_torch import RowBits
from narrowgauge.kernels._scales_torch import inverse, scales
from narrowgauge.kernels.layout import layout_for, scale_dtype
from narrowgauge.kernels.prologues import Prologue, get_prologue
from narrowgauge.kernels.tiles import as_matrix, group_amax

BLOCK_ELEMENTS = 1 << 19
"""Elements of a block, for each thread that torch uses: fewer, and the many small steps of block scales would count."""
FUNCTION_ELEMENTS = 1 << 16
"""Elements that the many steps of a function work on at a time, for each thread."""


@lru_cache(maxsize=16)
def function_table(name: str, dtype: torch.dtype) -> Tensor:
    """float32 results of a prologue's function for every 16-bit pattern."""
    chosen = get_prologue(name)
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype).float()
    assert chosen.activation is not None
    chosen.activation(every, torch.empty((3, 1 << 16)))
    return every


class _Blocks:
    """A prologue on blocks of rows: `fill(start, stop, out)` writes the result into `out`, float32 [rows, width], and
    the kept values."""

    def __init__(
        self, prologue: Prologue, x: Tensor, other: Tensor | None, weight: Tensor | None, eps: float, values: Tensor
    ) -> None:
        self.prologue, self.x, self.other, self.eps = prologue, x, other, eps
        self.weight = None if weight is None else weight.float()
        self.values = values
        self.scratch = x.new_empty(0, dtype=torch.float32)

    def fill(self, start: int, stop: int, out: Tensor) -> None:
        chosen, columns = self.prologue, self.x.shape[1]
        x = self.x[start:stop]
        other = None if self.other is None else self.other[start:stop]
        kept = self.values[start:stop] if self.values.dim() == 2 else None
        if chosen.adds:
            assert other is not None
            x = torch.add(x, other, out=kept) if kept is not None else x + other
        by_table = chosen.activation is not None and x.dtype != torch.float32
        if by_table:
            self._look_up(x.contiguous().view(torch.int16).view(-1), function_table(chosen.name, x.dtype), out.view(-1))
        else:
            out[:, :columns].copy_(x)
            out[:, columns:].zero_()
            self._apply(out)
        if chosen.gated:
            assert other is not None
            out.mul_(other)
        if kept is not None and not chosen.adds:
            kept.copy_(out)

    def _look_up(self, patterns: Tensor, table: Tensor, out: Tensor) -> None:
        step = FUNCTION_ELEMENTS * torch.get_num_threads()
        memory = self._memory(min(step, out.numel()))[0].view(torch.int32)
        for start in range(0, out.numel(), step):
            part = patterns[start : start + step]
            index = memory[: part.numel()].copy_(part).bitwise_and_(0xFFFF)
            torch.index_select(table, 0, index, out=out[start : start + step])

    def _apply(self, out: Tensor) -> None:
        chosen = self.prologue
        if chosen.transform is not None:
            chosen.transform(out, self.weight, self.eps, self.x.shape[1], self._memory(out.numel()))
        elif chosen.activation is not None:
            flat = out.view(-1)
            step = FUNCTION_ELEMENTS * torch.get_num_threads()
            memory = self._memory(min(step, flat.numel()))
            for start in range(0, flat.numel(), step):
                part = flat[start : start + step]
                chosen.activation(part, memory[:, : part.numel()])

    def _memory(self, elements: int) -> Tensor:
        """Scratch of [3, elements], the same for all blocks."""
        if self.scratch.numel() < 3 * elements:
            self.scratch = self.x.new_empty(3 * elements, dtype=torch.float32)
        return self.scratch[: 3 * elements].view(3, elements)


def fused_quantize_torch(
    x: Tensor, other: Tensor | None, weight: Tensor | None, prologue: str, scheme: str, seed: int, offset: int,
    eps: float, keep_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The CPU implementation; see kernels/fused_quantize.py for the contract."""
    chosen = check_call(x, other, weight, prologue, scheme, eps)
    spec, matrix = parse(scheme), as_matrix(x)
    rows, width = matrix.shape[0], chosen.width(x.shape[-1])
    shape = (*x.shape[:-1], width)
    values = x.new_empty((0,))
    if chosen.activation is None and chosen.transform is None and other is not None:
        # A sum in blocks would gain nothing over a sum.
        total = torch.add(x, other, out=x.new_empty(shape))
        return *quantize_torch(total, scheme, seed, offset), total if keep_values else values
    second = None if other is None else as_matrix(other)
    values = x.new_empty(shape) if keep_values else values
    kept = values.view(rows, width) if keep_values else values
    blocks = _Blocks(chosen, matrix, second, weight, eps, kept)
    height = spec.tile[0]
    step = max(1, BLOCK_ELEMENTS * torch.get_num_threads() // max(width, 1))
    if height is None or spec.two_level or not rows * width:
        whole = matrix.new_empty((rows, width), dtype=torch.float32)
        for start in range(0, rows if width else 0, step):
            blocks.fill(start, min(start + step, rows), whole[start : start + step])
        return *quantize_torch(whole.view(shape), scheme, seed, offset), values
    step = max(height, step // height * height)
    codes = x.new_empty(shape, dtype=layout_for(spec).code_dtype)
    scale = x.new_empty(spec.scale_shape(shape), dtype=scale_dtype(spec))
    target, stored = codes.view(rows, width), scale.view(-1, scale.shape[-1])
    memory = matrix.new_empty((min(step, rows), width), dtype=torch.float32)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = memory[: stop - start]
        blocks.fill(start, stop, block)
        bits = _bits_of_block(block, start, seed, offset) if spec.stochastic else lambda rows: None
        stored[start // height : -(-stop // height)] = _encoded(block, target[start:stop], spec, bits)
    return codes, scale, x.new_ones((), dtype=torch.float32), values


def _bits_of_block(block: Tensor, start: int, seed: int, offset: int) -> RowBits:
    """The rounding bits of a block's rows, by their number in it; `start` rows stand before it."""
    rows, width = block.shape

    def bits(chosen: slice) -> Tensor:
        first, last, _ = chosen.indices(rows)
        return rounding_bits((last - first, width), seed, offset, block.device, (start + first) * width)

    return bits


def _encoded(block: Tensor, target: Tensor, spec: Scheme, random: RowBits) -> Tensor:
    """Codes of a block of whole tiles into `target`; its stored scales [tiles down, tiles across]."""
    if isinstance(spec.format, BlockFormat) and spec.format.micro_size:
        return _encode_pairs(block, target, spec, spec.format, random)
    amax = group_amax(block, spec.tile, max(1, CHUNK_ELEMENTS // block.shape[1]))
    if spec.rule.searches:
        amax = clipping_points(block, amax, spec)
    stored, factors, _ = scales(amax, spec)
    _encode_blocks(block, target, inverse(factors), spec.tile, spec, random)
    return stored
