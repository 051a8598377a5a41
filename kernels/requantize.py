"""requantize: the codes of one scheme as those of another, or as the operand of the transposed product.

    requantize(q, target) = quantize(dequantize(q), target)          turned: quantize(dequantize(q).t(), target)

bit for bit, without the float32 tensor in memory on a GPU: kernels decode in registers.

`torch.ops.narrowgauge.requantize(codes, scale, outer, scheme, target, turned, seed, offset) -> (codes, scale, outer)`
  codes, scale, outer   as `quantize` gives them under `scheme`
  target                scheme of the result; seed, offset: its random stream, for `+sr`
  turned                the result is that of the transpose: codes [K, M], contiguous, of codes [..., K] with M rows
Without `turned` the codes of the result have the shape and the memory layout of `codes`.

The result is rounded twice. Under equal schemes it need not be what went in: a maximum that was rounded down may take a
smaller power of two as its scale, and groups with a NaN lose their other codes. Where only the layout changes,
`QuantizedTensor.transpose` keeps every value. Rules that search (mse, percentile, sawb) decode the tensor to memory,
and so does the CPU for groups of all rows, two-level formats and stochastic rounding; its other results pass through
blocks that the caches hold.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels._factors_torch import check_quantized
from narrowgauge.kernels._requantize_torch import requantize_torch
from narrowgauge.kernels._requantize_triton import compile_cases, requantize_triton
from narrowgauge.kernels.dequantize import DEQUANTIZE
from narrowgauge.kernels.layout import layout_for, scale_dtype
from narrowgauge.kernels.op import Cost, Exact, Op, Sample, register
from narrowgauge.kernels.quantize import QUANTIZE
from narrowgauge.kernels.tiles import as_matrix, empty_codes

Quantized = tuple[Tensor, Tensor, Tensor]


def _fake(
    codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, target: str, turned: bool, seed: int, offset: int
) -> Quantized:
    check_quantized(codes, scale, outer, parse(scheme))
    goal = parse(target)
    matrix, dtype = as_matrix(codes), layout_for(goal).code_dtype
    shape = (matrix.shape[1], matrix.shape[0]) if turned else tuple(codes.shape)
    return (
        codes.new_empty(shape, dtype=dtype) if turned else empty_codes(codes, dtype),
        codes.new_empty(goal.scale_shape(shape), dtype=scale_dtype(goal)),
        codes.new_empty((), dtype=torch.float32),
    )


def _reference(
    codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, target: str, turned: bool, seed: int, offset: int
) -> Quantized:
    values = DEQUANTIZE.reference(codes, scale, outer, scheme, torch.float32)
    result: Quantized = QUANTIZE.reference(
        as_matrix(values).t().contiguous() if turned else values, target, seed, offset
    )
    return result


SAMPLE_PAIRS = (
    ("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/1x128", "e4m3fn/1x128"), ("e4m3fn/128x128", "e4m3fn/128x128"),
    ("e4m3fn", "e5m2"), ("mxfp8", "mxfp8"), ("mxfp4", "mxfp8+sr"), ("nvfp4", "nvfp4"), ("nvfp4_2d", "nvfp4_2d+sr"),
    ("int8/row", "e4m3fn/1x32:pow2"), ("nf4/1x64", "int8/col"), ("dynamic8/1x16", "nf4/8x32+sr"), ("rf8/row", "rf8"),
    ("uint8/4x24", "rf8/row+sr"), ("int8/32x32", "bfp8g32x32e10"), ("mx9", "mx6"), ("e5m2/row", "int4/4x24:mse"),
    ("e4m3fn/col", "int8/row:percentile=99"), ("e4m3fn:static=0.02", "e2m1fn/1x16+ftz"),
)  # fmt: skip


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def sample(
        pair: tuple[str, str], *shape: int, turned: bool, column_major: bool = False, wild: bool = False
    ) -> Sample:
        values = rng.standard_normal(shape).astype(np.float32)
        if wild:
            values *= np.exp(3 * rng.standard_normal(shape)).astype(np.float32)
            values[3, 5], values[9, 0], values[12] = np.nan, -np.inf, 0.0
        x = torch.from_numpy(values)
        parts = [part.to(device) for part in QUANTIZE.reference(x, pair[0], 1, 2)]
        if column_major:
            parts[0] = parts[0].t().contiguous().t()
        name = f"{pair[0]} to {pair[1]} {shape}{' turned' * turned}{' wild' * wild}{' column-major' * column_major}"
        return Sample(name, (*parts, *pair, turned, 1234567890123, 77 << 32 | 5))

    for pair in SAMPLE_PAIRS:
        for turned in (False, True):
            yield sample(pair, 36, 160, turned=turned)
    for pair in SAMPLE_PAIRS[:8]:
        for turned in (False, True):
            yield sample(pair, 37, 131, turned=turned, wild=True)
            yield sample(pair, 37, 131, turned=turned, column_major=True)
    for shape in ((), (1,), (7,), (1, 1), (0, 8), (8, 0), (3, 5, 17), (127, 1)):
        for index, pair in enumerate(SAMPLE_PAIRS[:8:2]):
            yield sample(pair, *shape, turned=index % 2 == 0)


def _cost(
    codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, target: str, turned: bool, seed: int, offset: int
) -> Cost:
    goal, matrix = parse(target), as_matrix(codes)
    shape = (matrix.shape[1], matrix.shape[0]) if turned else (matrix.shape[0], matrix.shape[1])
    written = int(np.prod(goal.scale_shape(shape))) * goal.scale_bits / 8
    return Cost(flops=3.0 * codes.numel(), bytes=2.0 * codes.numel() + scale.nbytes + written)


REQUANTIZE = register(
    Op(
        name="requantize",
        schema="(Tensor codes, Tensor scale, Tensor outer, str scheme, str target, bool turned, int seed, int offset) "
        "-> (Tensor codes, Tensor scale, Tensor outer)",
        reference=_reference,
        torch_impl=requantize_torch,
        triton_impl=requantize_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=Exact(),
        compile_cases=compile_cases,
    )
)
