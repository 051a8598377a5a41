"""Other people's low-precision products of the same operands, where they are installed and can serve.

Those that take codes get ours, so that they multiply the very same numbers. TransformerEngine gets what its quantizer
makes, and is held to the values of that; the layers of torchao quantise by themselves, and are allowed the error of the
scheme they implement. DeepGEMM and TransformerEngine need an NVIDIA GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.bench.gemm_check import Rounding, hopper_partial, relative_error
from narrowgauge.bench.gemm_competitor import (
    FLOAT8,
    Competitor,
    Make,
    float8_rounding,
    in_multiples,
    matrix_unit,
    moved,
    out_bytes,
    out_dtype,
)
from narrowgauge.bench.gemm_inputs import Inputs, Operands
from narrowgauge.bench.gemm_weight_peers import bitsandbytes_nf4, int4pack_mm, int8pack_mm
from narrowgauge.bench.peer import installed
from narrowgauge.formats import parse

BLOCK = 128
FEWEST_ROWS_INT8 = 17
"""torch._int_mm takes no fewer on CUDA."""
Units = tuple[str, ...]
MakePeer = Callable[[Units, Inputs], Competitor]


def _on_nvidia(inputs: Inputs, least: tuple[int, int]) -> tuple[int, int]:
    """The compute capability. ValueError without such a GPU."""
    if inputs.device.type != "cuda" or torch.version.hip is not None:
        raise ValueError("needs an NVIDIA GPU")
    capability = torch.cuda.get_device_capability(inputs.device)
    if capability < least:
        raise ValueError(f"needs compute capability {least[0]}.{least[1]}, not {capability[0]}.{capability[1]}")
    return capability


def _float8(x: Tensor) -> Tensor:
    return x.view(torch.float8_e4m3fn)


def scaled_mm(scheme: str, fast: bool, units: Units, inputs: Inputs) -> Competitor:
    """`torch._scaled_mm` of our codes, a scale for the tensor or for each row; fast: sums stay in the tensor cores."""
    in_multiples(inputs, 16, 16)
    if fast and FLOAT8 not in units:
        raise ValueError("fast accumulation is of GPUs with float8 products")
    if inputs.device.type != "cpu":
        _on_nvidia(inputs, (8, 9))
    (x, x_scale), (w, w_scale) = (inputs.pair(side, scheme) for side in "xw")
    dtype = out_dtype(inputs.device)
    scales = (x_scale.reshape(()), w_scale.reshape(())) if scheme == "e4m3fn" else (x_scale, w_scale.t())

    def call() -> Tensor:
        return torch._scaled_mm(_float8(x), _float8(w).t(), scale_a=scales[0], scale_b=scales[1], out_dtype=dtype,
                                use_fast_accum=fast)  # fmt: skip

    unit = matrix_unit(parse(scheme), parse(scheme), units)
    rounding = float8_rounding(inputs.device, unit, inputs.problem.k, None if fast else BLOCK)
    note = f"torch._scaled_mm of our codes, {scheme}{', use_fast_accum' if fast else ''}"
    traffic = moved(x, x_scale, w, w_scale, out=out_bytes(inputs, dtype))
    held = x, x_scale, w, w_scale
    return Competitor(call, inputs.operands(scheme, scheme), rounding, (dtype,), traffic, unit, note, held)


def block_scaled_mm(units: Units, inputs: Inputs) -> Competitor:
    """`torch.nn.functional.scaled_mm` with scales of 1x128 and 128x128, on Hopper."""
    if _on_nvidia(inputs, (9, 0)) != (9, 0):
        raise ValueError("takes float32 scales of blocks on compute capability 9.0 only")
    in_multiples(inputs, BLOCK, 4 * BLOCK)  # cuBLASLt wants the scales of w in fours
    schemes = "e4m3fn/1x128", "e4m3fn/128x128"
    (x, x_scale), (w, w_scale) = inputs.pair("x", schemes[0]), inputs.pair("w", schemes[1])
    kinds = nn.functional.ScalingType
    outer = x_scale.t().contiguous().t()

    def call() -> Tensor:
        return nn.functional.scaled_mm(_float8(x), _float8(w).t(), outer, kinds.BlockWise1x128, w_scale.t(),
                                       kinds.BlockWise128x128, output_dtype=torch.bfloat16)  # fmt: skip

    return Competitor(call, inputs.operands(*schemes), float8_rounding(inputs.device, FLOAT8, inputs.problem.k, BLOCK),
                      (torch.bfloat16,), moved(x, x_scale, w, w_scale, out=out_bytes(inputs, torch.bfloat16)), FLOAT8,
                      "scaled_mm of our codes, e4m3fn/1x128 · e4m3fn/128x128", (x, outer, w, w_scale))  # fmt: skip


def _int8_sums(product: Callable[[Tensor, Tensor], Tensor], note: str, units: Units, inputs: Inputs) -> Competitor:
    """int32 sums of the codes of int8/row, without the scales: less than a scaled product does."""
    if inputs.device.type != "cpu":
        in_multiples(inputs, 8, 8)
        if inputs.problem.m < FEWEST_ROWS_INT8:
            raise ValueError(f"takes M of {FEWEST_ROWS_INT8} and more")
    x, w = (inputs.pair(side, "int8/row")[0] for side in "xw")
    return Competitor(lambda: product(x, w), Operands(lambda: x, lambda: w), Rounding(exact=True), (torch.int32,),
                      moved(x, w, out=out_bytes(inputs, torch.int32)), matrix_unit(parse("int8"), parse("int8"), units),
                      note, (x, w))  # fmt: skip


def int_mm(units: Units, inputs: Inputs) -> Competitor:
    """`torch._int_mm`."""
    note = "torch._int_mm of our codes, int8/row; int32 sums, not scaled"
    return _int8_sums(lambda x, w: torch._int_mm(x, w.t()), note, units, inputs)


def bitsandbytes_int8(units: Units, inputs: Inputs) -> Competitor:
    """bitsandbytes' `int8_linear_matmul`."""
    installed("bitsandbytes")
    product: Callable[[Tensor, Tensor], Tensor] = installed("bitsandbytes.functional").int8_linear_matmul
    note = "int8_linear_matmul of our codes, int8/row; int32 sums, not scaled"
    return _int8_sums(product, note, units, inputs)


