"""Q-Ramping: who swings is updated less often, with the mean of the gradients and longer steps."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.nn import QuantLinear
from narrowgauge.nn.ramping import QRamping

W, E = 6, 40


def model(recipe: str = "tetrajet") -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(QuantLinear(32, 8, bias=False, recipe=recipe))


def test_periods_follow_how_much_the_codes_jump_for_how_little_the_weights_move() -> None:
    net = model()
    weight = net[0].weight
    start = torch.full_like(weight, 1.25)
    start[:, 0] = 6.0  # the scale is 1, 1.25 a border
    start[:, 1] = 1.0  # a level
    with torch.no_grad():
        weight.copy_(start)
    ramping = QRamping(torch.optim.SGD(net.parameters(), lr=1.0), net, alpha=16, beta=5, window=W, every=E)
    for step in range(W):
        weight.grad = torch.zeros_like(weight)
        swing = 0.01 if step % 2 else -0.01
        weight.grad[:, 1:3] = swing if step == 0 else 2 * swing  # between 1.24 and 1.26, and about 1
        ramping.optimizer.step()
    period = ramping.periods["0.weight"]
    # ŵ jumps by 0.5 while w moves by 0.02: R is about 25 (the first move is half as long), N = 5 · 1 + 1.
    assert period[:, 2].tolist() == [6] * 8
    assert set(period[:, [0, 1, *range(3, 32)]].flatten().tolist()) == {1}


def run(
    period: int, steps: int, optimizer_type: type = torch.optim.SGD, **options: float
) -> tuple[torch.Tensor, QRamping]:
    net = model()
    optimizer = optimizer_type(net.parameters(), **options)
    ramping = QRamping(optimizer, net, window=1, every=10_000)
    ramping.step = 1
    ramping.periods["0.weight"].fill_(1)
    ramping.periods["0.weight"][:, ::2] = period
    torch.manual_seed(1)
    for _ in range(steps):
        net[0].weight.grad = torch.randn(8, 32)
        optimizer.step()
    return net[0].weight.detach().clone(), ramping


def test_sgd_gets_the_same_sum_in_fewer_updates() -> None:
    """N steps with the mean gradient are the sum of N gradients."""
    plain, _ = run(1, 12, lr=0.1)
    ramped, _ = run(4, 12, lr=0.1)
    torch.testing.assert_close(ramped, plain)
    between, ramping = run(4, 11, lr=0.1)
    assert torch.equal(between[:, 1::2], run(1, 11, lr=0.1)[0][:, 1::2])
    eight, _ = run(4, 8, lr=0.1)
    assert torch.equal(between[:, ::2], eight[:, ::2])
    assert int(ramping._ramps["0.weight"].count[0, 0]) == 3


def test_adam_moments_of_waiting_weights_stand_still() -> None:
    options = {"lr": 1e-2, "weight_decay": 0.0}
    _, first = run(4, 4, torch.optim.AdamW, **options)
    _, later = run(4, 7, torch.optim.AdamW, **options)
    states = [next(iter(r.optimizer.state.values())) for r in (first, later)]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(states[0][key][:, ::2], states[1][key][:, ::2])
        assert not torch.equal(states[0][key][:, 1::2], states[1][key][:, 1::2])
    assert float(states[1]["step"]) == 7


def test_codes_flip_less_often() -> None:
    flips = {}
    for on in (False, True):
        net = model()
        weight, target = net[0].weight, torch.full((8, 32), 1.25)
        target[:, 0] = 6.0
        with torch.no_grad():
            weight.copy_(target)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
        ramping = QRamping(optimizer, net, alpha=2, window=10, every=200)
        if not on:
            ramping.remove()
        noise = torch.Generator().manual_seed(3)
        flips[on], last = 0, None
        for step in range(150):
            with torch.no_grad():
                weight.grad = weight - target + 0.1 * torch.randn(8, 32, generator=noise)
                weight.grad[:, 0] = 0.0
            optimizer.step()
            code = weight.detach() > 1.25
            if step > 20:
                flips[on] += int((code != last).sum())
            last = code
    assert flips[True] < 0.5 * flips[False]


def test_it_is_saved_and_restored() -> None:
    whole, _ = run(4, 10, lr=0.1)
    half, ramping = run(4, 6, lr=0.1)
    net = model()
    with torch.no_grad():
        net[0].weight.copy_(half)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    again = QRamping(optimizer, net, window=1, every=10_000)
    again.load_state_dict(ramping.state_dict())
    torch.manual_seed(1)
    gradients = [torch.randn(8, 32) for _ in range(10)]
    for g in gradients[6:]:
        net[0].weight.grad = g
        optimizer.step()
    assert torch.equal(net[0].weight, whole)
    with pytest.raises(ValueError, match="state: expected the weights"):
        again.load_state_dict({"step": 0, "ramps": {}})


def test_a_layer_trains_under_it() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    QRamping(optimizer, net, alpha=1, window=5, every=20)
    x, y = torch.randn(64, 32), torch.randn(64, 8)
    losses = []
    for _ in range(45):
        loss = (net(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]


def test_what_it_cannot_mean_is_refused() -> None:
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="alpha, beta, window, every"):
        QRamping(optimizer, net, window=10, every=10)
    with pytest.raises(ValueError, match="longest: expected at least 1"):
        QRamping(optimizer, net, longest=0)
    with pytest.raises(ValueError, match="model: no weight of the optimizer"):
        QRamping(optimizer, torch.nn.Linear(2, 2))
    adafactor = torch.optim.Adafactor(net.parameters())
    QRamping(adafactor, net, window=1, every=10)
    net[0].weight.grad = torch.ones(8, 32)
    adafactor.step()
    with pytest.raises(TypeError, match="Q-Ramping needs states of the weight's shape"):
        adafactor.step()
