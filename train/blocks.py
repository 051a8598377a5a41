"""The parts of a Llama, shared by the decoder, the encoder and the encoder-decoder.

Shapes in names: B batch, T positions of the queries, S positions of keys and values, C model width (``dim``),
H query heads, K key/value heads, D head width. A block computes, with RMS normalisation before each half
("pre-norm")::

    x = x + W_o · attention(rope(W_q n(x)), rope(W_k n(x)), W_v n(x))
    x = x + W_down · (silu(W_gate n(x)) * (W_up n(x)))

Sources: LLaMA (arXiv:2302.13971); rotary positions (arXiv:2104.09864), in the half-split layout in which
channel ``i`` is paired with ``i + D/2``; grouped-query attention (arXiv:2305.13245); SwiGLU
(arXiv:2002.05202).
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from narrowgauge.train.config import LlamaConfig
from narrowgauge.train.kv_cache import LayerCache

INIT_STD = 0.02

M = TypeVar("M", bound=nn.Module)

Attend = Callable[..., Tensor]
"""``attend(q [B, H, T, D], k [B, K, S, D], v [B, K, S, D])`` or, where a mask is needed (padding, a cache),
``attend(q, k, v, mask)`` with ``mask`` bool, broadcast to [B, H, T, S], True where a query reads a key; out
[B, H, T, D]. Keys and queries have their rotary positions already; query head h reads key head h · K // H."""


def causal_attention(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None = None) -> Tensor:
    """``softmax(q kᵀ / √D) v`` [B, H, T, D] over the keys that ``mask`` allows, default those up to the query."""
    return F.scaled_dot_product_attention(
        q_BHTD,
        k_BKSD,
        v_BKSD,
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=k_BKSD.shape[1] != q_BHTD.shape[1],
    )


def full_attention(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None = None) -> Tensor:
    """``softmax(q kᵀ / √D) v`` [B, H, T, D] over the keys that ``mask`` allows, default all."""
    return F.scaled_dot_product_attention(
        q_BHTD, k_BKSD, v_BKSD, attn_mask=mask, enable_gqa=k_BKSD.shape[1] != q_BHTD.shape[1]
    )


def rope_tables(max_seq_len: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [max_seq_len, D] float32 of the angles ``t · theta^(-2i/D)``.

    ``t`` is the row; ``i = 0 … D/2-1`` runs twice over the D columns.
    """
    # Angles in float64: at t = 10^5 a float32 angle is wrong in its third digit.
    inverse_D = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles_TD = torch.outer(torch.arange(max_seq_len, dtype=torch.float64), inverse_D).repeat(1, 2)
    return angles_TD.cos().float(), angles_TD.sin().float()


def apply_rope(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Turn each channel pair ``(i, i + D/2)`` of position ``t`` by its angle; shape and dtype as ``x``.

    The tables are [T, D], or [B, 1, T, D] where rows have positions of their own.
    """
    first, second = x_BHTD.chunk(2, dim=-1)
    return x_BHTD * cos_TD + torch.cat((-second, first), dim=-1) * sin_TD


def uninitialised(kind: type[M], *sizes: int, **settings: Any) -> M:
    """A layer on torch's default device whose weights are not yet set."""
    # Its own initialisation would draw from the global generator, only to be overwritten.
    return kind(*sizes, device="meta", **settings).to_empty(device=torch.get_default_device())


def linear(in_features: int, out_features: int) -> nn.Linear:
    """A linear layer without bias whose weights are not yet set."""
    return uninitialised(nn.Linear, in_features, out_features, bias=False)


@torch.no_grad()
def initialise(model: nn.Module, num_residual_writes: int, generator: torch.Generator) -> None:
    """Matrices from N(0, 0.02²), vectors 1, in the order of ``named_parameters``.

    Matrices that write to the residual stream (``o_proj``, ``down_proj``) are divided by
    ``sqrt(num_residual_writes)``, so that the stream's variance at the last layer does not grow with depth
    (the GPT-2 rule). Numbers are drawn where the generator is; a model on the meta device stays without any.
    """
    residual_std = INIT_STD / math.sqrt(num_residual_writes)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            continue
        if parameter.ndim < 2:
            parameter.fill_(1.0)
        else:
            std = residual_std if name.endswith(("o_proj.weight", "down_proj.weight")) else INIT_STD
            drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
            parameter.copy_(drawn.normal_(0.0, std, generator=generator))


class Attention(nn.Module):
    """Attention of a sequence to itself, H query heads over K key/value heads.

    ``attend`` is what is computed between the projections, an :data:`Attend`; assign another to replace it,
    layer by layer: ``layer.self_attn.attend = my_attention``.
    """

    attend: Attend

    def __init__(self, config: LlamaConfig, attend: Attend = causal_attention) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.attend = attend
        kv_dim = config.num_kv_heads * config.head_dim
        self.q_proj = linear(config.dim, config.dim)
        self.k_proj = linear(config.dim, kv_dim)
        self.v_proj = linear(config.dim, kv_dim)
        self.o_proj = linear(config.dim, config.dim)

    def forward(
        self,
        x_BTC: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        q_BHTD = apply_rope(self.queries(x_BTC), cos_TD, sin_TD)
        k_BKSD, v_BKSD = self.keys_values(x_BTC)
        k_BKSD = apply_rope(k_BKSD, cos_TD, sin_TD)
        if cache is not None:
            k_BKSD, v_BKSD = cache.extend(k_BKSD, v_BKSD)
        return self.read(q_BHTD, k_BKSD, v_BKSD, mask)

    def queries(self, x_BTC: Tensor) -> Tensor:
        """Queries [B, H, T, D] of ``x``, not yet turned."""
        return self.q_proj(x_BTC).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def keys_values(self, x_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, not yet turned, and values of ``x``, [B, K, S, D] each."""
        k_BKSD = self.k_proj(x_BSC).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        v_BKSD = self.v_proj(x_BSC).unflatten(-1, (self.num_kv_heads, -1)).transpose(1, 2)
        return k_BKSD, v_BKSD

    def read(self, q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None = None) -> Tensor:
        """What the queries read, heads joined and projected, [B, T, C]."""
        # Without a mask `attend` gets three arguments: a replacement that knows no masks serves training.
        masks = () if mask is None else (mask,)
        out_BHTD = self.attend(q_BHTD, k_BKSD, v_BKSD, *masks)
        out_BTC: Tensor = self.o_proj(out_BHTD.transpose(1, 2).flatten(-2))
        return out_BTC


class MLP(nn.Module):
    """SwiGLU: ``W_down (silu(W_gate x) * W_up x)``."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = linear(config.dim, config.ffn_dim)
        self.up_proj = linear(config.dim, config.ffn_dim)
        self.down_proj = linear(config.ffn_dim, config.dim)

    def forward(self, x_BTC: Tensor) -> Tensor:
        out_BTC: Tensor = self.down_proj(F.silu(self.gate_proj(x_BTC)) * self.up_proj(x_BTC))
        return out_BTC


class Block(nn.Module):
    """One layer: attention, then MLP, each on a normalised input and added to the residual stream."""

    def __init__(self, config: LlamaConfig, attend: Attend = causal_attention) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.self_attn = Attention(config, attend)
        self.post_attention_layernorm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self,
        x_BTC: Tensor,
        cos_TD: Tensor,
        sin_TD: Tensor,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        x_BTC = x_BTC + self.self_attn(self.input_layernorm(x_BTC), cos_TD, sin_TD, mask, cache)
        x_BTC = x_BTC + self.mlp(self.post_attention_layernorm(x_BTC))
        return x_BTC
