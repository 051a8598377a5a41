"""One side of a Shampoo block, kept in few bits (Wang et al., arXiv 2405.18144; optim/matrix_roots.py).

Of the statistics A [n, n] there are, under a name,

    name_values              [n] float32, eigenvalues
    name_vectors, …_scale    eigenvectors under the first of two schemes (optim/stored_matrix.py)
    name_diagonal            [n] float32, of the root A^(-1/4)
    name_root, …_scale       the rest of the root, under the second

in 4 bits 1.125 n² bytes and 8 n, where float32 takes 8 n². A renewal decodes A, moves it towards the new product of
gradients and decomposes it; the root is that of the decomposition before it is rounded. Errors of the eigenvectors leak
large eigenvalues into the places of small ones, and add up over renewals: on eigenvalues of four powers of ten 4 bits
cost a root 4 % once, 30 % after twelve renewals and 39 % after forty, 4 bits with eigenvectors in 8 bits 4 % whenever
(tests/optim/test_preconditioner.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from narrowgauge.optim.matrix_roots import compose, eigen, inverse_root, orthonormalized, relative_error
from narrowgauge.optim.stored_matrix import PLAIN, load_matrix, matrix_scheme, store_matrix

ORDER = 4
"""Of the root of each side of a matrix: Shampoo's 2 · axes."""


Schemes = tuple[str, str]
"""Of eigenvectors and of roots."""


def preconditioner_schemes(option: Any) -> Schemes:
    """The texts of an option `preconditioner`: one scheme for both, or a pair. Errors as `matrix_scheme`."""
    pair = option if isinstance(option, tuple | list) else (option, option)
    if len(pair) != 2:
        raise ValueError(f"preconditioner: got {option!r}, accepted are a scheme and a pair, for statistics and roots")
    return matrix_scheme(pair[0], "preconditioner"), matrix_scheme(pair[1], "preconditioner")


def stored_root(root: Tensor, scheme: str, name: str) -> dict[str, Tensor]:
    """A symmetric matrix as its float32 diagonal and the rest under a scheme."""
    diagonal = root.diagonal().clone()
    rest = root - diagonal.diag()
    return {f"{name}_diagonal": diagonal, **store_matrix(rest, scheme, f"{name}_root")}


def empty_preconditioner(size: int, schemes: Schemes, name: str, device: torch.device) -> dict[str, Tensor]:
    """The tensors before the first renewal: no statistics, the identity as root."""
    return {
        f"{name}_values": torch.zeros(size, device=device),
        **store_matrix(torch.zeros(size, size, device=device), schemes[0], f"{name}_vectors"),
        **stored_root(torch.eye(size, device=device), schemes[1], name),
    }


def load_root(state: Mapping[str, Tensor], scheme: str, name: str) -> Tensor:
    """A^(-1/4) as it reads back, float32, symmetric."""
    diagonal = state[f"{name}_diagonal"]
    rest = load_matrix(state, scheme, f"{name}_root", diagonal.numel())
    return (rest + rest.T) / 2 + diagonal.diag()


def load_statistics(state: Mapping[str, Tensor], scheme: str, name: str) -> Tensor:
    """A as it reads back, float32."""
    values = state[f"{name}_values"]
    vectors = load_matrix(state, scheme, f"{name}_vectors", values.numel())
    return compose(values, vectors if scheme in PLAIN else orthonormalized(vectors))


def renewed(
    state: Mapping[str, Tensor], schemes: Schemes, name: str, gram: Tensor, decay: float, ridge: float
) -> tuple[dict[str, Tensor], float]:
    """(the tensors with A ← decay · A + (1 - decay) · gram, relative error of the root that they read back as).

    The first gram is taken whole, so that A is never biased towards zero. ValueError where gram is not finite.
    """
    is_first = not bool(state[f"{name}_values"].any())
    mixed = gram if is_first else load_statistics(state, schemes[0], name).lerp_(gram, 1.0 - decay)
    values, vectors = eigen(mixed)
    root = inverse_root(values, vectors, ORDER, ridge)
    tensors = {
        f"{name}_values": values,
        **store_matrix(vectors, schemes[0], f"{name}_vectors"),
        **stored_root(root, schemes[1], name),
    }
    return tensors, relative_error(load_root(tensors, schemes[1], name), root)
