"""Other people's products of plain numbers and a weight of 8 or 4 bits: peers of `weight_only_gemm`."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.bench.gemm_check import Rounding
from narrowgauge.bench.gemm_competitor import Competitor, in_multiples, matrix_unit, moved, out_bytes
from narrowgauge.bench.gemm_inputs import Inputs, Operands
from narrowgauge.bench.peer import installed

GROUP = 128
ZERO = 8
"""The code that torch's kernel takes for zero."""
INNER_TILES = 8
"""How torch's CUDA kernel packs: 8 tiles of 16 along K."""
Units = tuple[str, ...]


def _rounding(x: Tensor) -> Rounding:
    """A 16-bit x may have the weight rounded to its type."""
    return Rounding(narrow=0.0 if x.dtype == torch.float32 else torch.finfo(x.dtype).eps)


def int8pack_mm(units: Units, inputs: Inputs) -> Competitor:
    """`torch._weight_int8pack_mm` of our codes, int8/row; scales in the type of x."""
    x, (codes, scale) = inputs.x, inputs.pair("w", "int8/row")
    factors = scale.reshape(-1).to(x.dtype)
    operands = Operands(lambda: x, lambda: codes.double() * factors.double()[:, None])
    traffic = moved(x, codes, factors, out=out_bytes(inputs, x.dtype))
    note = "torch._weight_int8pack_mm of our codes, int8/row"
    return Competitor(lambda: torch._weight_int8pack_mm(x, codes, factors), operands, _rounding(x), (x.dtype,), traffic,
                      matrix_unit(None, None, units), note, (codes, factors))  # fmt: skip


def int4pack_mm(units: Units, inputs: Inputs) -> Competitor:
    """`torch._weight_int4pack_mm` of our codes, int4/1x128; scales in the type of x, zero points of 0."""
    in_multiples(inputs, 16, GROUP)
    x, q = inputs.x, inputs.coded("w", f"int4/1x{GROUP}")
    scale = q.scale.to(x.dtype)
    factors = torch.stack([scale, torch.zeros_like(scale)], dim=-1).transpose(0, 1).contiguous()
    shifted = q.codes.to(torch.int32) + ZERO
    if inputs.device.type == "cpu":
        packed = torch._convert_weight_to_int4pack_for_cpu(shifted, 1)
        multiply = torch._weight_int4pack_mm_for_cpu
    else:
        pairs = (shifted[:, ::2] << 4 | shifted[:, 1::2]).to(torch.uint8)
        packed = torch._convert_weight_to_int4pack(pairs, INNER_TILES)
        multiply = torch._weight_int4pack_mm

    def values() -> Tensor:
        return (q.codes.double().unflatten(1, (-1, GROUP)) * scale.double()[..., None]).flatten(1)

    traffic = moved(x, packed, factors, out=out_bytes(inputs, x.dtype))
    return Competitor(lambda: multiply(x, packed, GROUP, factors), Operands(lambda: x, values), _rounding(x),
                      (x.dtype,), traffic, matrix_unit(None, None, units),
                      "torch._weight_int4pack_mm of our codes, int4/1x128", (packed, factors))  # fmt: skip


def bitsandbytes_nf4(units: Units, inputs: Inputs) -> Competitor:
    """bitsandbytes' `matmul_4bit`: w as NF4 in blocks of 64, quantised by itself beforehand."""
    module = installed("bitsandbytes")
    functional = installed("bitsandbytes.functional")
    in_multiples(inputs, 1, 64)
    x = inputs.x
    packed, state = functional.quantize_4bit(inputs.w, blocksize=64, quant_type="nf4")
    operands = Operands(lambda: x, lambda: functional.dequantize_4bit(packed, state))
    # Its kernels of CPUs take x and scales in bfloat16, and round the decoded weight to it.
    rounding = Rounding(narrow=3 * 2.0**-8)
    traffic = moved(x, packed, state.absmax, out=out_bytes(inputs, x.dtype))
    return Competitor(lambda: module.matmul_4bit(x, packed.t(), state), operands, rounding, (x.dtype,), traffic,
                      matrix_unit(None, None, units), "matmul_4bit, w as NF4 in blocks of 64 with float32 scales",
                      (packed, state.absmax))  # fmt: skip
