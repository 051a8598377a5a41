"""Q-Ramping: weights that swing between two levels are updated less often, with longer steps (TetraJet, arXiv
2502.20853, section 5.2).

    R = Σ_t |ŵ_t - ŵ_(t-1)| / Σ_t |w_t - w_(t-1)|                   over a window of steps, ŵ the quantised weight
    N = min(β ⌊R / α⌋ + 1, longest)                               steps between two updates, for each weight

Between two updates gradients are added up; an update has their mean and is multiplied by their number. α = 16 and β = 5
in the paper's runs, windows of 30 steps. There a window is run beforehand and taken back; here it is part of the run:
weights are updated in every step of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.formats.stages import Draw
from narrowgauge.nn.layer import mapped_weight
from narrowgauge.nn.operand import make_operand, restored

SMALLEST = 1e-8


@dataclass
class _Ramp:
    """What is known of one weight. moved, jumped: sums of the window. period: N. total, count: gradients since the last
    update, and how many. before: the weight and the optimizer's state ahead of a step."""

    layer: Any
    moved: Tensor
    jumped: Tensor
    period: Tensor
    total: Tensor
    count: Tensor
    last: tuple[Tensor, Tensor] | None = None
    due: Tensor | None = None
    before: tuple[Tensor, dict[str, Tensor]] | None = None

    @classmethod
    def of(cls, layer: Any) -> _Ramp:
        """Before the first step."""
        weight: Tensor = layer.weight
        moved, jumped, total = (torch.zeros_like(weight, dtype=torch.float32, requires_grad=False) for _ in range(3))
        period, count = (torch.full(weight.shape, n, dtype=torch.int32, device=weight.device) for n in (1, 0))
        return cls(layer, moved, jumped, period, total, count)


TENSORS = ("moved", "jumped", "period", "total", "count")


