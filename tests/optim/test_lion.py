"""Lion against its formula."""

from __future__ import annotations

import torch
from torch import nn

from narrowgauge.optim import Lion
from optimizer_steps import gaussian


def test_lion_is_its_formula_in_float64() -> None:
    p = nn.Parameter(gaussian(2000))
    optimizer = Lion([p], lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, state="fp32")
    w, m = p.detach().double(), torch.zeros(2000, dtype=torch.float64)
    for step in range(20):
        g = gaussian(2000, seed=step + 1)
        p.grad = g
        optimizer.step()
        w -= 1e-2 * 0.1 * w
        w -= 1e-2 * torch.sign(0.9 * m + 0.1 * g.double())
        m = 0.99 * m + 0.01 * g.double()
    torch.testing.assert_close(p.detach().double(), w, rtol=0.0, atol=1e-5)  # some sixty roundings of numbers up to 4
    torch.testing.assert_close(optimizer.moments(p)[0], m.float(), rtol=1e-5, atol=1e-7)


def test_a_pair_of_codecs_gives_its_first() -> None:
    p = nn.Parameter(gaussian(300))
    p.grad = gaussian(300, seed=1)
    optimizer = Lion([p], state=("fp8", "bf16"))
    optimizer.step()
    assert {key: t.dtype for key, t in optimizer.state[p].items()} == {
        "step": torch.float32, "exp_avg": torch.uint8, "exp_avg_scale": torch.float32,
    }  # fmt: skip
