"""`probe_operands`: the signal-to-noise ratio of every operand of every quantised GEMM, on real tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats.slots import SLOTS
from narrowgauge.formats.stages import Draw
from narrowgauge.nn.linear import QuantLinear
from narrowgauge.nn.operand import make_operand, restored
from narrowgauge.numerics.metrics import sqnr_db


class OperandProbe:
    """Collects SQNR in dB by slot and layer while `probe_operands` is active."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, list[float]]] = {slot: defaultdict(list) for slot in SLOTS}

    def observe(self, layer: QuantLinear, name: str, source: str, x: Tensor) -> None:
        """`x` [tokens or outputs, features] is the layer's input ("x"), weight ("w") or output gradient ("g")."""
        for slot, scheme in layer.recipe.slots.items():
            if scheme is not None and slot.startswith(source):
                operand = x.t() if slot in ("w_dgrad", "g_wgrad", "x_wgrad") else x
                made = make_operand(operand, str(scheme), Draw())
                values = restored(made, str(scheme), Draw(), operand.shape[1], torch.float32)
                self.records[slot][name].append(float(sqnr_db(values, operand)))

    def sqnr(self) -> dict[str, dict[str, Any]]:
        """{slot: {"mean": dB, "min": dB, "layer": the layer with the lowest}} of the slots that were seen."""
        table: dict[str, dict[str, Any]] = {}
        for slot, layers in self.records.items():
            means = {name: sum(values) / len(values) for name, values in layers.items()}
            if means:
                worst = min(means, key=lambda name: means[name])
                table[slot] = {"mean": sum(means.values()) / len(means), "min": means[worst], "layer": worst}
        return table


@contextmanager
def probe_operands(model: nn.Module) -> Iterator[OperandProbe]:
    """While active, every forward and backward of a `QuantLinear` below `model` is measured. Numbers do not change.

    >>> with probe_operands(model) as probe:  # doctest: +SKIP
    ...     loss_fn(model(x)).backward()
    >>> probe.sqnr()["x_fprop"]["mean"]  # doctest: +SKIP
    """
    probe = OperandProbe()
    handles = []
    for name, layer in model.named_modules():
        if isinstance(layer, QuantLinear):
            handles.append(layer.register_forward_hook(_forward_hook(probe, name)))
    try:
        yield probe
    finally:
        for handle in handles:
            handle.remove()


def _forward_hook(probe: OperandProbe, name: str) -> Any:
    def hook(layer: QuantLinear, args: tuple[Tensor, ...], output: Tensor) -> None:
        with torch.no_grad():
            probe.observe(layer, name, "x", args[0].detach().reshape(-1, layer.in_features))
            probe.observe(layer, name, "w", layer.weight.detach())
        if output.requires_grad:
            output.register_hook(lambda g: probe.observe(layer, name, "g", g.detach().reshape(-1, layer.out_features)))

    return hook
