"""What a layer keeps for its backward pass, in bytes per token, and what its weight takes as codes."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats import Scheme
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.recipe import Recipe

TOKENS = 1152
"""Tokens that are added to find what one more takes: whole blocks of every usual length (128, 576, 24)."""


def bytes_saved(module: nn.Module, *args: Any, **kwargs: Any) -> int:
    """Bytes of memory that autograd keeps after a forward pass of `module`, the module's parameters aside; what several
    operations keep counts once. The module is called, so its counters move."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages: dict[int, Tensor] = {}

    def seen(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x
        return x

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(seen, lambda x: x):
        output = module(*args, **kwargs)
    del output
    return sum(x.untyped_storage().nbytes() for address, x in storages.items() if address not in own)


@lru_cache(maxsize=512)
def saved_per_token(recipe: Recipe | None, features: int, dtype: torch.dtype, frozen: bool) -> float:
    """Bytes that a linear layer of `features` inputs keeps for every token; what does not grow with the tokens, such as
    one scale per feature, is left out. recipe None: the plain layer. frozen: its weight needs no gradient.

    Taken from a layer of one output on the CPU, because what is kept does not depend on the outputs.
    """
    with torch.device("cpu"), torch.inference_mode(False), torch.autocast("cpu", enabled=False):
        layer = nn.Linear(features, 1, bias=False, dtype=dtype).requires_grad_(not frozen)
        if recipe is not None:
            layer = QuantLinear.from_linear(layer, recipe)
        few, many = (
            bytes_saved(layer, torch.zeros(tokens, features, dtype=dtype, requires_grad=True))
            for tokens in (TOKENS, 2 * TOKENS)
        )
        return (many - few) / TOKENS


def bytes_as_codes(shape: tuple[int, int], scheme: Scheme) -> int:
    """Bytes of a matrix under `scheme`: codes without gaps, scales, the second scale where there is one."""
    bits = prod(shape) * scheme.element.bits + prod(scheme.scale_shape(shape)) * scheme.scale_bits
    return -(-bits // 8) + (4 if scheme.two_level else 0)
