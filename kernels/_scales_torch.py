"""Scale rules in torch: the twin of `formats/scaling.py` and of the scale functions of `kernels/_cast.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, ScaleRule, Scheme
from narrowgauge.formats.scaling import SMALLEST_OUTER_SCALE, SMALLEST_SCALE, exponent_parameters
from narrowgauge.kernels._cast_torch import encode
from narrowgauge.kernels.layout import Layout, layout_of


def amax_scale(amax: Tensor, largest: float, floor: float = SMALLEST_SCALE) -> Tensor:
    """amax / largest, between `floor` and the largest float32; 1 for a zero group, NaN where amax is not finite."""
    scale = torch.div(amax, torch.full_like(amax, largest)).clamp_(floor, torch.finfo(torch.float32).max)
    scale = torch.where(amax == 0, 1.0, scale)
    return torch.where(torch.isfinite(amax), scale, torch.nan)


def scale_exponent(amax: Tensor, element: Format, rule: ScaleRule, lowest: int) -> Tensor:
    """Exponent (int32) of the power-of-two scale of finite amax."""
    carry, emax = exponent_parameters(element, rule)
    subnormal = amax < SMALLEST_SCALE
    bits = torch.where(subnormal, amax * 2.0**24, amax).view(torch.int32)
    carried = ((bits & 0x7FFFFF) + carry) >> 23
    exponent = ((bits >> 23) + carried - (127 + emax) - 24 * subnormal.to(torch.int32)).clamp(lowest, 127)
    return torch.where(amax == 0, lowest if lowest < -126 else 0, exponent).to(torch.int32)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent for -127 <= exponent <= 127, by the bit field."""
    normal = ((exponent.clamp(min=-126) + 127) << 23).view(torch.float32)
    return torch.where(exponent < -126, 2.0**-127, normal)


def decode_scale(codes: Tensor, layout: Layout) -> Tensor:
    """float32 values of the non-negative codes of a minifloat without infinities, by arithmetic that compiles."""
    magnitude = codes.to(torch.int32) & 0x7F
    exponent = magnitude >> layout.mantissa_bits
    implicit = (exponent > 0).to(torch.int32) << layout.mantissa_bits
    significand = (magnitude & ((1 << layout.mantissa_bits) - 1)) + implicit
    value = significand.float() * power_of_two(exponent.clamp(min=1) - (layout.bias + layout.mantissa_bits))
    return torch.where(magnitude > layout.max_code, torch.nan, value)


def block_scales(codes: Tensor, fmt: BlockFormat, outer: Tensor) -> Tensor:
    """float32 factors of a block format's scale codes; exact powers of two, or decode(code) · outer."""
    if fmt.two_level:
        return decode_scale(codes, layout_of(fmt.scale_format)) * outer
    factors = power_of_two(codes.to(torch.int32) - 127)
    return torch.where(codes == 0xFF, torch.nan, factors)


def scales(amax: Tensor, spec: Scheme) -> tuple[Tensor, Tensor, Tensor]:
    """(stored scale, float32 factors, outer scale) of float32 group maxima of any shape."""
    fmt = spec.format
    one = amax.new_ones(())
    if not isinstance(fmt, BlockFormat) and spec.rule is ScaleRule.AMAX:
        scale = amax_scale(amax, fmt.max)
        return scale, scale, one
    finite = torch.isfinite(amax)
    safe = torch.where(finite, amax, 0.0)
    if isinstance(fmt, BlockFormat) and fmt.two_level:
        largest = safe.amax() if safe.numel() else amax.new_zeros(())
        outer = amax_scale(largest, fmt.outer_divisor, SMALLEST_OUTER_SCALE)
        codes = encode(safe / (outer * fmt.element.max), layout_of(fmt.scale_format), may_have_nan=False)
        codes = torch.where(finite, codes, layout_of(fmt.scale_format).nan_code)
        return codes, block_scales(codes, fmt, outer), outer
    if isinstance(fmt, BlockFormat):
        exponent = scale_exponent(safe, fmt.element, spec.rule, lowest=-127)
        codes = torch.where(finite, exponent + 127, 0xFF).to(torch.uint8)
        return codes, torch.where(finite, power_of_two(exponent), torch.nan), one
    if spec.static is not None:
        scale = torch.where(finite, spec.static, torch.nan).to(torch.float32)
    else:
        scale = torch.where(finite, power_of_two(scale_exponent(safe, fmt, spec.rule, lowest=-126)), torch.nan)
    return scale, scale, one


def inverse(factors: Tensor) -> Tensor:
    """1 / factor; 0 where it is zero or NaN, so that the group's codes are those of zero (or NaN)."""
    usable = factors > 0
    return torch.where(usable, torch.where(usable, factors, 1.0).reciprocal(), 0.0)
