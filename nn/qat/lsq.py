"""LSQ and LSQ+: learned step sizes, and for LSQ+ a learned offset of the activations.

The quantiser and its gradients: `narrowgauge.nn.learned_step`. For activations N is the number of features.

| begin  | weights                                        | activations, from the first batch in training   |
|--------|------------------------------------------------|-------------------------------------------------|
| LSQ    | s = 2 mean|w| / √p                             | s = 2 mean|x| / √p                              |
| LSQ+   | s = max(|μ − 3σ|, |μ + 3σ|) / 2^(b−1)          | s, β of the range with the least squared error  |

Esser et al., arXiv 1902.08153; Bhalgat et al., arXiv 2004.09576 (their unsigned asymmetric activations).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from narrowgauge.nn.learned_step import first_step, lsq_quantize, positive, signed_range, step_factor
from narrowgauge.nn.qat.checks import check_bits
from narrowgauge.nn.qat.groups import Granularity, check_granularity
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, Scaled, WeightQuantizer
from narrowgauge.nn.qat.ranges import search_range
from narrowgauge.nn.straight_through import high_precision

BITS = range(2, 9)
SEARCHED = 1 << 16
"""Values of a batch that the search for a range looks at, evenly spaced."""


class LSQWeight(WeightQuantizer):
    """Signed weights of `bits` (2 to 8) with one learned step per tile; `init`: lsq or lsq_plus."""

    step: nn.Parameter

    def __init__(self, bits: int = 4, granularity: Granularity = "tensor", init: str = "lsq") -> None:
        super().__init__()
        check_bits("bits", bits, BITS)
        if init not in ("lsq", "lsq_plus"):
            raise ValueError(f"init: got {init!r}, accepted: lsq, lsq_plus")
        self.bits, self.init = bits, init
        self.granularity = check_granularity(granularity)
        self.element = f"int{bits}_full"
        self.low, self.high = signed_range(bits)

    def _bind(self, weight: Tensor) -> None:
        tiles = self.groups(weight).shape[:2]
        self.step = nn.Parameter(torch.ones(tiles, device=weight.device, dtype=high_precision(weight).dtype))

    @torch.no_grad()
    def reset_(self, weight: Tensor) -> None:
        tiles = self.groups(high_precision(weight))
        if self.init == "lsq":
            self.step.copy_(first_step(tiles.abs().mean(2), self.high))
            return
        mean, deviation = tiles.mean(2), tiles.std(2, correction=0)
        widest = torch.maximum((mean - 3 * deviation).abs(), (mean + 3 * deviation).abs())
        self.step.copy_(positive(widest / 2 ** (self.bits - 1)))

    def scaled(self, weight: Tensor) -> Scaled:
        scale = positive(self.step).to(weight.dtype)
        y = (self.groups(weight) * (1.0 / scale).unsqueeze(2)).reshape(weight.shape)
        return Scaled(y, scale)

    def forward(self, weight: Tensor) -> Tensor:
        tiles = self.groups(weight)
        factor = step_factor(tiles.shape[2], self.high)
        values = lsq_quantize(tiles, positive(self.step).unsqueeze(2), self.low, self.high, factor)
        return values.reshape(weight.shape)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, granularity={self.granularity}"


class LearnedActivation(ActivationQuantizer):
    """An activation quantiser that begins from the first batch [..., K] seen in training (`begin_`)."""

    begun: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self.ready = False
        """Whether `begun` is known to be set, which forward can ask without reading from the device."""

    def _load_from_state_dict(self, *args: Any, **keywords: Any) -> None:
        super()._load_from_state_dict(*args, **keywords)
        self.ready = False

    @torch.no_grad()
    def begin_(self, x: Tensor) -> None:
        """Sets what is learned from a batch [..., K]."""
        self._begin_(x)
        self.begun.fill_(True)
        self.ready = True

    @abstractmethod
    def _begin_(self, x: Tensor) -> None:
        """Sets the parameters from a batch."""

    def begin_in_training(self, x: Tensor) -> None:
        """Begins from `x` if nothing has before. RuntimeError if that would be in evaluation."""
        if self.ready or not x.numel():
            return
        if bool(self.begun):
            self.ready = True
            return
        if not self.training:
            raise RuntimeError(
                "activation: the learned step has no value yet; run one batch in training mode, or call begin_(batch)"
            )
        self.begin_(x)


class LSQActivation(LearnedActivation):
    """Signed or unsigned activations of `bits` (2 to 8) with one learned step."""

    def __init__(self, bits: int = 8, signed: bool = True) -> None:
        super().__init__()
        check_bits("activation_bits", bits, BITS)
        if not isinstance(signed, bool):
            raise ValueError(f"signed: got {signed!r}, accepted: True, False")
        self.bits, self.signed = bits, signed
        unsigned: int = 2**bits - 1
        self.low, self.high = signed_range(bits) if signed else (0, unsigned)
        self.step = nn.Parameter(torch.ones(()))

    @property
    def input_scheme(self) -> str | None:
        element = f"int{self.bits}_full" if self.signed else f"uint{self.bits}"
        return f"{element}:static={float(positive(self.step.detach().float()))!r}"

    def _begin_(self, x: Tensor) -> None:
        self.step.copy_(first_step(high_precision(x).abs().mean(), self.high))

    def forward(self, x: Tensor) -> Tensor:
        self.begin_in_training(x)
        factor = step_factor(x.shape[-1], self.high)
        return lsq_quantize(x, positive(self.step), self.low, self.high, factor)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}"


class LSQPlusActivation(LearnedActivation):
    """Unsigned activations of `bits` (2 to 8) with a learned step and offset."""

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        check_bits("activation_bits", bits, BITS)
        self.bits, self.low = bits, 0
        self.high: int = 2**bits - 1
        self.step = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def _begin_(self, x: Tensor) -> None:
        # The range with the least squared error, over at most SEARCHED values, evenly spaced.
        flat = high_precision(x).reshape(-1)
        values = flat[:: -(-flat.numel() // SEARCHED)]

        def quantized(low: Tensor, high: Tensor) -> Tensor:
            step = positive((high - low) / self.high)
            return ((values - low) / step).clamp(0, self.high).round() * step + low

        low, high = search_range(values, quantized)
        self.step.copy_(positive((high - low) / self.high).reshape(()))
        self.offset.copy_(low.reshape(()))

    def forward(self, x: Tensor) -> Tensor:
        self.begin_in_training(x)
        factor = step_factor(x.shape[-1], self.high)
        return lsq_quantize(x, positive(self.step), self.low, self.high, factor, self.offset)

    def extra_repr(self) -> str:
        return f"bits={self.bits}"
