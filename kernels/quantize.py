"""quantize: codes and scales of a tensor under a scheme, in one read and one write where the tile allows it.

    amax  = max |x|  of each tile             scale = rule(amax)        (a clipping point for the rules that search)
    codes = encode(x · (1 / scale))           (definition: narrowgauge.formats.quantizer)

`torch.ops.narrowgauge.quantize(x, scheme, seed, offset) -> (codes, scale, outer)`
  x      [..., K] float32 / float64 / float16 / bfloat16, any strides
  codes  the shape of x; uint8, int8 for signed integer formats; column-major where x is
  scale  `Scheme.scale_shape(x.shape)` float32, or scale codes for block formats: uint8, int16 or int32 by their width
  outer  [] float32: the per-tensor scale of two-level formats, else 1
seed, offset: the Philox stream of `+sr` schemes (not looked at otherwise). Groups with a NaN or an infinity get a NaN
scale. Every implementation gives the same bits, stochastic rounding included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from narrowgauge._version import __version__
from narrowgauge.formats import Quantized, parse, quantize_reference
from narrowgauge.kernels._quantize_cases import compile_cases
from narrowgauge.kernels._quantize_torch import check_input, quantize_torch, quantize_traceable
from narrowgauge.kernels._quantize_triton import quantize_triton
from narrowgauge.kernels.layout import layout_for, scale_dtype
from narrowgauge.kernels.op import LIBRARY, Cost, Exact, Op, Sample, register
from narrowgauge.kernels.tiles import empty_codes


def _fake(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    check_input(x)
    spec = parse(scheme)
    return (
        empty_codes(x, layout_for(spec).code_dtype),
        x.new_empty(spec.scale_shape(tuple(x.shape)), dtype=scale_dtype(spec)),
        x.new_empty((), dtype=torch.float32),
    )


def _reference(x: Tensor, scheme: str, seed: int, offset: int) -> tuple[Tensor, Tensor, Tensor]:
    wide = x.float() if x.dtype == torch.bfloat16 else x
    q = quantize_reference(wide.numpy(), scheme, seed, offset)
    return torch.from_numpy(q.codes), stored_scale(q), torch.from_numpy(q.outer)


def stored_scale(q: Quantized) -> Tensor:
    """The scale as the op gives it: codes of more than 8 bits in the signed type of their width, the bits unchanged."""
    return torch.from_numpy(np.asarray(q.scale)).view(scale_dtype(q.scheme))


SAMPLE_SCHEMES = (
    "e4m3fn", "e4m3fn/row", "e4m3fn/col", "e4m3fn/1x128", "e4m3fn/128x128", "e4m3fn/128x128:pow2", "e4m3fn/4x24",
    "e5m2/row", "e5m2/1x16:floor", "e4m3fnuz/row", "e5m2fnuz", "e3m4/row:ceil", "e4m3b11fnuz/row", "binary8p1se/row",
    "binary8p3sf/row", "int8", "int8/row", "int8/32x32+sr", "int8_full/col", "uint8/row", "int4/1x32", "rf8", "rf8/row",
    "rf8/row+sr", "rf8/1x32:pow2", "e4m3fn/row+sr", "e5m2/128x128+sr", "e4m3fn:static=0.0125", "e2m3fn/row",
    "mxfp8", "mxfp8_e5m2:floor", "mxfp6_e3m2", "mxfp4", "mxfp4:even+sr", "mxint8", "mxint8:ceil", "nvfp4", "nvfp4+sr",
    # Tables: codebooks, minifloats with rules of their own, fixed point.
    "nf4", "nf4/1x64", "nf4/row+sr", "dynamic8/row", "dynamic8/8x32+sr", "udynamic8/col", "e3m2b5d/row",
    "e3m2b5d/row+sr", "ue7m1b120/1x16:pow2", "int6f3/row", "e2m3b-3in2/row:ceil", "ue4m3b7n1/1x32+sr",
    # Rules that search, flushing.
    "e4m3fn/row:mse", "int4/4x24:mse", "nf4/1x32:mse", "int8/row:percentile=99", "e2m1fn/16x40:percentile=97.5+sr",
    "e4m3fn:percentile=99.9", "e4m3fn/1x32+ftz", "e5m2/row+sr+ftz", "ue7m1b126/row+ftz", "mxfp4+ftz",
    "int4:sawb", "int8/row:sawb", "int2/16x24:sawb",
    # Block formats of any tile, exponent and level.
    "bfp4g24x24e10", "hbfp8+sr", "msfp12", "bfp6gtensor", "bfp6gallx8e5", "bfp4g16e3", "mx9", "mx6+sr", "mx4:ceil",
    "nvfp4:rceil", "nvfp4_2d", "nvfp4_2d:rceil+sr",
)  # fmt: skip


def _samples(rng: np.random.Generator, device: str) -> Iterator[Sample]:
    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)

    base = normal(37, 160)
    for scheme in SAMPLE_SCHEMES:
        yield Sample(scheme, (base, scheme, 1234567890123, 77 << 32 | 5))
    wild = base * torch.exp(3 * normal(37, 160))
    wild[3, 5], wild[9, 0], wild[20, 159] = float("nan"), float("inf"), -float("inf")
    wild[12], wild[13], wild[14] = 0.0, 3e38, 1e-42
    for scheme in (
        "e4m3fn/row", "int8/row", "rf8/row", "mxfp8", "mxint8", "nvfp4", "e4m3fn/1x16:rceil", "e4m3fn", "nf4/row+sr",
        "dynamic8/1x32", "e4m3fn/1x16+ftz", "int8/row:mse", "e4m3fn/row:percentile=99", "mx6", "hbfp8",
        "nvfp4_2d:rceil", "int4/row:sawb", "int8/16x24:sawb",
    ):  # fmt: skip
        yield Sample(f"{scheme} wild", (wild, scheme, 1, 2))
        yield Sample(f"{scheme} transposed", (wild.t(), scheme, 1, 2))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        for scheme in (
            "e4m3fn/row", "e5m2/1x128+sr", "int8", "mxfp8", "rf8/32x32", "nf4/row", "e4m3fn/row:mse", "mx6",
            "int4:sawb",
        ):  # fmt: skip
            yield Sample(f"{scheme} {dtype}", (base.to(dtype), scheme, 3, 4))
    shapes: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (1, 1), (0, 8), (8, 0), (3, 5, 17), (1, 131), (127, 1))
    for shape in shapes:
        for scheme in (
            "e4m3fn/row", "int8", "e4m3fn/4x8+sr", "mxfp8", "nvfp4", "e5m2/col", "dynamic8/1x8+sr",
            "int8/row:percentile=90", "e4m3fn/4x8:mse", "nvfp4_2d", "hbfp4", "int4/4x8:sawb",
        ):  # fmt: skip
            yield Sample(f"{scheme} {shape}", (normal(*shape), scheme, 5, 6))
    strided = normal(40, 300)[::2, 7:200:3]
    for scheme in ("e4m3fn/row", "int8/8x8+sr", "nvfp4", "e5m2"):
        yield Sample(f"{scheme} strided", (strided, scheme, 7, 8))


def _cost(x: Tensor, scheme: str, seed: int, offset: int) -> Cost:
    spec = parse(scheme)
    scales_bytes = int(np.prod(spec.scale_shape(tuple(x.shape)))) * spec.scale_bits / 8
    return Cost(flops=2.0 * x.numel(), bytes=x.numel() * (x.element_size() + 1) + scales_bytes)


QUANTIZE = register(
    Op(
        name="quantize",
        schema="(Tensor x, str scheme, int seed, int offset) -> (Tensor codes, Tensor scale, Tensor outer)",
        reference=_reference,
        torch_impl=quantize_torch,
        triton_impl=quantize_triton,
        fake=_fake,
        samples=_samples,
        cost=_cost,
        bound=Exact(),
        compile_cases=compile_cases,
    )
)

# A composite: tracers keep the call in the graph and take it apart below Python's level, where inductor fuses it. torch
# keeps compiled graphs on the disk by the names of their operators: a version's formula has a name of its own.
TRACEABLE = "quantize_traceable_" + re.sub(r"\W", "_", __version__)
LIBRARY.define(TRACEABLE + QUANTIZE.schema)
LIBRARY.impl(TRACEABLE, quantize_traceable, "CompositeImplicitAutograd")
QUANTIZE_TRACEABLE = getattr(torch.ops.narrowgauge, TRACEABLE)
