"""Parameters with fewer bits, on the CPU, against the definition."""

from __future__ import annotations

import numpy as np
import torch

from narrowgauge.kernels._masters_reference import join_weight, split_weight
from narrowgauge.kernels._masters_torch import read_parameter, write_parameter
from narrowgauge.kernels._scratch_torch import Scratch, Stretch

COUNT, KEY, OFFSET = 3000, 17, 8


def test_residuals_are_joined_and_split_as_defined() -> None:
    generator = torch.Generator().manual_seed(0)
    p = (torch.randn(COUNT, generator=generator) * torch.exp(8 * torch.randn(COUNT, generator=generator))).bfloat16()
    p[:6] = torch.tensor([0.0, 1e-40, float("inf"), -float("inf"), float("nan"), 3.3895e38])
    residual = torch.randint(-127, 128, (COUNT,), generator=generator, dtype=torch.int8)
    scratch = Scratch(COUNT)
    wide = read_parameter(p, residual, scratch.p, scratch)
    joined = join_weight(p.double().numpy(), residual.numpy())
    np.testing.assert_allclose(wide.numpy(), joined, rtol=1e-7, atol=1e-44)
    wide.mul_(1.001)
    moved = wide.clone()
    write_parameter(wide, p, residual, "residual", scratch, [Stretch(0, COUNT, OFFSET, KEY)])
    expected, codes = split_weight(moved.double().numpy(), KEY, OFFSET)
    np.testing.assert_array_equal(p.double().numpy(), expected)
    difference = np.abs(residual.numpy().astype(int) - codes)
    assert np.count_nonzero(difference) <= 30  # the draw decides within rounding errors
    assert difference.max() <= 1


def test_a_float32_parameter_is_its_own_master() -> None:
    p, scratch = torch.ones(10), Scratch(10)
    wide = read_parameter(p, None, scratch.p, scratch)
    assert wide is p
    write_parameter(wide, p, None, "none", scratch, [])
    assert torch.equal(p, torch.ones(10))
