from __future__ import annotations

import numpy as np
import pytest
import torch

from narrowgauge.formats.hadamard import rotate, signs
from narrowgauge.kernels.fused_quantize import fused_quantize
from narrowgauge.kernels.prologues.hadamard import HADAMARDS, SIZES
from narrowgauge.kernels.tensor import quantize


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("columns", [512, 200])
def test_codes_are_those_of_the_rotated_operand(size: int, columns: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((37, columns)).astype(np.float32))
    sign = signs(size, 5, 6)
    want = quantize(torch.from_numpy(rotate(x.numpy(), size, sign)), "mxfp4")
    got = fused_quantize(x, "mxfp4", prologue=f"hadamard{size}", signs=torch.from_numpy(sign))
    assert torch.equal(got.codes, want.codes)
    assert torch.equal(got.scale, want.scale)


def test_signs_of_every_column_equal_repeated_signs_of_a_block() -> None:
    x = np.random.default_rng(1).standard_normal((4, 50)).astype(np.float32)
    sign = signs(16, 1, 2)
    prologue = HADAMARDS[0]
    assert np.array_equal(prologue.define(x, None, sign, 0.0), prologue.define(x, None, np.tile(sign, 4)[:50], 0.0))
