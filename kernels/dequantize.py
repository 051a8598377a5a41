"""dequantize: decode(codes) · scale, one float32 product, then the output dtype.

`torch.ops.narrowgauge.dequantize(codes, scale, outer, scheme, dtype) -> Tensor` with codes, scale and outer as
`quantize` gives them; the result has the shape of codes and is contiguous (column-major where codes are).
Block formats: scale is decoded, times outer, before the product. Every implementation gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, parse, quantize_reference
from narrowgauge.formats.tiles import rows_cols, spread
from narrowgauge.kernels._dequantize_triton import compile_cases, dequantize_triton
from narrowgauge.kernels._factors_torch import check_quantized, factors_of
from narrowgauge.kernels._tables_torch import decode
from narrowgauge.kernels.op import LIBRARY, Cost, Exact, Op, Sample, register
from narrowgauge.kernels.quantize import QUANTIZE, stored_scale
from narrowgauge.kernels.tiles import (
    as_matrix,
    empty_codes,
    is_column_major,
    multiply_tiles,
    row_blocks,
    tile_counts,
)

CACHED_ELEMENTS = 1 << 19
"""Values that the CPU works on at a time."""


def dequantize_torch(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Tensor:
    """The CPU implementation: blocks that are decoded, scaled and rounded while they are in the caches."""
    spec = parse(scheme)
    check_quantized(codes, scale, outer, spec)
    matrix, tile = as_matrix(codes), spec.factor_tile
    factors = factors_of(scale, outer, spec, matrix.shape[1])
    turned = is_column_major(codes)
    if turned:
        matrix, factors, tile = matrix.t(), factors.t(), (tile[1], tile[0])
    out, wide = matrix.new_empty(matrix.shape, dtype=dtype), None
    for rows, tiles in row_blocks(matrix.shape, tile[0], CACHED_ELEMENTS):
        target = out[rows]
        if dtype != torch.float32:
            wide = target.new_empty(target.shape, dtype=torch.float32) if wide is None else wide[: len(target)]
        values = multiply_tiles(
            decode(matrix[rows], spec.element, target if wide is None else wide), factors[tiles], tile
        )
        if wide is not None:
            target.copy_(values)
    return out.t() if turned else out.view(codes.shape)


def _fake(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Tensor:
    check_quantized(codes, scale, outer, parse(scheme))
    return empty_codes(codes, dtype)


def _reference(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Tensor:
    spec = parse(scheme)
    elements = spec.element.decode(codes.numpy()).astype(np.float32)
    factors = scale.numpy()
    if isinstance(spec.format, BlockFormat):
        factors = spec.format.scales(factors.view(spec.format.scale_dtype), outer.numpy())
    shape = as_matrix(codes).shape
    grid = spread(factors.reshape(rows_cols(factors.shape)), spec.factor_tile, (shape[0], shape[1]))
    return torch.from_numpy((elements.reshape(shape) * grid).reshape(elements.shape)).to(dtype)


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    for index, sample in enumerate(QUANTIZE.samples(rng, "cpu")):
        x, scheme, seed, offset = sample.args
        q = quantize_reference((x.float() if x.dtype == torch.bfloat16 else x).numpy(), scheme, seed, offset)
        parts = (part.to(device) for part in (torch.from_numpy(q.codes), stored_scale(q), torch.from_numpy(q.outer)))
        dtype = (torch.float32, torch.bfloat16, torch.float16)[index % 3]
        yield Sample(sample.name, (*parts, scheme, dtype))
    for scheme in ("e4m3fn/row", "e5m2", "e5m2fnuz/row", "rf8/row", "binary8p2se", "e3m4", "dynamic8/row"):
        every = torch.arange(256, dtype=torch.uint8, device=device).reshape(16, 16)
        scale = torch.full(parse(scheme).scale_shape((16, 16)), 0.37, device=device)
        yield Sample(f"{scheme} all codes", (every, scale, scale.new_ones(()), scheme, torch.float32))
        yield Sample(f"{scheme} transposed", (every.t(), scale, scale.new_ones(()), scheme, torch.float32))


def _cost(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Cost:
    return Cost(flops=float(codes.numel()), bytes=codes.numel() * (1 + dtype.itemsize) + scale.nbytes)


DEQUANTIZE = register(
    Op(
        name="dequantize",
        schema="(Tensor codes, Tensor scale, Tensor outer, str scheme, ScalarType dtype) -> Tensor",
        reference=_reference,
        torch_impl=dequantize_torch,
        triton_impl=dequantize_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=Exact(),
        compile_cases=compile_cases,
    )
)

# One opaque call for compilers, which cannot see through the tables of scale formats.
LIBRARY.define("block_factors(Tensor scale, Tensor outer, str scheme, int cols) -> Tensor")
LIBRARY.impl(
    "block_factors",
    lambda scale, outer, scheme, cols: factors_of(scale, outer, parse(scheme), cols).clone(),
    "CompositeExplicitAutograd",
)


@torch.library.register_fake("narrowgauge::block_factors", lib=LIBRARY)
def _fake_factors(scale: Tensor, outer: Tensor, scheme: str, cols: int) -> Tensor:
    spec = parse(scheme)
    down = scale.flatten(0, -2).shape[0]
    return scale.new_empty((down, tile_counts((1, cols), spec.factor_tile)[1]), dtype=torch.float32)


def block_factors(scale: Tensor, outer: Tensor, scheme: str, cols: int) -> Tensor:
    """`factors_of` through the dispatcher."""
    result: Tensor = torch.ops.narrowgauge.block_factors(scale, outer, scheme, cols)
    return result


__all__ = ["DEQUANTIZE", "block_factors", "check_quantized", "dequantize_torch", "factors_of"]
