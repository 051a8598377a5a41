"""The matrix products of published models: every linear layer as (N outputs, K inputs), from the models' config.json.

A layer multiplies x [tokens, K] with the weight w [N, K]. The three products of training are

    fprop   y  [tokens, N] = x  · wᵀ        M = tokens, N = N,  K = K
    dgrad   dx [tokens, K] = dy · w         M = tokens, N = K,  K = N
    wgrad   dw [N, K]      = dyᵀ · x        M = N,      N = K,  K = tokens

Projections that read the same input are fused as serving and training frameworks do: q, k and v; gate and up; in
DeepSeek-V3 (arXiv:2412.19437, §2.1) the two compressions of latent attention. An expert sees the share of the tokens
that is routed to it on average, tokens · experts_per_token / experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

TOKENS_CPU = (1, 64)
TOKENS_GPU = (1, 16, 128, 2048, 8192)
"""Decoding, decoding in batches, and the prefill or the training step."""


class Pass(Enum):
    """Which product of a linear layer."""

    FPROP = "fprop"
    DGRAD = "dgrad"
    WGRAD = "wgrad"


@dataclass(frozen=True)
class Layer:
    """A weight [n, k]. experts: how many such weights a block has of which a token uses `used`; 1 and 1 if dense."""

    name: str
    n: int
    k: int
    experts: int = 1
    used: int = 1

    def rows(self, tokens: int) -> int:
        """How many tokens the weight sees of a batch of `tokens`."""
        return math.ceil(tokens * self.used / self.experts)


@dataclass(frozen=True)
class Model:
    """source: the fields of config.json that the shapes come from."""

    name: str
    source: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Problem:
    """out [m, n] = a [m, k] · b [n, k]ᵀ. name: unique within a run."""

    name: str
    m: int
    n: int
    k: int

    @property
    def flops(self) -> float:
        """A multiplication and an addition count as two."""
        return 2.0 * self.m * self.n * self.k


def _dense(hidden: int, ffn: int, heads: int, kv_heads: int, head_dim: int, vocab: int) -> tuple[Layer, ...]:
    return (*_attention(hidden, heads, kv_heads, head_dim), *_mlp(hidden, ffn), Layer("lm_head", vocab, hidden))


def _attention(hidden: int, heads: int, kv_heads: int, head_dim: int) -> tuple[Layer, ...]:
    return Layer("qkv", (heads + 2 * kv_heads) * head_dim, hidden), Layer("o", hidden, heads * head_dim)


def _mlp(hidden: int, ffn: int, prefix: str = "", experts: int = 1, used: int = 1) -> tuple[Layer, ...]:
    return (
        Layer(f"{prefix}gate_up", 2 * ffn, hidden, experts, used),
        Layer(f"{prefix}down", hidden, ffn, experts, used),
    )


def _deepseek_v3() -> tuple[Layer, ...]:
    hidden, heads, q_rank, kv_rank, nope, rope, v_dim = 7168, 128, 1536, 512, 128, 64, 128
    return (
        Layer("qkv_a", q_rank + kv_rank + rope, hidden),
        Layer("q_b", heads * (nope + rope), q_rank),
        Layer("kv_b", heads * (nope + v_dim), kv_rank),
        Layer("o", hidden, heads * v_dim),
        *_mlp(hidden, 18432, "dense_"),
        *_mlp(hidden, 2048, "shared_"),
        *_mlp(hidden, 2048, "expert_", 256, 8),
        Layer("lm_head", 129280, hidden),
    )


_QWEN3_MOE = (
    *_attention(2048, 32, 4, 128),
    *_mlp(2048, 768, "expert_", 128, 8),
    Layer("lm_head", 151936, 2048),
)
_LIST = (
    Model(
        "llama3-8b",
        "Meta-Llama-3-8B: hidden_size 4096, intermediate_size 14336, 32 heads, 8 of keys and values, vocab_size 128256",
        _dense(4096, 14336, 32, 8, 128, 128256),
    ),
    Model(
        "llama3-70b",
        "Meta-Llama-3-70B: hidden_size 8192, intermediate_size 28672, 64 heads, 8 of keys and values, "
        "vocab_size 128256",
        _dense(8192, 28672, 64, 8, 128, 128256),
    ),
    Model(
        "qwen2.5-7b",
        "Qwen2.5-7B: hidden_size 3584, intermediate_size 18944, 28 heads, 4 of keys and values, vocab_size 152064",
        _dense(3584, 18944, 28, 4, 128, 152064),
    ),
    Model(
        "qwen3-8b",
        "Qwen3-8B: hidden_size 4096, intermediate_size 12288, 32 heads of head_dim 128, 8 of keys and values, "
        "vocab_size 151936",
        _dense(4096, 12288, 32, 8, 128, 151936),
    ),
    Model(
        "qwen3-30b-a3b",
        "Qwen3-30B-A3B: hidden_size 2048, moe_intermediate_size 768, num_experts 128, num_experts_per_tok 8, 32 heads "
        "of head_dim 128, 4 of keys and values, vocab_size 151936",
        _QWEN3_MOE,
    ),
    Model(
        "deepseek-v3",
        "DeepSeek-V3: hidden_size 7168, q_lora_rank 1536, kv_lora_rank 512, qk_nope_head_dim 128, qk_rope_head_dim 64, "
        "v_head_dim 128, 128 heads, intermediate_size 18432, moe_intermediate_size 2048, n_routed_experts 256, "
        "num_experts_per_tok 8, n_shared_experts 1, vocab_size 129280",
        _deepseek_v3(),
    ),
)
MODELS = {model.name: model for model in _LIST}


def get_model(name: str) -> Model:
    """The model called `name`; ValueError with the names there are."""
    if name not in MODELS:
        raise ValueError(f"model: got {name!r}, accepted: {', '.join(MODELS)}")
    return MODELS[name]


def model_problems(
    names: Sequence[str],
    tokens: Sequence[int],
    passes: Sequence[Pass | str] = (Pass.FPROP,),
    *,
    layers: Sequence[str] | None = None,
    divide: int = 1,
) -> list[Problem]:
    """The products of the models' layers (`layers` by name, None: all but lm_head), for each number of tokens and pass.

    divide: takes N and K of the weights by this factor smaller (rounded up), for machines on which the models' own
    sizes take too long. ValueError for unknown names and numbers below 1.
    """
    chosen = [get_model(name) for name in names]
    if divide < 1:
        raise ValueError(f"divide: got {divide}, accepted: 1 or more")
    for count in tokens:
        if count < 1:
            raise ValueError(f"tokens: got {count}, accepted: 1 or more")
    known = {layer.name for model in chosen for layer in model.layers}
    for name in layers or ():
        if name not in known:
            raise ValueError(f"layer: got {name!r}, accepted: {', '.join(sorted(known))}")
    return [
        problem
        for model in chosen
        for layer in model.layers
        if (layer.name in layers if layers is not None else layer.name != "lm_head")
        for problem in _of_layer(model.name, layer, tokens, [Pass(which) for which in passes], divide)
    ]


def _of_layer(
    model: str, layer: Layer, tokens: Sequence[int], passes: Sequence[Pass], divide: int
) -> Iterator[Problem]:
    n, k = math.ceil(layer.n / divide), math.ceil(layer.k / divide)
    for which in passes:
        for count in tokens:
            rows = layer.rows(count)
            m, columns, terms = {
                Pass.FPROP: (rows, n, k),
                Pass.DGRAD: (rows, k, n),
                Pass.WGRAD: (n, k, rows),
            }[which]
            suffix = "" if which is Pass.FPROP else f" {which.value}"
            yield Problem(f"{model} {layer.name}{suffix} {m}x{columns}x{terms}", m, columns, terms)


def parse_shape(text: str) -> Problem:
    """The problem "MxNxK", such as "2048x6144x4096". ValueError for other texts and sizes below 1."""
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"shape: got {text!r}, accepted: MxNxK with numbers of 1 or more, such as 2048x6144x4096")
    m, n, k = map(int, parts)
    return Problem(f"{m}x{n}x{k}", m, n, k)
