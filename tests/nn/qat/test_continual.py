"""Continual QAT: high precision first, then λ, with the optimizer's state kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from narrowgauge.nn.qat import ContinualQAT, Phase, prepare_qat, qat


def model_of(**settings) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    return prepare_qat(model, qat("continual", **settings))


def test_quantisers_set_in_at_the_step_and_ramp_up() -> None:
    model = model_of(inner="llm_qat", bits=2, start=2, ramp=4)
    schedule = ContinualQAT(model)
    x = torch.randn(3, 16)
    plain = nn.functional.linear(x, model[0].weight, model[0].bias)
    assert torch.equal(model[0](x), plain)
    strengths = [schedule.strength] + [schedule.step() for _ in range(7)]
    assert strengths == [0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert model[0].mode == "on"
    assert torch.equal(model[0].quantized_weight(), model[0].weight_quantizer(model[0].weight))


def test_the_optimizer_keeps_its_moments_and_finds_the_learned_steps() -> None:
    model = model_of(inner="lsq", bits=3, start=3)
    schedule = ContinualQAT(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    x, y = torch.randn(32, 16), torch.randn(32, 4)
    quantizer = model[0].weight_quantizer
    step = quantizer.step
    for i in range(6):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        if i == 3:
            moment = optimizer.state[model[0].weight]["exp_avg"].clone()
            assert moment.abs().sum() > 0
        optimizer.step()
        schedule.step()
        if i == 2:
            # What LSQ takes from the weights is taken from the trained ones.
            expected = 2 * model[0].weight.detach().abs().mean() / 3**0.5
            torch.testing.assert_close(step.detach().reshape(()), expected)
    assert quantizer.step is step
    assert int(optimizer.state[step]["step"]) == 3
    assert int(optimizer.state[model[0].weight]["step"]) == 6


def test_a_saved_schedule_continues() -> None:
    schedule = ContinualQAT(model_of(start=1, ramp=2))
    schedule.step()
    schedule.step()
    model = model_of(start=1, ramp=2)
    other = ContinualQAT(model)
    other.load_state_dict(schedule.state_dict())
    assert other.strength == 0.5
    assert model[0].mode == "ramp"
    assert other.step() == 1.0


def test_a_phase_is_needed() -> None:
    model = prepare_qat(nn.Sequential(nn.Linear(4, 4)), "llm_qat")
    with pytest.raises(ValueError, match="give Phase"):
        ContinualQAT(model)
    ContinualQAT(model, Phase(5))
    assert model[0].mode == "off"
