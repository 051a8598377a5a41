"""Adafactor: torch's steps, momentum and absolute steps against float64, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.optim.adafactor import Adafactor
from optimizer_steps import gaussian
from seeded_training import train

SHAPES = ((24, 40), (40, 3), (17,), (), (2, 5, 6))


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i)) for i, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("options", [
    {}, {"weight_decay": 0.1, "lr": 0.5}, {"d": 2.0, "beta2_decay": -0.5}, {"eps": (1e-12, 0.1), "lr": 1e-3},
    {"maximize": True},
])  # fmt: skip
def test_fp32_state_steps_as_torch_does(options: dict[str, Any]) -> None:
    ours, theirs = parameters(), parameters()
    a, b = Adafactor(ours, state="fp32", **options), torch.optim.Adafactor(theirs, **options)
    train(a, ours, range(1, 9))
    train(b, theirs, range(1, 9))
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=4 * 2.0**-23, atol=8 * 2.0**-23)
        for key, value in b.state[q].items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(a.state[p][key], value, rtol=8 * 2.0**-23, atol=0)


@pytest.mark.parametrize("state", ["fp32", "log8"])
def test_state_dicts_go_to_torch_and_come_back(state: str) -> None:
    ours, theirs = parameters(), parameters()
    a, b = Adafactor(ours, state=state), torch.optim.Adafactor(theirs)
    train(b, theirs, range(1, 4))
    a.load_state_dict(b.state_dict())
    assert a.param_groups[0]["state"] == state
    back = torch.optim.Adafactor(parameters())
    back.load_state_dict(a.torch_state_dict())
    for p, q in zip(back.param_groups[0]["params"], theirs, strict=True):
        assert back.state[p].keys() == b.state[q].keys()
        for key, value in b.state[q].items():
            # One store of log8 errs by at most a step of its code.
            bound = 0.05 if state == "log8" and key == "variance" else 0.0
            torch.testing.assert_close(back.state[p][key], value, rtol=bound, atol=0)
    train(a, ours, range(4, 6))


def test_a_state_of_torch_that_does_not_fit_is_refused() -> None:
    theirs = [nn.Parameter(gaussian(5, 6))]
    b = torch.optim.Adafactor(theirs)
    train(b, theirs, range(1, 2))
    for shape in ((6, 5), (5,)):
        a = Adafactor([nn.Parameter(gaussian(*shape))])
        with pytest.raises(ValueError, match=r"state_dict: expected step, .* got step \(\), row_var \(5, 1\)"):
            a.load_state_dict(b.state_dict())
        assert not a.state


def test_momentum_and_an_external_learning_rate_are_the_formula() -> None:
    p = gaussian(12, 20)
    w = nn.Parameter(p.clone())
    options: dict[str, Any] = {"relative_step": False, "scale_parameter": False, "beta1": 0.9, "eps": (1e-30, 1e-3)}
    optimizer = Adafactor([w], lr=1e-2, weight_decay=0.1, state="fp32", **options)
    x, m, r, c = p.double(), torch.zeros(12, 20).double(), torch.zeros(12).double(), torch.zeros(20).double()
    for t in range(1, 6):
        w.grad = gaussian(12, 20, seed=t)
        optimizer.step()
        g, rate = w.grad.double(), t**-0.8
        r, c = (1 - rate) * r + rate * (g**2).mean(1), (1 - rate) * c + rate * (g**2).mean(0)
        u = g / (torch.outer(r, c) / r.mean()).sqrt()
        m = 0.9 * m + 0.1 * u / max(1.0, float(u.square().mean().sqrt()))
        x = x * (1 - 1e-3) - 1e-2 * m
    torch.testing.assert_close(w.double(), x, rtol=0, atol=2e-6)


def test_gradients_far_below_float32s_root_still_step() -> None:
    for shape in ((6, 8), (8,)):
        w = nn.Parameter(torch.ones(shape))
        w.grad = torch.zeros(shape)
        Adafactor([w], eps=(1e-30, 1e-3), state="fp32").step()
        assert torch.equal(w, torch.ones(shape))


@pytest.mark.parametrize("state", ["log8", "coat", "int8", "log4", "int4", "solo", ("bf16", "udynamic8/1x64")])
def test_vectors_have_a_coded_second_moment(state: Any) -> None:
    ours, theirs = ([nn.Parameter(gaussian(2000))] for _ in range(2))
    a, b = Adafactor(ours, state=state), Adafactor(theirs, state="fp32")
    train(a, ours, range(1, 11))
    train(b, theirs, range(1, 11))
    assert set(a.state[ours[0]]) == {"step", "variance", "variance_scale"}
    start = gaussian(2000)
    bound = 0.4 if state in ("log4", "int4", "solo") else 0.05
    assert (ours[0] - theirs[0]).norm() < bound * (theirs[0] - start).norm()


@pytest.mark.parametrize(("options", "shape", "expected"), [
    ({}, (256, 512), 4 * (256 + 512)), ({"beta1": 0.9}, (256, 512), (1 + 2 / 128) * 256 * 512 + 4 * (256 + 512)),
    ({}, (1024,), 1024 * (1 + 4 / 128)),
])  # fmt: skip
def test_state_bytes(options: dict[str, Any], shape: tuple[int, ...], expected: float) -> None:
    w = nn.Parameter(gaussian(*shape))
    optimizer = Adafactor([w], state="log8", **options)
    train(optimizer, [w], range(1, 2))
    assert optimizer.state_bytes().total == expected + 4  # and the step


@pytest.mark.parametrize(("options", "message"), [
    ({"beta2_decay": 0.1}, "beta2_decay: got 0.1, accepted are numbers <= 0"), ({"d": 0.5}, "d: got 0.5"),
    ({"eps": (None, None)}, "eps: got"), ({"eps": (-1.0, 1e-3)}, "eps: got"), ({"beta1": 1.0}, "beta1: got 1.0"),
    ({"weight_decay": -1.0}, "weight_decay: got -1.0"), ({"state": ("log8", "nope")}, "unknown codec 'nope'"),
])  # fmt: skip
def test_options_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Adafactor(parameters(), **options)
