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

from narrowgauge.formats import BlockFormat, Scheme, parse, quantize_reference
from narrowgauge.formats.tiles import rows_cols, spread
from narrowgauge.kernels import _cast
from narrowgauge.kernels._scales_torch import block_scales
from narrowgauge.kernels._tables_torch import decode
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import (
    blob_for,
    has_e8m0_scales,
    has_float_scales,
    layout_of,
    scale_dtype,
    table_constants,
    table_signature,
)
from narrowgauge.kernels.op import LIBRARY, CompileCase, Cost, Exact, Op, Sample, register
from narrowgauge.kernels.quantize import QUANTIZE, stored_scale
from narrowgauge.kernels.tiles import as_matrix, empty_codes, is_column_major, multiply_tiles, tile_counts


def check_quantized(codes: Tensor, scale: Tensor, spec: Scheme, name: str = "codes") -> None:
    """Raises TypeError or ValueError, naming the argument, if codes and scale do not fit the scheme."""
    expected = layout_of(spec.element).code_dtype
    if codes.dtype != expected:
        raise TypeError(f"{name}: {spec} has {expected} codes, got {codes.dtype}")
    shape = spec.scale_shape(tuple(codes.shape))
    dtype = scale_dtype(spec)
    if tuple(scale.shape) != shape or scale.dtype != dtype:
        raise ValueError(
            f"{name} scale: {spec} on shape {tuple(codes.shape)} needs {dtype} {shape}, "
            f"got {scale.dtype} {tuple(scale.shape)}"
        )


def factors_of(scale: Tensor, outer: Tensor, spec: Scheme, cols: int) -> Tensor:
    """float32 factor of each tile of `spec.factor_tile`, [tiles down, tiles across], for a tensor of `cols` columns."""
    if not isinstance(spec.format, BlockFormat):
        return scale.flatten(0, -2)
    return block_scales(scale, spec.format, outer).flatten(0, -2)[:, : tile_counts((1, cols), spec.factor_tile)[1]]


def dequantize_torch(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Tensor:
    """The CPU implementation: decode by table, then one product in place."""
    spec = parse(scheme)
    check_quantized(codes, scale, spec)
    matrix, tile = as_matrix(codes), spec.factor_tile
    factors = factors_of(scale, outer, spec, matrix.shape[1])
    if is_column_major(codes):
        values = multiply_tiles(decode(matrix.t(), spec.element), factors.t(), (tile[1], tile[0])).t()
    else:
        values = multiply_tiles(decode(matrix, spec.element), factors, tile)
    return values.view(codes.shape).to(dtype) if not is_column_major(codes) else values.to(dtype)


@jit
def _dequantize_kernel(codes_ptr, scale_ptr, outer_ptr, table_ptr, out_ptr, M, K, TILE_M, TILE_K, TILES_K, stride_cm,
                       stride_ck, stride_om, stride_ok, F: tl.constexpr, SCALE: tl.constexpr, SCALE_F: tl.constexpr,
                       BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """SCALE: fp32 (factors), e8m0 or outer (codes of SCALE_F times the outer scale)."""
    blocks_k = tl.cdiv(K, BLOCK_K)
    pid = tl.program_id(0)
    offs_m = ((pid // blocks_k).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    offs_k = ((pid % blocks_k).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
    mask = (offs_m < M) & (offs_k < K)
    codes = tl.load(codes_ptr + offs_m * stride_cm + offs_k * stride_ck, mask=mask, other=0)
    scale = tl.load(scale_ptr + (offs_m // TILE_M) * TILES_K + offs_k // TILE_K, mask=mask, other=0)
    if SCALE == "e8m0":
        exponent = scale.to(tl.int32) - 127
        factor = tl.where(exponent == 128, float("nan"), _cast.power_of_two(tl.minimum(exponent, 127)))
    elif SCALE == "outer":
        factor = _cast.decode(scale, None, SCALE_F) * tl.load(outer_ptr)
    else:
        factor = scale
    value = _cast.decode(codes, table_ptr, F) * factor
    tl.store(out_ptr + offs_m * stride_om + offs_k * stride_ok, value.to(out_ptr.dtype.element_ty), mask=mask)


def dequantize_triton(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Tensor:
    """Launches `_dequantize_kernel`; see the module for the contract."""
    spec = parse(scheme)
    check_quantized(codes, scale, spec)
    # bfloat16 and float16 are rounded by torch: Triton's interpreter truncates such casts.
    wide = empty_codes(codes, torch.float32)
    matrix, target = as_matrix(codes), as_matrix(wide)
    rows, cols = matrix.shape
    constants, tile = _constants(spec), spec.factor_tile
    across = tile_counts(matrix.shape, tile)[1]
    if constants["SCALE"] == "fp32":
        scale = factors_of(scale, outer, spec, cols)
        across = scale.stride(0)
    if rows and cols:
        block_k = min(triton.next_power_of_2(cols), 512)
        block_m = min(triton.next_power_of_2(rows), 4096 // block_k)
        grid = (triton.cdiv(rows, block_m) * triton.cdiv(cols, block_k),)
        sides = (side or max(size, 1) for side, size in zip(tile, matrix.shape, strict=True))
        _dequantize_kernel[grid](
            matrix, scale, outer, blob_for(spec, codes.device), target, rows, cols, *sides, across, *matrix.stride(),
            *target.stride(), **constants, BLOCK_M=block_m, BLOCK_K=block_k,
        )  # fmt: skip
    return wide.to(dtype)


def _constants(spec: Scheme) -> dict[str, object]:
    """Compile-time arguments. Scales that the kernel does not decode come as factors."""
    fmt = spec.format
    how, scale_format = "fp32", None
    if isinstance(fmt, BlockFormat) and has_e8m0_scales(fmt):
        how = "e8m0"
    elif isinstance(fmt, BlockFormat) and has_float_scales(fmt):
        how, scale_format = "outer", layout_of(fmt.scale_format)
    return {"F": layout_of(spec.element), "SCALE": how, "SCALE_F": scale_format}


def _compile_cases() -> Iterator[CompileCase]:
    for scheme in ("e4m3fn/1x128", "rf8/row", "mxfp8", "nvfp4", "dynamic8/row", "nf4/1x64"):
        spec = parse(scheme)
        layout = layout_of(spec.element)
        scale = "*u8" if isinstance(spec.format, BlockFormat) else "*fp32"
        signature = {"codes_ptr": "*u8", "scale_ptr": scale, "outer_ptr": "*fp32", "out_ptr": "*fp32"}
        names = ("M", "K", "TILE_M", "TILE_K", "TILES_K", "stride_cm", "stride_om")
        signature |= dict.fromkeys(names, "i32") | table_signature(layout)
        constants = {
            **table_constants(layout),
            **_constants(spec),
            "stride_ck": 1,
            "stride_ok": 1,
            "BLOCK_M": 8,
            "BLOCK_K": 512,
        }
        yield CompileCase(f"dequantize {scheme}", _dequantize_kernel, signature, constants)


def _fake(codes: Tensor, scale: Tensor, outer: Tensor, scheme: str, dtype: torch.dtype) -> Tensor:
    check_quantized(codes, scale, parse(scheme))
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
        compile_cases=_compile_cases,
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
