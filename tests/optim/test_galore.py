"""GaLore: the formula in float64, renewals, coded projections, memory, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from narrowgauge.optim.adamw import AdamW
from narrowgauge.optim.galore import GaLore
from narrowgauge.optim.projection import leading_vectors
from optimizer_steps import gaussian


def low_rank(rows: int, columns: int, seed: int, rank: int = 4) -> Tensor:
    """Gradients that stay in one subspace of both sides."""
    left, right = gaussian(rows, rank, seed=900), gaussian(rank, columns, seed=901)
    return left @ torch.diag(1 + 0.1 * gaussian(rank, seed=seed).abs()) @ right


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_plain_states_are_the_formula(shape: tuple[int, int]) -> None:
    w = nn.Parameter(gaussian(*shape))
    optimizer = GaLore(
        [w], lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1, rank=5, update_gap=3, scale=0.5,
        projection="fp32", adaptive=False, state="fp32",
    )  # fmt: skip
    left = shape[0] < shape[1]
    x, m, v, p = w.detach().double(), 0.0, 0.0, torch.zeros(5, 12)
    for t in range(1, 8):
        w.grad = 1e-2 * gaussian(*shape, seed=t)
        optimizer.step()
        if t in (1, 4, 7):
            p = leading_vectors(w.grad, 5, p)
        g, q = w.grad.double(), p.double()
        r = q @ g if left else g @ q.T
        m, v = 0.8 * m + 0.2 * r, 0.95 * v + 0.05 * r * r
        u = m / (1 - 0.8**t) / ((v / (1 - 0.95**t)).sqrt() + 1e-6)
        x = x * (1 - 0.02 * 0.1) - 0.02 * 0.5 * (q.T @ u if left else u @ q)
    torch.testing.assert_close(w.double(), x, rtol=0, atol=5e-6)


def test_the_interval_doubles_while_the_subspace_stays() -> None:
    w = nn.Parameter(gaussian(16, 24))
    optimizer = GaLore([w], rank=4, update_gap=2, lr=0.0)
    renewals, gaps = [], []
    for t in range(1, 40):
        w.grad = low_rank(16, 24, seed=t)
        before = int(optimizer.state[w]["renew_at"]) if optimizer.state[w] else 1
        optimizer.step()
        if before == t:
            renewals.append(t)
            gaps.append(int(optimizer.state[w]["gap"]))
    # Five similarities have been seen at the sixth projection.
    assert renewals == [1, 3, 5, 7, 9, 11, 15, 23, 39]
    assert gaps == [2, 2, 2, 2, 2, 4, 8, 16, 32]


def test_the_interval_stays_where_the_subspace_moves_or_must_not_adapt() -> None:
    for options, gradients in (({}, gaussian), ({"adaptive": False}, lambda r, c, seed: low_rank(r, c, seed))):
        w = nn.Parameter(gaussian(64, 96))
        optimizer = GaLore([w], rank=4, update_gap=1, **options)
        for t in range(12):
            w.grad = gradients(64, 96, seed=t)
            optimizer.step()
        assert int(optimizer.state[w]["gap"]) == 1
        assert float(optimizer.state[w]["similarities"].mean()) < 0.4 or options


@pytest.mark.parametrize("projection", ["int4/1x256", "nf4/1x64", "mxfp4", "int8/row", "bf16"])
def test_a_coded_projection_moves_weights_nearly_alike(projection: str) -> None:
    weights = []
    for scheme in (projection, "fp32"):
        w = nn.Parameter(torch.zeros(64, 96))
        optimizer = GaLore([w], rank=16, scale=1.0, projection=scheme, state="fp32")
        for t in range(5):
            w.grad = gaussian(64, 96, seed=t)
            optimizer.step()
        weights.append(w.detach())
    bound = 0.4 if "4" in projection else 0.05
    assert (weights[0] - weights[1]).norm() < bound * weights[1].norm()


def test_groups_without_a_rank_step_as_adamw_does() -> None:
    ours, theirs = nn.Parameter(gaussian(70)), nn.Parameter(gaussian(70))
    a = GaLore([ours], lr=1e-2, rank=None, weight_decay=0.1, state="log8")
    b = AdamW([theirs], lr=1e-2, weight_decay=0.1, state="log8")
    for t in range(4):
        ours.grad = theirs.grad = gaussian(70, seed=t)
        a.step()
        b.step()
    assert torch.equal(ours, theirs)


def test_state_bytes_are_those_of_the_projected_moments_and_the_packed_projection() -> None:
    m, n, rank = 256, 1024, 64
    w = nn.Parameter(gaussian(m, n))
    optimizer = GaLore([w], rank=rank, state="log8")
    w.grad = gaussian(m, n)
    optimizer.step()
    moments = (2 + 6 / 128) * rank * n
    projection = (0.5 + 4 / 256) * rank * m
    assert optimizer.state_bytes().total == moments + projection + 4 + 2 * 8 + 5 * 4
    assert optimizer.state_bytes().per_parameter < 0.55
    assert optimizer.explain().rows[0].bytes_per_parameter == moments / (m * n)


def test_a_saved_scheme_is_text_and_loads() -> None:
    from narrowgauge.formats import Scheme, get

    w = nn.Parameter(gaussian(8, 16))
    optimizer = GaLore([w], rank=4, projection=Scheme(get("int4"), (1, 8)))
    assert optimizer.state_dict()["param_groups"][0]["projection"] == "int4/1x8"


@pytest.mark.parametrize(("options", "message"), [
    ({"rank": 0}, "rank: got 0, accepted are whole numbers >= 1"), ({"update_gap": 2.5}, "update_gap: got 2.5"),
    ({"rank": 12}, r"has the shape \(12, 30\); rank 12 takes matrices .* rank=None \(galore_groups"),
    ({"projection": "int4/1x256+sr"}, "projection: int4/1x256"), ({"projection": "int44"}, "projection: got 'int44'"),
    ({"threshold": 2.0}, "threshold: got 2.0"), ({"scale": -1.0}, "scale: got -1.0"),
])  # fmt: skip
def test_what_it_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaLore([nn.Parameter(gaussian(12, 30))], **{"rank": 4, **options})
