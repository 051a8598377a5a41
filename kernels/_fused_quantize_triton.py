"""Triton kernels of fused_quantize: a block is read, taken through its prologue, and encoded.

`fused_prologue_kernel` serves blocks of whole tiles. Before it for two-level scales, and with `encode_prologue_kernel`
for tiles that no program holds, `maxima_prologue_kernel` takes a launch, and the prologue is computed again. Norms of
rows that no program holds are one more, `roots_kernel`.

Products and sums must stay two roundings: all are launched without fusion to multiply-adds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import parse
from narrowgauge.kernels import _cast
from narrowgauge.kernels._fused_quantize_checks import check_call
from narrowgauge.kernels._fused_quantize_plan import LOOPED, fused_plan, prologue_layout
from narrowgauge.kernels._gemm_plan import target_of
from narrowgauge.kernels._quantize_device import (
    block_corner,
    load,
    load_units,
    offsets,
    outer_scale,
    raise_largest,
    raise_maxima,
    save_codes,
    save_scales,
    scaled,
)
from narrowgauge.kernels._quantize_plan import scale_layout
from narrowgauge.kernels._quantize_triton import encoding, launch_scales
from narrowgauge.kernels._register_room import register_room
from narrowgauge.kernels._triton import jit, tl, triton
from narrowgauge.kernels.layout import blob_for, layout_for, scale_dtype
from narrowgauge.kernels.prologues.gelu import gelu, gelu_tanh
from narrowgauge.kernels.prologues.hadamard import butterflies
from narrowgauge.kernels.prologues.relu_squared import relu_squared
from narrowgauge.kernels.prologues.rms_norm import roots, row_powers, squares
from narrowgauge.kernels.prologues.silu import silu
from narrowgauge.kernels.tiles import as_matrix, tile_counts


@jit
def round_to_float16(x):
    """float32 rounded to the values of float16, ties to even: by a sum whose last bit is float16's."""
    bits = _cast.bits_of(x)
    exponent = tl.maximum(bits & 0x7F800000, 113 << 23)
    magic = _cast.float_of(exponent + (13 << 23))
    rounded = (tl.abs(x) + magic) - magic
    rounded = tl.where(rounded > 65504.0, float("inf"), rounded)
    signed = _cast.float_of(_cast.bits_of(rounded) | (bits & -2147483648))
    return tl.where(_cast.is_finite(x), signed, x)


@jit
def rounded_to(x, ROUNDING: tl.constexpr):
    """float32 x with the values of the tensor's dtype."""
    if ROUNDING == "bf16":
        return _cast.round_to_bfloat16(x)
    elif ROUNDING == "fp16":
        return round_to_float16(x)
    else:
        return x


