"""Low-rank projections of gradients (GaLore, Zhao et al., arXiv 2403.03507) and when to renew them (Q-GaLore, Zhang et
al., arXiv 2407.08296).

P [r, short] has orthonormal rows: the r leading singular vectors of G on its shorter side, so that

    left,  m < n:     R = P G   [r, n]      back: Pᵀ R
    right, m >= n:    R = G Pᵀ  [m, r]      back: R P

They are eigenvectors of the Gram matrix of the shorter side, in float64: the subspace of the singular value
decomposition at a fraction of its cost. Eigenvectors have no sign; a renewed P takes the signs that agree with the one
before, because the moments that were gathered under that one go on.

The interval between renewals doubles each time the last SIMILARITIES cosine similarities of the leading vector average
at least the threshold (0.4 in the paper).
"""

from __future__ import annotations

import torch
from torch import Tensor

SIMILARITIES = 5
"""How many similarities are averaged."""
NOT_SEEN = float("-inf")
"""A similarity that has not been measured: no average with it reaches a threshold."""


def projects_left(shape: torch.Size) -> bool:
    """Whether the rows are the shorter side of a matrix."""
    return shape[0] < shape[1]


def projected_shape(shape: torch.Size, rank: int) -> torch.Size:
    """Shape of R."""
    return torch.Size((rank, shape[1]) if projects_left(shape) else (shape[0], rank))


def leading_vectors(g: Tensor, rank: int, previous: Tensor | None = None) -> Tensor:
    """P [rank, shorter side] of a float32 matrix, the vector of the largest singular value first.

    previous: the P that it replaces, of the same shape, for the signs. ValueError for what is not finite.
    """
    if not bool(g.isfinite().all()):
        raise ValueError("g: a projection needs a finite gradient, got NaN or infinity")
    wide = g.double() if projects_left(g.shape) else g.double().T
    vectors = torch.linalg.eigh(wide @ wide.T).eigenvectors.flip(-1)[:, :rank].T.float()
    if previous is not None:
        vectors = vectors * torch.where((vectors * previous).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return vectors.contiguous()


def project(g: Tensor, p: Tensor) -> Tensor:
    """R of a gradient."""
    return p @ g if projects_left(g.shape) else g @ p.T


def project_back(r: Tensor, p: Tensor, shape: torch.Size) -> Tensor:
    """The matrix of `shape` that R stands for."""
    return p.T @ r if projects_left(shape) else r @ p


def leading_similarity(p: Tensor, previous: Tensor) -> float:
    """|cos| of the angle between two leading vectors; 0 where one is zero."""
    return float(torch.nn.functional.cosine_similarity(p[0], previous[0], dim=0).abs())


def renewed_gap(gap: int, similarities: Tensor, threshold: float) -> int:
    """The interval after the latest of `similarities` [SIMILARITIES] has been entered."""
    return 2 * gap if float(similarities.mean()) >= threshold else gap
