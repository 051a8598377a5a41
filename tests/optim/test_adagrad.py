"""Adagrad: what is particular to it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.optim import Adagrad
from optimizer_steps import gaussian


@pytest.mark.parametrize("state", ["fp32", "log8", "coat", "int4"])
def test_the_sum_begins_at_its_initial_value(state: str) -> None:
    p = nn.Parameter(torch.zeros(300))
    p.grad = torch.zeros(300)
    optimizer = Adagrad([p], state=state, initial_accumulator_value=0.25)
    optimizer.step()
    _, v = optimizer.moments(p)
    assert v is not None
    torch.testing.assert_close(v, torch.full((300,), 0.25), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize(("state", "low", "high"), [
    ("bf16_sr", 0.99, 1.01), ("coat", 0.98, 1.02), ("log8", 0.98, 1.02), ("flash", 0.9, 1.1), ("bf16", 0.5, 0.98),
])  # fmt: skip
def test_what_stores_lose_of_the_sum(state: str, low: float, high: float) -> None:
    """300 steps: codecs that lose additions below half a code fall behind, the others do not."""
    p, scale = nn.Parameter(torch.zeros(2048)), torch.exp(gaussian(2048, seed=999))
    optimizer, exact = Adagrad([p], state=state), torch.zeros(2048)
    for step in range(300):
        p.grad = scale * gaussian(2048, seed=step)
        exact += p.grad.square()
        optimizer.step()
    _, v = optimizer.moments(p)
    assert v is not None
    assert low < float((v / exact).mean()) < high