@jit
def read(x_ptr, other_ptr, first_m, first_k, M, COLUMNS, stride_xm, stride_xk, stride_om, stride_ok, P: tl.constexpr,
         BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """float32 block of x, or of the rounded sum."""
    x = load(x_ptr, first_m, first_k, M, COLUMNS, stride_xm, stride_xk, BLOCK_M, BLOCK_K)
    if P.adds:
        other = load(other_ptr, first_m, first_k, M, COLUMNS, stride_om, stride_ok, BLOCK_M, BLOCK_K)
        x = rounded_to(x + other, P.rounding)
    return x


@jit
def load_weight(weight_ptr, first_k, COLUMNS, P: tl.constexpr, BLOCK_K: tl.constexpr):
    """float32 [1, BLOCK_K]."""
    columns = first_k + tl.arange(0, BLOCK_K)[None, :]
    place = columns % P.period if P.period > 0 else columns
    return tl.load(weight_ptr + place, mask=columns < COLUMNS, other=1.0).to(tl.float32)


@jit
def block_of(x_ptr, other_ptr, weight_ptr, root_ptr, values_ptr, first_m, first_k, M, K, COLUMNS, eps, stride_xm,
             stride_xk, stride_om, stride_ok, P: tl.constexpr, BLOCK_M: tl.constexpr,
             BLOCK_K: tl.constexpr):  # fmt: skip
    """float32 block of the prologue's result; writes the values where P.keeps. P: a `PrologueLayout`."""
    x = read(
        x_ptr, other_ptr, first_m, first_k, M, COLUMNS, stride_xm, stride_xk, stride_om, stride_ok, P, BLOCK_M, BLOCK_K
    )  # fmt: skip
    y = x
    if P.kind == "silu":
        y = silu(x)
    elif P.kind == "gelu":
        y = gelu(x)
    elif P.kind == "gelu_tanh":
        y = gelu_tanh(x)
    elif P.kind == "relu_squared":
        y = relu_squared(x)
    elif P.kind == "hadamard":
        if P.period >= 0:
            x = x * load_weight(weight_ptr, first_k, COLUMNS, P, BLOCK_K)
        y = butterflies(x, P.block, BLOCK_M, BLOCK_K)
    elif P.kind == "rmsnorm":
        if P.norm == "inside":
            amax = _cast.float_of(tl.max(_cast.bits_of(tl.abs(x)), axis=1))
            up, down = row_powers(amax)
            root = roots(tl.sum(squares(x, up[:, None]), axis=1), down, amax, COLUMNS, eps)
        else:
            rows = first_m + tl.arange(0, BLOCK_M)
            root = tl.load(root_ptr + rows, mask=rows < M, other=1.0)
        y = x * root[:, None]
        if P.period >= 0:
            y = y * load_weight(weight_ptr, first_k, COLUMNS, P, BLOCK_K)
    if P.gated:
        y = y * load(other_ptr, first_m, first_k, M, COLUMNS, stride_om, stride_ok, BLOCK_M, BLOCK_K)
    offs_m, offs_k = offsets(first_m, first_k, BLOCK_M, BLOCK_K)
    if P.norm != "none":
        # Zeros outside, also of rows of NaN.
        y = tl.where((offs_m < M) & (offs_k < K), y, 0.0)
    if P.keeps:
        kept = x if P.adds else rounded_to(y, P.rounding)
        place = values_ptr + offs_m * K + offs_k
        tl.store(place, kept.to(values_ptr.dtype.element_ty), mask=(offs_m < M) & (offs_k < K))
    return y


@jit
def fused_prologue_kernel(x_ptr, other_ptr, weight_ptr, root_ptr, codes_ptr, scale_ptr, outer_ptr, maxima_ptr,
                          values_ptr, table_ptr, M, K, COLUMNS, TILES_K, eps, stride_xm, stride_xk, stride_om,
                          stride_ok, seed, offset, P: tl.constexpr, F: tl.constexpr, STOCHASTIC: tl.constexpr,
                          FOURS: tl.constexpr, S: tl.constexpr, T: tl.constexpr, BLOCK_M: tl.constexpr,
                          BLOCK_K: tl.constexpr):  # fmt: skip
    """A block of whole tiles: read once, written once."""
    outer = outer_scale(maxima_ptr, outer_ptr, S)
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    y = block_of(
        x_ptr, other_ptr, weight_ptr, root_ptr, values_ptr, first_m, first_k, M, K, COLUMNS, eps, stride_xm, stride_xk,
        stride_om, stride_ok, P, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    inverse = save_scales(y, scale_ptr, outer, first_m, first_k, M, K, TILES_K, 1, S, T, BLOCK_M, BLOCK_K)
    y = scaled(y, inverse, T, BLOCK_M, BLOCK_K)
    save_codes(
        y, codes_ptr, table_ptr, first_m, first_k, M, K, K, 1, seed, offset, F, STOCHASTIC, FOURS, BLOCK_M, BLOCK_K
    )


@jit
def maxima_prologue_kernel(x_ptr, other_ptr, weight_ptr, root_ptr, maxima_ptr, M, K, COLUMNS, TILES_K, eps, stride_xm,
                           stride_xk, stride_om, stride_ok, P: tl.constexpr, T: tl.constexpr, ONE: tl.constexpr,
                           BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Bits of the largest magnitude of each tile; ONE: of all that are finite. P keeps nothing."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    y = block_of(
        x_ptr, other_ptr, weight_ptr, root_ptr, None, first_m, first_k, M, K, COLUMNS, eps, stride_xm, stride_xk,
        stride_om, stride_ok, P, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    if ONE:
        raise_largest(y, maxima_ptr, T, BLOCK_M, BLOCK_K)
    else:
        raise_maxima(y, maxima_ptr, first_m, first_k, M, K, TILES_K, 1, T, BLOCK_M, BLOCK_K)


@jit
def encode_prologue_kernel(x_ptr, other_ptr, weight_ptr, root_ptr, codes_ptr, factor_ptr, values_ptr, table_ptr, M, K,
                           COLUMNS, TILES_K, eps, stride_xm, stride_xk, stride_om, stride_ok, seed, offset,
                           P: tl.constexpr, F: tl.constexpr, STOCHASTIC: tl.constexpr, FOURS: tl.constexpr,
                           T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """Codes under the tiles' float32 factors."""
    first_m, first_k = block_corner(K, BLOCK_M, BLOCK_K)
    y = block_of(
        x_ptr, other_ptr, weight_ptr, root_ptr, values_ptr, first_m, first_k, M, K, COLUMNS, eps, stride_xm, stride_xk,
        stride_om, stride_ok, P, BLOCK_M, BLOCK_K,
    )  # fmt: skip
    factor = load_units(factor_ptr, first_m, first_k, M, K, TILES_K, 1, T, BLOCK_M, BLOCK_K)
    y = scaled(y, _cast.inverse_scale(factor), T, BLOCK_M, BLOCK_K)
    save_codes(
        y, codes_ptr, table_ptr, first_m, first_k, M, K, K, 1, seed, offset, F, STOCHASTIC, FOURS, BLOCK_M, BLOCK_K
    )


@jit
def roots_kernel(x_ptr, other_ptr, root_ptr, M, COLUMNS, eps, stride_xm, stride_xk, stride_om, stride_ok,
                 P: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """1 / sqrt(mean + eps) of a row that is read twice, the second time out of the cache."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((1, BLOCK_K), tl.int32)
    for start in range(0, COLUMNS, BLOCK_K):
        x = read(
            x_ptr, other_ptr, row, tl.cast(start, tl.int64), M, COLUMNS, stride_xm, stride_xk, stride_om, stride_ok, P,
            1, BLOCK_K,
        )  # fmt: skip
        largest = tl.maximum(largest, _cast.bits_of(tl.abs(x)))
    amax = _cast.float_of(tl.max(largest, axis=1))
    up, down = row_powers(amax)
    total = tl.zeros((1, BLOCK_K), tl.int64)
    for start in range(0, COLUMNS, BLOCK_K):
        x = read(
            x_ptr, other_ptr, row, tl.cast(start, tl.int64), M, COLUMNS, stride_xm, stride_xk, stride_om, stride_ok, P,
            1, BLOCK_K,
        )  # fmt: skip
        total += squares(x, up[:, None])
    root = roots(tl.sum(total, axis=1), down, amax, COLUMNS, eps)
    tl.store(root_ptr + row + tl.arange(0, 1), root)


def fused_quantize_triton(
    x: Tensor, other: Tensor | None, weight: Tensor | None, prologue: str, scheme: str, seed: int, offset: int,
    eps: float, keep_values: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Launches the kernels; see kernels/fused_quantize.py for the contract."""
    chosen = check_call(x, other, weight, prologue, scheme, eps)
    spec = parse(scheme)
    matrix, second = as_matrix(x), None if other is None else as_matrix(other)
    (rows, columns), width = matrix.shape, chosen.width(x.shape[-1])
    shape = (*x.shape[:-1], width)
    codes = x.new_empty(shape, dtype=layout_for(spec).code_dtype)
    scale = x.new_empty(spec.scale_shape(shape), dtype=scale_dtype(spec))
    outer = x.new_ones((), dtype=torch.float32)
    values = x.new_empty(shape if keep_values else (0,))
    cut = fused_plan(rows, width, spec, chosen)
    layout = prologue_layout(chosen, cut.norm, x.dtype, columns, None if weight is None else len(weight), keep_values)
    quiet = layout._replace(keeps=False)
    strides = (*matrix.stride(), *(matrix if second is None else second).stride())
    weight = None if weight is None else weight.contiguous()
    root = x.new_empty(rows if cut.norm == "given" else 0, dtype=torch.float32)
    if rows * width and cut.norm == "given":
        roots_kernel[(rows,)](
            matrix, second, root, rows, columns, eps, *strides, P=quiet, BLOCK_K=LOOPED, num_warps=8,
            enable_fp_fusion=False,
        )  # fmt: skip
    blocks = {"T": cut.tiling, "BLOCK_M": cut.block_m, "BLOCK_K": cut.block_k, "num_warps": cut.num_warps}
    blocks["enable_fp_fusion"] = False
    grid = (triton.cdiv(rows, cut.block_m) * triton.cdiv(width, cut.block_k),)
    down, across = tile_counts((rows, width), spec.factor_tile)
    sources = (matrix, second, weight, root)
    sizes = (rows, width, columns, across, eps, *strides)
    table, constants = blob_for(spec, x.device), encoding(spec, width, cut.block_k)
    whole = cut.fused and rows * width > 0
    maxima = torch.zeros(() if whole else (down, across), dtype=torch.int32, device=x.device)
    if not rows * width:
        launch_scales(matrix, maxima, scale, outer, spec)
        return codes, scale, outer, values
    if not whole or spec.two_level:
        maxima_prologue_kernel[grid](*sources, maxima, *sizes, P=quiet, ONE=whole, **blocks)
    if whole:
        fused_prologue_kernel[grid](
            *sources, codes, scale, outer, maxima, values, table, *sizes, seed, offset, P=layout, **constants,
            S=scale_layout(spec), **blocks, **(register_room(target_of(x.device)) if spec.two_level else {}),
        )  # fmt: skip
        return codes, scale, outer, values
    factors = launch_scales(matrix, maxima, scale, outer, spec)
    encode_prologue_kernel[grid](
        *sources, codes, factors, values, table, *sizes, seed, offset, P=layout, **constants, **blocks
    )
    return codes, scale, outer, values
