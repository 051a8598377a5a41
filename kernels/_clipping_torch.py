"""Clipping points of the scale rules `percentile=P`, `mse` and `sawb` in torch: the twin of `formats/clipping.py`, on
any device. They take the place of a group's amax; what is added are integers, so that sums have no order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf

import torch
from torch import Tensor

from narrowgauge.formats.clipping import (
    COARSE,
    FINE,
    SAWB,
    SAWB_EXPONENTS,
    error_bits,
    percentile_rank,
    statistic_bits,
)
from narrowgauge.formats.tiles import Tile, tile_sides
from narrowgauge.kernels._mse_torch import BLOCK, LARGEST, ExactCosts, Float32Costs, Steps, least_ratio, rounded_squares

Values = Callable[[Tensor, Tensor], Tensor]
"""(rows of x, points of their tiles) → x̂ in float64 when each tile clips at its point."""


def percentile_points(x: Tensor, amax: Tensor, tile: Tile, percentile: float) -> Tensor:
    """The P-th percentile of |x| of every tile of x [rows, cols]; amax: float32 [tiles]."""
    points = amax.clone()
    magnitude = x.abs() if x.dtype == torch.float64 else x.abs().float()
    height, width = tile_sides(tile, tuple(x.shape))
    for rows, tile_rows, tall in _runs(x.shape[0], height):
        for cols, tile_cols, wide in _runs(x.shape[1], width):
            groups = magnitude[rows, cols].unflatten(1, (-1, wide)).unflatten(0, (-1, tall)).transpose(1, 2)
            k = percentile_rank(percentile, tall * wide)
            points[tile_rows, tile_cols] = _kth(groups.flatten(2), k).float()
    return torch.where(torch.isfinite(amax) & (points > 0), points, amax)


def _runs(size: int, side: int) -> Iterator[tuple[slice, slice, int]]:
    """(elements, tiles, side of the tiles) of the whole tiles along an axis, then of the short last one."""
    whole = size // side
    if whole:
        yield slice(0, whole * side), slice(0, whole), side
    if size % side:
        yield slice(whole * side, size), slice(whole, whole + 1), size % side


def _kth(groups: Tensor, k: int) -> Tensor:
    """The k-th smallest along the last axis."""
    if groups.device.type == "cpu":
        return groups.kthvalue(k, dim=-1).values
    return groups.sort(dim=-1).values[..., k - 1]  # kthvalue is not deterministic there


def mse_points(
    x: Tensor, amax: Tensor, tile: Tile, values: Values, rows_at_once: int, steps: Steps | None = None
) -> Tensor:
    """The clipping point of least squared error of every tile of x [rows, cols]; rows_at_once: of x, searched together,
    rounded to whole tiles. steps: what `values` does, where it can be had in float32 arithmetic."""
    height, width = tile_sides(tile, tuple(x.shape))
    bits = error_bits(height * width)
    if amax.numel() == 1 and x.device.type == "cpu":
        return _point_of_one(x, amax, bits, values, steps)
    points = amax.clone()
    tiles = max(1, rows_at_once // height)
    for first in range(0, amax.shape[0], tiles):
        part = slice(first, first + tiles)
        start = first * height
        points[part] = _least_error(x[start : start + tiles * height], amax[part], (height, width), bits, values)
    return points


def _point_of_one(x: Tensor, amax: Tensor, bits: int, values: Values, steps: Steps | None) -> Tensor:
    """`mse_points` of a single tile on a CPU."""
    if not 0.0 < float(amax) < inf:
        return amax
    unit = amax.double()

    def cost(part: Tensor, ratio: float) -> int:
        return rounded_squares(values(part, amax * ratio).sub_(part).div_(unit), 2.0**bits)

    if steps is not None and x.dtype != torch.float64 and float(amax) <= LARGEST:
        return amax * least_ratio(Float32Costs(x, amax, steps, bits))
    count = -(-x.numel() // BLOCK)
    return amax * least_ratio(ExactCosts(x.chunk(count, dim=int(x.shape[0] < count)), cost))


def _least_error(x: Tensor, amax: Tensor, sides: tuple[int, int], bits: int, values: Values) -> Tensor:
    """`mse_points` of rows that are searched together. sides: of a tile."""
    (height, width), (rows, cols) = sides, x.shape
    finite = torch.isfinite(amax)
    safe = torch.where(finite, amax, 0.0)
    unit = torch.where(safe > 0, safe, 1.0).double()
    unit = unit.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :cols]
    clean = torch.where(torch.isfinite(x), x, 0.0).double()
    tall, wide = amax.shape

    def cost(ratio: Tensor) -> Tensor:
        relative = values(x, safe * ratio).sub_(clean).div_(unit)
        squared = relative.mul_(relative).clamp_(max=1.0).mul_(2.0**bits).round_().to(torch.int64)
        if (tall * height, wide * width) != (rows, cols):
            squared = torch.nn.functional.pad(squared, (0, wide * width - cols, 0, tall * height - rows))
        groups = squared.view(tall, height, wide, width).sum(3)
        return groups.squeeze(1) if height == 1 else groups.sum(1)

    ratio = torch.ones_like(amax)
    best = cost(ratio)
    for candidates in (COARSE[1:], FINE):
        start = ratio
        for factor in candidates:
            tried = (start * factor).clamp_(max=1.0)
            found = cost(tried)
            better = (found < best) | ((found == best) & (tried > ratio))
            best, ratio = torch.where(better, found, best), torch.where(better, tried, ratio)
    return torch.where(finite, safe * ratio, amax)


def sawb_points(x: Tensor, amax: Tensor, tile: Tile, element: str, rows_at_once: int) -> Tensor:
    """The clipping point of `sawb` of every tile of x [rows, cols], for the element format of that name; rows_at_once:
    of x, whose values are turned to integers together, at least one."""
    height, width = tile_sides(tile, tuple(x.shape))
    bits = statistic_bits(height * width)
    finite = torch.isfinite(amax) & (amax > 0)
    exponent = torch.frexp(torch.where(finite, amax, 1.0)).exponent.clamp(*SAWB_EXPONENTS)
    unit = ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)
    inverse = torch.where(finite, unit.reciprocal(), 0.0)
    values, squares = (amax.new_zeros(amax.shape, dtype=torch.int64) for _ in range(2))
    for start in range(0, x.shape[0], rows_at_once):
        part = x[start : start + rows_at_once].float().abs()
        row = torch.arange(start, start + part.shape[0], device=x.device) // height
        magnitude = part * inverse[row].repeat_interleave(width, 1)[:, : x.shape[1]]
        magnitude = torch.where(torch.isfinite(magnitude), magnitude, 0.0)
        values.index_add_(0, row, _sums(magnitude, width, bits))
        squares.index_add_(0, row, _sums(magnitude.square(), width, bits))
    counts = _lengths(x.shape[0], height, amax)[:, None] * _lengths(x.shape[1], width, amax)[None, :]
    first, second = SAWB[element]
    root = (squares.double() / counts * 2.0**-bits).sqrt()
    point = first * root + second * (values.double() / counts * 2.0**-bits)
    usable = finite & (point >= root) & (point <= amax.double() / unit)
    return torch.where(usable, (point * unit).float(), amax)


def _sums(x: Tensor, width: int, bits: int) -> Tensor:
    """The sums of x [rows, cols] as integers, over `width` columns each: int64 [rows, tiles across]."""
    whole = (x * 2.0**bits).round_().to(torch.int64)
    missing = -x.shape[1] % width
    if missing:
        whole = torch.nn.functional.pad(whole, (0, missing))
    return whole.view(x.shape[0], -1, width).sum(2)


def _lengths(size: int, side: int, like: Tensor) -> Tensor:
    """How many elements of an axis each of its tiles has, int64."""
    starts = torch.arange(0, size, side, device=like.device)
    return (size - starts).clamp(max=side)
