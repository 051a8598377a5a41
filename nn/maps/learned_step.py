"""`lsqB` and `lsqBhN`: a learned step (LSQ, arXiv 1902.08153) of B bits, behind a Hadamard rotation of blocks of N.

    x̂ = s · RN(clip((x H) / s, -2^(B-1), 2^(B-1) - 1)) H        H: Hadamard, orthonormal, H H = 1

The forward quantiser of INT4 training (Xi et al., arXiv 2306.11987, section 3): with input and weight alike the product
X̂ Ŵᵀ is that of the codes in the rotated basis. The gradients of x and s are LSQ's, nothing passes where x H is clipped.
Blocks are the largest power of two, at most N, that divides the features. s begins as 2 mean |x H| / √(2^(B-1) - 1), of
the weight at once, of inputs with the first call in training.
"""

from __future__ import annotations

import re
from typing import Any, Self

import torch
from torch import Tensor, nn

from narrowgauge.nn.learned_step import first_step, lsq_quantize, positive, signed_range, step_factor
from narrowgauge.nn.maps.map import Map
from narrowgauge.nn.stages.rotation import rotated

_TEXT = re.compile(r"lsq(?P<bits>\d+)(?:h(?P<block>\d+))?")


class LearnedStep(Map):
    """bits: 2 to 8. block: a power of two, 1 for no rotation."""

    EXAMPLE = "lsq4h32"
    begun: Tensor

    def __init__(self, bits: int, block: int = 1) -> None:
        super().__init__()
        if not 2 <= bits <= 8:
            raise ValueError(f"lsq: expected 2 to 8 bits, got {bits}")
        if block < 1 or block & (block - 1):
            raise ValueError(f"lsq: blocks of the rotation are a power of two, got {block}")
        self.bits, self.block, self.of_weight = bits, block, False
        self.low, self.high = signed_range(bits)
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self._known = False

    @classmethod
    def from_text(cls, text: str) -> Self | None:
        match = _TEXT.fullmatch(text)
        return None if match is None else cls(int(match["bits"]), int(match["block"] or 1))

    def prepare(self, weight: Tensor, scheme: str | None) -> None:
        """The step of a weight, from its values."""
        self.of_weight = True
        self.to(weight.device)
        if not weight.is_meta:
            self._begin(self._turned(weight.detach()))

    def _turned(self, x: Tensor) -> Tensor:
        features = x.shape[-1]
        block = min(features & -features, self.block)
        return rotated(x, block, None) if block > 1 else x.float()

    @torch.no_grad()
    def _begin(self, turned: Tensor) -> None:
        self.step.copy_(first_step(turned.float().abs().mean(), self.high))
        self.begun.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """x̂ [..., K]. RuntimeError in evaluation before any call in training."""
        turned = self._turned(x)
        if x.numel() and not self._known:
            self._begin_once(turned)
        sharing = x.numel() if self.of_weight else x.shape[-1]
        factor = step_factor(sharing, self.high)
        return self._turned(lsq_quantize(turned, positive(self.step), self.low, self.high, factor)).to(x.dtype)

    def _begin_once(self, turned: Tensor) -> None:
        """Reads the flag back from its device once; compiled calls after that see a constant."""
        if not bool(self.begun):
            if not self.training:
                raise RuntimeError("lsq: the step of the input has no value yet; run one batch in training mode")
            self._begin(turned.detach())
        self._known = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known = False

    def extra_repr(self) -> str:
        return f"bits={self.bits}, block={self.block}"
