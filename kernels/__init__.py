"""Operators: quantize, dequantize, scaled GEMM, optimizer step, each for the CPU and (in Triton) for GPUs."""

from __future__ import annotations

from narrowgauge.kernels import gemm as gemm
from narrowgauge.kernels import optimizer_step as optimizer_step
from narrowgauge.kernels.op import OPS, Op, get_op
from narrowgauge.kernels.packing import pack, unpack
from narrowgauge.kernels.policy import NonFinite
from narrowgauge.kernels.tensor import QuantizedTensor, fake_quantize, quantize

__all__ = ["OPS", "NonFinite", "Op", "QuantizedTensor", "fake_quantize", "get_op", "pack", "quantize", "unpack"]
