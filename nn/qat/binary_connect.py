"""BinaryConnect: weights ±1, real weights kept in [−1, 1].

    deterministic   ŵ = +1 if w ≥ 0 else −1
    stochastic      ŵ = +1 with probability clip((w + 1) / 2, 0, 1), else −1 (in training; evaluation takes the sign)
    backward        ∂L/∂w = ∂L/∂ŵ; after each step w ← clip(w, −1, 1)

Courbariaux, Bengio and David, arXiv 1511.00363, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.kernels import fake_quantize
from narrowgauge.nn.qat.quantizer import Scaled, WeightQuantizer


class BinaryConnectWeight(WeightQuantizer):
    """±1. stochastic: draw the sign in training, from the Philox stream (seed, number of the call)."""

    element = "binary"
    draws: Tensor

    def __init__(self, stochastic: bool = False, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(stochastic, bool):
            raise ValueError(f"stochastic: got {stochastic!r}, accepted: True, False")
        self.stochastic, self.seed = stochastic, seed
        if stochastic:
            self.register_buffer("draws", torch.zeros((), dtype=torch.int64, device="cpu"))

    def scaled(self, weight: Tensor) -> Scaled:
        return Scaled(weight, weight.new_ones(1, 1))

    def forward(self, weight: Tensor) -> Tensor:
        if not (self.stochastic and self.training):
            return super().forward(weight)
        offset = int(self.draws)
        self.draws += 1
        return fake_quantize(weight, "binary:static=1.0+sr", seed=self.seed, offset=offset)

    @torch.no_grad()
    def after_step_(self, weight: Tensor) -> None:
        weight.clamp_(-1.0, 1.0)

    def extra_repr(self) -> str:
        return f"stochastic={self.stochastic}"
