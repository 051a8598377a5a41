"""A small model that reuses what it has: one layer in two places, and a head tied to the embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SharedLayers(nn.Module):
    """Indices below 32 → logits. `again` is the block's `up`; the head has the embedding's weight where it is tied."""

    def __init__(self, width: int = 16, inner: int = 24, *, tied: bool = True, seed: int | None = None) -> None:
        super().__init__()
        if seed is not None:
            torch.manual_seed(seed)
        self.embed = nn.Embedding(32, width)
        self.block = nn.ModuleDict({"up": nn.Linear(width, inner), "down": nn.Linear(inner, width, bias=False)})
        self.again = self.block["up"]
        self.lm_head = nn.Linear(width, 32, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids)
        h = h + self.block["down"](torch.relu(self.block["up"](h)) + torch.relu(self.again(h)))
        logits: Tensor = self.lm_head(h)
        return logits
