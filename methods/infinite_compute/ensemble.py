"""Several models as one: the mean of their logits.

Paper, §4: ``K`` models that differ in initial weights and order of the data; the ensemble's logits are the mean of
theirs. Its cross-entropy is never above the members' mean: log-sum-exp is convex, and so is cross-entropy in the
logits (Jensen). Averaging probabilities has the same guarantee and is a little worse in practice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from narrowgauge.train.kv_cache import KVCache, LayerCache


class Ensemble(nn.Module):
    """Token ids [B, T] to the mean of the members' logits [B, T, V] float32; never trained itself.

    ``members`` are models of the same ``config`` as :class:`~narrowgauge.train.Llama`, so that an ensemble can be
    evaluated and sampled like one (with a KV cache too). Raises ``ValueError`` for no members or different configs.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise ValueError("members: expected at least one model, got none")
        self.members = nn.ModuleList(members)
        self.config = getattr(members[0], "config", None)
        for index, member in enumerate(members):
            if getattr(member, "config", None) != self.config:
                raise ValueError(f"members: member {index} has another config than member 0")

    def forward(self, input_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Mean logits [B, T, V]; with ``cache``, ``input_ids`` are the columns that follow those it has seen."""
        if cache is None:
            return self._mean([member(input_ids) for member in self.members])
        logits, first_layer = [], 0
        for member in self.members:
            share = _Share(cache, first_layer)
            logits.append(member(input_ids, cache=share))
            first_layer += share.num_layers
        cache.advance(input_ids.shape[1])
        return self._mean(logits)

    def _mean(self, logits: list[Tensor]) -> Tensor:
        # Sorted by size, the sum does not depend on the members' order.
        return torch.stack(logits).float().sort(dim=0).values.mean(dim=0)


class _Share:
    """The layers of one member in the cache of the whole ensemble."""

    def __init__(self, cache: KVCache, first_layer: int) -> None:
        self._cache, self._first = cache, first_layer
        self.length, self.num_layers = cache.length, 0

    def layer(self, index: int) -> LayerCache:
        """The cache of the member's layer ``index``."""
        self.num_layers = max(self.num_layers, index + 1)
        return self._cache.layer(self._first + index)

    def positions(self, num_new: int, device: torch.device) -> Tensor:
        """As the whole cache's."""
        return self._cache.positions(num_new, device)

    def mask(self, num_new: int, device: torch.device) -> Tensor | None:
        """As the whole cache's."""
        return self._cache.mask(num_new, device)

    def advance(self, num_new: int) -> None:
        """Nothing: the ensemble counts the columns once, for all members."""
