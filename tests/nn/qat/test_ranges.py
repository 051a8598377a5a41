"""The search for a clipping range: no worse than min-max, and the best of its grid."""

from __future__ import annotations

import torch

from narrowgauge.nn.qat.ranges import RATIOS, search_range


def two_bit(x: torch.Tensor):
    def quantized(low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        step = (high - low) / 3
        return ((x - low) / step).clamp(0, 3).round() * step + low

    return quantized


def test_each_group_gets_the_best_of_the_grid() -> None:
    x = torch.randn(3, 1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = search_range(x, two_bit(x))
    found = (two_bit(x)(low, high) - x).square().sum(-1)
    least, most = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    every = [(two_bit(x)(a * least, b * most) - x).square().sum(-1) for a in RATIOS for b in RATIOS]
    assert torch.equal(found, torch.stack(every).amin(0))
    assert (found < every[0]).all()


def test_importance_moves_the_range() -> None:
    x = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(1))
    at = int(x.argmax())
    weight = torch.ones(64)
    weight[at] = 1e4
    _, plain = search_range(x, two_bit(x))
    _, weighted = search_range(x, two_bit(x), weight)
    assert plain.item() < weighted.item() == x.max().item()
