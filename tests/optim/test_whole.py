"""What all optimizers of whole tensors have in common: learning, resuming, masters, policies, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.optim.adafactor import Adafactor
from narrowgauge.optim.adam_mini import AdamMini
from narrowgauge.optim.galore import GaLore
from narrowgauge.optim.lamb import LAMB
from narrowgauge.optim.muon import Muon
from narrowgauge.optim.parameter_groups import galore_groups, muon_groups
from narrowgauge.optim.shampoo import Shampoo
from narrowgauge.optim.whole import WholeTensorOptimizer, norm_ratio
from optimizer_steps import gaussian

Make = Callable[..., WholeTensorOptimizer]
OPTIMIZERS: dict[str, Make] = {
    "muon": lambda model, **o: Muon(
        muon_groups(model, head="2.weight"), lr=3e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw", **o
    ),
    "adafactor": lambda model, **o: Adafactor(model.parameters(), lr=5e-2, **o),
    "adafactor_momentum": lambda model, **o: Adafactor(model.parameters(), lr=5e-2, beta1=0.9, **o),
    "lamb": lambda model, **o: LAMB(model.parameters(), lr=2e-2, weight_decay=0.0, **o),
    "adam_mini": lambda model, **o: AdamMini(model.named_parameters(), lr=3e-2, blocks="row", **o),
    "galore": lambda model, **o: GaLore(galore_groups(model, 8, head=()), lr=3e-2, scale=1.0, update_gap=5, **o),
    "shampoo": lambda model, **o: Shampoo(model.parameters(), lr=2e-2, update_gap=5, **o),
    "shampoo_sgd": lambda model, **o: Shampoo(model.parameters(), lr=0.5, update_gap=5, grafting="sgd", **o),
}
WITHOUT_NAN = ("galore", "shampoo", "shampoo_sgd")
STATES = ("log8", "coat", "int8")


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 12))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(0.2 * gaussian(*p.shape, seed=10 + i))
    return model.to(dtype)


def loss_of(model: nn.Module) -> Tensor:
    x, w = gaussian(128, 16), gaussian(16, 12, seed=1)
    dtype = next(model.parameters()).dtype
    return (model(x.to(dtype)).float() - torch.tanh(x @ w)).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
    return loss_of(model).item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_state_learns_nearly_as_well_as_fp32(name: str) -> None:
    start = loss_of(network()).item()
    losses = {}
    for state in ("fp32", *STATES):
        model = network()
        losses[state] = train(model, OPTIMIZERS[name](model, state=state), 40)
    assert losses["fp32"] < 0.12 * start
    assert all(losses[state] < 1.1 * losses["fp32"] for state in STATES), losses


@pytest.mark.parametrize("state", ["log8", "log4", "bf16_sr"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_has_the_bits_of_an_unbroken_one(name: str, state: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model, state=state, seed=5)
    train(model, optimizer, 7)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, 5)
    other = network()
    other.load_state_dict(saved[0])
    resumed = OPTIMIZERS[name](other, state="fp32")
    resumed.load_state_dict(saved[1])
    train(other, resumed, 5)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    for one, two in zip(optimizer.state.values(), resumed.state.values(), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_residual_makes_bfloat16_weights_follow_float32_ones(name: str) -> None:
    wide, narrow = network(), network(torch.bfloat16)
    with torch.no_grad():
        for p, q in zip(wide.parameters(), narrow.parameters(), strict=True):
            p.copy_(q)
    # torch's ε₁ is that of the parameter's dtype, a floor under the gradient that would differ between the two.
    options = {"state": "fp32", **({"eps": (1e-7, 1e-3)} if "adafactor" in name else {})}
    a, b = OPTIMIZERS[name](wide, **options), OPTIMIZERS[name](narrow, **options, master="residual")
    for step in range(15):
        for i, (p, q) in enumerate(zip(wide.parameters(), narrow.parameters(), strict=True)):
            q.grad = (1e-2 * gaussian(*p.shape, seed=100 * step + i)).bfloat16()
            p.grad = q.grad.float()
        a.step()
        b.step()
    for p, q in zip(wide.parameters(), narrow.parameters(), strict=True):
        # Half an ulp of bfloat16 is what q itself differs by; the residual keeps errors from adding up beyond it.
        assert (b.weight(q) - p).norm() < 2e-3 * p.norm()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_maximize_is_a_step_along_the_negated_gradient(name: str) -> None:
    models = network(), network()
    for sign, model in zip((1.0, -1.0), models, strict=True):
        optimizer = OPTIMIZERS[name](model, maximize=sign > 0, state="fp32")
        for i, p in enumerate(model.parameters()):
            p.grad = sign * gaussian(*p.shape, seed=i)
        optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_nan_never_leaves_its_parameter_and_skip_keeps_it_out(name: str) -> None:
    for policy in ("propagate", "skip", "raise"):
        model = network()
        if policy == "propagate" and name in WITHOUT_NAN:
            with pytest.raises(ValueError, match=r"nonfinite: got 'propagate', and .* cannot keep a NaN in its place"):
                OPTIMIZERS[name](model, nonfinite=policy)
            continue
        optimizer = OPTIMIZERS[name](model, nonfinite=policy)
        loss_of(model).backward()
        first, *others = model.parameters()
        assert first.grad is not None
        first.grad[3, 4] = float("nan")
        before = [p.detach().clone() for p in model.parameters()]
        if policy == "raise":
            with pytest.raises(FloatingPointError, match="1 elements of"):
                optimizer.step()
            assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
            continue
        optimizer.step()
        assert all(bool(p.isfinite().all()) for p in others)
        assert bool(first.isfinite().all()) == (policy == "skip")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_closures_empty_gradients_and_tensor_learning_rates(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model)
    assert optimizer.step() is None
    assert not optimizer.state

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert first.item() > 0
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.0)
        group["weight_decay"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(closure)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_transposed_parameters_and_gradients_step_like_contiguous_ones(name: str) -> None:
    models = network(), network()
    for p in models[1].parameters():
        p.data = p.data.T.contiguous().T if p.ndim == 2 else p.data
    optimizers = [OPTIMIZERS[name](model) for model in models]
    for step in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            for i, p in enumerate(model.parameters()):
                p.grad = gaussian(*p.shape, seed=100 * step + i).contiguous()
            optimizer.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"state": "log9"}, ValueError, "state: unknown codec 'log9'; nearest: log"),
    ({"compiled": True}, ValueError, "compiled: .*not elementwise"),
    ({"capturable": True}, ValueError, "capturable: "),
    ({"master": "eco:e4m3fn/1x128"}, ValueError, "master: got 'eco:e4m3fn/1x128'"),
    ({"momentun": 0.9}, TypeError, "momentun"),
])  # fmt: skip
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_all_refuse(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        OPTIMIZERS[name](network(), **options)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_negative_learning_rates_are_refused_in_groups_too(name: str) -> None:
    optimizer = OPTIMIZERS[name](network())
    count = len(optimizer.param_groups)
    p = nn.Parameter(gaussian(20, 20))
    named = "param_names" in optimizer.param_groups[0]
    with pytest.raises(ValueError, match=r"lr: got -1\.0, accepted are numbers >= 0"):
        optimizer.add_param_group({"params": [("more", p)] if named else [p], "lr": -1.0})
    assert len(optimizer.param_groups) == count


def test_the_ratio_of_norms_is_one_where_there_is_none() -> None:
    x = gaussian(4, 4)
    assert norm_ratio(3 * x, x) == pytest.approx(3.0)
    assert norm_ratio(torch.zeros(3), x) == 1.0
    assert norm_ratio(x, torch.zeros(3)) == 1.0
