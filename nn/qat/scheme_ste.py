"""Plain straight-through training over any scheme of `narrowgauge.formats`.

    forward   decode(encode(x / scale)) · scale, the package's own quantiser
    backward  identity: g everywhere          clipped: g where x lies within the range of its scale, 0 elsewhere

Bengio, Léonard and Courville, arXiv 1308.3432.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import Scheme, parse
from narrowgauge.formats.tiles import tile_text
from narrowgauge.kernels import fake_quantize, quantize
from narrowgauge.kernels.tiles import multiply_tiles
from narrowgauge.nn.qat.checks import check_choice
from narrowgauge.nn.qat.quantizer import ActivationQuantizer, Scaled, WeightCodes, WeightQuantizer
from narrowgauge.nn.straight_through import high_precision

STES = ("identity", "clipped")


def _check_scheme(name: str, scheme: str) -> Scheme:
    try:
        parsed = parse(scheme)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if parsed.element.bits > 8:
        raise ValueError(f"{name}: {parsed} has codes of {parsed.element.bits} bits, accepted: at most 8")
    if parsed.stochastic:
        raise ValueError(f"{name}: {parsed} rounds stochastically, accepted: schemes without '+sr'")
    return parsed


class SchemeWeight(WeightQuantizer):
    """w under a scheme text such as "int4/1x32" or "mxfp4"; `ste`: identity or clipped."""

    def __init__(self, scheme: str, ste: str = "identity") -> None:
        super().__init__()
        self.parsed = _check_scheme("weight", scheme)
        check_choice("ste", ste, STES)
        self.ste, self.text = ste, str(self.parsed)
        self.element = self.parsed.element.name

    @property
    def scheme(self) -> str:
        """Codes are stored with float32 scales per tile that shares a factor, whatever the scheme computed them by."""
        tile = self.parsed.factor_tile
        return self.element if tile == (None, None) else f"{self.element}/{tile_text(tile)}"

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantize(weight, self.text, self.ste)

    def scaled(self, weight: Tensor) -> Scaled:
        factors = quantize(weight, self.text).factors().to(weight.dtype)
        inverse = torch.where(factors == 0, 0.0, 1.0 / factors)
        return Scaled(multiply_tiles(weight.clone(), inverse, self.parsed.factor_tile), factors)

    @torch.no_grad()
    def codes(self, weight: Tensor) -> WeightCodes:
        quantized = quantize(high_precision(weight), self.text)
        return WeightCodes(quantized.codes, quantized.factors(), self.scheme)

    def extra_repr(self) -> str:
        return f"{self.parsed}, ste={self.ste}"


class SchemeActivation(ActivationQuantizer):
    """x under a scheme text such as "int8/row"; `ste`: identity or clipped."""

    def __init__(self, scheme: str, ste: str = "identity") -> None:
        super().__init__()
        self.parsed = _check_scheme("activation", scheme)
        check_choice("ste", ste, STES)
        self.ste, self.text = ste, str(self.parsed)

    @property
    def input_scheme(self) -> str | None:
        return self.text

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.text, self.ste)

    def extra_repr(self) -> str:
        return f"{self.parsed}, ste={self.ste}"
