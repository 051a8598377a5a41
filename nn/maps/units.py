"""A weight in units of its scales."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import Scheme
from narrowgauge.formats.operand import parse_operand
from narrowgauge.kernels._scales_torch import inverse
from narrowgauge.kernels.dequantize import block_factors
from narrowgauge.kernels.layout import CODE_BITS
from narrowgauge.kernels.tensor import quantize_raw
from narrowgauge.kernels.tiles import multiply_tiles


def weight_scheme(text: str | None, map_name: str) -> Scheme:
    """The scheme of the slot w_fprop for a map that looks at its grid. ValueError where there is none, and for stages,
    stochastic rounding and more than 8 bits."""
    spec = None if text is None else parse_operand(text)
    if not isinstance(spec, Scheme) or spec.stochastic or spec.element.bits > CODE_BITS:
        raise ValueError(f"{map_name}: w_fprop is a scheme of at most 8 bits that rounds to nearest, got {text}")
    return spec


def levels_of(scheme: Scheme, like: Tensor) -> Tensor:
    """The distinct finite values of the scheme's elements in ascending order, float32."""
    values = torch.from_numpy(scheme.element.values())
    return torch.unique(values[torch.isfinite(values)]).to(like.device, torch.float32)


def in_units(weight: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """(weight [N, K] divided by its scales, float32; the scales of every tile of `scheme.factor_tile`)."""
    text = str(scheme)
    _, scale, outer = quantize_raw(weight.detach(), text)
    factors = block_factors(scale, outer, text, weight.shape[1])
    scaled = multiply_tiles(weight.detach().to(torch.float32, copy=True), inverse(factors), scheme.factor_tile)
    return scaled, factors
