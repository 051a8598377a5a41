"""A bidirectional encoder from the blocks of the Llama, with a head for masked language modelling.

Every position reads every position of its row that holds a token. Parameter names are those of
:class:`~narrowgauge.train.model.Llama`, so the weights of one are weights of the other: a model can be trained
causally first and bidirectionally then.

Source of the objective: BERT (arXiv:1810.04805, section 3.1); the batches come from
:func:`narrowgauge.train.masking.mask_tokens`.
"""

import torch
from torch import Tensor

from narrowgauge.train.blocks import Block, full_attention, initialise, linear
from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.stack import Stack
from narrowgauge.train.tokens import PAD


class EncoderStack(Stack):
    """Embeddings and bidirectional blocks, without a head; ``padding`` is the token that nobody reads."""

    def __init__(self, config: LlamaConfig, padding: int | None = PAD) -> None:
        super().__init__(config, lambda: Block(config, full_attention))
        self.padding = padding

    def valid(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor | None:
        """Which positions hold a token: bool [B, T], or ``None`` for all of them.

        ``attention_mask`` if it is given, else those that are not ``padding`` (``None``: all). Raises
        ``ValueError`` for a mask of another shape.
        """
        if attention_mask is None:
            return None if self.padding is None else input_ids != self.padding
        if attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask: expected the shape of input_ids {tuple(input_ids.shape)},"
                f" got {tuple(attention_mask.shape)}"
            )
        return attention_mask.bool()

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Normalised last states [B, T, C] of ``input_ids`` [B, T] int64; arbitrary finite ones on padding.

        ``attention_mask`` [B, T], bool or 0/1, is true where there is a token. Raises ``ValueError`` for another
        rank or shape and for ``T > max_seq_len``.
        """
        self.check_ids(input_ids)
        valid_BT = self.valid(input_ids, attention_mask)
        mask = None
        if valid_BT is not None:
            # Every position reads itself, so that no row of the softmax is empty.
            itself_TT = torch.eye(input_ids.shape[1], dtype=torch.bool, device=input_ids.device)
            mask = (valid_BT[:, None, :] | itself_TT)[:, None]
        cos_TD, sin_TD, _ = self.positions(input_ids.shape[1])
        x_BTC = self.embed_tokens(input_ids)
        for layer in self.layers:
            x_BTC = layer(x_BTC, cos_TD, sin_TD, mask)
        states_BTC: Tensor = self.norm(x_BTC)
        return states_BTC


class Encoder(EncoderStack):
    """Token ids [B, T] to logits [B, T, V] of the token at each position; ``encode`` gives the states [B, T, C].

    ``padding``: the token that nobody reads, where no ``attention_mask`` says it (``None``: no such token, and the
    attention kernel needs no mask). Initial weights as in :class:`~narrowgauge.train.model.Llama`: those of one
    seed are the same.
    """

    def __init__(
        self,
        config: LlamaConfig,
        *,
        padding: int | None = PAD,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(config, padding)
        self.lm_head = linear(config.dim, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        generator = generator if generator is not None else torch.Generator().manual_seed(seed)
        initialise(self, 2 * config.num_layers, generator)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] float32; arguments and errors are those of :meth:`encode`."""
        logits_BTV: Tensor = self.lm_head(self.encode(input_ids, attention_mask))
        return logits_BTV.float()
