"""Gradients stepped and freed during the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.optim import AdamW, Lion
from narrowgauge.optim.release import release_gradients


def model() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)).bfloat16()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return net


def loss_of(net: nn.Module, step: int) -> Tensor:
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(100 + step)).bfloat16()
    return net(x).float().square().mean()


@pytest.mark.parametrize("make", [AdamW, Lion])
def test_released_gradients_give_the_bits_of_whole_steps(make: type[AdamW] | type[Lion]) -> None:
    released, whole = model(), model()
    one = make(released.parameters(), lr=1e-2, state="log8", master="sr", seed=4)
    other = make(whole.parameters(), lr=1e-2, state="log8", master="sr", seed=4)
    handle = release_gradients(one)
    for step in range(4):
        loss_of(released, step).backward()
        assert all(p.grad is None for p in released.parameters())
        one.step()  # finds nothing left to do
        loss_of(whole, step).backward()
        other.step()
        other.zero_grad()
        for p, q in zip(released.parameters(), whole.parameters(), strict=True):
            assert torch.equal(p, q)
    handle.remove()
    loss_of(released, 9).backward()
    assert all(p.grad is not None for p in released.parameters())
    assert all(int(state["step"]) == 4 for state in one.state.values())
    handle.remove()


def test_only_one_gradient_is_there_at_a_time() -> None:
    net, seen = model(), []
    params = list(net.parameters())
    for p in params:
        p.register_post_accumulate_grad_hook(lambda _: seen.append(sum(q.grad is not None for q in params)))
    release_gradients(AdamW(params))
    loss_of(net, 0).backward()
    assert len(seen) == len(params)
    assert max(seen) <= 2  # of a layer, weight and bias may be complete together


def test_a_parameter_used_twice_is_stepped_once() -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = AdamW([p], state="fp32")
    release_gradients(optimizer)
    (p.sum() + p.square().sum()).backward()
    assert int(optimizer.state[p]["step"]) == 1


def test_frozen_parameters_are_left_alone() -> None:
    p = nn.Parameter(torch.ones(3), requires_grad=False)
    q = nn.Parameter(torch.ones(3))
    release_gradients(AdamW([p, q]))
    (p * q).sum().backward()
    assert torch.equal(p, torch.ones(3))
    assert not torch.equal(q, torch.ones(3))


def test_what_needs_all_gradients_is_refused() -> None:
    p = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="clip_norm: the norm needs all gradients at once"):
        release_gradients(AdamW([p], clip_norm=1.0))
    with pytest.raises(ValueError, match="nonfinite: 'raise' looks at all gradients"):
        release_gradients(AdamW([p], nonfinite="raise"))
    with pytest.raises(TypeError, match=r"optimizer: expected one of narrowgauge.optim, got AdamW"):
        release_gradients(torch.optim.AdamW([p]))  # type: ignore[arg-type]
    loss = p.square().sum()
    loss.backward()
    assert torch.equal(p, torch.ones(3))  # no hook was left behind
