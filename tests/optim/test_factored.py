"""Factored second moments against their definition in float64."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.optim.factored import (
    clipped_update,
    factor_shapes,
    factored_estimate,
    root_mean_square,
    update_factors,
)
from optimizer_steps import gaussian


@pytest.mark.parametrize("shape", [(6, 9), (2, 5, 7), (3, 2, 4, 4), (1, 1)])
def test_factors_are_the_papers_up_to_rounding(shape: tuple[int, ...]) -> None:
    row, column = (torch.zeros(s) for s in factor_shapes(torch.Size(shape)))
    r, c = row.double().squeeze(-1), column.double().squeeze(-2)
    for t in range(1, 8):
        g, rate = gaussian(*shape, seed=t), t**-0.8
        update_factors(row, column, g, rate)
        square = g.double() ** 2
        r, c = (1 - rate) * r + rate * square.sum(-1), (1 - rate) * c + rate * square.sum(-2)
        expected = r.unsqueeze(-1) * c.unsqueeze(-2) / r.sum(-1)[..., None, None]
        torch.testing.assert_close(factored_estimate(row, column, 1e-30).double(), expected, rtol=2e-6, atol=0)


def test_a_moment_of_rank_one_is_exact() -> None:
    g = torch.outer(gaussian(5).abs(), gaussian(8, seed=1).abs())
    row, column = (torch.zeros(s) for s in factor_shapes(g.shape))
    update_factors(row, column, g, 1.0)
    torch.testing.assert_close(factored_estimate(row, column, 1e-30), g.square(), rtol=1e-5, atol=0)


def test_the_update_is_clipped_at_its_root_mean_square() -> None:
    g = gaussian(4, 6)
    small, large = torch.full((4, 6), 1e4), torch.full((4, 6), 1e-4)
    assert torch.equal(clipped_update(g, small, 1e-30, 1.0), g * small.rsqrt())
    assert root_mean_square(clipped_update(g, large, 1e-30, 2.0)) == pytest.approx(2.0, rel=1e-6)
    assert not clipped_update(torch.zeros(3), torch.zeros(3), 1e-30, 1.0).any()
    assert root_mean_square(torch.zeros(0, 3)) == 0.0
