"""Coalescing, de-coalescing and interpolation of a :class:`~narrowgauge.train.Llama`.

Width: heads, hidden units of the MLP and channels of the residual stream are paired as
:mod:`narrowgauge.methods.multilevel.maps` says; the head width stays. A single key/value head stays one, and is then
read by all of the fewer query heads. RMS normalisation has the same statistics for ``[x; x]`` as for ``x``; so, by
width alone, the de-coalesced model has the logits of the small one.

A matrix that is both embedding and head is written to by one rule (copied) and read by the other (split). It is copied
here, and the last normalisation's gain, which only the head reads, is split in its place: that keeps the logits exact
also where weights are tied.

Depth: the mean of two layers, and back a copy in both places; that does not preserve the function.
"""

import dataclasses
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.methods.multilevel.maps import Axis, coalesce_tensor, decoalesce_tensor
from narrowgauge.train import Llama, LlamaConfig

_MATRIX = (Axis.COPIED, Axis.SPLIT)
_AXES = {
    "embed_tokens.weight": (Axis.KEPT, Axis.COPIED),
    "lm_head.weight": (Axis.KEPT, Axis.SPLIT),
    "norm.weight": (Axis.COPIED,),
    "input_layernorm.weight": (Axis.COPIED,),
    "post_attention_layernorm.weight": (Axis.COPIED,),
    **{f"self_attn.{name}_proj.weight": _MATRIX for name in "qkvo"},
    **{f"mlp.{name}_proj.weight": _MATRIX for name in ("gate", "up", "down")},
}


class Depth(StrEnum):
    """Which two layers of L are a pair: ``2l`` and ``2l + 1``, or ``l`` and ``l + L/2``; or all layers are kept."""

    ADJACENT = "adjacent"
    HALVES = "halves"
    KEPT = "kept"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ValueError(f"depth: expected one of {', '.join(cls)}, got {value!r}")


def coalesced_config(config: LlamaConfig, *, width: bool = True, depth: str = Depth.ADJACENT) -> LlamaConfig:
    """The small model's sizes: half of everything but vocabulary, context and head width.

    Raises ``ValueError`` where something to be paired is odd, or nothing is.
    """
    depth = Depth(depth)
    if not width and depth is Depth.KEPT:
        raise ValueError("width, depth: expected at least one of the two to be paired")
    paired = [("num_layers", config.num_layers)] if depth is not Depth.KEPT else []
    if width:
        paired += [("num_heads", config.num_heads), ("ffn_dim", config.ffn_dim)]
        paired += [("num_kv_heads", config.num_kv_heads)] if config.num_kv_heads > 1 else []
    for name, size in paired:
        if size % 2:
            raise ValueError(f"{name}: expected an even number to pair, got {size}")
    halves: dict[str, Any] = {name: size // 2 for name, size in paired}
    if width:
        halves["dim"] = config.dim // 2
    return dataclasses.replace(config, **halves)


@torch.no_grad()
def coalesce(big: Llama, *, width: bool = True, depth: str = Depth.ADJACENT) -> Llama:
    """A new model of half the size made of ``big``'s weights, of the same dtype and device and without a recipe.

    ``depth``: a :class:`Depth`. Raises ``ValueError`` for sizes that cannot be paired.
    """
    config = coalesced_config(big.config, width=width, depth=depth)
    weights = _weights(big)
    if width:
        weights = {name: coalesce_tensor(value, _axes(name, big.config)) for name, value in weights.items()}
    pairs = _layer_pairs(big.config.num_layers, Depth(depth))

    def mean(layer: int, rest: str) -> Tensor:
        first, *others = (weights[f"layers.{index}.{rest}"] for index in pairs[layer])
        return (first + others[0]) / 2 if others else first

    return _filled(config, big, weights, mean)


@torch.no_grad()
def decoalesce(small: Llama, config: LlamaConfig, *, depth: str = Depth.ADJACENT) -> Llama:
    """A new model with the sizes ``config`` made of ``small``'s weights, of the same dtype and device.

    ``depth`` as in :func:`coalesce`; whether the width was paired follows from the sizes. Raises ``ValueError`` where
    ``small`` is not half of such a model.
    """
    width = config.dim != small.config.dim
    if coalesced_config(config, width=width, depth=depth) != small.config:
        raise ValueError(f"config: {small.config} is not half of {config}, depth {str(depth)!r}")
    weights = _weights(small)
    if width:
        weights = {name: decoalesce_tensor(value, _axes(name, config)) for name, value in weights.items()}
    pairs = _layer_pairs(config.num_layers, Depth(depth))
    source = {place: layer for layer, places in enumerate(pairs) for place in places}
    return _filled(config, small, weights, lambda layer, rest: weights[f"layers.{source[layer]}.{rest}"])


@torch.no_grad()
def interpolate_(model: nn.Module, other: nn.Module, ratio: float) -> None:
    """``θ ← (1 - ratio) · θ + ratio · θ_other`` in place, for every parameter; names and shapes must agree.

    Ratio 0 leaves ``model`` as it is and ratio 1 makes it ``other``, both to the bit. Raises ``ValueError`` for other
    ratios than 0 … 1 and for another model.
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio: expected a number in [0, 1], got {ratio!r}")
    theirs = dict(other.named_parameters())
    ours = dict(model.named_parameters())
    if {name: p.shape for name, p in ours.items()} != {name: p.shape for name, p in theirs.items()}:
        raise ValueError("other: expected parameters of the same names and shapes as model's")
    for name, parameter in ours.items():
        target = theirs[name].to(parameter)
        parameter.lerp_(target, ratio)


def _layer_pairs(num_layers: int, depth: Depth) -> Sequence[tuple[int, ...]]:
    """By small layer, the layers of the big model it stands for."""
    half = num_layers // 2
    if depth is Depth.ADJACENT:
        return [(2 * layer, 2 * layer + 1) for layer in range(half)]
    if depth is Depth.HALVES:
        return [(layer, layer + half) for layer in range(half)]
    return [(layer,) for layer in range(num_layers)]


def _weights(model: Llama) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def _axes(name: str, big: LlamaConfig) -> tuple[Axis, ...]:
    """The rule of a parameter."""
    if name == "norm.weight" and big.tie_embeddings:
        return (Axis.SPLIT,)
    key = name.split(".", 2)[2] if name.startswith("layers.") else name
    if key not in _AXES:
        raise ValueError(f"model: no rule for the parameter {name!r}; expected those of a Llama")
    if big.num_kv_heads == 1 and key in ("self_attn.k_proj.weight", "self_attn.v_proj.weight"):
        return (Axis.KEPT, Axis.SPLIT)
    return _AXES[key]


def _filled(
    config: LlamaConfig, like: Llama, weights: dict[str, Tensor], of_layer: Callable[[int, str], Tensor]
) -> Llama:
    """A model of these sizes; weights of layers from ``of_layer(layer, rest of the name)``, others by name."""
    model = Llama(config).to(like.embed_tokens.weight)
    for name, parameter in model.named_parameters():
        if name.startswith("layers."):
            _, layer, rest = name.split(".", 2)
            parameter.copy_(of_layer(int(layer), rest))
        else:
            parameter.copy_(weights[name])
    return model
