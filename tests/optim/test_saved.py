"""State dicts to and from torch.optim, and from one codec to another, with the losses that the docs state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.kernels.codecs import CODECS
from narrowgauge.optim import SGD, Adagrad, Adam, AdamW, Lion, RMSprop, convert_state
from optimizer_steps import gaussian

LOSSES = {
    "fp32": 0.0, "bf16": 0.0019, "bf16_sr": 0.0026, "log8": 0.0101, "coat": 0.024, "coat_paper": 0.0233, "fp8": 0.0315,
    "fp8_e5m2": 0.0373, "int8": 0.121, "dynamic8": 0.0344, "flash": 0.048, "log4": 0.144, "int4": 0.72, "solo": 0.67,
}  # fmt: skip
"""Relative error (2-norm) of m / √v after one conversion: the table of docs/optimizers.md."""

PAIRS: list[tuple[Any, Any, dict[str, Any]]] = [
    (AdamW, torch.optim.AdamW, {}), (Adam, torch.optim.Adam, {"weight_decay": 0.1}),
    (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), (SGD, torch.optim.SGD, {"lr": 0.1}),
    (RMSprop, torch.optim.RMSprop, {}), (RMSprop, torch.optim.RMSprop, {"momentum": 0.5}),
    (Adagrad, torch.optim.Adagrad, {"lr": 0.1}),
]  # fmt: skip


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i).to(dtype)) for i, shape in enumerate([(64, 100), (129,), ()])]


def train(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for i, p in enumerate(params):
            scale = torch.exp(gaussian(*p.shape, seed=77 + i))  # gradients whose scales differ
            p.grad = (1e-2 * scale * gaussian(*p.shape, seed=1000 * step + i)).to(p.dtype)
        optimizer.step()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def ratio(m: Tensor | None, v: Tensor | None) -> Tensor:
    assert m is not None
    assert v is not None
    return m / v.sqrt()


@pytest.mark.parametrize("name", list(CODECS))
def test_a_dict_of_torch_loads_into_every_codec_with_the_stated_loss(name: str) -> None:
    params, others = parameters(), parameters()
    reference = torch.optim.AdamW(params, lr=3e-3, betas=(0.9, 0.95))
    train(reference, params, range(1, 30))
    optimizer = AdamW(others, state=name, seed=5)
    optimizer.load_state_dict(reference.state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["state"], group["seed"]) == (3e-3, name, 5)
    kept = reference.state[params[0]]
    loss = relative(ratio(*optimizer.moments(others[0])), ratio(kept["exp_avg"], kept["exp_avg_sq"]))
    assert loss == pytest.approx(LOSSES[name], rel=0.15)
    assert int(optimizer.state[others[0]]["step"]) == 29
    train(optimizer, others, range(30, 32))


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: case[0].__name__ + str(case[2]))
def test_fp32_states_go_to_torch_and_back_without_loss(case: Any) -> None:
    make, counterpart, options = case
    params, others, again = parameters(), parameters(), parameters()
    optimizer = make(params, state="fp32", **options)
    train(optimizer, params, range(1, 4))
    theirs = counterpart(others, **options)
    theirs.load_state_dict(optimizer.torch_state_dict())
    back = make(again, state="fp32", **options)
    back.load_state_dict(theirs.state_dict())
    for group in (others, again):
        for p, q in zip(group, params, strict=True):
            p.detach().copy_(q.detach())
    for p, q in zip(params, again, strict=True):
        for one, other in zip(optimizer.moments(p), back.moments(q), strict=True):
            assert (one is None and other is None) or torch.equal(one, other)
    for run, group in ((optimizer, params), (theirs, others), (back, again)):
        train(run, group, range(4, 6))
    for p, q, r in zip(params, others, again, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
        assert torch.equal(p, r)


def test_what_torch_gets_is_what_the_codes_read_back_as() -> None:
    params = parameters(torch.bfloat16)
    optimizer = AdamW(params, state="log8", master="residual", lr=0.02)
    train(optimizer, params, range(1, 4))
    given = optimizer.torch_state_dict()
    assert "residual" not in given["state"][0]
    assert not {"state", "master", "seed", "bitsandbytes_order"} & given["param_groups"][0].keys()
    assert given["param_groups"][0]["lr"] == 0.02
    m, v = optimizer.moments(params[0])
    assert torch.equal(given["state"][0]["exp_avg"], m)
    assert torch.equal(given["state"][0]["exp_avg_sq"], v)
    assert given["state"][0]["step"] == 3
    theirs = torch.optim.AdamW(parameters())
    theirs.load_state_dict(given)
    train(theirs, theirs.param_groups[0]["params"], range(4, 5))


def test_an_optimizer_without_counterpart_says_so() -> None:
    with pytest.raises(TypeError, match=r"Lion: torch.optim has no counterpart"):
        Lion(parameters()).torch_state_dict()


def test_dicts_of_another_optimizer_of_torch_are_refused_and_nothing_changes() -> None:
    params = parameters()
    optimizer = AdamW(params, lr=0.1)
    train(optimizer, params, range(1, 2))
    before = copy.deepcopy(optimizer.state_dict())
    for other, text in (
        (torch.optim.Adam(params), "decoupled_weight_decay: AdamW's decay is decoupled"),
        (torch.optim.AdamW(params, amsgrad=True), "amsgrad: this optimizer does not have"),
        (torch.optim.SGD(params, momentum=0.5), "entries exp_avg, exp_avg_sq, step, got momentum_buffer"),
    ):
        train(other, params, range(1, 2))
        with pytest.raises(ValueError, match=text):
            optimizer.load_state_dict(other.state_dict())
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert torch.equal(after["state"][0]["exp_avg"], before["state"][0]["exp_avg"])
    with pytest.raises(ValueError, match="decoupled_weight_decay"):
        Adam(params).load_state_dict(torch.optim.AdamW(params).state_dict())


def test_a_dict_of_ours_brings_its_codec_along() -> None:
    params, others = parameters(), parameters()
    optimizer = AdamW(params, state="log8")
    train(optimizer, params, range(1, 4))
    loaded = AdamW(others, state="coat")
    loaded.load_state_dict(optimizer.state_dict())
    assert loaded.param_groups[0]["state"] == "log8"
    assert torch.equal(loaded.state[others[0]]["exp_avg_sq"], optimizer.state[params[0]]["exp_avg_sq"])


def test_a_dict_saved_before_an_option_existed_takes_the_optimizers_own() -> None:
    params = parameters()
    optimizer = AdamW(params)
    train(optimizer, params, range(1, 3))
    saved = optimizer.state_dict()
    for option in ("seed", "clip_norm", "master"):
        del saved["param_groups"][0][option]
    loaded = AdamW(parameters(), seed=9, clip_norm=1.0)
    loaded.load_state_dict(saved)
    assert (loaded.param_groups[0]["seed"], loaded.param_groups[0]["clip_norm"]) == (9, 1.0)


@pytest.mark.parametrize("name", ["log8", "log4", "int4", "coat", "bf16"])
def test_convert_state_stores_the_same_moments_in_another_way(name: str) -> None:
    params = parameters(torch.bfloat16)
    optimizer = AdamW(params, state="fp32", master="residual", betas=(0.9, 0.95))
    train(optimizer, params, range(1, 30))
    before, residual = optimizer.moments(params[0]), optimizer.state[params[0]]["residual"].clone()
    convert_state(optimizer, name)
    assert optimizer.param_groups[0]["state"] == name
    assert relative(ratio(*optimizer.moments(params[0])), ratio(*before)) == pytest.approx(LOSSES[name], rel=0.15)
    state = optimizer.state[params[0]]
    assert torch.equal(state["residual"], residual)
    assert int(state["step"]) == 29
    saved = copy.deepcopy(optimizer.state_dict())
    AdamW(parameters(torch.bfloat16)).load_state_dict(saved)  # laid out as the new codec asks
    train(optimizer, params, range(30, 32))


def test_convert_state_changes_the_master_too() -> None:
    params = parameters(torch.bfloat16)
    optimizer = AdamW(params, state="fp32")
    train(optimizer, params, range(1, 3))
    moments = optimizer.moments(params[0])
    convert_state(optimizer, master="residual")
    assert not optimizer.state[params[0]]["residual"].any()
    assert torch.equal(optimizer.moments(params[0])[0], moments[0])  # type: ignore[arg-type]
    train(optimizer, params, range(3, 4))
    assert optimizer.state[params[0]]["residual"].any()
    convert_state(optimizer, "coat", "sr")
    assert "residual" not in optimizer.state[params[0]]


def test_convert_state_refuses_before_anything_changes() -> None:
    params = parameters()
    optimizer = AdamW(params)
    train(optimizer, params, range(1, 2))
    with pytest.raises(ValueError, match="unknown codec 'log9'; nearest: log8"):
        convert_state(optimizer, "log9")
    with pytest.raises(ValueError, match="master: 'sr' takes bfloat16 parameters"):
        convert_state(optimizer, "log8", "sr")
    assert optimizer.param_groups[0]["state"] == "coat"
    train(optimizer, params, range(2, 3))
