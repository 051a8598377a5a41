"""Scale rules in torch: the twin of `formats/scaling.py`, `formats/block.py` and of the scale functions of
`kernels/_cast.py`. Runs on any device."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats import BlockFormat, Format, Rounding, ScaleRule, Scheme
from narrowgauge.formats.scaling import SMALLEST_OUTER_SCALE, SMALLEST_SCALE, exponent_parameters, zero_scale
from narrowgauge.kernels._tables_torch import encode_by_table
from narrowgauge.kernels.layout import scale_dtype
from narrowgauge.kernels.tables import search_table

SMALLEST_FACTOR = 2.0**-127
"""Floor of the factor of a pair with an exponent of its own (`BlockFormat.scales`)."""


def amax_scale(amax: Tensor, largest: float, floor: float = SMALLEST_SCALE, zero: float = 1.0) -> Tensor:
    """amax / largest, between `floor` and the largest float32; `zero` for a zero group, NaN where amax is not
    finite."""
    scale = torch.div(amax, torch.full_like(amax, largest)).clamp_(floor, torch.finfo(torch.float32).max)
    scale = torch.where(amax == 0, zero, scale)
    return torch.where(torch.isfinite(amax), scale, torch.nan)


def scale_exponent(
    amax: Tensor, element: Format, rule: ScaleRule, lowest: int = -126, highest: int = 127, zero: int = 0
) -> Tensor:
    """Exponent (int32) of the power-of-two scale of finite amax."""
    carry, emax = exponent_parameters(element, rule)
    subnormal = amax < SMALLEST_SCALE
    bits = torch.where(subnormal, amax * 2.0**24, amax).view(torch.int32)
    carried = ((bits & 0x7FFFFF) + carry) >> 23
    exponent = (bits >> 23) + carried - (127 + emax) - 24 * subnormal.to(torch.int32)
    return torch.where(amax == 0, zero, exponent.clamp(lowest, highest)).to(torch.int32)


def power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent for -127 <= exponent <= 127, by the bit field."""
    normal = ((exponent.clamp(min=-126) + 127) << 23).view(torch.float32)
    return torch.where(exponent < -126, 2.0**-127, normal)


@lru_cache(maxsize=64)
def _scale_values(fmt: Format, device: torch.device) -> Tensor:
    """float32 value of every code of a scale format."""
    with np.errstate(over="ignore"):
        return torch.from_numpy(fmt.values().astype(np.float32)).to(device)


@lru_cache(maxsize=64)
def _scale_steps(fmt: Format, rounding: Rounding, device: torch.device) -> tuple[Tensor, Tensor]:
    """(thresholds as bits of non-negative float32, codes) of a scale format of at most 8 bits."""
    table = search_table(fmt, False, rounding)
    return torch.from_numpy(table.thresholds).to(device), torch.from_numpy(table.codes).to(device)


def block_scales(codes: Tensor, fmt: BlockFormat, outer: Tensor) -> Tensor:
    """float32 factors of a block format's scale codes: decode(code) · outer of every block, or of every pair of the
    blocks, [..., blocks · micro_count]."""
    own_bits = fmt.scale_format.bits
    wide = codes.to(torch.int64) & ((1 << fmt.scale_bits) - 1)
    own = _scale_values(fmt.scale_format, codes.device)[wide & ((1 << own_bits) - 1)]
    if not fmt.micro_size:
        return own * outer if fmt.two_level else own
    shifts = own_bits + fmt.micro_bits * torch.arange(fmt.micro_count, device=codes.device)
    tau = (wide.unsqueeze(-1) >> shifts) & ((1 << fmt.micro_bits) - 1)
    # float64, in which the product is exact, with 2^-tau by its exponent field.
    power = ((1023 - tau.clamp(max=1022)) << 52).view(torch.float64)
    return (own.double().unsqueeze(-1) * power).clamp(min=SMALLEST_FACTOR).flatten(-2).float()


def scales(amax: Tensor, spec: Scheme) -> tuple[Tensor, Tensor, Tensor]:
    """(stored scales, float32 factors, outer scale) of float32 group maxima [tiles down, tiles across]; not of formats
    with micro-exponents, see `pair_codes`."""
    fmt = spec.format
    one = amax.new_ones(())
    if not isinstance(fmt, BlockFormat):
        scale = _plain_scales(amax, fmt, spec)
        return scale, scale, one
    finite = torch.isfinite(amax)
    safe = torch.where(finite, amax, 0.0)
    if fmt.two_level:
        largest = safe.amax() if safe.numel() else amax.new_zeros(())
        one = amax_scale(largest, fmt.outer_divisor, SMALLEST_OUTER_SCALE)
        codes = _second_level(safe / (one * fmt.element.amax_target), fmt, spec.rule)
    else:
        lowest, highest = fmt.exponent_range
        codes = scale_exponent(safe, fmt.element, spec.rule, lowest, highest, lowest) + fmt.scale_format.bias
    stored = torch.where(finite, codes, fmt.nan_scale_code).to(scale_dtype(spec))
    return stored, block_scales(stored, fmt, one), one


