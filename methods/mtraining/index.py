"""Which columns and diagonals of the attention matrix are worth computing, found anew at every forward, per head.

The mean attention logit of rotary queries and keys depends on their distance alone, which makes diagonals; keys of
outlier norm are read by everybody, which makes columns. The last ``w`` queries (the probes) show where::

    A = softmax(Q_w Kᵀ / √D) [w, N], causal
    column score    v_j = 1/w Σ_i A[i, j]
    diagonal score  s_o = 1/w Σ_i A[i, i - o]

Of each family, sorted by score, the shortest prefix is kept whose sum reaches ``mass``: an entry stays while the sum
*before* it is below ``mass``, so that the one that crosses the bound is in. The first ``sinks`` columns and the first
``window`` diagonals, with the main one, are always kept. Nothing of this has a gradient.

Scores are sums over keys. Where the keys are spread over several processes, each adds up its own.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Selection:
    """How an index is chosen: ``mass`` in (0, 1], 1 keeps everything; ``probes`` queries at the end look for it.

    ``max_columns``, ``max_diagonals``: at most so many of the best are kept beside ``sinks`` and ``window``. Raises
    ``ValueError`` for settings out of range.
    """

    mass: float = 0.95
    probes: int = 64
    sinks: int = 30
    window: int = 100
    max_columns: int | None = None
    max_diagonals: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.mass <= 1:
            raise ValueError(f"mass: expected a number in (0, 1], got {self.mass!r}")
        for name, least in (("probes", 1), ("sinks", 0), ("window", 1), ("max_columns", 0), ("max_diagonals", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: expected at least {least}, got {value}")


@dataclass(frozen=True, slots=True)
class SparseIndex:
    """``columns`` bool [B, H, N]: key j is read by every query after it; ``diagonals`` bool [B, H, N]: every query i
    reads key i - o, at distance o."""

    columns: Tensor
    diagonals: Tensor


def probe_logits(q_BHwD: Tensor, k_BKSD: Tensor, reads: Tensor) -> Tensor:
    """``q kᵀ / √D`` float32 [B, H, w, S], -inf where ``reads`` (bool, broadcast to it) is false."""
    k_BHSD = k_BKSD.float().repeat_interleave(q_BHwD.shape[1] // k_BKSD.shape[1], dim=1)
    logits = q_BHwD.float() @ k_BHSD.transpose(-2, -1) * q_BHwD.shape[-1] ** -0.5
    return logits.masked_fill(~reads, float("-inf"))


def scores(logits_BHwS: Tensor, lse_BHw: Tensor, q_w: Tensor, k_S: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """What these keys add to the scores of columns and diagonals, float32 [B, H, ``size``] each.

    ``lse_BHw``: logarithm of the softmax's denominator over *all* keys; ``q_w``, ``k_S``: positions of the probes and
    of the keys, int64.
    """
    weights = (logits_BHwS - lse_BHw[..., None]).exp() / logits_BHwS.shape[2]
    empty = weights.new_zeros(*weights.shape[:2], size)
    columns = empty.index_add(2, k_S, weights.sum(dim=2))
    # Keys after the query have no weight; their negative distance may stand for any.
    distance = (q_w[:, None] - k_S).clamp(min=0).flatten()
    return columns, empty.index_add(2, distance, weights.flatten(2))


def keep_mass(scores_BHN: Tensor, mass: float, most: int | None) -> Tensor:
    """The best of each row until their sum reaches the share ``mass`` of its sum, at most ``most``; bool [B, H, N]."""
    ordered, order = scores_BHN.double().sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = before < mass * ordered.sum(dim=-1, keepdim=True)
    if mass == 1:
        kept = torch.ones_like(kept)
    if most is not None:
        kept[..., most:] = False
    return torch.zeros_like(kept).scatter(-1, order, kept)


def chosen(columns_BHN: Tensor, diagonals_BHN: Tensor, selection: Selection) -> SparseIndex:
    """The index of these scores."""
    columns = keep_mass(columns_BHN, selection.mass, selection.max_columns)
    diagonals = keep_mass(diagonals_BHN, selection.mass, selection.max_diagonals)
    columns[..., : selection.sinks] = True
    diagonals[..., : selection.window] = True
    return SparseIndex(columns, diagonals)


@torch.no_grad()
def select_index(q_BHTD: Tensor, k_BKSD: Tensor, selection: Selection, mask: Tensor | None = None) -> SparseIndex:
    """The index of the last T of S positions, from the last ``min(probes, T)`` queries.

    Query head h has its own, and reads key head h · K // H. ``mask``: bool, broadcast to [B, H, T, S], what may be
    read at all; default all keys up to the query.
    """
    queries, size = q_BHTD.shape[2], k_BKSD.shape[2]
    width = min(selection.probes, queries)
    k_S = torch.arange(size, device=q_BHTD.device)
    q_w = k_S[size - width :]
    reads = q_w[:, None] >= k_S if mask is None else mask.expand(*mask.shape[:-2], queries, size)[..., -width:, :]
    logits = probe_logits(q_BHTD[:, :, -width:], k_BKSD, reads)
    return chosen(*scores(logits, logits.logsumexp(dim=-1), q_w, k_S, size), selection)
