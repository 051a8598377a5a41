from __future__ import annotations

import torch

from narrowgauge.kernels.fused_quantize import fused_quantize
from narrowgauge.kernels.tensor import quantize


def test_sum_is_rounded_to_the_dtype_of_x_before_it_is_quantised() -> None:
    generator = torch.Generator().manual_seed(0)
    x, other = (torch.randn(9, 100, generator=generator).bfloat16() for _ in range(2))
    q, values = fused_quantize(x, "int8/row", prologue="add", other=other, return_values=True)
    want = quantize(x + other, "int8/row")
    assert torch.equal(values, x + other)
    assert torch.equal(q.codes, want.codes)
    assert torch.equal(q.scale, want.scale)