def _plain_scales(amax: Tensor, fmt: Format, spec: Scheme) -> Tensor:
    if spec.rule is ScaleRule.AMAX or spec.rule.searches:
        return amax_scale(amax, fmt.amax_target, zero=zero_scale(fmt))
    finite = torch.isfinite(amax)
    if spec.static is not None:
        return torch.where(finite, spec.static, torch.nan).to(torch.float32)
    scale = power_of_two(scale_exponent(torch.where(finite, amax, 1.0), fmt, spec.rule))
    scale = torch.where(amax == 0, zero_scale(fmt), scale)
    return torch.where(finite, scale, torch.nan)


def _second_level(quotient: Tensor, fmt: BlockFormat, rule: ScaleRule) -> Tensor:
    """Codes (int32) of the block scales of a two-level format: rounded to nearest, or up under `rceil`."""
    if rule is not ScaleRule.RCEIL:
        return encode_by_table(quotient.clone(memory_format=torch.contiguous_format), fmt.scale_format).to(torch.int32)
    thresholds, codes = _scale_steps(fmt.scale_format, Rounding.UP, quotient.device)
    rank = torch.bucketize(quotient.contiguous().view(torch.int32), thresholds, right=True)
    return codes[rank]


def _micro_exponents(exponent: Tensor, micro_amax: Tensor, fmt: BlockFormat, rule: ScaleRule) -> Tensor:
    """By how many binades the factor of each pair lies below its block's: int32 [rows, blocks, micro_count]."""
    lowest, highest = fmt.exponent_range
    down, across = exponent.shape
    missing = across * fmt.micro_count - micro_amax.shape[1]
    padded = torch.nn.functional.pad(micro_amax, (0, missing)) if missing else micro_amax
    carry, emax = exponent_parameters(fmt.element, rule)
    if carry == 0 and emax >= 0 and lowest >= -127:
        # Subnormal maxima have the lowest exponent in any case; what is not finite spoils its block whatever comes out.
        own = (padded.view(torch.int32) >> 23).sub_(127 + emax).clamp_(lowest, highest)
    else:
        own = scale_exponent(
            torch.where(torch.isfinite(padded), padded, 0.0), fmt.element, rule, lowest, highest, lowest
        )
    below = exponent.unsqueeze(-1) - own.view(down, across, fmt.micro_count)
    return below.clamp_(0, (1 << fmt.micro_bits) - 1)


class PairCodes(NamedTuple):
    """stored: scales [rows, blocks]. exponent: of each block. tau: see `_micro_exponents`. finite: which blocks are."""

    stored: Tensor
    exponent: Tensor
    tau: Tensor
    finite: Tensor


def pair_codes(pairs: Tensor, spec: Scheme, fmt: BlockFormat) -> PairCodes:
    """The scales of a format with micro-exponents from the float32 maxima of its pairs, [rows, pairs]."""
    amax = _block_amax(pairs, fmt)
    finite = torch.isfinite(amax)
    lowest, highest = fmt.exponent_range
    exponent = scale_exponent(torch.where(finite, amax, 0.0), fmt.element, spec.rule, lowest, highest, lowest)
    tau = _micro_exponents(exponent, pairs, fmt, spec.rule)
    codes = (exponent + fmt.scale_format.bias) | (_joined(tau, fmt.micro_bits) << fmt.scale_format.bits)
    stored = torch.where(finite, codes, fmt.nan_scale_code).to(scale_dtype(spec))
    return PairCodes(stored, exponent, tau, finite)


def pair_scales(pairs: Tensor, spec: Scheme, fmt: BlockFormat) -> tuple[Tensor, Tensor, bool]:
    """(stored scales [rows, blocks], inverse factors [rows, pairs], whether all is finite) of `pair_codes`: the inverse
    of `block_scales` by integer exponents alone, 0 in blocks that are not finite."""
    stored, exponent, tau, finite = pair_codes(pairs, spec, fmt)
    # 2^(tau - exponent) by its exponent field; a field of 0 stands for 2^-127, which is subnormal.
    fields = ((127 - exponent).unsqueeze(-1) + tau).bitwise_left_shift_(23).clamp_(min=0x400000)
    factors = fields.view(torch.float32)
    all_finite = bool(finite.all())
    if not all_finite:
        factors = torch.where(finite.unsqueeze(-1), factors, 0.0)
    return stored, factors.flatten(1)[:, : pairs.shape[1]], all_finite


def _joined(parts: Tensor, bits: int) -> Tensor:
    """One number of the parts along the last axis, `bits` bits each, the first lowest."""
    while parts.shape[-1] > 1:
        if parts.shape[-1] % 2:
            parts = torch.nn.functional.pad(parts, (0, 1))
        parts = parts[..., 0::2] | (parts[..., 1::2] << bits)
        bits *= 2
    return parts.squeeze(-1)


def _block_amax(pairs: Tensor, fmt: BlockFormat) -> Tensor:
    """amax of the blocks of a format with micro-exponents, [rows, blocks], from that of their pairs."""
    missing = -pairs.shape[1] % fmt.micro_count
    padded = torch.nn.functional.pad(pairs, (0, missing)) if missing else pairs
    if not padded.numel():
        return padded.new_zeros((padded.shape[0], padded.shape[1] // fmt.micro_count))
    return torch.max_pool1d(padded.unsqueeze(0), fmt.micro_count).squeeze(0)


def inverse(factors: Tensor) -> Tensor:
    """1 / factor; 0 where it is zero or NaN, so that the group's codes are those of zero (or NaN)."""
    usable = factors > 0
    return torch.where(usable, torch.where(usable, factors, 1.0).reciprocal(), 0.0)
