"""quantize_pair: a tensor and its transpose quantised from one read, as the two products need it in which it stands.

    (codes, scale, outer)                        = quantize(x, scheme)
    (turned_codes, turned_scale, turned_outer)   = quantize(x.t(), turned_scheme)

bit for bit, stochastic rounding included: elements of the transpose are numbered in its own row-major order.

`torch.ops.narrowgauge.quantize_pair(x, scheme, turned_scheme, seed, offset, turned_offset)` gives the six.
  x             [..., K] as `quantize` takes it; M rows, all axes but the last
  turned_codes  [K, M], contiguous; turned_scale has `Scheme.scale_shape((K, M))`
  seed, offset, turned_offset: the random streams of the two, for `+sr`

On a GPU one program reads a block once where it holds whole tiles of both schemes (1x128 both ways, 128x128, MX and
NVFP4 blocks; two-level formats take another read before, for the tensor's scales), and x is read twice where it does
not (rows, whole tensors: maxima of both, then codes of both). Rules that search (mse, percentile, sawb) take the two
single operators. A CPU, where arithmetic and not reading takes the time, makes one copy and then the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.kernels._quantize_pair_triton import compile_cases, quantize_pair_triton
from narrowgauge.kernels._quantize_torch import check_input, quantize_torch
from narrowgauge.kernels.layout import layout_for, scale_dtype
from narrowgauge.kernels.op import Cost, Exact, Op, Sample, register
from narrowgauge.kernels.quantize import QUANTIZE
from narrowgauge.kernels.tensor import QuantizedTensor, canonical, check_seed
from narrowgauge.kernels.tiles import as_matrix, empty_codes

BLOCK = 1 << 19
"""Elements that the CPU transposes at a time: they stay in the caches until they are encoded."""

Six = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def quantize_pair_torch(x: Tensor, scheme: str, turned_scheme: str, seed: int, offset: int, turned_offset: int) -> Six:
    """The CPU implementation: one copy, then the other."""
    return *quantize_torch(x, scheme, seed, offset), *_quantize_turned(as_matrix(x), turned_scheme, seed, turned_offset)


def _quantize_turned(matrix: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    """quantize(matrix.t()) with contiguous codes. Groups that take all of its columns are reduced along the memory as
    it is; shorter ones, blocks of rows at a time, from a transposed block that the caches hold."""
    spec, (rows, cols) = parse(scheme), matrix.shape
    side = spec.tile[1]
    if side is None or side >= rows:
        codes, scale, outer = quantize_torch(matrix.t(), scheme, seed, offset)
        return codes.contiguous(), scale, outer
    step = max(1, BLOCK // max(cols, 1) // side) * side
    if spec.stochastic or spec.two_level or step >= rows:
        # Elements are numbered, and scales related, across the whole tensor.
        return quantize_torch(matrix.t().contiguous(), scheme, seed, offset)
    codes = matrix.new_empty((cols, rows), dtype=layout_for(spec).code_dtype)
    scale = matrix.new_empty(spec.scale_shape((cols, rows)), dtype=scale_dtype(spec))
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        part = quantize_torch(matrix[start:stop].t().contiguous(), scheme, seed, offset)
        codes[:, start:stop], scale[:, start // side : -(-stop // side)] = part[0], part[1]
    return codes, scale, matrix.new_ones((), dtype=torch.float32)


def _fake(x: Tensor, scheme: str, turned_scheme: str, seed: int, offset: int, turned_offset: int) -> Six:
    check_input(x)
    spec, other = parse(scheme), parse(turned_scheme)
    rows, cols = as_matrix(x).shape
    return (
        empty_codes(x, layout_for(spec).code_dtype),
        x.new_empty(spec.scale_shape(tuple(x.shape)), dtype=scale_dtype(spec)),
        x.new_empty((), dtype=torch.float32),
        x.new_empty((cols, rows), dtype=layout_for(other).code_dtype),
        x.new_empty(other.scale_shape((cols, rows)), dtype=scale_dtype(other)),
        x.new_empty((), dtype=torch.float32),
    )


def _reference(x: Tensor, scheme: str, turned_scheme: str, seed: int, offset: int, turned_offset: int) -> Six:
    turned = as_matrix(x).t().contiguous()
    return (
        *QUANTIZE.reference(x, scheme, seed, offset),
        *QUANTIZE.reference(turned, turned_scheme, seed, turned_offset),
    )


SAMPLE_PAIRS = (
    ("e4m3fn/row", "e4m3fn/row"), ("e4m3fn/1x128", "e4m3fn/1x128"), ("e4m3fn/128x128", "e4m3fn/128x128"),
    ("e4m3fn", "e5m2"), ("mxfp8", "mxfp8"), ("mxfp4+sr", "mxfp4+sr"), ("nvfp4", "nvfp4+sr"), ("nvfp4_2d", "nvfp4_2d"),
    ("e4m3fn/1x128", "e5m2/128x128+sr"), ("int8/row", "int8/col+sr"), ("rf8/row+sr", "rf8"),
    ("nf4/1x64", "nf4/1x64+sr"), ("uint8/4x24", "e4m3fn/1x16:pow2"), ("mx9", "mx6"), ("int4/4x24:mse", "int8/row"),
    ("nvfp4:rceil", "nvfp4"),
    ("dynamic8/row+sr", "e4m3fn:static=0.02"), ("bfp8g32x32e10", "e2m1fn/1x16+ftz"),
)  # fmt: skip


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)

    stream = (1234567890123, 77 << 32 | 5, 9)
    for scheme, turned in SAMPLE_PAIRS:
        yield Sample(f"{scheme} and {turned}", (normal(36, 160), scheme, turned, *stream))
    wild = normal(37, 131) * torch.exp(3 * normal(37, 131))
    wild[3, 5], wild[9, 0], wild[20, 130], wild[12], wild[14] = float("nan"), float("inf"), -float("inf"), 0.0, 1e-42
    for scheme, turned in SAMPLE_PAIRS[:12]:
        yield Sample(f"{scheme} and {turned} wild", (wild, scheme, turned, *stream))
        yield Sample(f"{scheme} and {turned} transposed", (wild.t(), scheme, turned, *stream))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for scheme, turned in SAMPLE_PAIRS[:6]:
            yield Sample(f"{scheme} and {turned} {dtype}", (normal(40, 72).to(dtype), scheme, turned, *stream))
    for shape in ((), (1,), (7,), (1, 1), (0, 8), (8, 0), (3, 5, 17), (127, 1), (1, 131)):
        for scheme, turned in SAMPLE_PAIRS[:8:2]:
            yield Sample(f"{scheme} and {turned} {shape}", (normal(*shape), scheme, turned, *stream))
    strided = normal(40, 300)[::2, 7:200:3]
    for scheme, turned in SAMPLE_PAIRS[:4]:
        yield Sample(f"{scheme} and {turned} strided", (strided, scheme, turned, *stream))


def _cost(x: Tensor, scheme: str, turned_scheme: str, seed: int, offset: int, turned_offset: int) -> Cost:
    rows, cols = as_matrix(x).shape
    shapes = ((parse(scheme), (rows, cols)), (parse(turned_scheme), (cols, rows)))
    scales = sum(int(np.prod(spec.scale_shape(shape))) * spec.scale_bits / 8 for spec, shape in shapes)
    return Cost(flops=4.0 * x.numel(), bytes=x.numel() * (x.element_size() + 2.0) + scales)


QUANTIZE_PAIR = register(
    Op(
        name="quantize_pair",
        schema="(Tensor x, str scheme, str turned_scheme, int seed, int offset, int turned_offset) -> (Tensor codes, "
        "Tensor scale, Tensor outer, Tensor turned_codes, Tensor turned_scale, Tensor turned_outer)",
        reference=_reference,
        torch_impl=quantize_pair_torch,
        triton_impl=quantize_pair_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=Exact(),
        compile_cases=compile_cases,
    )
)


def quantize_pair(
    x: Tensor,
    scheme: Scheme | str,
    turned_scheme: Scheme | str,
    seed: int | None = None,
    *,
    offset: int = 0,
    turned_offset: int = 1,
) -> tuple[QuantizedTensor, QuantizedTensor]:
    """`quantize(x, scheme)` and `quantize(x.t(), turned_scheme)`, of x [..., K] as M rows; the codes of the second are
    [K, M], contiguous.

    seed, offset, turned_offset: the random streams of `+sr` schemes, two of them, so that the roundings of the two
    copies are independent.

    Raises ValueError for unknown schemes, missing seeds and formats that no kernel serves; TypeError for other dtypes.
    """
    check_input(x)
    texts = canonical(scheme), canonical(turned_scheme)
    number = max(check_seed(text, seed) for text in texts)
    six: Six = QUANTIZE_PAIR(x.detach(), *texts, number, offset, turned_offset)
    first = QuantizedTensor(six[0], six[1], six[2], texts[0], x.dtype)
    return first, QuantizedTensor(six[3], six[4], six[5], texts[1], x.dtype)
