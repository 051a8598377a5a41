"""Each method on a small task: training with its quantisers beats rounding the trained weights."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import nn

from narrowgauge.nn.qat import (
    ContinualQAT,
    after_step,
    block_ap,
    cakld_loss,
    e2e_qp,
    full_precision,
    pact_penalty,
    prepare_qat,
    qat,
    quantizer_parameters,
    teacher_confidence,
)  # fmt: skip

CASES = {
    "ste": {"weight": "int2/row", "activation": "int4/row"},
    "binaryconnect": {},
    "xnor": {"activations": False},
    "dorefa": {"bits": 2, "activation_bits": None, "gradient_bits": 8},
    "pact": {"bits": 2, "activation_bits": 3, "alpha": 3.0},
    "lsq": {"bits": 2, "activation_bits": 3},
    "lsq_plus": {"bits": 2, "activation_bits": 3},
    "bitnet": {"norm": "none"},
    "bitnet_b158": {},
    "llm_qat": {"bits": 2, "activation_bits": 4},
    "efficientqat": {"bits": 2, "group": "row"},
    "quest": {"bits": 2, "activation_bits": 8},
    "bitdistiller": {"bits": 2, "group": "row"},
    "dge": {"weight": "int2/row", "activation": "e2m1fn/row"},
    "continual": {"inner": "bitnet_b158", "start": 60, "ramp": 60},
}


def task(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs on [0, 1]^16 and their class by a fixed random network."""
    teacher = torch.Generator().manual_seed(99)
    first, second = torch.randn(16, 32, generator=teacher), torch.randn(32, 4, generator=teacher)
    x = torch.rand(count, 16, generator=torch.Generator().manual_seed(seed))
    scores = torch.tanh((x - 0.5) @ first) @ second
    return x, scores.argmax(1)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


X, Y = task(0, 4096)
X_TEST, Y_TEST = task(1, 2048)
BATCH = 256


def fit(model: nn.Module, steps: int, lr: float, loss_of, each=lambda: None) -> None:
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr)
    for step in range(steps):
        start = step * BATCH % len(X)
        optimizer.zero_grad()
        loss_of(model, slice(start, start + BATCH)).backward()
        optimizer.step()
        each()


def cross_entropy(model: nn.Module, rows: slice) -> torch.Tensor:
    return nn.functional.cross_entropy(model(X[rows]), Y[rows])


@torch.no_grad()
def held_out(model: nn.Module) -> float:
    return nn.functional.cross_entropy(model.eval()(X_TEST), Y_TEST).item()


@lru_cache(maxsize=1)
def trained_state() -> dict[str, torch.Tensor]:
    model = network()
    fit(model, 250, 5e-3, cross_entropy)
    return {name: value.clone() for name, value in model.state_dict().items()}


def trained() -> nn.Sequential:
    model = network()
    model.load_state_dict(trained_state())
    return model


@lru_cache(maxsize=1)
def full_precision_loss() -> float:
    return held_out(trained())


def rounded_loss(name: str) -> float:
    """The trained network with the quantisers switched on and nothing trained (learned ranges begin from a batch)."""
    settings = dict(CASES[name])
    if name == "continual":
        model = prepare_qat(trained(), "bitnet_b158")
    else:
        model = prepare_qat(trained(), qat(name, **settings))
    with torch.no_grad():
        model(X)
    return held_out(model)


@pytest.mark.parametrize("name", list(CASES))
def test_training_with_quantisers_beats_rounding_afterwards(name: str) -> None:
    rounded = rounded_loss(name)
    model = prepare_qat(trained(), qat(name, **CASES[name]))
    schedule = ContinualQAT(model) if name == "continual" else None
    learned = {id(p): p.detach().clone() for p in quantizer_parameters(model)}
    teacher = trained()
    teacher_logits = teacher(X).detach()
    confidence = teacher_confidence(teacher_logits, Y)

    def loss_of(network: nn.Module, rows: slice) -> torch.Tensor:
        if name == "bitdistiller":
            return cakld_loss(network(X[rows]), teacher_logits[rows], confidence)
        loss = cross_entropy(network, rows)
        return loss + 1e-4 * pact_penalty(network) if name == "pact" else loss

    def each() -> None:
        after_step(model)
        if schedule is not None:
            schedule.step()

    fit(model, 180, 3e-3, loss_of, each)
    after, full = held_out(model), full_precision_loss()
    assert rounded > 1.3 * full
    # At least half of what rounding costs is won back.
    assert after - full < 0.5 * (rounded - full)
    for parameter in quantizer_parameters(model):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
        assert not torch.equal(parameter.detach(), learned[id(parameter)])


def test_efficientqat_in_its_two_phases() -> None:
    rounded = rounded_loss("efficientqat")
    model = prepare_qat(trained(), qat("efficientqat", **CASES["efficientqat"]))
    with torch.no_grad(), full_precision(model):
        hidden = [X, model[:2](X), model[:4](X)]
    for number, block in enumerate((model[:2], model[2:4], model[4:])):
        errors = block_ap(block, hidden[number].split(256), epochs=6, lr=1e-3, quantizer_lr=1e-3)
        assert errors[-1] < errors[0]
    after_blocks = held_out(model)
    assert after_blocks < rounded
    scales = e2e_qp(model)
    fit(model, 60, 2e-3, cross_entropy)
    assert held_out(model) < after_blocks
    assert all(p.grad.abs().sum() > 0 for p in scales)