def torchao_linear(config: str, scheme: str, units: Units, inputs: Inputs) -> Competitor:
    """A linear layer quantised by torchao, which quantises x in every call."""
    installed("torchao")
    quantization = installed("torchao.quantization")
    dtype = inputs.x.dtype
    if scheme.startswith("e4m3fn"):
        _on_nvidia(inputs, (8, 9))
        in_multiples(inputs, 16, 16)
    layer = nn.Linear(inputs.problem.k, inputs.problem.n, bias=False, device=inputs.device, dtype=dtype)
    layer.requires_grad_(False)
    layer.weight.copy_(inputs.w)
    options = {"granularity": quantization.PerRow()} if scheme.startswith("e4m3fn") else {}
    quantization.quantize_(layer, getattr(quantization, config)(**options))
    exact = inputs.operands()
    short = hopper_partial(inputs.problem.k, None) if scheme.startswith("e4m3fn") else 0.0
    error = relative_error(inputs.operands(scheme, scheme), exact)
    rounding = Rounding(quantization=error, narrow=2.0**-8, partial=short)
    x, (codes, scale) = inputs.x, inputs.pair("w", scheme)
    traffic = moved(x, codes, scale, out=out_bytes(inputs, dtype))
    return Competitor(lambda: layer(x), exact, rounding, (dtype,), traffic,
                      matrix_unit(parse(scheme), parse(scheme), units), f"{config}: quantises x, too")  # fmt: skip


def deep_gemm(units: Units, inputs: Inputs) -> Competitor:
    """DeepGEMM's `fp8_gemm_nt` of our codes; scales are powers of two on Blackwell, which takes no others."""
    module = installed("deep_gemm")
    capability = _on_nvidia(inputs, (9, 0))
    if capability[0] not in (9, 10):
        raise ValueError(f"is for compute capability 9 and 10, not {capability[0]}")
    in_multiples(inputs, 64, BLOCK)
    rule = "" if capability[0] == 9 else ":pow2"
    schemes = f"e4m3fn/1x128{rule}", f"e4m3fn/128x128{rule}"
    return deep_gemm_of(module, schemes, units, inputs)


