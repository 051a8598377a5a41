"""Shampoo: the formula in float64, blocks, grafting, the check of roots, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.optim.shampoo import Shampoo, blocks_of
from optimizer_steps import gaussian


def root_of(a: Tensor, ridge: float) -> Tensor:
    values, vectors = torch.linalg.eigh(a)
    return vectors @ torch.diag((values.clamp(min=0) + ridge * values.max()) ** -0.25) @ vectors.T


@pytest.mark.parametrize("grafting", ["adam", "sgd", "none"])
def test_plain_states_are_the_formula(grafting: str) -> None:
    w = nn.Parameter(gaussian(12, 20))
    optimizer = Shampoo(
        [w], lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, preconditioner_decay=0.7, ridge=1e-3,
        update_gap=2, grafting=grafting, preconditioner="fp32", state="fp32",
    )  # fmt: skip
    x, m, v = w.detach().double(), torch.zeros(12, 20).double(), torch.zeros(12, 20).double()
    left, right = torch.zeros(12, 12).double(), torch.zeros(20, 20).double()
    for t in range(1, 8):
        w.grad = gaussian(12, 20, seed=t)
        optimizer.step()
        g = w.grad.double()
        if t % 2:
            part = 1.0 if t == 1 else 0.3
            left, right = left.lerp(g @ g.T, part), right.lerp(g.T @ g, part)
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        d = root_of(left, 1e-3) @ m @ root_of(right, 1e-3)
        adam = m / (1 - 0.8**t) / ((v / (1 - 0.95**t)).sqrt() + 1e-6)
        length = {"adam": adam.norm(), "sgd": m.norm(), "none": d.norm()}[grafting]
        x = x * (1 - 0.02 * 0.1) - 0.02 * d * length / d.norm()
    torch.testing.assert_close(w.double(), x, rtol=0, atol=2e-5)


def test_blocks_tile_a_matrix_and_vectors_have_none() -> None:
    covered = torch.zeros(7, 10)
    blocks = blocks_of(torch.Size((7, 10)), 4)
    for block in blocks:
        block.of(covered).add_(1.0)
    assert len(blocks) == 6
    assert torch.equal(covered, torch.ones(7, 10))
    assert blocks_of(torch.Size((5,)), 4) == []
    assert [b.columns for b in blocks_of(torch.Size((2, 3, 3)), 16)] == [slice(0, 9)]


def test_a_matrix_of_blocks_steps_like_its_blocks_alone() -> None:
    whole = nn.Parameter(gaussian(8, 12))
    parts = [nn.Parameter(whole.detach()[:, :8].clone()), nn.Parameter(whole.detach()[:, 8:].clone())]
    a = Shampoo([whole], max_preconditioner_dim=8, update_gap=2, state="fp32")
    b = Shampoo([*parts], max_preconditioner_dim=8, update_gap=2, state="fp32")
    for t in range(4):
        whole.grad = gaussian(8, 12, seed=t)
        parts[0].grad, parts[1].grad = whole.grad[:, :8].clone(), whole.grad[:, 8:].clone()
        a.step()
        b.step()
    torch.testing.assert_close(whole, torch.cat([p.detach() for p in parts], 1), rtol=1e-5, atol=1e-6)


def test_grafting_gives_every_step_the_length_of_adams() -> None:
    ours, theirs = nn.Parameter(gaussian(16, 24)), nn.Parameter(gaussian(16, 24))
    a, b = Shampoo([ours], lr=1e-2, state="fp32"), torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.0)
    for t in range(3):
        before = ours.detach().clone(), theirs.detach().clone()
        ours.grad = theirs.grad = gaussian(16, 24, seed=t)
        a.step()
        b.step()
        lengths = [float((p.detach() - q).norm()) for p, q in zip((ours, theirs), before, strict=True)]
        assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)


def test_four_bits_turn_the_step_little() -> None:
    weights = {}
    for scheme in ("fp32", "int8/1x64", None):
        w = nn.Parameter(torch.zeros(96, 64))
        options: dict[str, Any] = {"preconditioner": scheme} if scheme else {}
        optimizer = Shampoo([w], update_gap=3, state="fp32", **options)
        for t in range(9):
            w.grad = gaussian(96, 1, seed=50 + t) @ gaussian(1, 64, seed=t) + 0.1 * gaussian(96, 64, seed=100 + t)
            optimizer.step()
        weights[scheme] = w.detach()
        if scheme is None:  # the default, 4 bits
            errors = optimizer.state[w]["root_errors"]
            assert errors.shape == (2,)
            assert bool((errors > 0.01).all())
            assert bool((errors < 0.3).all())

    def cosine(x: Tensor, y: Tensor) -> float:
        return float((x * y).sum() / x.norm() / y.norm())

    assert cosine(weights["int8/1x64"], weights["fp32"]) > 0.999
    assert cosine(weights[None], weights["fp32"]) > 0.97


def test_a_root_that_does_not_survive_its_scheme_is_an_error_before_anything_changes() -> None:
    w = nn.Parameter(gaussian(24, 24))
    before = w.detach().clone()
    optimizer = Shampoo([("layer.weight", w)], preconditioner="int2/1x64", max_error=0.1)
    w.grad = gaussian(24, 24)
    with pytest.raises(FloatingPointError, match=r"block0_left of 'layer.weight' .* choose a finer scheme"):
        optimizer.step()
    assert torch.equal(w, before)
    assert not optimizer.state[w]["exp_avg"].any()
    assert not optimizer.state[w]["block0_left_values"].any()


@pytest.mark.parametrize(("options", "expected"), [
    ({}, 2 * 1.625 + 2 + 6 / 128), ({"preconditioner": "nf4/1x64"}, 2 * 1.125 + 2 + 6 / 128),
    ({"preconditioner": "nf4/1x64", "grafting": "sgd"}, 2 * 1.125 + 1 + 2 / 128),
    ({"preconditioner": "fp32", "state": "fp32"}, 2 * 8 + 8),
])  # fmt: skip
def test_state_bytes_of_a_square_matrix(options: dict[str, Any], expected: float) -> None:
    n = 256
    w = nn.Parameter(gaussian(n, n))
    optimizer = Shampoo([w], **{"state": "log8", **options})
    w.grad = gaussian(n, n)
    optimizer.step()
    vectors = 4 * 4 * n + 2 * 4 + 4  # eigenvalues and diagonals of both sides, root_errors, step
    assert optimizer.state_bytes().total == expected * n * n + vectors


@pytest.mark.parametrize(("options", "message"), [
    ({"grafting": "rmsprop"}, "grafting: got 'rmsprop', accepted are adam, sgd, none"),
    ({"preconditioner": "int4/1x64+sr"}, "preconditioner: int4/1x64"), ({"ridge": 0.0}, "ridge: got 0.0"),
    ({"max_error": -1.0}, "max_error: got -1.0"), ({"update_gap": 0}, "update_gap: got 0"),
    ({"max_preconditioner_dim": 0}, "max_preconditioner_dim: got 0"),
    ({"preconditioner_decay": 1.0}, "preconditioner_decay: got 1.0"),
])  # fmt: skip
def test_options_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shampoo([nn.Parameter(gaussian(4, 4))], **options)
