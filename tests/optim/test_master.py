"""Masters of whole tensors: the numpy definitions, and what stochastic rounding and residuals are for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from narrowgauge.kernels._masters_reference import half_ulp as reference_half_ulp
from narrowgauge.kernels._masters_reference import join_weight, round_weight, split_weight
from narrowgauge.optim.master import half_ulp, split, subtract, with_residual
from optimizer_steps import gaussian


def wild(count: int) -> Tensor:
    """Numbers of every magnitude that bfloat16 has, subnormals, zeros and the largest among them."""
    spread = gaussian(count) * torch.exp2(gaussian(count, seed=1) * 40)
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 2.0**-126, 2.0**-133, -(2.0**-130), 3.3895314e38, 2.0**-118])
    return torch.cat((special, spread))


def test_half_an_ulp_is_exact_for_every_exponent() -> None:
    p = wild(5000).bfloat16().float()
    p = p[torch.isfinite(p)]
    assert np.array_equal(half_ulp(p).double().numpy(), reference_half_ulp(p.double().numpy()))


def test_none_rounds_to_nearest_in_every_dtype() -> None:
    update = gaussian(40, 30, seed=1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        p = gaussian(40, 30).to(dtype).t()
        expected = (p.float() - update.t()).to(dtype)
        subtract(p, update.t(), "none", None, 0, 0)
        assert torch.equal(p, expected)


def test_stochastic_rounding_is_the_definition_bit_for_bit() -> None:
    p, update = wild(3000).bfloat16(), 1e-3 * wild(3000)
    expected = round_weight((p.float() - update).double().numpy(), 1234, 258)
    subtract(p, update, "sr", None, 1234, 258)
    assert np.array_equal(p.double().numpy(), expected, equal_nan=True)


def test_residual_is_the_definition_up_to_one_step_of_the_residual() -> None:
    p, update = gaussian(3009).bfloat16(), 1e-3 * gaussian(3009, seed=2)
    residual = torch.randint(-127, 128, (3009,), generator=torch.Generator().manual_seed(3), dtype=torch.int8)
    w = join_weight(p.double().numpy(), residual.numpy()) - update.double().numpy()
    expected_p, expected_r = split_weight(w, 99, 0)
    subtract(p, update, "residual", residual, 99, 0)
    same = p.double().numpy() == expected_p
    assert same.mean() > 0.999  # the others lie within rounding errors of a tie
    off = np.abs(residual.numpy().astype(int) - expected_r.astype(int))[same]
    assert off.max() <= 1
    assert (off > 0).mean() < 0.01


def test_not_finite_weights_stay_so_and_leave_no_residual() -> None:
    for master in ("none", "sr", "residual"):
        p, residual = torch.ones(4, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.int8)
        update = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
        subtract(p, update, master, residual, 5, 0)
        assert torch.isnan(p[0])
        assert p[1:].tolist() == [-float("inf"), float("inf"), 1.0]
        assert not residual.any()
    p, residual = torch.tensor([3.3895314e38]).bfloat16(), torch.tensor([100], dtype=torch.int8)
    subtract(p, torch.tensor([-9.9e35]), "residual", residual, 5, 0)  # rounds to infinity
    assert torch.isinf(p).all()
    assert not residual.any()


@pytest.mark.parametrize("master", ["sr", "residual"])
def test_updates_far_below_an_ulp_add_up(master: str) -> None:
    """500 updates of a 64th of an ulp: to nearest, bfloat16 does not move at all."""
    p, residual = torch.ones(4096, dtype=torch.bfloat16), torch.zeros(4096, dtype=torch.int8)
    update = torch.full((4096,), -(2.0**-13))
    for step in range(500):
        subtract(p, update, master, residual, step, 0)
    w = with_residual(p, residual) if master == "residual" else p.float()
    assert w.mean() - 1 == pytest.approx(500 * 2.0**-13, rel=0.01)
    stuck = torch.ones(4, dtype=torch.bfloat16)
    subtract(stuck, update[:4], "none", None, 0, 0)
    assert torch.equal(stuck, torch.ones(4, dtype=torch.bfloat16))


def test_parameter_and_residual_hold_sixteen_bits_of_weight() -> None:
    w = gaussian(10_000)
    p, residual = split(w, torch.full_like(w, 0.5))
    assert ((with_residual(p, residual) - w).abs() <= half_ulp(p.float()) / 127 / 2 * 1.001).all()


def test_missing_residual_is_named() -> None:
    with pytest.raises(ValueError, match="residual: master='residual' has an int8 residual"):
        subtract(torch.ones(2, dtype=torch.bfloat16), torch.ones(2), "residual", None, 0, 0)
