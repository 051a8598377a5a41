"""An encoder-decoder from the blocks of the Llama: a source text to a target text.

The encoder is bidirectional; a decoder block reads, between its attention to the target so far and its MLP, the
encoder's states of the source::

    x = x + W_o · attention(rope(W_q n(x)), rope(W_k s), W_v s)        s: the encoder's normalised last states

Source and target count their positions from 0 and are turned by the same angles, so a head can read at a distance:
texts that run in parallel are aligned early in training. Embeddings are shared. Source: "Attention Is All You
Need" (arXiv:1706.03762, section 3.2.3), with the blocks of :mod:`narrowgauge.train.blocks`. Shapes in names: S
positions of the source, T of the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from narrowgauge.train.blocks import Attention, Block, apply_rope, full_attention, initialise, linear
from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.data import Batch
from narrowgauge.train.decoding import device_of, eval_mode
from narrowgauge.train.encoder import EncoderStack
from narrowgauge.train.generate import generate
from narrowgauge.train.kv_cache import KVCache, LayerCache
from narrowgauge.train.loss import IGNORED_LABEL
from narrowgauge.train.stack import Stack
from narrowgauge.train.tokens import BOS, EOS, PAD


@dataclass(frozen=True, slots=True)
class Source:
    """A source as the decoder reads it: for each layer turned keys and values [B, K, S, D], and which of them count.

    ``mask`` is bool [B, 1, 1, S], or ``None`` where all do.
    """

    keys_values: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor | None


class CrossBlock(Block):
    """A decoder block that also reads the source."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.cross_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.cross_attn = Attention(config, full_attention)

    def forward(
        self,
        x_BTC: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
        source: tuple[Tensor, Tensor] | None = None,
        source_mask: Tensor | None = None,
    ) -> Tensor:
        if source is None:
            raise ValueError("source: expected keys and values of the source, got None")
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), cos_TD, sin_TD, mask, cache)
        queries_BHTD = apply_rope(self.cross_attn.queries(self.cross_layernorm(x_BTC)), cos_TD, sin_TD)
        x_BTC = x_BTC + self.cross_attn.read(queries_BHTD, *source, source_mask)
        return x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))


