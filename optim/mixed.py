"""Optimizers that treat some parameter groups as whole tensors and step the others by AdamW's fused operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from narrowgauge.optim.adamw import adam_numbers
from narrowgauge.optim.base import CompressedOptimizer
from narrowgauge.optim.elementwise import ElementwiseOptimizer
from narrowgauge.optim.rows import Numbers
from narrowgauge.optim.whole import WholeTensorOptimizer


class MixedOptimizer(WholeTensorOptimizer, ElementwiseOptimizer):
    """Base of Muon and GaLore. Groups are AdamW's where `is_adamw` says so; they may have DTensors cut into shards,
    `compiled` and `capturable`, which the others refuse."""

    def is_adamw(self, group: Mapping[str, Any]) -> bool:
        """Whether a group is stepped by AdamW. Every subclass defines it."""
        raise NotImplementedError(f"{type(self).__name__} does not tell its groups apart")

    def rule(self, group: Mapping[str, Any]) -> str:
        return "adamw"

    def numbers(self, group: Mapping[str, Any], step: Any, lr: Any) -> Numbers:
        return adam_numbers(group, step, lr)

    def unfused_reason(self, group: Mapping[str, Any]) -> str:
        kind = ElementwiseOptimizer if self.is_adamw(group) else CompressedOptimizer
        return kind.unfused_reason(self, group)

    def check_parameters(self, group: Mapping[str, Any]) -> None:
        kind = ElementwiseOptimizer if self.is_adamw(group) else WholeTensorOptimizer
        kind.check_parameters(self, group)

    def _step_group(self, group: dict[str, Any], params: list[Tensor], scale: Any) -> None:
        kind = ElementwiseOptimizer if self.is_adamw(group) else CompressedOptimizer
        kind._step_group(self, group, params, scale)
