"""Oscillation diagnostics: which weights keep flipping between codes, and which sit on a rounding border.

    flips      how often a weight's code differs from the one at the update before
    flipping   share of a layer's weights with more than r flips in the N updates since the monitor began
    border     share of weights whose distance to the next rounding border is below a fraction of half a step

Latent weights near a border flip back and forth at every step while the quantised weight gains nothing by it.
Chen et al., arXiv 2502.20853, section 5 (TetraJet).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.nn.qat.prepare import qat_layers


@dataclass(frozen=True)
class LayerOscillation:
    """One layer. flipping, border: shares of its weights; mean_flips: per weight; updates: comparisons made."""

    name: str
    weights: int
    updates: int
    flipping: float
    mean_flips: float
    border: float


@dataclass(frozen=True)
class OscillationReport:
    """Layers in the model's order; more_than: r; within: the border's width as a fraction of half a step."""

    layers: tuple[LayerOscillation, ...]
    more_than: int
    within: float

    @property
    def flipping(self) -> float:
        """Share of all weights with more than r flips."""
        return self._mean("flipping")

    @property
    def border(self) -> float:
        """Share of all weights near a rounding border."""
        return self._mean("border")

    def _mean(self, field: str) -> float:
        total = sum(layer.weights for layer in self.layers)
        return sum(getattr(layer, field) * layer.weights for layer in self.layers) / max(total, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return {
            "more_than": self.more_than,
            "within": self.within,
            "flipping": self.flipping,
            "border": self.border,
            "layers": [asdict(layer) for layer in self.layers],
        }

    def __str__(self) -> str:
        width = max((len(layer.name) for layer in self.layers), default=5)
        lines = [
            f"{'layer':<{width}}  weights  updates  flips > {self.more_than}  flips each  border < {self.within:g}"
        ]
        lines += [
            f"{layer.name:<{width}}  {layer.weights:7d}  {layer.updates:7d}  {layer.flipping:9.2%}  "
            f"{layer.mean_flips:10.3f}  {layer.border:12.2%}"
            for layer in self.layers
        ]
        return "\n".join(lines)


class OscillationMonitor:
    """Counts code flips of every QAT layer of `model`: `update()` after each optimizer step, `report()` at any time.

    every: compare codes at every so many calls of `update` only. Holds one code and one int32 count per weight.
    """

    def __init__(self, model: nn.Module, every: int = 1) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every: got {every!r}, accepted: a whole number of at least 1")
        self.layers = qat_layers(model)
        self.every = every
        self.reset()

    def reset(self) -> None:
        """Forgets all flips and begins from the codes as they are now."""
        self.calls = self.updates = 0
        self._codes = {name: self._current(name) for name in self.layers}
        self.flips = {name: torch.zeros_like(codes, dtype=torch.int32) for name, codes in self._codes.items()}
        """Flips of each weight, [N, K], by layer."""

    def _current(self, name: str) -> Tensor:
        layer = self.layers[name]
        return layer.weight_quantizer.codes(layer.weight.detach()).codes

    def update(self) -> None:
        """Compares the codes with those of the last comparison."""
        self.calls += 1
        if self.calls % self.every:
            return
        self.updates += 1
        for name in self.layers:
            codes = self._current(name)
            self.flips[name] += codes != self._codes[name]
            self._codes[name] = codes

    def near_border(self, name: str, within: float = 0.1) -> Tensor:
        """Which weights of a layer are closer to a rounding border than `within` half steps: bool [N, K]."""
        layer = self.layers[name]
        return layer.weight_quantizer.border_distance(layer.weight.detach()).abs() < within

    def report(self, more_than: int = 2, within: float = 0.1) -> OscillationReport:
        """The state of every layer. more_than: flips that a weight may make without counting as flipping."""
        rows = []
        for name, flips in self.flips.items():
            count = max(flips.numel(), 1)
            rows.append(
                LayerOscillation(
                    name=name,
                    weights=flips.numel(),
                    updates=self.updates,
                    flipping=int((flips > more_than).sum()) / count,
                    mean_flips=int(flips.sum()) / count,
                    border=int(self.near_border(name, within).sum()) / count,
                )
            )
        return OscillationReport(tuple(rows), more_than, within)
