"""How much general competence hangs on a block, and on each tensor of the trained blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.methods.adept.blocks import block_list
from narrowgauge.train import Batch, cross_entropy
from narrowgauge.train.tradeoff import mean_loss

RANGES = ("all", "kinds")


def _bypass(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """A forward hook: the block gives what it was given."""
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]


def block_importance(model: nn.Module, batches: Sequence[Batch]) -> list[float]:
    """``I_l = L(model with block l as the identity) - L(model)`` over ``batches``, nats per token, for every block."""
    whole = mean_loss(model, batches)
    importance = []
    for block in block_list(model)[1]:
        handle = block.register_forward_hook(_bypass)
        try:
            importance.append(mean_loss(model, batches) - whole)
        finally:
            handle.remove()
    return importance


def unit_importance(model: nn.Module, batches: Sequence[Batch]) -> dict[str, float]:
    """``I_U = mean_j |θ_j ∂L/∂θ_j|``, averaged over ``batches``, of each trainable tensor by name.

    Computed in eval mode; ``.grad`` is not touched and the model gets its modes back.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    totals = dict.fromkeys(named, 0.0)
    device = next(model.parameters()).device
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.enable_grad():
            for batch in batches:
                loss = cross_entropy(model, {key: tensor.to(device) for key, tensor in batch.items()})
                gradients: tuple[Tensor, ...] = torch.autograd.grad(loss, list(named.values()))
                for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
                    totals[name] += (parameter.detach() * gradient).abs().float().mean().item()
    finally:
        for module in training:
            module.training = True
    return {name: total / len(batches) for name, total in totals.items()}


def rate_scales(importance: Mapping[str, float], kinds: Mapping[str, int] | None = None) -> dict[str, float]:
    """``2 (1 - (I - min) / (max - min))`` in [0, 2]: the most important unit stands still; 1 where all are equal.

    ``kinds``: the range is taken among the units of one kind, for matrices and norms apart, say; default among all.
    """
    scales = {}
    for name, value in importance.items():
        peers = [other for key, other in importance.items() if kinds is None or kinds[key] == kinds[name]]
        low, high = min(peers), max(peers)
        scales[name] = 2 * (high - value) / (high - low) if high > low else 1.0
    return scales
