"""Launches of scaled_gemm's Triton kernels: arguments, tensor descriptors, the workspace of a split contraction."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, Scheme, parse
from narrowgauge.kernels import _gemm_model as model
from narrowgauge.kernels import tuning
from narrowgauge.kernels._gemm_config import Config, Product, candidates, product_of
from narrowgauge.kernels._gemm_kernel import gemm_kernel, sum_kernel
from narrowgauge.kernels._gemm_plan import INTERPRETER, NATIVE_FP8, plan, scale_columns, target_of
from narrowgauge.kernels._gemm_requantise import (
    LARGEST_SUM,
    WIDEST_PIECE,
    Codes,
    fits,
    requantisation,
    sum_block,
)
from narrowgauge.kernels._gpu_facts import gpu_of
from narrowgauge.kernels.layout import blob_for, has_e8m0_scales, layout_of

SIZES = (
    "M", "N", "K", "stride_am", "stride_ak", "stride_bn", "stride_bk", "stride_om", "stride_asm", "stride_ask",
    "stride_bsn", "stride_bsk",
)  # fmt: skip
_EPILOGUE = (
    "a_scale_ptr", "b_scale_ptr", "bias_ptr", "M", "N", "stride_asm", "stride_bsn", "POINT", "A_TILE_M", "A_TILE_K",
    "B_TILE_N", "B_TILE_K", "ACTIVATION", "SPLIT_K",
)  # fmt: skip


class Call(NamedTuple):
    """A checked call. codes: where codes of the product go, None for its values."""

    a: Tensor
    a_scale: Tensor
    b: Tensor
    b_scale: Tensor
    spec_a: Scheme
    spec_b: Scheme
    bias: Tensor | None
    activation: str = "none"
    codes: Codes | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the product."""
        return self.a.shape[0], self.b.shape[0]


def keeps_codes(spec: Scheme) -> bool:
    """Whether the kernel takes the scales as they are stored; else as factors (block formats but those with E8M0)."""
    return not isinstance(spec.format, BlockFormat) or has_e8m0_scales(spec.format)


def is_turned(codes: Tensor) -> bool:
    """Whether the matrix is contiguous down its columns and not along its rows, as a transposed view is."""
    return codes.stride(0) == 1 and codes.stride(1) != 1


def is_aligned(codes: Tensor) -> bool:
    """Whether a tensor descriptor can describe the bytes: 16-byte steps, one contiguous axis, no empty one."""
    stride, inner = (codes.stride(1), codes.stride(0)) if is_turned(codes) else codes.stride()
    return inner == 1 and stride % 16 == 0 and codes.data_ptr() % 16 == 0 and codes.numel() > 0


def class_of(call: Call, out: Tensor) -> Product:
    """The class of a call; see `Product`."""
    a, b = call.a, call.b
    turned = "a" * is_turned(a) + "b" * is_turned(b)
    aligned, size = is_aligned(a) and is_aligned(b), out.element_size()
    return product_of(a.shape[0], b.shape[0], a.shape[1], call.spec_a, call.spec_b, turned, aligned, size)


@lru_cache(maxsize=4096)
def launches(product: Product, target: str, codes: str | None, activation: str = "none") -> tuple[Config, ...]:
    """The candidates, for codes of a scheme those whose blocks hold whole tiles of it (there may be none)."""
    found = candidates(product, target)
    if codes is None:
        return found
    spec = parse(codes)
    down, across = sum_block(spec)
    summed = down * across <= LARGEST_SUM and fits(spec, down, across)
    # 256 columns leave no registers for encoding, and the loop over tiles none for that and the error function.
    loops = activation != "gelu"
    return tuple(
        config
        for config in found
        if config.block_n * config.halves <= WIDEST_PIECE
        and (loops or not config.persistent)
        and (summed or config.split_k == 1)
        and fits(spec, config.block_m, _piece(config))
    )


def _operand(codes: Tensor, fmt: Format, operand: str, target: str) -> Tensor:
    """The codes as the kernel takes them: as the target's own fp8 type, or as they are."""
    return codes.view(NATIVE_FP8[target][fmt.name]) if operand == "fp8" else codes


