"""Continual QAT: train in high precision first, then let the quantisers in, with the optimizer's state kept.

    ŵ = w + λ (q(w) − w),  x̂ alike;   λ = 0 before `start`, then rising to 1 over `ramp` steps (0: at once)

The layers hold the same parameters throughout, so the optimizer's moments go on. What quantisers take from the weights
(learned steps, searched ranges) is taken anew when they set in. Nielsen et al., arXiv 2502.11895.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from narrowgauge.nn.qat.config import Phase
from narrowgauge.nn.qat.prepare import qat_layers


class ContinualQAT:
    """Drives the strength λ of every QAT layer of `model`; call `step()` after each optimizer step.

    phase: when quantisation sets in, by default that of the layers' configuration. ValueError if there is none.
    """

    def __init__(self, model: nn.Module, phase: Phase | None = None) -> None:
        self.layers = list(qat_layers(model).values())
        given = phase or self.layers[0].config.phase
        if given is None:
            raise ValueError("phase: the model was prepared without one; give Phase(start, ramp)")
        self.phase = given
        self.steps = 0
        self._apply()

    @property
    def strength(self) -> float:
        """λ at present."""
        return self.phase.strength(self.steps)

    def step(self) -> float:
        """Counts an optimizer step and returns the λ of the next one."""
        before = self.strength
        self.steps += 1
        if before == 0.0 and self.strength > 0.0:
            for layer in self.layers:
                layer.weight_quantizer.reset_(layer.weight.detach())
        if self.strength != before:
            self._apply()
        return self.strength

    def _apply(self) -> None:
        for layer in self.layers:
            layer.set_strength(self.strength)

    def state_dict(self) -> dict[str, Any]:
        """The number of steps counted."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved count; the quantisers' own values come with the model's state."""
        self.steps = int(state["steps"])
        self._apply()
