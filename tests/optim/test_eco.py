"""ECO: weights on a quantised grid without master weights, against rounding them plainly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.kernels import quantize
from narrowgauge.optim import SGD, Adam, AdamW
from narrowgauge.optim.eco import LEAST_SHARE, give_back
from narrowgauge.optim.rows import Numbers
from optimizer_steps import gaussian

GRID = "e4m3fn/1x128"


def on_grid(w: Tensor) -> Tensor:
    return quantize(w, GRID).dequantize()


def quadratic(make: Any, steps: int, master: str, round_after: bool = False, **options: Any) -> float:
    """Final loss of a quadratic with curvatures 0.01 to 1 whose weights start and stay on the grid."""
    target, curvature = gaussian(4, 128), torch.logspace(-2, 0, 512).view(4, 128)
    p = nn.Parameter(on_grid(gaussian(4, 128, seed=1)) if master != "none" or round_after else gaussian(4, 128, seed=1))
    optimizer = make([p], state="fp32", master=master, **options)
    for _ in range(steps):
        p.grad = curvature * (p.detach() - target)
        optimizer.step()
        if round_after:
            p.detach().copy_(on_grid(p.detach()))
    return float((0.5 * curvature * (p.detach() - target).square()).mean())


@pytest.mark.parametrize(("make", "options"), [
    (SGD, {"lr": 0.1, "momentum": 0.9}), (Adam, {"lr": 3e-3, "betas": (0.9, 0.99)}),
    (AdamW, {"lr": 3e-3, "betas": (0.9, 0.99), "weight_decay": 0.0}),
])  # fmt: skip
def test_eco_learns_where_plain_rounding_stalls(make: Any, options: dict[str, Any]) -> None:
    plain = quadratic(make, 800, "none", round_after=True, **options)
    eco = quadratic(make, 800, f"eco:{GRID}", **options)
    assert eco < plain / 3


@pytest.mark.parametrize("state", ["fp32", "log8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_stay_on_the_grid(state: str, dtype: torch.dtype) -> None:
    grid = GRID + ":pow2"  # whose points are numbers of bfloat16
    p = nn.Parameter(gaussian(6, 128).to(dtype))
    optimizer = AdamW([p], state=state, master=f"eco:{grid}", lr=1e-2)
    for step in range(3):
        p.grad = gaussian(6, 128, seed=step).to(dtype)
        optimizer.step()
        assert torch.equal(quantize(p.detach(), grid).dequantize(), p.detach())
    assert optimizer.param_groups[0]["eco_peak_lr"] == 1e-2
    assert "ECO" in optimizer.explain().rows[0].runs


def test_rounding_to_the_parameters_dtype_is_part_of_the_error() -> None:
    w, m = gaussian(300), torch.zeros(300)
    weight = w.clone()
    give_back(weight, m, None, Numbers(lr=0.02, a=0.9), 0.02, GRID, torch.bfloat16)
    assert torch.equal(weight, on_grid(w).bfloat16().float())
    torch.testing.assert_close(m, (1 - 1 / 0.9) / 0.02 * (w - weight))


def test_what_goes_into_the_momentum_is_the_formula() -> None:
    w, m, v = gaussian(300), 0.1 * gaussian(300, seed=1), gaussian(300, seed=2).square()
    numbers = Numbers(lr=0.02, a=0.9, b=0.99, eps=1e-3, c1=1 - 0.9**7, c2=1 - 0.99**7)
    rounded = on_grid(w)
    error = (w - rounded).double()
    sgd = m.double() + (1 - 1 / 0.9) / 0.02 * error
    adam = m.double() + (1 - 1 / 0.9) / 0.02 * error * ((v.double() / numbers.c2).sqrt() + 1e-3) * numbers.c1
    for second, expected in ((None, sgd), (v, adam)):
        weight, moment = w.clone(), m.clone()
        give_back(weight, moment, second, numbers, 0.02, GRID, torch.float32)
        assert torch.equal(weight, rounded)
        torch.testing.assert_close(moment.double(), expected, rtol=1e-5, atol=1e-6)


def test_what_goes_in_is_bounded_as_lr_goes_to_zero() -> None:
    moments = []
    for lr in (0.02 * LEAST_SHARE, 1e-9, 0.0):
        weight, m = gaussian(300), torch.zeros(300)
        give_back(weight, m, None, Numbers(lr=lr, a=0.9), 0.02, GRID, torch.float32)
        moments.append(m)
    assert torch.equal(moments[0], moments[1])
    assert torch.equal(moments[0], moments[2])
    weight, m = gaussian(300), torch.zeros(300)
    give_back(weight, m, None, Numbers(lr=0.0, a=0.9), 0.0, GRID, torch.float32)
    assert not m.any()
