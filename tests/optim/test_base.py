"""What optimizers share: a subclass written by hand, clipping, policies, options, bytes, explanations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Unpack

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.optim import SGD, AdamW, CompressedOptimizer
from narrowgauge.optim.options import Options
from optimizer_steps import gaussian


class Average(CompressedOptimizer):
    """p ← p - lr · m with m the gradients' average, and a count kept beside."""

    moment_names = ("exp_avg", "")

    def __init__(self, params: Any, lr: float | Tensor = 0.1, beta: float = 0.5, **options: Unpack[Options]) -> None:
        super().__init__(params, {"lr": lr, "beta": beta}, **options)

    def extra_state(self, p: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"seen": torch.zeros(2, dtype=torch.int64)}

    def _step_parameters(self, group: dict[str, Any], params: list[Tensor], gradients: Iterator[Tensor]) -> None:
        for p, g in zip(params, gradients, strict=True):
            m, _ = self.read(p, group)
            assert m is not None
            m.lerp_(g, 1 - group["beta"])
            self.state[p]["seen"] += self.step_of(p)
            self.apply_update(p, group, group["lr"] * m)
            self.write(p, group, m, None)


def with_gradient(p: Tensor, gradient: Tensor) -> nn.Parameter:
    parameter = nn.Parameter(p.clone())
    parameter.grad = gradient.clone().to(p.dtype)
    return parameter


def test_a_subclass_needs_a_step_alone() -> None:
    p, g = gaussian(7, 9), gaussian(7, 9, seed=1)
    parameter = with_gradient(p, g)
    optimizer = Average([parameter], state="fp32")
    for _ in range(2):
        optimizer.step()
    m = 0.5 * g
    expected = p - 0.1 * m
    m = m.lerp(g, 0.5)
    assert torch.equal(parameter, expected - 0.1 * m)
    assert torch.equal(optimizer.moments(parameter)[0], m)
    assert optimizer.moments(parameter)[1] is None
    assert optimizer.state[parameter]["seen"].tolist() == [3, 3]


@pytest.mark.parametrize("state", ["log8", "log4", "coat", "int4", "bf16_sr", "nf4/1x64"])
@pytest.mark.parametrize("master", ["none", "sr", "residual"])
def test_a_subclass_resumes_with_the_same_bits_under_every_codec_and_master(state: str, master: str) -> None:
    p = gaussian(40, 33).bfloat16()
    first, second = with_gradient(p, 1e-2 * p), with_gradient(p, 1e-2 * p)
    one, other = (Average([q], state=state, master=master, seed=3) for q in (first, second))
    for _ in range(3):
        one.step()
        other.step()
    resumed = with_gradient(second.detach(), 1e-2 * p)
    fresh = Average([resumed])
    fresh.load_state_dict(copy.deepcopy(other.state_dict()))
    for _ in range(3):
        one.step()
        fresh.step()
    assert torch.equal(first, resumed)
    assert fresh.state[resumed].keys() == one.state[first].keys()
    for key, value in one.state[first].items():
        assert torch.equal(value, fresh.state[resumed][key]), key


def test_saved_extra_tensors_are_checked() -> None:
    optimizer = Average([with_gradient(torch.ones(3), torch.ones(3))])
    optimizer.step()
    saved = optimizer.state_dict()
    saved["state"][0]["seen"] = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"state_dict: seen: expected torch.int64 \(2,\), got torch.int64 \(3,\)"):
        optimizer.load_state_dict(saved)


def test_clipping_is_by_the_norm_over_all_groups_that_clip() -> None:
    params = [with_gradient(gaussian(n, seed=n), gaussian(n, seed=n + 1)) for n in (5, 80, 3)]
    twins = [with_gradient(p.detach(), p.grad) for p in params if p.grad is not None]
    groups = [{"params": params[:1]}, {"params": params[1:2]}, {"params": params[2:], "clip_norm": None}]
    SGD(groups, lr=0.1, momentum=0.9, state="fp32", clip_norm=0.5).step()
    torch.nn.utils.clip_grad_norm_(twins[:2], 0.5)
    SGD(twins, lr=0.1, momentum=0.9, state="fp32").step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


def test_small_gradients_are_not_scaled_up() -> None:
    p, q = with_gradient(torch.ones(4), torch.full((4,), 0.1)), with_gradient(torch.ones(4), torch.full((4,), 0.1))
    Average([p], clip_norm=10.0, state="fp32").step()
    Average([q], state="fp32").step()
    assert torch.equal(p, q)


@pytest.mark.parametrize("make", [Average, SGD, AdamW])
def test_nonfinite_gradients_follow_the_policy(make: Any) -> None:
    bad = torch.tensor([0.5, float("nan"), float("inf"), 0.25])
    results = {}
    for policy in ("propagate", "skip"):
        p, other = with_gradient(torch.ones(4), bad), with_gradient(torch.ones(4), torch.ones(4))
        make([p, other], lr=0.1, nonfinite=policy, clip_norm=1.0).step()
        results[policy] = p.detach()
        assert torch.isfinite(other).all()
    assert torch.isfinite(results["propagate"]).tolist() == [True, False, False, True]
    assert torch.isfinite(results["skip"]).all()
    assert torch.equal(results["skip"][[0, 3]], results["propagate"][[0, 3]])
    p = with_gradient(torch.ones(4), bad)
    optimizer = make([p], lr=0.1, nonfinite="raise")
    with pytest.raises(FloatingPointError, match="2 elements of parameter 0"):
        optimizer.step()
    assert torch.equal(p, torch.ones(4))
    assert not optimizer.state


def test_skipped_elements_count_as_zero_gradient() -> None:
    bad = torch.tensor([0.5, float("nan")])
    p, q = with_gradient(torch.ones(2), bad), with_gradient(torch.ones(2), torch.tensor([0.5, 0.0]))
    for parameter, policy in ((p, "skip"), (q, "propagate")):
        optimizer = AdamW([parameter], nonfinite=policy, state="fp32")
        optimizer.step()
        optimizer.step()
    assert torch.equal(p, q)


def test_static_bytes_are_those_of_live_storage() -> None:
    p = nn.Parameter(gaussian(256, 256).bfloat16())
    optimizer = AdamW([p], state="log8", master="residual")
    assert optimizer.static_bytes()[:4] == (131072, 0, 0, 0)
    p.grad = p.detach().clone()
    optimizer.step()
    size = optimizer.static_bytes()
    assert (size.weights, size.gradients, size.residuals, size.parameters) == (131072, 131072, 65536, 65536)
    assert size.states == optimizer.state_bytes().total - 65536
    assert size.total == sum(size[:4])
    assert size.per_parameter <= 7.1
    views = nn.Parameter(gaussian(100)[:50])  # the storage behind it holds twice as much
    assert AdamW([views]).static_bytes().weights == 400


def test_step_parameter_gives_the_bits_of_step() -> None:
    params, twins = ([with_gradient(gaussian(90).bfloat16(), gaussian(90, seed=1)) for _ in range(3)] for _ in range(2))
    one, other = (AdamW(group, master="sr", state="log8") for group in (params, twins))
    one.step()
    for q in reversed(twins):
        other.step_parameter(q)
    for p, q in zip(params, twins, strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match="clip_norm: the norm needs all gradients"):
        AdamW(params, clip_norm=1.0).step_parameter(params[0])
    with pytest.raises(KeyError, match="not the optimizer's"):
        one.step_parameter(twins[0])
