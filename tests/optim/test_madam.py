"""Madam: the formula in float64, signs, limits, codes of v, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.optim import Madam
from optimizer_steps import gaussian


def test_fp32_state_is_the_formula() -> None:
    w = nn.Parameter(gaussian(5, 7))
    optimizer = Madam([w], lr=0.05, beta=0.9, bound=2.0, limit=1.5, state="fp32")
    x, v = w.detach().double(), torch.zeros(5, 7).double()
    largest = 1.5 * x.square().mean().sqrt()
    for t in range(1, 9):
        w.grad = gaussian(5, 7, seed=t)
        optimizer.step()
        g = w.grad.double()
        v = 0.9 * v + 0.1 * g * g
        usual = (g / (v / (1 - 0.9**t)).sqrt()).clamp(-2, 2)
        x = (x * torch.exp2(-0.05 * x.sign() * usual)).clamp(-largest, largest)
    torch.testing.assert_close(w.detach().double(), x, rtol=2e-6, atol=1e-7)


def test_signs_stay_and_zeros_never_move() -> None:
    w = nn.Parameter(torch.tensor([1.0, -2.0, 0.0, 0.5]))
    optimizer = Madam([w], lr=0.5)
    before = w.detach().sign()
    for t in range(20):
        w.grad = gaussian(4, seed=t)
        optimizer.step()
    assert torch.equal(w.detach().sign(), before)


@pytest.mark.parametrize(("state", "bytes_each"), [("fp32", 4.0), ("log8", 1 + 4 / 128), ("fp8", 1 + 4 / 256)])
def test_coded_v_is_close_and_small(state: str, bytes_each: float) -> None:
    w, exact = nn.Parameter(gaussian(128, 64)), nn.Parameter(gaussian(128, 64))
    ours, theirs = Madam([w], lr=0.02, state=state), Madam([exact], lr=0.02, state="fp32")
    for t in range(10):
        w.grad = gaussian(128, 64, seed=t)
        exact.grad = w.grad.clone()
        ours.step()
        theirs.step()
    assert float(((w - exact).norm() / exact.norm()).detach()) < 5e-3
    assert ours.state_bytes().total / w.numel() == pytest.approx(bytes_each, abs=0.01)


def test_a_log_quantised_problem_is_solved() -> None:
    torch.manual_seed(0)
    target = torch.exp2(torch.randn(64))
    w = nn.Parameter(torch.ones(64))
    optimizer = Madam([w], lr=0.05, beta=0.9, limit=20.0)
    for _ in range(300):
        w.grad = (w - target).detach()
        optimizer.step()
    assert float((w.detach().log2() - target.log2()).abs().max()) < 0.15


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="holds zeros alone"):
        Madam([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="beta: got 1"):
        Madam([nn.Parameter(torch.ones(3))], beta=1.0)
    with pytest.raises(ValueError, match="bound: got -1"):
        Madam([nn.Parameter(torch.ones(3))], bound=-1.0)
