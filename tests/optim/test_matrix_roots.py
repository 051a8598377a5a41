"""Inverse roots against their definition, and what 4 bits cost them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from narrowgauge.optim.matrix_roots import (
    LINEAR_SQUARE,
    PAPER_SCHEME,
    compose,
    eigen,
    inverse_root,
    orthonormalized,
    relative_error,
)
from narrowgauge.optim.stored_matrix import load_matrix, store_matrix


def statistics(size: int, decades: float = 3.0, seed: int = 0) -> Tensor:
    """A positive matrix whose eigenvalues spread over so many powers of ten, float64."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q
    return compose(10 ** torch.linspace(-decades, 0, size, dtype=torch.float64), q)


@pytest.mark.parametrize("order", [1, 2, 4, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_power_of_the_root_is_the_inverse(order: int, dtype: torch.dtype) -> None:
    a = statistics(24)
    root = inverse_root(*eigen(a.to(dtype)), order, 1e-12).double()
    product = torch.linalg.matrix_power(root, order) @ a
    # float32 moves eigenvalues by 2^-24 of the largest, a thousandth of it being the smallest.
    torch.testing.assert_close(
        product, torch.eye(24, dtype=torch.float64), rtol=0, atol=1e-3 if dtype is torch.float32 else 1e-8
    )


def test_the_ridge_is_relative() -> None:
    a = statistics(12, decades=9)
    base = inverse_root(*eigen(a), 4, 1e-6)
    torch.testing.assert_close(inverse_root(*eigen(a * 2.0**40), 4, 1e-6), base * 2.0**-10, rtol=1e-10, atol=0)
    assert float(base.norm()) < 12 * (1e-6) ** -0.25


def test_zeros_give_the_identity_and_singular_ones_stay_finite() -> None:
    zero = torch.zeros(2, 5, 5)
    assert torch.equal(inverse_root(*eigen(zero), 4, 1e-6), torch.eye(5).expand(2, 5, 5))
    rank_one = torch.ones(6, 6)
    assert bool(inverse_root(*eigen(rank_one), 4, 1e-6).isfinite().all())


def test_bjorck_repairs_coded_eigenvectors() -> None:
    _, vectors = eigen(statistics(96).float())
    decoded = load_matrix(store_matrix(vectors, PAPER_SCHEME, "v"), PAPER_SCHEME, "v", 96)
    eye = torch.eye(96)
    before = relative_error(decoded.T @ decoded, eye)
    after = [relative_error((v := orthonormalized(decoded, steps)).T @ v, eye) for steps in (1, 2, 4)]
    assert 0.05 < before < 0.3
    assert after[0] < before / 4
    assert after[1] < after[0] / 4
    assert after[2] < 1e-5


def test_coded_eigenvectors_keep_the_small_eigenvalues_that_a_coded_matrix_loses() -> None:
    a = statistics(128, decades=4).float()
    exact = inverse_root(*eigen(a), 4, 1e-6)
    values, vectors = eigen(a)
    coded_vectors = load_matrix(store_matrix(vectors, PAPER_SCHEME, "v"), PAPER_SCHEME, "v", 128)
    by_vectors = inverse_root(values, orthonormalized(coded_vectors), 4, 1e-6)
    coded = load_matrix(store_matrix(a - a.diag().diag(), PAPER_SCHEME, "a"), PAPER_SCHEME, "a", 128)
    by_matrix = inverse_root(*eigen((coded + coded.T) / 2 + a.diag().diag()), 4, 1e-6)
    assert relative_error(by_vectors, exact) < 0.25
    assert relative_error(by_matrix, exact) > 2 * relative_error(by_vectors, exact)


def test_the_map_is_the_papers() -> None:
    values = LINEAR_SQUARE.decode(list(range(16)))
    assert values[0] == -1.0
    assert values[15] == 1.0
    assert values[7] == 0.0
    assert values[6] == pytest.approx(-((3 / 15) ** 2))
    assert values[8] == pytest.approx((1 / 15) ** 2)
    assert all(values[:-1] < values[1:])


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="expected finite numbers"):
        eigen(torch.full((2, 2), float("nan")))
    values, vectors = eigen(torch.eye(2))
    with pytest.raises(ValueError, match="order: got 0"):
        inverse_root(values, vectors, 0, 1e-6)
    with pytest.raises(ValueError, match=r"ridge: got 0\.0"):
        inverse_root(values, vectors, 4, 0.0)
