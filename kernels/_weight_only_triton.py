"""Launches the kernels of weight_only_gemm; `kernels/_weight_only_plan.py` chooses how."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Scheme
from narrowgauge.kernels._gemm_plan import INTERPRETER, target_of
from narrowgauge.kernels._triton import tl
from narrowgauge.kernels._weight_only_kernel import dot_kernel, join_kernel, rows_kernel
from narrowgauge.kernels._weight_only_model import seconds
from narrowgauge.kernels._weight_only_plan import Launch, Shape, Way, candidates, way_of
from narrowgauge.kernels._weight_only_torch import Weight
from narrowgauge.kernels.dequantize import factors_of
from narrowgauge.kernels.layout import Layout, blob_for, layout_of
from narrowgauge.kernels.tuning import choose

JOIN_BLOCK = 1024
"""Sums of a program of `join_kernel`."""


def arguments(
    x: Tensor, weight: Weight, scale: Tensor, bias: Tensor | None, out: Tensor, way: Way, how: Launch
) -> dict[str, Any]:
    """Every argument of the kernel that `how` names. scale: as the kernel reads it, [tiles down, tiles across]."""
    spec = weight.spec
    tall, wide = spec.factor_tile
    known = {
        "x_ptr": x, "codes_ptr": weight.codes, "scale_ptr": scale, "zero_ptr": weight.zero_point, "out_ptr": out,
        "outer_ptr": weight.outer if way.scale == "outer" else None, "table_ptr": blob_for(spec, x.device),
        "bias_ptr": None if how.splits > 1 else bias,
        "T": x.shape[0], "N": weight.rows, "K": weight.cols, "WIDTH": weight.codes.shape[1],
        "stride_xt": x.stride(0), "stride_xk": x.stride(1), "stride_cn": weight.codes.stride(0),
        "stride_ck": weight.codes.stride(1), "stride_sn": scale.stride(0), "steps": how.steps(weight.cols, way),
        "F": layout_of(spec.element), "SCALE_F": _scale_layout(spec) if way.scale == "outer" else None,
        "SCALE": way.scale, "WHERE": way.where(how.kernel), "BITS": way.bits, "NIBBLES": way.nibbles,
        "TILE_N": tall or 0, "TILE_K": wide or 0, "RUN": way.run(how.block_k), "SPLIT": how.splits > 1,
        "BLOCK_T": how.block_t, "BLOCK_N": how.block_n, "BLOCK_K": how.block_k, "STAGES": how.num_stages,
    }  # fmt: skip
    if how.kernel == "rows":
        # Reads, of which some are of two codes.
        return known | {
            "WIDE": tl.float64 if x.dtype == torch.float64 else tl.float32,
            "RUN": way.run(how.block_k) // way.per_byte,
        }
    return known | {"OPERAND": way.operand, "PRECISION": way.precision}


def _scale_layout(spec: Scheme) -> Layout:
    assert isinstance(spec.format, BlockFormat)
    return layout_of(spec.format.scale_format)


def with_near_columns(matrix: Tensor) -> Tensor:
    """The matrix, contiguous where the places of a row reach further than the 32 bits that kernels have for them."""
    return matrix.contiguous() if matrix.shape[1] * matrix.stride(1) >= 2**31 else matrix


def kernel_of(how: Launch) -> Any:
    """The kernel that `how` names."""
    return rows_kernel if how.kernel == "rows" else dot_kernel


def read_scale(weight: Weight, way: Way) -> Tensor:
    """The scales as the kernel reads them: as they are stored where it decodes them, else factors."""
    spec = weight.spec
    if way.scale == "fp32" and isinstance(spec.format, BlockFormat):
        outer = weight.scale.new_ones((), dtype=torch.float32) if weight.outer is None else weight.outer
        return factors_of(weight.scale, outer, spec, weight.cols).contiguous()
    return weight.scale.contiguous()


def run(x: Tensor, weight: Weight, scale: Tensor, bias: Tensor | None, out: Tensor, way: Way, how: Launch) -> None:
    """One product into `out`. scale: as `read_scale` gives it."""
    t, n = out.shape
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    into = out if how.splits == 1 else out.new_empty((how.splits, t, n), dtype=wide)
    given = arguments(x, weight, scale, bias, into, way, how)
    grid = (-(-t // how.block_t) * -(-n // how.block_n), how.splits)
    kernel_of(how)[grid](**given, num_warps=how.num_warps, num_stages=how.num_stages)
    if how.splits > 1:
        join_kernel[(-(-t * n // JOIN_BLOCK),)](into, bias, out, t * n, n, PARTS=how.splits, BLOCK=JOIN_BLOCK)


def launch(x: Tensor, weight: Weight, bias: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    """Runs the kernels on checked arguments; see kernels/weight_only.py for the contract."""
    t, n, k = x.shape[0], weight.rows, weight.cols
    target = target_of(x.device)
    # Triton's interpreter truncates where it casts to 16 bits.
    narrow = target == INTERPRETER and out_dtype in (torch.bfloat16, torch.float16)
    out = x.new_empty((t, n), dtype=torch.float32 if narrow else out_dtype)
    if t and n:
        point = None if weight.zero_point is None else weight.zero_point.contiguous()
        weight = weight._replace(codes=with_near_columns(weight.codes), zero_point=point)
        x, bias = with_near_columns(x), None if bias is None else bias.contiguous()
        way = way_of(weight.spec, x.dtype, weight.packed, weight.zero_point is not None, target)
        scale, shape = read_scale(weight, way), Shape(t, n, k)
        how = choose(
            "weight_only_gemm", shape.key(way, weight.spec), lambda: candidates(shape, way, target),
            lambda how: seconds(shape, way, how, target),
            lambda how: run(x, weight, scale, bias, out, way, how), x.device,
        )  # fmt: skip
        run(x, weight, scale, bias, out, way, how)
    return out.to(out_dtype)
