"""Training steps of which every gradient is drawn from a seed of its own, the same for all optimizers."""

from __future__ import annotations

import torch
from torch import nn

from optimizer_steps import gaussian


def set_gradients(params: list[nn.Parameter], step: int) -> None:
    for i, p in enumerate(params):
        p.grad = (1e-2 * gaussian(*p.shape, seed=1000 * step + i)).to(p.dtype)


def train(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(params, step)
        optimizer.step()
