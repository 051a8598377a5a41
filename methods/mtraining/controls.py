"""What sparse attention is held against: other masks with as many entries."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from narrowgauge.methods.mtraining.index import Selection, select_index
from narrowgauge.methods.mtraining.mask import read_entries


def window_entries(size: int, density: float) -> Tensor:
    """The newest keys of each query, as many that about a share ``density`` of all readable entries is kept:
    bool [size, size]."""
    wanted = density * size * (size + 1) / 2
    # A window of w keeps w · size - w (w - 1) / 2 entries.
    width = max(1, round(size + 0.5 - math.sqrt(max(0.0, (size + 0.5) ** 2 - 2 * wanted))))
    return torch.ones(size, size, dtype=torch.bool).tril().triu(1 - width)


def random_entries(shape: tuple[int, ...], size: int, density: float, generator: torch.Generator) -> Tensor:
    """Each readable entry with the same chance, and the main diagonal: bool [*shape, size, size]."""
    total, own = size * (size + 1) / 2, size
    chance = max(0.0, (density * total - own) / (total - own)) if total > own else 0.0
    drawn = torch.rand(*shape, size, size, generator=generator) < chance
    return drawn.tril() | torch.eye(size, dtype=torch.bool)


def sparse_entries(q_BHTD: Tensor, k_BKTD: Tensor, selection: Selection, block: int) -> Tensor:
    """Those that the index of these queries and keys keeps: bool [B, H, T, T]."""
    positions = torch.arange(q_BHTD.shape[2])
    return read_entries(select_index(q_BHTD, k_BKTD, selection), positions, positions, block)


def causal_weights(q_BHTD: Tensor, k_BKTD: Tensor) -> Tensor:
    """Dense attention weights float32 [B, H, T, T]."""
    size, heads = q_BHTD.shape[2], q_BHTD.shape[1]
    logits = q_BHTD @ k_BKTD.repeat_interleave(heads // k_BKTD.shape[1], dim=1).transpose(-2, -1)
    future = torch.ones(size, size, dtype=torch.bool).triu(1)
    return (logits * q_BHTD.shape[-1] ** -0.5).masked_fill(future, float("-inf")).softmax(dim=-1)


class FixedAttention:
    """Attention over the entries of a mask, which broadcasts to [B, H, T, T]."""

    def __init__(self, entries: Tensor) -> None:
        self.entries = entries

    def __call__(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor) -> Tensor:
        """Output [B, H, T, D]."""
        grouped = k_BKSD.shape[1] != q_BHTD.shape[1]
        return F.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=self.entries, enable_gqa=grouped)


class Listening:
    """Causal attention that keeps the queries and keys of its last call."""

    q: Tensor
    k: Tensor

    def __call__(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor) -> Tensor:
        """Output [B, H, T, D]."""
        self.q, self.k = q_BHTD, k_BKSD
        grouped = k_BKSD.shape[1] != q_BHTD.shape[1]
        return F.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, is_causal=True, enable_gqa=grouped)