def deep_gemm_of(module: Any, schemes: tuple[str, str], units: Units, inputs: Inputs) -> Competitor:
    """The call itself: (codes, scale) of both sides, and where the result goes."""
    (x, x_scale), (w, w_scale) = inputs.pair("x", schemes[0]), inputs.pair("w", schemes[1])
    shape = inputs.problem.m, inputs.problem.n

    def call() -> Tensor:
        out = torch.empty(shape, dtype=torch.bfloat16, device=inputs.device)
        module.fp8_gemm_nt((_float8(x), x_scale), (_float8(w), w_scale), out)
        return out

    unit = matrix_unit(parse(schemes[0]), parse(schemes[1]), units)
    return Competitor(call, inputs.operands(*schemes), float8_rounding(inputs.device, unit, inputs.problem.k, BLOCK),
                      (torch.bfloat16,), moved(x, x_scale, w, w_scale, out=out_bytes(inputs, torch.bfloat16)), unit,
                      f"fp8_gemm_nt of our codes, {schemes[0]} · {schemes[1]}", (x, x_scale, w, w_scale))  # fmt: skip


def transformer_engine(quantizer: str, scheme: str, least: tuple[int, int], units: Units, inputs: Inputs) -> Competitor:
    """TransformerEngine's `general_gemm` of tensors that its own quantizer has made beforehand."""
    installed("transformer_engine")
    _on_nvidia(inputs, least)
    in_multiples(inputs, 16, 32)
    return transformer_engine_of(
        installed("transformer_engine.pytorch"), installed("transformer_engine_torch"), quantizer, scheme, units, inputs
    )


def transformer_engine_of(
    module: Any, native: Any, quantizer: str, scheme: str, units: Units, inputs: Inputs
) -> Competitor:
    """The call itself. In its order the weight comes first: layout "TN" is x · wᵀ."""
    gemm = installed("transformer_engine.pytorch.cpp_extensions").general_gemm
    options = {"device": inputs.device} if quantizer == "Float8CurrentScalingQuantizer" else {}
    kind = getattr(module, quantizer)(native.DType.kFloat8E4M3, **options)
    x, w = kind.quantize(inputs.x), kind.quantize(inputs.w)
    unit = matrix_unit(parse("e4m3fn"), parse("e4m3fn"), units)
    # "TN" calls of its layers sum in the tensor cores only.
    rounding = float8_rounding(inputs.device, unit, inputs.problem.k, None)
    codes, scale = inputs.pair("x", scheme), inputs.pair("w", scheme)
    traffic = moved(*codes, *scale, out=out_bytes(inputs, torch.bfloat16))
    return Competitor(lambda: gemm(w, x, out_dtype=torch.bfloat16, layout="TN")[0],
                      Operands(lambda: x.dequantize(), lambda: w.dequantize()), rounding, (torch.bfloat16,), traffic,
                      unit, f"general_gemm of tensors by {quantizer}")  # fmt: skip


_INT8_CONFIG, _FLOAT8_CONFIG = "Int8DynamicActivationInt8WeightConfig", "Float8DynamicActivationFloat8WeightConfig"
PEERS: dict[str, MakePeer] = {
    "torch._scaled_mm tensor": partial(scaled_mm, "e4m3fn", False),
    "torch._scaled_mm row": partial(scaled_mm, "e4m3fn/row", False),
    "torch._scaled_mm tensor, fast": partial(scaled_mm, "e4m3fn", True),
    "torch._scaled_mm row, fast": partial(scaled_mm, "e4m3fn/row", True),
    "torch scaled_mm 1x128 · 128x128": block_scaled_mm,
    "torch._int_mm": int_mm,
    "bitsandbytes int8": bitsandbytes_int8,
    "torch._weight_int8pack_mm": int8pack_mm,
    "torch._weight_int4pack_mm": int4pack_mm,
    "bitsandbytes nf4": bitsandbytes_nf4,
    "torchao int8 linear": partial(torchao_linear, _INT8_CONFIG, "int8/row"),
    "torchao float8 linear": partial(torchao_linear, _FLOAT8_CONFIG, "e4m3fn/row"),
    "DeepGEMM": deep_gemm,
    "TransformerEngine fp8": partial(transformer_engine, "Float8CurrentScalingQuantizer", "e4m3fn", (8, 9)),
    "TransformerEngine blocks": partial(transformer_engine, "Float8BlockQuantizer", "e4m3fn/1x128", (9, 0)),
    "TransformerEngine mxfp8": partial(transformer_engine, "MXFP8Quantizer", "mxfp8", (10, 0)),
}


def peer_makers(units: Iterable[str]) -> dict[str, Make]:
    """Name → what makes the competitor, of all peers; those that cannot serve say why when they are made."""
    return {name: partial(make, tuple(units)) for name, make in PEERS.items()}
