"""Projections against the singular value decomposition, their signs, and the interval of their renewal."""

from __future__ import annotations

import pytest
import torch

from narrowgauge.optim.projection import (
    NOT_SEEN,
    SIMILARITIES,
    leading_similarity,
    leading_vectors,
    project,
    project_back,
    projected_shape,
    renewed_gap,
)
from optimizer_steps import gaussian


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
@pytest.mark.parametrize("rank", [1, 4, 12])
def test_projecting_there_and_back_is_the_best_approximation_of_its_rank(shape: tuple[int, int], rank: int) -> None:
    g = gaussian(*shape)
    p = leading_vectors(g, rank)
    r = project(g, p)
    assert r.shape == projected_shape(g.shape, rank)
    u, s, vt = torch.linalg.svd(g.double(), full_matrices=False)
    best = u[:, :rank] @ torch.diag(s[:rank]) @ vt[:rank]
    torch.testing.assert_close(project_back(r, p, g.shape).double(), best, rtol=0, atol=1e-5)
    torch.testing.assert_close(p @ p.T, torch.eye(rank), rtol=0, atol=1e-6)


def test_a_renewed_projection_keeps_the_signs_of_the_one_before() -> None:
    g = gaussian(20, 40)
    p = leading_vectors(g, 6)
    flipped = p * torch.tensor([1, -1, 1, -1, -1, 1.0]).unsqueeze(-1)
    assert torch.equal(leading_vectors(g, 6, flipped), flipped)
    nearby = leading_vectors(g + 1e-3 * gaussian(20, 40, seed=1), 6, flipped)
    assert bool(((nearby * flipped).sum(-1) > 0.99).all())


def test_similarity_is_that_of_the_leading_vectors_whatever_their_signs() -> None:
    p = leading_vectors(gaussian(20, 40), 3)
    assert leading_similarity(p, -p) == pytest.approx(1.0)
    assert leading_similarity(p, p.roll(1, 0)) == pytest.approx(0.0, abs=1e-6)


def test_the_interval_doubles_once_enough_similarities_average_the_threshold() -> None:
    seen = torch.full((SIMILARITIES,), NOT_SEEN)
    gaps = []
    for similarity in (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0):
        seen = torch.cat((seen[1:], torch.tensor([similarity])))
        gaps.append(renewed_gap(200, seen, 0.4))
    assert gaps == [200, 200, 200, 200, 400, 400, 400, 200, 200]


def test_it_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="finite gradient"):
        leading_vectors(torch.full((2, 3), float("inf")), 1)
