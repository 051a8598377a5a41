"""A method with tensors of its own, for tests of whole runs: it averages the weights and evaluates the average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.train import Method


class Averaged(Method):
    """a ← 0.9 a + 0.1 w after every step; reports ``average_val_loss``."""

    name = "averaged"

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}

    def attach(self, model: nn.Module) -> None:
        self.average = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def post_step(self, model: nn.Module, step: int, old: Mapping[str, Tensor] | None) -> None:
        for name, p in model.named_parameters():
            self.average[name].lerp_(p, 0.1)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, evaluate: Callable[[nn.Module], dict[str, float]]) -> dict[str, float]:
        trained = {name: p.detach().clone() for name, p in model.named_parameters()}
        for name, p in model.named_parameters():
            p.copy_(self.average[name])
        loss = evaluate(model)["val_loss"]
        for name, p in model.named_parameters():
            p.copy_(trained[name])
        return {"average_val_loss": loss}

    def state_dict(self) -> dict[str, Any]:
        return {"average": dict(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state["average"].items():
            self.average[name].copy_(value)
