"""The exponent of the next tensor from what the last ones were: `formats.Autoflex` and `formats.DynamicFixedPoint` on
tensors, of which nothing is read back from the device.

The largest code of a tensor that was rounded to nearest is that of its amax, so that Autoflex needs the amax alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.formats import Autoflex
from narrowgauge.formats.managed_exponent import EXPONENT_CODES, FLEX_BITS, INITIAL_TRIES
from narrowgauge.kernels._scales_torch import power_of_two

RULE = Autoflex(0)
WINDOW = RULE.window
LARGEST_FLEX = 2 ** (FLEX_BITS - 1) - 1
LARGEST_EXPONENT = 126
"""Magnitude of exponents whose powers of two, and their inverses, are normal float32 numbers."""


def predicted_exponent(
    amax: Tensor, exponent: Tensor, history: Tensor, filled: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(exponent, history, filled) after a tensor with this amax (float64 []), which had `exponent` (int32 []);
    `Autoflex.update`. history: float64 [WINDOW], the newest last, of which `filled` (int64 []) count."""
    unit = power_of_two(exponent).double()
    largest = (amax / unit).round().clamp(max=LARGEST_FLEX)
    overflow = largest >= LARGEST_FLEX
    newest = torch.where(overflow, 2.0 * largest, largest) * unit
    history = torch.cat((history[1:], newest.view(1)))
    filled = (torch.where(overflow, 0, filled) + 1).clamp(max=WINDOW)
    counts = torch.arange(WINDOW, device=history.device) >= WINDOW - filled
    mean = torch.where(counts, history, 0.0).sum() / filled
    deviation = (torch.where(counts, (history - mean) ** 2, 0.0).sum() / filled).sqrt()
    top = torch.where(counts, history, 0.0).amax()
    predicted = RULE.alpha * (top + RULE.beta * deviation + RULE.gamma * unit)
    return _five_bits(_ceil_log2(predicted) - FLEX_BITS + 1), history, filled


def initial_exponent(amax: Tensor) -> Tensor:
    """The exponent (int32 []) that fits a finite amax (float64 []); `Autoflex.initialized` from the exponent 0."""
    half = FLEX_BITS // 2 - 1
    exponent = torch.zeros_like(amax, dtype=torch.int32)
    done = torch.zeros_like(amax, dtype=torch.bool)
    for _ in range(INITIAL_TRIES):
        largest = (amax / power_of_two(exponent).double()).round().clamp(max=LARGEST_FLEX)
        overflow = largest >= LARGEST_FLEX
        length = torch.frexp(largest).exponent  # the bits of a positive integer
        step = torch.where(overflow, half, torch.where(largest > 0, length, 1) - (FLEX_BITS - 1))
        moved = _five_bits(exponent + step)
        found = (~overflow & (largest >= 2 ** (half - 2))) | ((largest > 0) & (moved == exponent))
        exponent = torch.where(done, exponent, moved)
        done = done | found
    return torch.where(done, exponent, 0).to(torch.int32)


def fitting_exponent(amax: Tensor, largest: float) -> Tensor:
    """The smallest exponent (int32 []) at which no code of a finite amax (float64 []) passes `largest`; 0 for 0."""
    exponent = _ceil_log2(torch.where(amax > 0, amax, largest) / largest)
    return exponent.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).to(torch.int32)


def counted_exponent(x: Tensor, exponent: Tensor, largest: float, rate: float) -> Tensor:
    """The exponent (int32 []) after x, whose integer codes of at most `largest` had `exponent`, under the maximum rate
    of overflows; `DynamicFixedPoint.update`."""
    wide = x if x.dtype == torch.float64 else x.float()
    magnitude = (wide * power_of_two(-exponent)).abs_().round_()
    limit = rate * x.numel()
    overflows = (magnitude >= largest).sum().double() > limit
    at_half = (2.0 * magnitude >= largest).sum().double() > limit
    moved = exponent + torch.where(overflows, 1, torch.where(at_half, 0, -1))
    return moved.clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT).to(torch.int32)


def _five_bits(exponent: Tensor) -> Tensor:
    return exponent.clamp(RULE.lowest_exponent, RULE.lowest_exponent + EXPONENT_CODES - 1).to(torch.int32)


def _ceil_log2(value: Tensor) -> Tensor:
    fraction, exponent = torch.frexp(value)
    return torch.where(fraction == 0.5, exponent - 1, exponent)
