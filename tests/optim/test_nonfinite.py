"""What a gradient that is not finite does to states and parameters: it stays in its group, or leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.kernels.codecs import CODECS
from narrowgauge.optim import SGD, AdamW, Lion, RMSprop
from optimizer_steps import gaussian

COLUMNS = 512  # whole groups of every codec


def pair(make: Callable[..., Any], **options: Any) -> tuple[Any, list[nn.Parameter]]:
    params = [nn.Parameter(gaussian(4, COLUMNS)), nn.Parameter(gaussian(70, seed=1))]
    optimizer = make(params, lr=1e-2, **options)
    for step in range(2):
        give(params, step)
        optimizer.step()
    return optimizer, params


def give(params: list[nn.Parameter], step: int) -> None:
    for index, p in enumerate(params):
        p.grad = gaussian(*p.shape, seed=10 * step + index + 2)


def spoil(p: nn.Parameter, value: float) -> None:
    assert p.grad is not None
    p.grad[2, 300] = value


def same(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (a.isnan() & b.isnan())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("state", CODECS)
def test_propagate_reaches_its_group_and_nothing_else(state: str, value: float) -> None:
    (clean, good), (spoiled, bad) = pair(AdamW, state=state), pair(AdamW, state=state)
    for params in (good, bad):
        give(params, 5)
    spoil(bad[0], value)
    clean.step()
    spoiled.step()
    assert not same(good[0], bad[0])[2, 300]
    touched = (~same(good[0], bad[0])).sum()
    assert touched == 1
    assert torch.equal(good[1], bad[1])
    first, second = CODECS[state]
    for codec, one, other in zip((first, second), clean.moments(good[0]), spoiled.moments(bad[0]), strict=True):
        changed = ~same(one, other)
        if codec.kind == "rank-1":
            # The numbers of its row and column are spoiled; what has another one reads back by that, less exactly.
            assert (~torch.isfinite(other)).sum() == 1, codec
            continue
        # A whitened m is read by way of v's group as well.
        width = max(first.group, second.group) if codec.whitened else codec.group
        begin = 300 // width * width
        assert not changed[2, :begin].any(), codec
        assert not changed[2, begin + width :].any(), codec
        assert not changed[[0, 1, 3]].any(), codec
        assert (~torch.isfinite(other[2, begin : begin + codec.group])).all() or codec.group == 1, codec


@pytest.mark.parametrize("make", [AdamW, Lion, SGD, RMSprop])
@pytest.mark.parametrize("state", ["log8", "coat", "int4"])
def test_skip_is_a_zero_gradient(make: Callable[..., Any], state: str) -> None:
    more = {"momentum": 0.9} if make is SGD else {}
    options = {"state": state, "nonfinite": "skip", "clip_norm": 1.0, **more}
    (clean, good), (spoiled, bad) = pair(make, **options), pair(make, **options)
    for params, value in ((good, 0.0), (bad, float("nan"))):
        give(params, 5)
        spoil(params[0], value)
    clean.step()
    spoiled.step()
    for p, q in zip(good, bad, strict=True):
        assert torch.equal(p, q)
        for key, tensor in clean.state[p].items():
            assert torch.equal(tensor, spoiled.state[q][key]), key


@pytest.mark.parametrize("state", ["log8", "coat", "int4"])
def test_raise_leaves_everything_as_it_was(state: str) -> None:
    optimizer, params = pair(AdamW, state=state, nonfinite="raise")
    before = [p.detach().clone() for p in params]
    states = [{key: tensor.clone() for key, tensor in optimizer.state[p].items()} for p in params]
    give(params, 5)
    spoil(params[0], float("inf"))
    with pytest.raises(FloatingPointError, match="1 elements of parameter 0"):
        optimizer.step()
    for p, old, kept in zip(params, before, states, strict=True):
        assert torch.equal(p, old)
        assert all(torch.equal(optimizer.state[p][key], tensor) for key, tensor in kept.items())
