"""What decoder and encoder have in common: token embeddings, blocks, a normalisation, rotary tables."""

from collections.abc import Callable

from torch import Tensor, nn

from narrowgauge.train.blocks import Block, rope_tables, uninitialised
from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.kv_cache import KVCache


class Stack(nn.Module):
    """Embeddings, ``num_layers`` blocks from ``make_block`` and a last normalisation; no weight is set yet."""

    cos_TD: Tensor
    sin_TD: Tensor

    def __init__(self, config: LlamaConfig, make_block: Callable[[], Block]) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = uninitialised(nn.Embedding, config.vocab_size, config.dim)
        self.layers = nn.ModuleList(make_block() for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        cos_TD, sin_TD = rope_tables(config.max_seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("cos_TD", cos_TD, persistent=False)
        self.register_buffer("sin_TD", sin_TD, persistent=False)

    def check_ids(self, input_ids: Tensor, seen: int = 0) -> None:
        """``ValueError`` unless ``input_ids`` is [B, T] and T columns fit after ``seen`` others."""
        if input_ids.ndim != 2 or seen + input_ids.shape[1] > self.config.max_seq_len:
            raise ValueError(
                f"input_ids: expected shape [batch, at most max_seq_len={self.config.max_seq_len}],"
                f" got {tuple(input_ids.shape)}" + f" after {seen} in the cache" * (seen > 0)
            )

    def positions(self, num_new: int, cache: KVCache | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rotary tables of the next ``num_new`` columns, [T, D] or [B or 1, 1, T, D], and the cache's mask of them."""
        if cache is None:
            return self.cos_TD[:num_new], self.sin_TD[:num_new], None
        positions_BT = cache.positions(num_new, self.cos_TD.device)
        mask = cache.mask(num_new, self.cos_TD.device)
        return self.cos_TD[positions_BT][:, None], self.sin_TD[positions_BT][:, None], mask

    def num_parameters(self) -> int:
        """Number of weights, a shared matrix counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
