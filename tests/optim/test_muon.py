"""Muon: torch's steps, the paper's scales, groups for AdamW, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from narrowgauge.optim.adamw import AdamW
from narrowgauge.optim.muon import Muon, adjustment
from narrowgauge.optim.newton_schulz import orthogonalize
from narrowgauge.optim.parameter_groups import muon_groups
from optimizer_steps import gaussian
from seeded_training import train

SHAPES = ((24, 40), (40, 24), (33, 33), (1, 7))


def matrices() -> list[nn.Parameter]:
    return [nn.Parameter(gaussian(*shape, seed=i)) for i, shape in enumerate(SHAPES)]


OPTIONS: list[dict[str, Any]] = [
    {}, {"nesterov": False}, {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0},
    {"momentum": 0.8, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "adjust_lr_fn": "original", "eps": 1e-3},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_fp32_state_steps_as_torch_does(options: dict[str, Any]) -> None:
    ours, theirs = matrices(), matrices()
    a, b = Muon(ours, lr=2e-2, state="fp32", **options), torch.optim.Muon(theirs, lr=2e-2, **options)
    train(a, ours, range(1, 9))
    train(b, theirs, range(1, 9))
    for p, q in zip(ours, theirs, strict=True):
        # Momentum and orthogonalisation have torch's bits; p is rounded once a step here and twice there.
        assert torch.equal(a.moments(p)[0], b.state[q]["momentum_buffer"])
        torch.testing.assert_close(p, q, rtol=0, atol=8 * 2.0**-22)


def test_state_dicts_go_to_torch_and_come_back() -> None:
    ours, theirs = matrices(), matrices()
    a, b = Muon(ours, state="fp32"), torch.optim.Muon(theirs)
    train(b, theirs, range(1, 4))
    a.load_state_dict(b.state_dict())
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(a.moments(p)[0], b.state[q]["momentum_buffer"])
    back = torch.optim.Muon(matrices())
    back.load_state_dict(a.torch_state_dict())
    for p, q in zip(back.param_groups[0]["params"], theirs, strict=True):
        assert torch.equal(back.state[p]["momentum_buffer"], b.state[q]["momentum_buffer"])


@pytest.mark.parametrize(("state", "bound"), [
    ("bf16", 0.005), ("flash", 0.015), ("log8", 0.015), ("int8", 0.02), ("dynamic8", 0.03), ("coat", 0.04),
    ("log4", 0.35), ("int4", 0.33),
])  # fmt: skip
def test_coded_momentum_gives_nearly_the_direction_of_an_exact_one(state: str, bound: float) -> None:
    ours, theirs = matrices()[:3], matrices()[:3]
    a, b = (
        Muon(params, state=s, ns_dtype="float32", weight_decay=0.0) for params, s in ((ours, state), (theirs, "fp32"))
    )
    train(a, ours, range(1, 21))
    train(b, theirs, range(1, 21))
    for p, q, start in zip(ours, theirs, matrices(), strict=False):
        assert (p - q).norm() < bound * (q - start).norm()


def test_a_step_is_the_formula_in_float64() -> None:
    p, g = gaussian(20, 30), gaussian(20, 30, seed=1)
    w = nn.Parameter(p.clone())
    w.grad = g.clone()
    Muon([w], lr=0.1, weight_decay=0.2, momentum=0.9, adjust_lr_fn="match_rms_adamw", ns_dtype="float32").step()
    nesterov = (g + 0.9 * (0.1 * g - g)).double()
    s = 0.2 * 30**0.5
    expected = p.double() * (1 - 0.1 * 0.2) - 0.1 * s * orthogonalize(nesterov, dtype=torch.float64)
    torch.testing.assert_close(w.double(), expected, rtol=0, atol=2e-6)


def test_match_rms_adamw_makes_updates_as_large_as_adamws() -> None:
    # Entries of a semi-orthogonal matrix have the root mean square 1 / sqrt(max(m, n)); AdamW's are 0.2 to 0.4.
    for shape in ((64, 256), (256, 64), (128, 128)):
        update = orthogonalize(gaussian(*shape)).float() * adjustment(*shape, "match_rms_adamw")
        assert 0.16 < update.square().mean().sqrt() < 0.23


def test_groups_for_adamw_step_as_adamw_does() -> None:
    options: dict[str, Any] = {"betas": (0.9, 0.95), "weight_decay": 0.05, "state": "log8", "seed": 3}
    ours, theirs = nn.Parameter(gaussian(300)), nn.Parameter(gaussian(300))
    a = Muon([ours], lr=1e-2, algorithm="adamw", adamw_eps=1e-6, **options)
    b = AdamW([theirs], lr=1e-2, eps=1e-6, **options)
    train(a, [ours], range(1, 5))
    train(b, [theirs], range(1, 5))
    assert torch.equal(ours, theirs)
    assert "fused" in a.explain().rows[0].runs


def test_adamw_params_are_a_group_with_their_own_learning_rate() -> None:
    matrix, vector = nn.Parameter(gaussian(4, 5)), nn.Parameter(gaussian(7))
    optimizer = Muon([matrix], lr=2e-2, adamw_params=[vector], adamw_lr=3e-4)
    assert [(g["algorithm"], g["lr"]) for g in optimizer.param_groups] == [("muon", 2e-2), ("adamw", 3e-4)]
    named = Muon([("w", matrix)], adamw_params=[{"params": [("b", vector)], "weight_decay": 0.0}])
    assert named.param_groups[1]["param_names"] == ["b"]
    assert named.param_groups[1]["lr"] == 1e-3
    train(optimizer, [matrix, vector], range(1, 3))
    assert set(optimizer.state[matrix]) == {"step", "momentum_buffer", "momentum_buffer_scale"}
    assert "exp_avg_sq" in optimizer.state[vector]


def test_a_whole_model_is_one_optimizer() -> None:
    model = nn.Sequential(nn.Embedding(11, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 11))
    optimizer = Muon(muon_groups(model, head="3.weight"), lr=1e-2, state="log8")
    model(torch.arange(11)).square().sum().backward()
    optimizer.step()
    kinds = {name: "momentum_buffer" in optimizer.state[p] for name, p in model.named_parameters()}
    assert [name for name, is_muon in kinds.items() if is_muon] == ["1.weight"]
    assert [row.rule for row in optimizer.explain().rows] == ["muon", "adamw"]


@pytest.mark.parametrize("matrices_are", ["flatten", "batch"])
def test_tensors_of_more_axes_are_matrices_as_told(matrices_are: str) -> None:
    w = nn.Parameter(torch.zeros(6, 5, 7))
    w.grad = gaussian(6, 5, 7)
    Muon([w], lr=1.0, weight_decay=0.0, matrices=matrices_are, ns_dtype="float32", nesterov=False).step()
    if matrices_are == "flatten":
        expected = orthogonalize(w.grad.flatten(1), dtype=torch.float32).view(6, 5, 7)
    else:
        expected = orthogonalize(w.grad, dtype=torch.float32)
    torch.testing.assert_close(-w.detach(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("state", "expected"), [
    ("log8", 1 + 2 / 128), ("coat", 1 + 8 / 128), ("int8", 1 + 4 / 128), ("fp32", 4.0),
])  # fmt: skip
def test_state_bytes_of_a_matrix(state: str, expected: float) -> None:
    w = nn.Parameter(gaussian(256, 512))
    optimizer = Muon([w], state=state)
    train(optimizer, [w], range(1, 2))
    size = optimizer.state_bytes()
    assert size.total == expected * w.numel() + 4  # and the step
    assert optimizer.explain().rows[0].bytes_per_parameter == expected


@pytest.mark.parametrize(("options", "message"), [
    ({"momentum": 1.0}, r"momentum: got 1.0, accepted are numbers in \[0, 1\)"),
    ({"adjust_lr_fn": "moonshot"}, "adjust_lr_fn: got 'moonshot', accepted are None, original, match_rms_adamw"),
    ({"ns_steps": 0}, "ns_steps: got 0"), ({"ns_coefficients": (1, 2)}, "ns_coefficients: expected three numbers"),
    ({"ns_dtype": "float16"}, "ns_dtype: got 'float16', accepted are bfloat16, float32"),
    ({"algorithm": "sgd"}, "algorithm: got 'sgd', accepted are muon, adamw"),
    ({"weight_decay": -1.0}, "weight_decay: got -1.0"), ({"matrices": "conv"}, "matrices: got 'conv'"),
    ({"betas": (0.9, 1.0)}, "betas: got"), ({"adamw_eps": -1e-8}, "adamw_eps: got -1e-08"),
])  # fmt: skip
def test_options_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Muon(matrices(), **options)


def test_what_is_no_matrix_is_refused_by_name_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"'norm.weight' has the shape \(7,\), .* algorithm='adamw' \(muon_groups"):
        Muon([("norm.weight", nn.Parameter(gaussian(7)))])
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\).*choose matrices='flatten'"):
        Muon([nn.Parameter(gaussian(2, 3, 4))])
