"""Inverse roots of symmetric positive semi-definite matrices, and their parts as Shampoo keeps them in 4 bits.

    inverse root   A^(-1/p) = V diag((max(λ, 0) + ridge · λ_max)^(-1/p)) Vᵀ        A = V diag(λ) Vᵀ

of statistics that are sums of G Gᵀ (Shampoo, Gupta et al., arXiv 1802.09568, algorithm 1, p = 4 for matrices). The
ridge is relative, so that a root does not depend on the gradients' scale: that of c · A is c^(-1/p) times that of A.

In 4 bits (Wang et al., arXiv 2405.18144) statistics are kept as float32 eigenvalues and coded eigenvectors, because a
code of A itself loses its small eigenvalues, of which A^(-1/4) consists; roots as a float32 diagonal and a coded rest.
Decoded eigenvectors are no longer orthogonal: steps of Björck's iteration V ← 3/2 V - 1/2 V Vᵀ V repair that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import CodebookFormat, Scheme

LINEAR_SQUARE = CodebookFormat.from_values(
    [(-1.0 if j < 7 else 1.0) * (2 * j / 15 - 1) ** 2 if j != 7 else 0.0 for j in range(16)], "linear_square4"
)
"""The paper's 4-bit map: signed squares of an even grid, 0 in the place of its value nearest below zero."""
PAPER_SCHEME = str(Scheme(LINEAR_SQUARE, (1, 64)))
"""Groups of 64 along the rows."""


def eigen(a: Tensor) -> tuple[Tensor, Tensor]:
    """(λ ascending, V) of symmetric a [..., n, n], by way of float64, in a's dtype. ValueError for NaN and infinity."""
    if not bool(a.isfinite().all()):
        raise ValueError("a: expected finite numbers, got NaN or infinity")
    values, vectors = torch.linalg.eigh(a.double())
    return values.to(a.dtype), vectors.to(a.dtype)


def inverse_root(values: Tensor, vectors: Tensor, order: int, ridge: float) -> Tensor:
    """V diag((max(λ, 0) + ridge · λ_max)^(-1/order)) Vᵀ, [..., n, n]. A matrix of zeros gives the identity.

    ValueError for an order below 1 or a ridge that is not positive.
    """
    if order < 1:
        raise ValueError(f"order: got {order}, accepted are whole numbers >= 1")
    if not ridge > 0.0:
        raise ValueError(f"ridge: got {ridge}, accepted are numbers > 0")
    positive = values.clamp(min=0.0)
    largest = positive.amax(-1, keepdim=True)
    damped = torch.where(largest > 0, positive + ridge * largest, 1.0)
    return (vectors * damped.pow(-1.0 / order).unsqueeze(-2)) @ vectors.mT


def compose(values: Tensor, vectors: Tensor) -> Tensor:
    """V diag(λ) Vᵀ."""
    return (vectors * values.unsqueeze(-2)) @ vectors.mT


def orthonormalized(vectors: Tensor, steps: int = 2) -> Tensor:
    """`vectors` after `steps` of Björck's iteration, which converges quadratically where all singular values are below
    sqrt(3), as those of coded orthonormal vectors are."""
    for _ in range(steps):
        vectors = 1.5 * vectors - 0.5 * (vectors @ (vectors.mT @ vectors))
    return vectors


def relative_error(actual: Tensor, reference: Tensor) -> float:
    """|actual - reference|_F / |reference|_F; 0 where both are zero."""
    size = float(reference.norm())
    return float((actual - reference).norm()) / size if size else float(actual.norm())
