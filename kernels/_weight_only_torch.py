"""weight_only_gemm on a CPU: blocks of rows of the weight are decoded into one buffer, multiplied, and forgotten.

A block fits the caches, so its passes (one gather or conversion, one product with the scales of groups) cost little
beside the reading of the codes, and the whole weight never exists. Codes come out of a table by one or two bytes at a
time: an entry holds the values of every code in them.

The BLAS multiplies float32, or float64 where x has it. From `MANY_ROWS` rows of bfloat16 on it takes bfloat16 where
the machine has instructions for that: the weight is rounded once then, unless its values are bfloat16 numbers and its
scales stand outside the sum. float16 is slower than float32 on nearly all CPUs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, Scheme
from narrowgauge.kernels._scales_torch import block_scales
from narrowgauge.kernels._tables_torch import decode
from narrowgauge.kernels._weight_only_plan import holds, scales_sums
from narrowgauge.kernels.dequantize import factors_of
from narrowgauge.kernels.layout import layout_of
from narrowgauge.kernels.packing import unpack
from narrowgauge.kernels.tiles import multiply_tiles

BLOCK = 1 << 19
"""Weights decoded at a time: 2 MiB in float32."""
MANY_ROWS = 8
"""Rows of x from which bfloat16 products pay for one more pass over the decoded weight."""
_WIDEST_ENTRY = 8
_ELEMENT = {2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
"""By its bytes, a dtype of an entry: a gather of single wide elements is several times faster than one of rows."""


class Weight(NamedTuple):
    """The checked arguments of a weight [rows, cols]; see kernels/weight_only.py."""

    codes: Tensor
    scale: Tensor
    outer: Tensor | None
    zero_point: Tensor | None
    spec: Scheme
    cols: int
    packed: bool

    @property
    def rows(self) -> int:
        return self.codes.shape[0]

    @property
    def scales_sums(self) -> bool:
        """Whether its scales are constant along K, so that they can multiply the sums."""
        return scales_sums(self.spec) and self.zero_point is None


@lru_cache(maxsize=32)
def _table(fmt: Format, packed: bool, unit: int, dtype: torch.dtype) -> Tensor:
    """The values of all codes in every pattern of `unit` bytes, those of one pattern as a single element."""
    patterns = torch.arange(1 << (8 * unit), dtype=torch.int32).to(torch.uint16 if unit == 2 else torch.uint8)
    codes = patterns.view(torch.uint8).view(-1, unit)
    layout = layout_of(fmt)
    if packed:
        codes = unpack(codes, fmt.bits, 8 * unit // fmt.bits, layout.signed_codes)
    values = decode(codes.view(layout.code_dtype), fmt).to(dtype)
    return values.view(_ELEMENT[values.shape[1] * dtype.itemsize]).view(-1)


@lru_cache(maxsize=32)
def _scale_table(fmt: BlockFormat) -> Tensor:
    """float32 scale of every code of a block format whose scales take a byte."""
    return block_scales(torch.arange(256, dtype=torch.uint8), fmt, torch.ones(()))


class _Decoder:
    """Decodes blocks of rows of a weight into buffers of its own, of `dtype`: the operand's."""

    def __init__(self, weight: Weight, dtype: torch.dtype) -> None:
        self.weight, self.dtype = weight, dtype
        fmt = weight.spec.element
        self.step = max(1, BLOCK // max(weight.cols, 1))
        # Values that go into the operand as they are need no float32 on the way.
        self.direct = weight.scales_sums and dtype in (torch.float32, torch.bfloat16) and holds(fmt, dtype)
        self.wide = torch.float32 if not self.direct else dtype
        width = weight.cols if not weight.packed else weight.codes.shape[1] * 8 // fmt.bits
        height = min(self.step, weight.rows)
        self.values = torch.empty(height, width, dtype=self.wide)
        self.operand = self.values if self.wide == dtype else torch.empty(height, width, dtype=dtype)
        self.unit = self._unit(weight.codes.shape[1])
        self.index = torch.empty(height * weight.codes.shape[1] // self.unit if self.unit else 0, dtype=torch.int32)

    def _unit(self, row_bytes: int) -> int:
        """Bytes of an index of the table; 0 where codes are converted, or unpacked before."""
        fmt = self.weight.spec.element
        if not self.weight.packed:
            if layout_of(fmt).kind == "int":
                return 0
            per_byte = 1
        elif 8 % fmt.bits or fmt.bits == 1:
            return 0
        else:
            per_byte = 8 // fmt.bits
        return 2 if row_bytes % 2 == 0 and 2 * per_byte * self.wide.itemsize <= _WIDEST_ENTRY else 1

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start … stop - 1 in the operand's dtype [stop - start, cols], without scales that multiply sums."""
        weight = self.weight
        values = self._decoded(weight.codes[start:stop])
        if not weight.scales_sums:
            self._scale(values, start, stop)
        if self.wide == self.dtype:
            return values
        return self.operand[: stop - start, : weight.cols].copy_(values)

    def _decoded(self, codes: Tensor) -> Tensor:
        fmt, cols = self.weight.spec.element, self.weight.cols
        count = codes.shape[0]
        if self.unit:
            # Views of two bytes begin at an even place.
            if not codes.is_contiguous() or codes.storage_offset() % self.unit:
                codes = codes.clone(memory_format=torch.contiguous_format)
            places = codes.view(-1) if self.unit == 1 else codes.view(torch.uint16).view(-1)
            table = _table(fmt, self.weight.packed, self.unit, self.wide)
            index = self.index[: places.numel()].copy_(places.view(torch.uint8) if self.unit == 1 else places)
            into = self.values[:count]
            torch.index_select(table, 0, index, out=into.view(-1).view(table.dtype))
            return into[:, :cols]
        into = self.values[:count, :cols]
        layout = layout_of(fmt)
        plain = unpack(codes, fmt.bits, cols, signed=layout.signed_codes) if self.weight.packed else codes
        if layout.kind != "int":
            return into.copy_(decode(plain, fmt))
        into.copy_(plain)
        return into if layout.fraction_bits == 0 else into.mul_(2.0**-layout.fraction_bits)

    def _scale(self, values: Tensor, start: int, stop: int) -> None:
        weight = self.weight
        height = weight.spec.tile[0] or max(weight.rows, 1)
        tiles = slice(start // height, -(-stop // height))
        row = None if height == 1 else torch.arange(start, stop) // height - tiles.start
        if weight.zero_point is not None:
            zero = _per_row(weight.zero_point[tiles], row)
            width = weight.spec.tile[1]
            values.sub_(zero if width is None else zero.repeat_interleave(width, dim=1)[:, : weight.cols])
        multiply_tiles(values, _per_row(self._factors(tiles), row), (1, weight.spec.factor_tile[1]))

    def _factors(self, tiles: slice) -> Tensor:
        """float32 factors of rows of tiles."""
        spec, scale = self.weight.spec, self.weight.scale[tiles]
        fmt = spec.format
        outer = torch.ones(()) if self.weight.outer is None else self.weight.outer
        if not isinstance(fmt, BlockFormat) or fmt.micro_size or scale.dtype != torch.uint8:
            return factors_of(scale, outer, spec, self.weight.cols)
        table = _scale_table(fmt)
        return torch.index_select(table * outer, 0, scale.reshape(-1).int()).view(scale.shape)


def _per_row(grid: Tensor, row: Tensor | None) -> Tensor:
    return grid if row is None else grid[row]


def row_scales(weight: Weight) -> Tensor:
    """The scale of every row where scales are constant along K: [rows], or [1] for one of the whole weight."""
    outer = torch.ones(()) if weight.outer is None else weight.outer
    factors = factors_of(weight.scale, outer, weight.spec, weight.cols).flatten()
    height = weight.spec.factor_tile[0]
    return factors if height in (1, None) else factors[torch.arange(weight.rows) // height]


def operand_dtype(x: Tensor, out_dtype: torch.dtype) -> torch.dtype:
    """What the BLAS multiplies."""
    if x.dtype == torch.float64:
        return torch.float64
    half = x.dtype == torch.bfloat16 == out_dtype and x.shape[0] >= MANY_ROWS
    return torch.bfloat16 if half and torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def multiply(x: Tensor, weight: Weight, bias: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    """x [T, cols] times the weight, plus bias [rows]: [T, rows]."""
    dtype = operand_dtype(x, out_dtype)
    out = x.new_empty((x.shape[0], weight.rows), dtype=out_dtype)
    if out.numel() == 0 or weight.cols == 0:
        return out.zero_() if bias is None else out.copy_(bias.expand(out.shape))
    operand, decoder = x.to(dtype), _Decoder(weight, dtype)
    scale = row_scales(weight) if weight.scales_sums else None
    # float16 sums are scaled before they are rounded: they may be out of its range.
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    plain = scale is None and bias is None and dtype == out_dtype
    for start in range(0, weight.rows, decoder.step):
        stop = min(start + decoder.step, weight.rows)
        rows = decoder.rows(start, stop).t()
        if plain:
            torch.mm(operand, rows, out=out[:, start:stop])
            continue
        sums = torch.mm(operand, rows).to(wide)
        if scale is not None:
            sums.mul_(scale if scale.numel() == 1 else scale[start:stop])
        if bias is not None:
            sums.add_(bias[start:stop])
        out[:, start:stop] = sums
    return out