class QRamping:
    """Hooks an optimizer so that the quantised weights of `model` follow Q-Ramping.

    optimizer: updates each element by itself and keeps its state in floating-point tensors of the parameter's shape
    (SGD, Adam and AdamW of torch do). alpha, beta: see the module. window: steps that are watched; every: steps from
    the begin of one window to that of the next; longest: the largest N, `every` by default.

    `periods` holds N by the name of each weight; `remove()` takes the hooks off. Beside the optimizer's own state it
    needs five tensors for each weight, and copies of weight and state during a step. ValueError for settings that mean
    nothing and for models without a quantised weight; TypeError, at a step, for other states.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        model: nn.Module,
        *,
        alpha: float = 16.0,
        beta: float = 5.0,
        window: int = 30,
        every: int = 1000,
        longest: int | None = None,
    ) -> None:
        if not (alpha > 0 and beta >= 0 and 1 <= window < every):
            raise ValueError(
                f"alpha, beta, window, every: expected alpha > 0, beta >= 0 and 1 <= window < every, got {alpha}, "
                f"{beta}, {window}, {every}"
            )
        self.alpha, self.beta, self.window, self.every = alpha, beta, window, every
        self.longest = every if longest is None else longest
        if self.longest < 1:
            raise ValueError(f"longest: expected at least 1, got {longest}")
        self.optimizer, self.step = optimizer, 0
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._ramps: dict[str, _Ramp] = {}
        for name, layer in model.named_modules():
            recipe = getattr(layer, "recipe", None)
            weight = getattr(layer, "weight", None)
            if recipe is None or getattr(recipe, "w_fprop", None) is None or id(weight) not in mine:
                continue
            self._ramps[f"{name}.weight" if name else "weight"] = _Ramp.of(layer)
        if not self._ramps:
            raise ValueError("model: no weight of the optimizer belongs to a layer under a recipe with w_fprop")
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @property
    def periods(self) -> dict[str, Tensor]:
        """N of each weight, int32."""
        return {name: ramp.period for name, ramp in self._ramps.items()}

    def remove(self) -> None:
        """Takes the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def state_dict(self) -> dict[str, Any]:
        """Everything that a run needs to continue, but for the last weights of a window, which begins anew."""
        ramps = {name: {key: getattr(ramp, key).clone() for key in TENSORS} for name, ramp in self._ramps.items()}
        return {"step": self.step, "ramps": ramps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse. ValueError where the weights are others."""
        if set(state["ramps"]) != set(self._ramps):
            raise ValueError(f"state: expected the weights {sorted(self._ramps)}, got {sorted(state['ramps'])}")
        self.step = int(state["step"])
        for name, ramp in self._ramps.items():
            ramp.last = None
            for key in TENSORS:
                getattr(ramp, key).copy_(state["ramps"][name][key])

    @property
    def watching(self) -> bool:
        """Whether the next step belongs to a window."""
        return self.step % self.every < self.window

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        for ramp in self._ramps.values():
            weight = ramp.layer.weight
            ramp.due = ramp.before = None
            if weight.grad is None:
                continue
            if self.watching:
                if ramp.last is None:
                    ramp.last = _now(ramp.layer)
                    ramp.moved.zero_()
                    ramp.jumped.zero_()
                continue
            ramp.total += weight.grad
            ramp.count += 1
            ramp.due = ramp.count >= ramp.period
            weight.grad.copy_(ramp.total / ramp.count)
            ramp.before = weight.detach().clone(), _copied_state(optimizer, weight)

    @torch.no_grad()
    def _after_step(self, optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        for ramp in self._ramps.values():
            if ramp.before is not None and ramp.due is not None:
                self._settle(optimizer, ramp, ramp.before, ramp.due)
            if self.watching and ramp.last is not None:
                now = _now(ramp.layer)
                ramp.moved += (now[0] - ramp.last[0]).abs()
                ramp.jumped += (now[1] - ramp.last[1]).abs()
                ramp.last = now
        self.step += 1
        if self.step % self.every == self.window:
            for ramp in self._ramps.values():
                ratio = ramp.jumped / (ramp.moved + SMALLEST)
                ramp.period.copy_(((ratio / self.alpha).floor() * self.beta + 1).clamp(max=self.longest))
                ramp.last = None

    def _settle(
        self, optimizer: torch.optim.Optimizer, ramp: _Ramp, before: tuple[Tensor, dict[str, Tensor]], due: Tensor
    ) -> None:
        """Weights that were not due are as they were, with their state; the others go as many steps as they waited."""
        weight, (old, state) = ramp.layer.weight, before
        moved = (weight - old) * ramp.count
        weight.copy_(torch.where(due, old + moved, old))
        for key, value in state.items():
            current = optimizer.state[weight][key]
            current.copy_(torch.where(due, current, value))
        ramp.total.masked_fill_(due, 0.0)
        ramp.count.masked_fill_(due, 0)
        ramp.before = None


def _now(layer: Any) -> tuple[Tensor, Tensor]:
    """(the weight, the weight as the layer's forward pass sees it), float32 copies."""
    weight = layer.weight.detach()
    text, draw = layer.recipe.texts[1], Draw()
    matrix = mapped_weight(layer, weight.flatten(1))
    values = restored(make_operand(matrix, text, draw), text, draw, matrix.shape[1], torch.float32)
    return weight.to(torch.float32, copy=True), values.reshape(weight.shape)


def _copied_state(optimizer: torch.optim.Optimizer, weight: Tensor) -> dict[str, Tensor]:
    """Copies of the state that has a number for each element. TypeError for other tensors of more than one number."""
    copies = {}
    for key, value in optimizer.state.get(weight, {}).items():
        if not isinstance(value, Tensor) or value.numel() == 1 < weight.numel():
            continue
        if value.shape != weight.shape or not value.is_floating_point():
            raise TypeError(
                f"optimizer: Q-Ramping needs states of the weight's shape in floating point, got {key!r} of "
                f"{tuple(value.shape)}, {value.dtype}"
            )
        copies[key] = value.clone()
    return copies