class EncoderDecoder(nn.Module):
    """Target ids [B, T] and source ids [B, S] to logits [B, T, V] of the target's next tokens.

    ``num_layers`` blocks on each side. ``padding``: the token of the source that nobody reads, where no
    ``source_mask`` says it (``None``: no such token). ``inputs`` names the entries of a batch that ``forward``
    takes, in order. Initial weights are a function of ``config`` and ``seed`` (or ``generator``).
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "source_ids")

    def __init__(
        self,
        config: LlamaConfig,
        *,
        padding: int | None = PAD,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = EncoderStack(config, padding)
        self.decoder = Stack(config, lambda: CrossBlock(config))
        self.decoder.embed_tokens = self.encoder.embed_tokens
        self.lm_head = linear(config.dim, config.vocab_size)
        generator = generator if generator is not None else torch.Generator().manual_seed(seed)
        initialise(self.lm_head, 1, generator)
        if config.tie_embeddings:
            self.lm_head.weight = self.encoder.embed_tokens.weight
        initialise(self.decoder, 3 * config.num_layers, generator)
        initialise(self.encoder, 2 * config.num_layers, generator)

    def forward(self, input_ids: Tensor, source_ids: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Logits [B, T, V] float32 under teacher forcing: ``input_ids`` is the target, shifted by a first token.

        ``source_mask`` [B, S] is true where there is a token. Raises ``ValueError`` for other ranks and shapes
        and for more than ``max_seq_len`` positions on either side.
        """
        return self.decode(input_ids, self.read(source_ids, source_mask))

    def read(self, source_ids: Tensor, source_mask: Tensor | None = None) -> Source:
        """Encode a source, once for all its target's tokens; each row has at least one token."""
        states_BSC = self.encoder.encode(source_ids, source_mask)
        valid_BS = self.encoder.valid(source_ids, source_mask)
        mask = None if valid_BS is None else valid_BS[:, None, None, :]
        cos_SD, sin_SD, _ = self.encoder.positions(source_ids.shape[1])
        keys_values = []
        for layer in self.decoder.layers:
            keys_BKSD, values_BKSD = cast(CrossBlock, layer).cross_attn.keys_values(states_BSC)
            keys_values.append((apply_rope(keys_BKSD, cos_SD, sin_SD), values_BKSD))
        return Source(tuple(keys_values), mask)

    def decode(self, input_ids: Tensor, source: Source, cache: KVCache | None = None) -> Tensor:
        """Logits [B, T, V] float32 of the target's columns that follow those in ``cache``, which is extended."""
        self.decoder.check_ids(input_ids, 0 if cache is None else cache.length)
        cos, sin, mask = self.decoder.positions(input_ids.shape[1], cache)
        x_BTC = self.decoder.embed_tokens(input_ids)
        for index, layer in enumerate(self.decoder.layers):
            memory = None if cache is None else cache.layer(index)
            x_BTC = layer(x_BTC, cos, sin, mask, memory, source.keys_values[index], source.mask)
        if cache is not None:
            cache.advance(input_ids.shape[1])
        logits_BTV: Tensor = self.lm_head(self.decoder.norm(x_BTC))
        return logits_BTV.float()

    def generate(
        self,
        sources: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        bos: int = BOS,
        **settings: Any,
    ) -> list[list[int]]:
        """The target of each source, without ``bos`` and ``eos``; greedy unless told otherwise.

        ``settings`` and errors are those of :func:`~narrowgauge.train.generate.generate`. Raises ``ValueError``
        for an empty source and for a vocabulary without ``bos``.
        """
        if bos >= self.config.vocab_size:
            raise ValueError(f"bos: expected a token below vocab_size={self.config.vocab_size}, got {bos}")
        if not sources:
            return []
        source_ids, source_mask = _padded(sources, 0)
        device = device_of(self)
        with eval_mode(self), torch.no_grad():
            source = self.read(source_ids.to(device), source_mask.to(device))
            first = [[bos]] * len(sources)
            return generate(_Target(self, source), first, max_new_tokens=max_new_tokens, **settings)

    def num_parameters(self) -> int:
        """Number of weights, a shared matrix counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


class _Target(nn.Module):
    """The decoder with its source given: a causal model of the target."""

    def __init__(self, model: EncoderDecoder, source: Source) -> None:
        super().__init__()
        self.model, self.config, self._source = model, model.config, source

    def forward(self, input_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        return self.model.decode(input_ids, self._source, cache)


def teacher_forcing(sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Batch:
    """A batch of pairs: ``source_ids`` [B, S], ``input_ids`` [B, T] and ``labels`` [B, T], int64.

    ``input_ids`` is ``BOS`` and the target, ``labels`` the target and ``EOS``. They are padded on the right with
    ``PAD``, labels with -100. Raises ``ValueError`` for different numbers of
    sources and targets, for none, and for an empty source.
    """
    if len(sources) != len(targets) or not sources:
        raise ValueError(f"targets: expected one for each of {len(sources)} sources, at least one, got {len(targets)}")
    source_ids, _ = _padded(sources, PAD)
    input_ids, _ = _padded([[BOS, *target] for target in targets], PAD)
    labels, _ = _padded([[*target, EOS] for target in targets], IGNORED_LABEL)
    return {"source_ids": source_ids, "input_ids": input_ids, "labels": labels}


def _padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """The rows, filled on the right, and where they have tokens; [N, longest] int64 and bool."""
    for index, row in enumerate(rows):
        if len(row) == 0:
            raise ValueError(f"sources: source {index} is empty, expected at least one token")
    lengths_N = torch.tensor([len(row) for row in rows])
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=filler)
    return ids, torch.arange(ids.shape[1]) < lengths_N[:, None]
