"""Keys and values of the positions a decoder has already seen, so that a new token costs one position.

Causal attention of position t needs the keys and values of positions 0 … t, which do not change when more
tokens follow. They are kept; a forward pass computes only the new positions.

Rows of one batch may have different lengths: shorter ones are padded on the left, ``padding[b]`` columns of
row b. Then the newest token of every row is in the same column, column c of row b is position
``c - padding[b]`` of its text, and attention of column c reads columns ``padding[b] … c``.
"""

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer; storage for ``max_len`` columns is taken at the first call."""

    def __init__(self, max_len: int) -> None:
        self.max_len, self.length = max_len, 0
        self._k_BKSD: Tensor | None = None
        self._v_BKSD: Tensor | None = None

    def extend(self, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor]:
        """Append T columns to both; returns all columns so far, [B, K, S, D] views of the storage.

        Raises ``ValueError`` for columns beyond ``max_len`` and for tensors that are part of an autograd graph.
        """
        if k_BKTD.requires_grad or v_BKTD.requires_grad:
            raise ValueError("cache: a cache holds no gradients; call the model under torch.no_grad()")
        if self._k_BKSD is None or self._v_BKSD is None:
            self._k_BKSD, self._v_BKSD = (x.new_empty(*x.shape[:2], self.max_len, x.shape[3]) for x in (k_BKTD, v_BKTD))
        end = self.length + k_BKTD.shape[2]
        if end > self.max_len:
            raise ValueError(f"cache: has room for max_len={self.max_len} columns, {end} are needed")
        self._k_BKSD[:, :, self.length : end] = k_BKTD
        self._v_BKSD[:, :, self.length : end] = v_BKTD
        self.length = end
        return self._k_BKSD[:, :, :end], self._v_BKSD[:, :, :end]


class KVCache:
    """The :class:`LayerCache` of every layer, and which columns of which row are padding.

    ``max_len`` is the number of columns to make room for; ``padding`` [B] integers, the columns on the left of
    each row that hold no token (default: none). ``length`` is the number of columns seen so far. Raises
    ``ValueError`` for ``max_len`` below 1 and for negative padding or one that fills a whole row.
    """

    def __init__(self, max_len: int, padding: Tensor | None = None) -> None:
        if max_len < 1:
            raise ValueError(f"max_len: expected at least 1, got {max_len}")
        if padding is not None and (
            padding.ndim != 1 or padding.is_floating_point() or bool(((padding < 0) | (padding >= max_len)).any())
        ):
            raise ValueError(f"padding: expected one integer of 0 … {max_len - 1} (max_len - 1) a row, got {padding}")
        self.max_len, self.length = max_len, 0
        # Without padding a batch of equal lengths takes the plain causal kernel at its first call.
        self._padding_B = padding if padding is not None and bool(padding.any()) else None
        self._layers: dict[int, LayerCache] = {}

    def layer(self, index: int) -> LayerCache:
        """The cache of layer ``index``."""
        return self._layers.setdefault(index, LayerCache(self.max_len))

    def positions(self, num_new: int, device: torch.device) -> Tensor:
        """Positions [B or 1, T] int64 of the next T = ``num_new`` columns; 0 where a column is padding."""
        columns_T = torch.arange(self.length, self.length + num_new, device=device)
        if self._padding_B is None:
            return columns_T[None]
        return (columns_T - self._padding_B.to(device)[:, None]).clamp(min=0)

    def mask(self, num_new: int, device: torch.device) -> Tensor | None:
        """Which columns each of the next T columns reads: bool [B or 1, 1, T, S], S all columns including them.

        ``None`` where that is plain causal attention: at the first call, without padding. A padding column
        reads itself, so that its values stay finite; no token reads it.
        """
        if self._padding_B is None and self.length == 0:
            return None
        new_T1 = torch.arange(self.length, self.length + num_new, device=device)[:, None]
        columns_S = torch.arange(self.length + num_new, device=device)
        if self._padding_B is None:
            return (columns_S <= new_T1)[None, None]
        first_B11 = self._padding_B.to(device)[:, None, None]
        reads_BTS = ((columns_S <= new_T1) & (columns_S >= first_B11)) | (columns_S == new_T1)
        return reads_BTS[:, None]

    def advance(self, num_new: int) -> None:
        """Count ``num_new`` columns as seen: every layer has been extended by them."""
        self.length += num_new