def arguments(call: Call, out: Tensor, config: Config, target: str) -> dict[str, Any]:
    """Every argument of `gemm_kernel` by name, the operands as tensors."""
    tile_a, tile_b = call.spec_a.factor_tile, call.spec_b.factor_tile
    how = plan(call.spec_a, call.spec_b, target)
    tensors = {
        "a_ptr": _operand(call.a, call.spec_a.element, how.operand, target),
        "b_ptr": _operand(call.b, call.spec_b.element, how.operand, target),
        "out_ptr": out, "a_scale_ptr": call.a_scale, "b_scale_ptr": call.b_scale, "bias_ptr": call.bias,
        "a_table_ptr": blob_for(call.spec_a, out.device), "b_table_ptr": blob_for(call.spec_b, out.device),
    }  # fmt: skip
    strides = (
        *call.a.stride(), *call.b.stride(), out.stride(-2), *call.a_scale.stride(), *call.b_scale.stride()
    )  # fmt: skip
    layouts = layout_of(call.spec_a.element), layout_of(call.spec_b.element)
    point = 2.0 ** -(layouts[0].fraction_bits + layouts[1].fraction_bits) if how.operand == "int8" else 1.0
    constants = {
        "A_F": layouts[0], "B_F": layouts[1], "OPERAND": how.operand, "A_TILE_M": tile_a[0] or 0,
        "A_TILE_K": tile_a[1] or 0, "B_TILE_N": tile_b[0] or 0, "B_TILE_K": tile_b[1] or 0,
        "SCALE_K": scale_columns(tile_a, tile_b), "PROMOTE": how.promote, "PRECISION": how.precision, "POINT": point,
        "ACTIVATION": call.activation, "A_TURNED": is_turned(call.a), "B_TURNED": is_turned(call.b),
        "BLOCK_M": config.block_m, "BLOCK_N": config.block_n, "BLOCK_K": config.block_k, "HALVES": config.halves,
        "GROUP_M": config.group_m, "SPLIT_K": config.split_k, "PERSISTENT": config.persistent, "TMA": config.tma,
        "SPECIALIZE": config.specialize,
    }  # fmt: skip
    sizes = dict(zip(SIZES, (*call.shape, call.a.shape[1], *strides), strict=True))
    codes = call.codes if config.split_k == 1 else None
    return tensors | sizes | constants | requantisation(codes, call.shape, config.block_m, _piece(config))


def _piece(config: Config) -> int:
    """Columns that the epilogue works on at a time."""
    return min(config.block_n, WIDEST_PIECE)


def sum_arguments(call: Call, named: dict[str, Any], parts: Tensor, out: Tensor) -> dict[str, Any]:
    """Every argument of `sum_kernel` by name, and its launch option."""
    down, across = sum_block(call.codes.spec if call.codes else None)
    kept = {name: named[name] for name in _EPILOGUE}
    ends = {"parts_ptr": parts, "out_ptr": out, "stride_om": out.stride(0), "BLOCK_M": down, "BLOCK_N": across}
    warps = min(16, max(4, down * across // 1024))
    return kept | requantisation(call.codes, call.shape, down, across) | ends | {"num_warps": warps}


def workspace(call: Call, out: Tensor, config: Config) -> Tensor:
    """The parts [split_k, M, N] of a split contraction: int32 where they are sums of integers."""
    integers = layout_of(call.spec_a.element).kind == "int"
    whole = integers and scale_columns(call.spec_a.factor_tile, call.spec_b.factor_tile) == 0
    return out.new_empty((config.split_k, *call.shape), dtype=torch.int32 if whole else torch.float32)


def _descriptor(codes: Tensor, rows: int, columns: int) -> Any:
    """The tensor descriptor of blocks of the matrix, of its transpose where that is the contiguous one."""
    from triton.tools.tensor_descriptor import TensorDescriptor  # here, for machines without Triton

    if is_turned(codes):
        return TensorDescriptor.from_tensor(codes.t(), [columns, rows])
    return TensorDescriptor.from_tensor(codes, [rows, columns])


def run(config: Config, call: Call, out: Tensor, product: Product, target: str) -> None:
    """One product with a configuration, into out [M, N]."""
    split = config.split_k > 1
    parts = workspace(call, out, config) if split else out
    named = arguments(call, parts, config, target)
    if config.tma:
        for name, rows in (("a_ptr", config.block_m), ("b_ptr", config.block_n)):
            named[name] = _descriptor(named[name], rows, config.block_k)
    (m, n), units = call.shape, gpu_of(target).units
    if out.device.type == "cuda":
        units = torch.cuda.get_device_properties(out.device).multi_processor_count
    programs = -(-m // config.block_m) * -(-n // (config.block_n * config.halves)) * config.split_k
    if config.persistent:
        programs = min(programs, units * model.residents(config, product, target))
    gemm_kernel[(programs,)](**named, num_warps=config.num_warps, num_stages=config.num_stages)
    if split:
        last = sum_arguments(call, named, parts, out)
        sum_kernel[(-(-m // last["BLOCK_M"]) * -(-n // last["BLOCK_N"]),)](**last)


def launch(call: Call, out: Tensor, config: Config | None = None) -> bool:
    """Writes the product into out [M, N], which is contiguous; False, having written nothing, where no kernel can
    encode it as call.codes wants. config: one that the caller gives, in the place of the one that the model or
    measurements choose."""
    target = target_of(out.device)
    product, spec = class_of(call, out), call.codes.spec if call.codes else None
    found = launches(product, target, None if spec is None else str(spec), call.activation)
    if config is None and not found:
        return False
    if out.numel():
        act = partial(run, call=call, out=out, product=product, target=target)
        if config is None:
            key = product.key if spec is None else f"{product.key} {call.activation} {spec}"
            seconds = partial(model.seconds, product=product, target=target)
            config = tuning.choose("scaled_gemm", key, lambda: found, seconds, act, out.device)
        act(config)
    return True


def multiply(call: Call, out_dtype: torch.dtype, config: Config | None = None) -> Tensor:
    """The values of a product; see `launch`."""
    # Triton's interpreter truncates where it casts to bfloat16.
    kept = torch.float32 if target_of(call.a.device) == INTERPRETER else out_dtype
    out = call.a.new_empty(call.shape, dtype=kept)
    launch(call, out, config)
    return out.to(out_dtype)
