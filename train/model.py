"""A small Llama, written to be read.

Shapes in names: B batch, T positions, C model width (``dim``), H query heads, K key/value heads, D head
width, V vocabulary. Each block computes, with RMS normalisation before each half ("pre-norm")::

    x = x + W_o · attention(rope(W_q n(x)), rope(W_k n(x)), W_v n(x))
    x = x + W_down · (silu(W_gate n(x)) * (W_up n(x)))

Sources: LLaMA (arXiv:2302.13971); rotary positions (arXiv:2104.09864), in the half-split layout in which
channel ``i`` is paired with ``i + D/2``; grouped-query attention (arXiv:2305.13245); SwiGLU
(arXiv:2002.05202). Parameter names and layouts are those of Llama checkpoints on Hugging Face, without their
``model.`` prefix.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from narrowgauge.train.config import LlamaConfig as LlamaConfig

INIT_STD = 0.02


def rope_tables(max_seq_len: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [max_seq_len, D] float32 of the angles ``t · theta^(-2i/D)``.

    ``t`` is the row; ``i = 0 … D/2-1`` runs twice over the D columns.
    """
    # Angles in float64: at t = 10^5 a float32 angle is wrong in its third digit.
    inverse_D = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles_TD = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), inverse_D).repeat(1, 2)
    return angles_TD.cos().float(), angles_TD.sin().float()


def apply_rope(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Turn each channel pair ``(i, i + D/2)`` of position ``t`` by its angle; shape and dtype as ``x``."""
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD


def _linear(in_features: int, out_features: int) -> nn.Linear:
    # skip_init: nn.Linear's own initialisation would draw from the global generator, only to be overwritten.
    linear: nn.Linear = skip_init(nn.Linear, in_features, out_features, bias=False)
    return linear


class Attention(nn.Module):
    """Causal attention, H query heads over K key/value heads."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        kv_dim = config.num_kv_heads * config.head_dim
        self.q_proj = _linear(config.dim, config.dim)
        self.k_proj = _linear(config.dim, kv_dim)
        self.v_proj = _linear(config.dim, kv_dim)
        self.o_proj = _linear(config.dim, config.dim)

    def forward(self, x_BTC: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        q_BHTD = self.q_proj(x_BTC).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k_BKTD = self.k_proj(x_BTC).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        v_BKTD = self.v_proj(x_BTC).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        out_BHTD = F.scaled_dot_product_attention(
            apply_rope(q_BHTD, cos_TD, sin_TD),
            apply_rope(k_BKTD, cos_TD, sin_TD),
            v_BKTD,
            is_causal=True,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        out_BTC: Tensor = self.o_proj(out_BHTD.transpose(1, 2).flatten(-2))
        return out_BTC


class MLP(nn.Module):
    """SwiGLU: ``W_down (silu(W_gate x) * W_up x)``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = _linear(config.dim, config.ffn_dim)
        self.up_proj = _linear(config.dim, config.ffn_dim)
        self.down_proj = _linear(config.ffn_dim, config.dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out_BTC: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))
        return out_BTC


class Block(nn.Module):
    """One layer: attention, then MLP, each on a normalised input and added to the residual stream."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BTC: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), cos_TD, sin_TD)
        x_BTC = x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))
        return x_BTC


class Llama(nn.Module):
    """Token ids [B, T] to logits [B, T, V].

    The initial weights are a function of ``config`` and ``seed`` (or of ``generator``, a CPU generator, which
    wins) alone: they are drawn on the CPU, in a fixed order, and the global generator is left alone.
    """

    cos_TD: Tensor
    sin_TD: Tensor

    def __init__(self, config: LlamaConfig, *, seed: int = 0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = skip_init(nn.Embedding, config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.lm_head = _linear(config.dim, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        cos_TD, sin_TD = rope_tables(config.max_seq_len, config.head_dim, config.rope_theta)
        self.register_buffer("cos_TD", cos_TD, persistent=False)
        self.register_buffer("sin_TD", sin_TD, persistent=False)
        self.reset_parameters(generator if generator is not None else torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator) -> None:
        """Matrices from N(0, 0.02²), norms 1.

        Matrices that write to the residual stream are divided by ``sqrt(2 · num_layers)``, so that the
        stream's variance at the last layer does not grow with depth (the GPT-2 rule).
        """
        residual_std = INIT_STD / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            else:
                std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else INIT_STD
                parameter.normal_(0.0, std, generator=generator)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits [B, T, V] float32 of integer ``input_ids`` [B, T].

        Raises ``ValueError`` for another rank and for ``T > max_seq_len``.
        """
        if input_ids.ndim != 2 or input_ids.shape[1] > self.config.max_seq_len:
            raise ValueError(
                f"input_ids: expected shape [batch, at most max_seq_len={self.config.max_seq_len}],"
                f" got {tuple(input_ids.shape)}"
            )
        num_positions = input_ids.shape[1]
        cos_TD, sin_TD = self.cos_TD[:num_positions], self.sin_TD[:num_positions]
        x_BTC = self.embed_tokens(input_ids)
        for layer in self.layers:
            x_BTC = layer(x_BTC, cos_TD, sin_TD)
        logits_BTV: Tensor = self.lm_head(self.norm(x_BTC))
        return logits_BTV.float()

    def num_parameters(self) -> int:
        """Number of weights, a tied matrix counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
