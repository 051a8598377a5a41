"""One side of a Shampoo block: statistics and roots through 4 bits, bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from narrowgauge.optim.matrix_roots import PAPER_SCHEME, eigen, inverse_root, relative_error
from narrowgauge.optim.preconditioner import (
    empty_preconditioner,
    load_root,
    load_statistics,
    preconditioner_schemes,
    renewed,
)

CPU = torch.device("cpu")


def gram(size: int, seed: int) -> Tensor:
    """G Gᵀ whose eigenvalues span four powers of ten along axes of no preference, the same for all seeds."""
    axes = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(999))).Q
    g = torch.randn(size, 2 * size, generator=torch.Generator().manual_seed(seed))
    g = axes @ (g * torch.logspace(0, -2, size).unsqueeze(-1))
    return g @ g.T


def run(size: int, option: Any, steps: int) -> tuple[float, float, float]:
    """Relative errors of statistics and root against exact ones, and the error that the last renewal tells."""
    schemes = preconditioner_schemes(option)
    state, exact, error = empty_preconditioner(size, schemes, "a", CPU), torch.zeros(size, size), 0.0
    for t in range(steps):
        g = gram(size, t)
        exact = g if t == 0 else exact.lerp(g, 0.1)
        state, error = renewed(state, schemes, "a", g, 0.9, 1e-6)
    root = inverse_root(*eigen(exact), 4, 1e-6)
    of_statistics = relative_error(load_statistics(state, schemes[0], "a"), exact)
    return of_statistics, relative_error(load_root(state, schemes[1], "a"), root), error


@pytest.mark.parametrize(("option", "statistics", "root"), [
    ("fp32", 1e-4, 1e-4), ("bf16", 0.01, 0.01), ("int8/1x64", 0.02, 0.02), (("int8/1x64", PAPER_SCHEME), 0.02, 0.045),
    (PAPER_SCHEME, 0.25, 0.4), ("nf4/1x64", 0.25, 0.4),
])  # fmt: skip
def test_statistics_and_root_survive_renewals(option: Any, statistics: float, root: float) -> None:
    errors = run(96, option, 12)
    assert errors[0] < statistics
    assert errors[1] < root
    assert errors[2] < 0.045


def test_four_bits_of_eigenvectors_add_up_and_eight_do_not() -> None:
    first, last = run(64, PAPER_SCHEME, 1)[1], run(64, PAPER_SCHEME, 12)[1]
    assert first < 0.05
    assert last > 4 * first
    assert run(64, ("int8/1x64", PAPER_SCHEME), 12)[1] < 0.05


def test_the_error_told_is_that_of_the_root_that_reads_back() -> None:
    _, actual, told = run(40, PAPER_SCHEME, 1)
    assert told == pytest.approx(actual, rel=1e-3)
    assert 0.01 < told < 0.05


@pytest.mark.parametrize(("scheme", "expected"), [(PAPER_SCHEME, 2 * (0.5 + 4 / 64)), ("fp32", 8.0)])
def test_bytes(scheme: str, expected: float) -> None:
    state = empty_preconditioner(256, (scheme, scheme), "a", CPU)
    assert sum(t.nbytes for t in state.values()) == expected * 256 * 256 + 8 * 256


def test_the_root_before_the_first_renewal_is_the_identity() -> None:
    state = empty_preconditioner(5, (PAPER_SCHEME, PAPER_SCHEME), "a", CPU)
    assert torch.equal(load_root(state, PAPER_SCHEME, "a"), torch.eye(5))
    assert not load_statistics(state, PAPER_SCHEME, "a").any()


def test_an_option_is_a_scheme_or_a_pair() -> None:
    assert preconditioner_schemes("int8/1x64") == ("int8/1x64", "int8/1x64")
    assert preconditioner_schemes(["bf16", "nf4/1x64"]) == ("bf16", "nf4/1x64")
    with pytest.raises(ValueError, match=r"preconditioner: got .* accepted are a scheme and a pair"):
        preconditioner_schemes(("bf16",))
