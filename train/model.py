"""A small Llama, written to be read.

Shapes in names: B batch, T positions, C model width (``dim``), D head width, V vocabulary. Token embeddings,
``num_layers`` blocks (:mod:`narrowgauge.train.blocks` has their formulas and sources), a normalisation, and a
matrix to logits. Parameter names and layouts are those of Llama checkpoints on Hugging Face, without their
``model.`` prefix.
"""

import torch
from torch import Tensor

from narrowgauge.train.blocks import MLP as MLP
from narrowgauge.train.blocks import Attention as Attention
from narrowgauge.train.blocks import Block as Block
from narrowgauge.train.blocks import apply_rope as apply_rope
from narrowgauge.train.blocks import initialise, linear
from narrowgauge.train.blocks import rope_tables as rope_tables
from narrowgauge.train.config import LlamaConfig as LlamaConfig
from narrowgauge.train.kv_cache import KVCache
from narrowgauge.train.stack import Stack


class Llama(Stack):
    """Token ids [B, T] to logits [B, T, V].

    The initial weights are a function of ``config`` and ``seed`` (or of ``generator``, a CPU generator, which
    wins) alone: they are drawn on the CPU, in a fixed order, and the global generator is left alone.
    """

    def __init__(self, config: LlamaConfig, *, seed: int = 0, generator: torch.Generator | None = None) -> None:
        super().__init__(config, lambda: Block(config))
        self.lm_head = linear(config.dim, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.reset_parameters(generator if generator is not None else torch.Generator().manual_seed(seed))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Matrices from N(0, 0.02²), those that write to the residual stream over ``sqrt(2 · num_layers)``; norms 1."""
        initialise(self, 2 * self.config.num_layers, generator)

    def forward(self, input_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits [B, T, V] float32 of integer ``input_ids`` [B, T].

        With ``cache``, ``input_ids`` are the columns that follow those it has seen, and it is extended by them.
        Raises ``ValueError`` for another rank and for more than ``max_seq_len`` columns in all.
        """
        self.check_ids(input_ids, 0 if cache is None else cache.length)
        num_positions = input_ids.shape[1]
        cos, sin, mask = self.positions(num_positions, cache)
        x_BTC = self.embed_tokens(input_ids)
        for index, layer in enumerate(self.layers):
            x_BTC = layer(x_BTC, cos, sin) if cache is None else layer(x_BTC, cos, sin, mask, cache.layer(index))
        if cache is not None:
            cache.advance(num_positions)
        logits_BTV: Tensor = self.lm_head(self.norm(x_BTC))
        return logits_BTV.float()
