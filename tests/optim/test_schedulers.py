"""torch's learning rate schedulers, and copies of optimizers that go on as the original."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler as schedulers

from narrowgauge.optim import AdamW, Lion

MAKES: dict[str, Any] = {
    "lambda": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
    "cosine": lambda o: schedulers.CosineAnnealingLR(o, 10),
    "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "one cycle": lambda o: schedulers.OneCycleLR(o, max_lr=0.1, total_steps=10),
    "cyclic": lambda o: schedulers.CyclicLR(o, 1e-3, 1e-2, step_size_up=3),
    "sequential": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, total_iters=3), schedulers.ExponentialLR(o, 0.9)], [3]
    ),
    "multi step": lambda o: schedulers.MultiStepLR(o, [2, 4]),
}


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(3, 50, generator=torch.Generator().manual_seed(seed))) for seed in range(2)]


def run(params: list[nn.Parameter], optimizer: Any, scheduler: Any, first: int, count: int) -> list[float]:
    rates = []
    for step in range(first, first + count):
        for index, p in enumerate(params):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + index + 5))
        optimizer.step()
        scheduler.step()
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


@pytest.mark.parametrize("name", MAKES)
def test_rates_and_steps_are_those_of_torch(name: str) -> None:
    ours, theirs = parameters(), parameters()
    mine, reference = AdamW(ours, lr=1e-2, state="fp32"), torch.optim.AdamW(theirs, lr=1e-2)
    rates = run(ours, mine, MAKES[name](mine), 0, 7)
    assert rates == run(theirs, reference, MAKES[name](reference), 0, 7)
    assert mine.param_groups[0]["betas"] == reference.param_groups[0]["betas"]  # OneCycleLR moves them too
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_plateau_lowers_the_rate() -> None:
    params = parameters()
    optimizer = Lion(params, lr=1.0)
    scheduler = schedulers.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    for _ in range(3):
        scheduler.step(1.0)
    assert optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize("state", ["log8", "log4"])
def test_a_run_goes_on_from_state_dicts_of_both(state: str) -> None:
    ours, theirs = parameters(), parameters()
    straight, resumed = AdamW(ours, lr=1e-2, state=state), AdamW(theirs, lr=1.0)
    scheduler, again = MAKES["one cycle"](straight), MAKES["one cycle"](resumed)
    run(ours, straight, scheduler, 0, 4)
    for p, q in zip(theirs, ours, strict=True):
        p.data.copy_(q)
    resumed.load_state_dict(straight.state_dict())
    again.load_state_dict(scheduler.state_dict())
    assert run(ours, straight, scheduler, 4, 3) == run(theirs, resumed, again, 4, 3)
    assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("state", ["log8", "log4", "int4"])
def test_a_deep_copy_goes_on_like_the_original(state: str) -> None:
    params = parameters()
    optimizer = AdamW(params, lr=1e-2, state=state)
    run(params, optimizer, MAKES["cosine"](optimizer), 0, 2)
    twins, twin = copy.deepcopy((params, optimizer))
    for group in (params, twins):
        chosen = optimizer if group is params else twin
        assert chosen.param_groups[0]["params"][0] is group[0]
        run(group, chosen, MAKES["multi step"](chosen), 2, 2)
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    assert twin.state_dict()["state"].keys() == optimizer.state_dict()["state"].keys()
