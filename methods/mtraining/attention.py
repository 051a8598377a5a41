"""Sparse attention in one process: an ``attend`` for :class:`narrowgauge.train.blocks.Attention`."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.methods.mtraining.index import Selection, select_index
from narrowgauge.methods.mtraining.mask import read_entries
from narrowgauge.train.blocks import Attention


def attention_layers(model: nn.Module) -> list[Attention]:
    """Those whose ``attend`` can be replaced, in the model's order."""
    return [part for part in model.modules() if isinstance(part, Attention)]


class SparseAttention:
    """``softmax(q kᵀ / √D) v`` over the entries that an index keeps, found anew at every call.

    What is not kept is masked, not skipped: results and gradients are those of the method, the time is that of dense
    attention. ``density`` is the share of the readable entries that the last call kept.
    """

    def __init__(self, selection: Selection, block: int = 64) -> None:
        if block < 1:
            raise ValueError(f"block: expected at least 1, got {block}")
        self.selection, self.block = selection, block
        self._kept: tuple[Tensor, Tensor] | None = None

    @property
    def density(self) -> float:
        """Of the last call; not a number before the first."""
        if self._kept is None:
            return float("nan")
        return float(self._kept[0]) / float(self._kept[1])

    def __call__(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Output [B, H, T, D] of the queries at the last T of S positions; ``mask`` as in ``causal_attention``."""
        index = select_index(q_BHTD, k_BKSD, self.selection, mask)
        size = k_BKSD.shape[2]
        k_S = torch.arange(size, device=q_BHTD.device)
        kept = read_entries(index, k_S[size - q_BHTD.shape[2] :], k_S, self.block)
        allowed = k_S[size - q_BHTD.shape[2] :, None] >= k_S if mask is None else mask
        kept = kept & allowed
        self._kept = kept.sum(), allowed.expand_as(kept).sum()
        grouped = k_BKSD.shape[1] != q_BHTD.shape[1]
        return F.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=kept, enable_gqa=grouped)
