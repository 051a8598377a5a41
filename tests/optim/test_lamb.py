"""LAMB: the formula in float64, ratios at their borders, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.optim.lamb import LAMB, trust_ratio
from optimizer_steps import gaussian

NO_BOUNDS = (0.0, float("inf"))


@pytest.mark.parametrize(("options", "order", "bounds"), [
    ({}, 2, NO_BOUNDS), ({"norm": 1}, 1, NO_BOUNDS), ({"bounds": (0.0, 10.0)}, 2, (0.0, 10.0)),
])  # fmt: skip
def test_fp32_state_is_the_formula(options: dict[str, Any], order: int, bounds: tuple[float, float]) -> None:
    w = nn.Parameter(gaussian(20, 30))
    optimizer = LAMB([w], lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, state="fp32", **options)
    x, m, v = w.detach().double(), torch.zeros(20, 30).double(), torch.zeros(20, 30).double()
    for t in range(1, 7):
        w.grad = 1e-2 * gaussian(20, 30, seed=t)
        optimizer.step()
        g = w.grad.double()
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        u = m / (1 - 0.8**t) / ((v / (1 - 0.95**t)).sqrt() + 1e-6) + 0.1 * x
        size = float(torch.linalg.vector_norm(x, order))
        x = x - 0.02 * min(size, bounds[1]) / float(torch.linalg.vector_norm(u, order)) * u
    torch.testing.assert_close(w.double(), x, rtol=0, atol=4e-6)


def test_without_adapting_it_is_adam_with_decay() -> None:
    ours, theirs = nn.Parameter(gaussian(50)), nn.Parameter(gaussian(50))
    a = LAMB([ours], lr=1e-2, eps=1e-8, weight_decay=0.1, adapt=False, state="fp32")
    b = torch.optim.AdamW([theirs], lr=1e-2, eps=1e-8, weight_decay=0.1)
    for t in range(5):
        ours.grad = theirs.grad = gaussian(50, seed=t)
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_steps_have_the_length_of_lr_times_the_weight() -> None:
    w = nn.Parameter(gaussian(40, 40))
    before = w.detach().clone()
    w.grad = 1e-6 * gaussian(40, 40, seed=1)
    LAMB([w], lr=0.01, weight_decay=0.0).step()
    assert float((w.detach() - before).norm()) == pytest.approx(0.01 * float(before.norm()), rel=1e-4)


def test_a_ratio_is_one_where_a_norm_is_zero() -> None:
    x = gaussian(5)
    assert trust_ratio(torch.zeros(5), x, 2, NO_BOUNDS) == 1.0
    assert trust_ratio(x, torch.zeros(5), 2, NO_BOUNDS) == 1.0
    assert trust_ratio(4 * x, x, 1, NO_BOUNDS) == pytest.approx(4.0)
    assert trust_ratio(x * 1e-3, x / x.norm(), 2, (0.5, 1.0)) == pytest.approx(0.5)


def test_state_bytes() -> None:
    w = nn.Parameter(gaussian(256, 256))
    optimizer = LAMB([w], state="log8")
    w.grad = gaussian(256, 256)
    optimizer.step()
    assert optimizer.state_bytes().total == (2 + 6 / 128) * w.numel() + 4  # and the step


@pytest.mark.parametrize(("options", "message"), [
    ({"norm": 3}, "norm: got 3, accepted are 1, 2"), ({"bounds": (2.0, 1.0)}, r"bounds: got \(2.0, 1.0\)"),
    ({"betas": (1.0, 0.9)}, "betas: got"), ({"eps": -1.0}, "eps: got -1.0"),
])  # fmt: skip
def test_options_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LAMB([nn.Parameter(gaussian(3))], **options)
