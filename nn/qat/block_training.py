"""EfficientQAT's two phases of training.

Block-AP: one block at a time learns weights, scales and zero points so that its output with quantisers is close to its
output without them:  min Σ (block_quantised(x) − block(x))².
E2E-QP: the integers stay, the scales of all layers train on the task.

Chen et al., arXiv 2407.11062, sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from narrowgauge.nn.qat.checks import check_positive
from narrowgauge.nn.qat.efficientqat import EfficientQATWeight
from narrowgauge.nn.qat.prepare import qat_layers, quantizer_parameters


@contextmanager
def full_precision(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, the QAT layers of `model` compute as plain linear layers; afterwards with the strengths they had."""
    layers = list(qat_layers(model).values())
    strengths = [float(layer.strength) for layer in layers]
    for layer in layers:
        layer.set_strength(0.0)
    try:
        yield model
    finally:
        for layer, strength in zip(layers, strengths, strict=True):
            layer.set_strength(strength)


def block_ap(
    block: nn.Module,
    inputs: Sequence[Tensor],
    *,
    epochs: int = 2,
    lr: float = 2e-5,
    quantizer_lr: float = 1e-4,
    call: Callable[[nn.Module, Tensor], Tensor] = lambda block, x: block(x),
) -> list[float]:
    """Trains a prepared block against its own outputs without quantisers; returns the mean squared error per epoch,
    the first entry before training.

    inputs: batches that enter the block. call: how the block is called, for blocks with further arguments or outputs.
    All parameters of the block train, those of the quantisers with `quantizer_lr`. AdamW without decay.
    """
    if not inputs:
        raise ValueError("inputs: got none, accepted: at least one batch")
    check_positive("lr", lr)
    check_positive("quantizer_lr", quantizer_lr)
    with torch.no_grad(), full_precision(block):
        targets = [call(block, x).detach() for x in inputs]
    special = quantizer_parameters(block)
    known = {id(parameter) for parameter in special}
    plain = [p for p in block.parameters() if id(p) not in known and p.requires_grad]
    groups = [{"params": plain, "lr": lr}, {"params": special, "lr": quantizer_lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    with torch.no_grad():
        errors = [sum(_error(call(block, x), y).item() for x, y in zip(inputs, targets, strict=True)) / len(inputs)]
    for _ in range(epochs):
        total = 0.0
        for x, target in zip(inputs, targets, strict=True):
            optimizer.zero_grad()
            error = _error(call(block, x), target)
            error.backward()
            optimizer.step()
            total += error.item()
        errors.append(total / len(inputs))
    return errors


def _error(actual: Tensor, target: Tensor) -> Tensor:
    return nn.functional.mse_loss(actual.float(), target.float())


def e2e_qp(model: nn.Module) -> list[nn.Parameter]:
    """Freezes the integers of every EfficientQAT layer of `model` and everything else but their scales, which it
    returns, for an optimizer. ValueError for QAT layers of another method."""
    layers = qat_layers(model)
    for name, layer in layers.items():
        if not isinstance(layer.weight_quantizer, EfficientQATWeight):
            raise ValueError(f"model: {name} is under {layer.config.name!r}, accepted: efficientqat")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    scales: list[nn.Parameter] = []
    for layer in layers.values():
        quantizer = layer.weight_quantizer
        assert isinstance(quantizer, EfficientQATWeight)
        quantizer.freeze_integers_(layer.weight.detach())
        quantizer.scale.requires_grad_(True)
        scales.append(quantizer.scale)
    return scales
