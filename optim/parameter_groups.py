"""Groups of a model's parameters for optimizers that treat hidden matrices in their own way: Muon, GaLore, Shampoo.

Hidden matrices are parameters of two axes that are neither the weight of an embedding nor of the output head (nor one
tensor with it); embeddings, head, vectors and scalars stay with AdamW (Keller Jordan 2024; Liu et al., arXiv
2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

HEAD_NAMES = (
    "lm_head.weight",
    "*.lm_head.weight",
    "embed_out.weight",
    "output.weight",
    "head.weight",
    "*.unembed.weight",
)
"""What output heads are called, as patterns."""
Named = list[tuple[str, Tensor]]


def split_matrices(model: nn.Module, head: str | Iterable[str] | None = None) -> tuple[Named, Named]:
    """(hidden matrices, all others) of the parameters that require a gradient, with their names; each once.

    head: patterns (as of file names) for the output head's parameters; by default HEAD_NAMES. ValueError where a
    pattern matches nothing, or none of the usual ones does: pass head=() for a model without a head.
    """
    parameters = dict(model.named_parameters())
    names = {id(p): name for name, p in parameters.items()}
    aside = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)}
    aside |= {id(p) for p in _heads(model, head)}
    trained: Named = [(names[id(p)], p) for p in parameters.values() if p.requires_grad]
    matrices: Named = [(name, p) for name, p in trained if p.ndim == 2 and id(p) not in aside]
    chosen = {id(p) for _, p in matrices}
    return matrices, [(name, p) for name, p in trained if id(p) not in chosen]


def _heads(model: nn.Module, head: str | Iterable[str] | None) -> list[Tensor]:
    # With the names of tied parameters, of which `named_parameters` gives the first alone.
    every = list(model.named_parameters(remove_duplicate=False))
    patterns = HEAD_NAMES if head is None else (head,) if isinstance(head, str) else tuple(head)
    found = {pattern: [p for name, p in every if fnmatchcase(name, pattern)] for pattern in patterns}
    if head is None and not any(found.values()):
        raise ValueError(
            f"head: no parameter is called {', '.join(HEAD_NAMES)}; pass the name of the output head's weight, or "
            "head=() if there is none"
        )
    for pattern, matches in found.items():
        if head is not None and not matches:
            raise ValueError(f"head: {pattern!r} matches no parameter of the model")
    return [p for matches in found.values() for p in matches]


def muon_groups(
    model: nn.Module, head: str | Iterable[str] | None = None, *, flatten: bool = False
) -> list[dict[str, Any]]:
    """Groups for `Muon`: hidden matrices under `algorithm="muon"`, everything else under "adamw".

    head: see `split_matrices`. flatten: weights of convolutions go to Muon, too, as matrices [out, the rest].
    Options of a group, such as `lr`, may be added to its dict. Groups without parameters are left out.
    """
    matrices, rest = split_matrices(model, head)
    kernels = _convolutions(model) if flatten else set()
    groups: list[dict[str, Any]] = [
        {"params": matrices, "algorithm": "muon"},
        {"params": [pair for pair in rest if id(pair[1]) in kernels], "algorithm": "muon", "matrices": "flatten"},
        {"params": [pair for pair in rest if id(pair[1]) not in kernels], "algorithm": "adamw"},
    ]
    return [group for group in groups if group["params"]]


def galore_groups(model: nn.Module, rank: int, head: str | Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Groups for `GaLore`: hidden matrices whose shorter side is above `rank` projected to it, everything else not."""
    matrices, rest = split_matrices(model, head)
    projected = [pair for pair in matrices if min(pair[1].shape) > rank]
    small = [pair for pair in matrices if min(pair[1].shape) <= rank]
    groups: list[dict[str, Any]] = [{"params": projected, "rank": rank}, {"params": small + rest, "rank": None}]
    return [group for group in groups if group["params"]]


def _convolutions(model: nn.Module) -> set[int]:
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {id(m.weight) for m in model.modules() if isinstance(m, kinds)}
