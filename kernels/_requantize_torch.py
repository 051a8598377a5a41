"""requantize on a CPU: blocks of whole groups are decoded and encoded while the caches hold them."""

from __future__ import annotations

from math import lcm

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels._factors_torch import check_quantized
from narrowgauge.kernels._quantize_torch import quantize_torch
from narrowgauge.kernels.dequantize import dequantize_torch
from narrowgauge.kernels.layout import layout_for, scale_dtype
from narrowgauge.kernels.tiles import as_matrix, empty_codes

BLOCK = 1 << 19
"""Elements of one block: its float32 values stay in the caches from decoding to encoding."""


def requantize_torch(
    codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, target: str, turned: bool, seed: int, offset: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The CPU implementation; see kernels/requantize.py for the contract. Groups of all rows, the second level of
    two-level formats and the numbering of elements in stochastic rounding take the tensor as a whole, which is then
    decoded as a whole."""
    spec, goal = parse(scheme), parse(target)
    check_quantized(codes, scale, outer, spec)
    matrix = as_matrix(codes)
    side = _rows_at_once(matrix, spec, goal, turned)
    if side is None:
        values = dequantize_torch(codes, scale, outer, scheme, torch.float32)
        new_codes, new_scale, new_outer = quantize_torch(
            as_matrix(values).t() if turned else values, target, seed, offset
        )
        return new_codes.contiguous() if turned else new_codes, new_scale, new_outer
    shape = (matrix.shape[1], matrix.shape[0]) if turned else tuple(codes.shape)
    dtype = layout_for(goal).code_dtype
    new_codes = codes.new_empty(shape, dtype=dtype) if turned else empty_codes(codes, dtype)
    new_scale = scale.new_empty(goal.scale_shape(shape), dtype=scale_dtype(goal))
    rows, entries = as_matrix(new_codes), new_scale.flatten(0, -2)
    for start in range(0, len(rows), side):
        part = slice(start, min(start + side, len(rows)))
        block = _block(matrix, scale.flatten(0, -2), part, spec, turned)
        values = dequantize_torch(*block, outer, scheme, torch.float32)
        written, found, _ = quantize_torch(values.t() if turned else values, target, seed, offset)
        rows[part], entries[_tiles(part, goal.tile[0])] = written, found
    return new_codes, new_scale, outer.new_ones(())


def _rows_at_once(matrix: Tensor, spec: Scheme, goal: Scheme, turned: bool) -> int | None:
    """Rows of the result in one block, which hold whole groups of both; None where all of them belong together."""
    side, own = goal.tile[0], spec.tile[1 if turned else 0]
    if side is None or goal.stochastic or goal.two_level:
        return None
    step = lcm(side, own or 1)
    rows, cols = matrix.shape[::-1] if turned else matrix.shape
    at_once = max(1, BLOCK // max(cols, 1) // step) * step
    return at_once if at_once < rows else None


def _block(codes: Tensor, scale: Tensor, part: slice, spec: Scheme, turned: bool) -> tuple[Tensor, Tensor]:
    """Codes and scales of some rows of a matrix, or (turned) of some columns."""
    if turned:
        return codes[:, part], scale[:, _tiles(part, spec.tile[1])]
    return codes[part], scale[_tiles(part, spec.tile[0])]


def _tiles(part: slice, side: int | None) -> slice:
    """The tiles that a run of whole ones covers; those that take everything cover it too."""
    return slice(None) if side is None else slice(part.start // side, -(-part.stop // side))
