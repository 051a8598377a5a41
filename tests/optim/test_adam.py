"""Adam: what is particular to it."""

from __future__ import annotations

import torch
from torch import nn

from narrowgauge.optim import Adam, AdamW


def test_its_decay_goes_through_the_moments() -> None:
    """A first step is the sign of g + weight_decay · p, whatever their sizes; AdamW's decay is beside it."""
    params = [nn.Parameter(torch.tensor([1.0, -1.0])) for _ in range(2)]
    for p, make in zip(params, (Adam, AdamW), strict=True):
        p.grad = torch.tensor([-0.05, -0.05])
        make([p], lr=0.01, weight_decay=0.1, state="fp32").step()
    torch.testing.assert_close(params[0].detach(), torch.tensor([0.99, -0.99]))
    torch.testing.assert_close(params[1].detach(), torch.tensor([1.009, -0.989]))
