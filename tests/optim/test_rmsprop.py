"""RMSprop: what is particular to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.optim import RMSprop
from optimizer_steps import gaussian


def test_centered_rmsprop_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="centered: this optimizer does not have torch's centered"):
        RMSprop([{"params": [nn.Parameter(torch.ones(3))], "centered": True}])


def test_momentum_is_not_stored_relative_to_the_root_of_v() -> None:
    """m sums g / √v: relative to √v once more, it would spread over as many octaves as the gradients."""
    params = [nn.Parameter(torch.zeros(512)) for _ in range(2)]
    scale = torch.exp(3 * gaussian(512))
    one, other = RMSprop(params[:1], momentum=0.5, state="log8"), RMSprop(params[1:], momentum=0.5, state="fp32")
    for step in range(5):
        for p in params:
            p.grad = scale * gaussian(512, seed=step + 1)
        one.step()
        other.step()
    m, exact = one.moments(params[0])[0], other.moments(params[1])[0]
    assert m is not None
    assert exact is not None
    assert (m - exact).norm() < 0.05 * exact.norm()
    assert one.explain().rows[0].runs == "fused, optimizer_step, on cpu"


def test_one_state_without_momentum_two_with() -> None:
    for momentum, keys in ((0.0, {"step", "square_avg"}), (0.5, {"step", "square_avg", "momentum_buffer"})):
        p = nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        optimizer = RMSprop([p], momentum=momentum, state="fp32")
        optimizer.step()
        assert set(optimizer.state[p]) == keys
