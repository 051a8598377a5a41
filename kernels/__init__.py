"""Operators, each for the CPU and (in Triton) for GPUs: quantize (alone, in pairs, codes anew, fused with what comes
before) and dequantize; products of quantised matrices; the optimizers' step."""

from __future__ import annotations

from narrowgauge.kernels import block_gemm as block_gemm
from narrowgauge.kernels import gemm as gemm
from narrowgauge.kernels import gemm_quantized as gemm_quantized
from narrowgauge.kernels import grouped_gemm as grouped_gemm
from narrowgauge.kernels import grouped_gemm_wgrad as grouped_gemm_wgrad
from narrowgauge.kernels import optimizer_step as optimizer_step
from narrowgauge.kernels import requantize as requantize
from narrowgauge.kernels import swizzle as swizzle
from narrowgauge.kernels import weight_only as weight_only
from narrowgauge.kernels.fused_quantize import fused_quantize
from narrowgauge.kernels.op import OPS, Op, get_op
from narrowgauge.kernels.packing import pack, unpack
from narrowgauge.kernels.policy import NonFinite
from narrowgauge.kernels.quantize_pair import quantize_pair
from narrowgauge.kernels.tensor import QuantizedTensor, fake_quantize, quantize

__all__ = [
    "OPS",
    "NonFinite",
    "Op",
    "QuantizedTensor",
    "fake_quantize",
    "fused_quantize",
    "get_op",
    "pack",
    "quantize",
    "quantize_pair",
    "unpack",
]
