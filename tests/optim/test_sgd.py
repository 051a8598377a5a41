"""SGD: what is particular to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from narrowgauge.optim import SGD
from optimizer_steps import gaussian


def stepped(dampening: float, steps: int) -> Tensor | None:
    p = nn.Parameter(torch.zeros(10))
    optimizer = SGD([p], lr=0.1, momentum=0.5, dampening=dampening, state="fp32")
    for _ in range(steps):
        p.grad = torch.ones(10)
        optimizer.step()
    return optimizer.moments(p)[0]


def test_the_first_step_is_not_dampened() -> None:
    assert torch.equal(stepped(0.25, 1), torch.ones(10))  # type: ignore[arg-type]
    assert torch.equal(stepped(0.25, 2), torch.full((10,), 1.25))  # type: ignore[arg-type]


def test_without_momentum_there_is_no_state_but_the_count_of_steps() -> None:
    p = nn.Parameter(gaussian(50).bfloat16())
    optimizer = SGD([p], lr=0.5, master="sr")
    for _ in range(3):
        p.grad = torch.ones(50).bfloat16()
        optimizer.step()
    assert set(optimizer.state[p]) == {"step"}
    assert optimizer.state[p]["step"] == 3
    assert optimizer.moments(p) == (None, None)
    torch.testing.assert_close(p.detach().float(), gaussian(50) - 1.5, rtol=0.0, atol=3 * 2.0**-6)


def test_momentum_may_differ_from_group_to_group() -> None:
    params = [nn.Parameter(torch.ones(4)) for _ in range(2)]
    optimizer = SGD([{"params": params[:1]}, {"params": params[1:], "momentum": 0.9}], lr=0.1)
    for p in params:
        p.grad = torch.ones(4)
    optimizer.step()
    assert "momentum_buffer" not in optimizer.state[params[0]]
    assert "momentum_buffer" in optimizer.state[params[1]]
