"""float32 numbers rounded in place to the values of an element format, of any width that float32 holds; no codes.

Signed minifloats by arithmetic on float32, with `t` mantissa bits and E = max(floor(log2 |y|), emin):

    nearest      (y + C) - C,  C = 1.5 · 2^(E + 23 - t): float32's own addition rounds to multiples of 2^(E - t), ties
                 to even
    stochastic   floor(s) + [floor(frac(s) · 2^24) + R >= 2^24],  s = |y| · 2^(t - E)      (formats/rounding.py)

Formats with float32's own exponents (bfloat16, tf32) keep the upper bits of the pattern, subnormals included. Integers
are rounded as such. Everything else (posit, takum, codebooks) is looked up: the thresholds of `kernels/tables.py` are
searched, which takes any rounding rule that ascends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from narrowgauge.formats import FloatFormat, Format, IntFormat
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels._cast_torch import round_magnitude
from narrowgauge.kernels.tables import float32_values, search_table

EXPONENT = 0x7F800000
SIGN = -0x80000000
FLOAT32_EMIN = -126
HALF_OF_C = 0x400000
"""The mantissa bit that makes 1.5 · 2^n of 2^n."""
NATIVE = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Formats whose torch cast of a clamped float32 equals ours (tested at every midpoint and its neighbours)."""

Rounder = Callable[[Tensor, Tensor | None], None]
"""(y, random) → None: y float32 without NaN, rounded in place, saturating; infinities become the largest value. random:
RANDOM_BITS bits an element (int32), or None for the format's own rule. What comes of NaN is not defined."""


class Grid(NamedTuple):
    """A signed minifloat for arithmetic on float32. by_pattern: its exponents are float32's. bottom: the smallest
    positive value of a format whose zero takes the place of 2^emin and which has no subnormal ones, else 0."""

    mantissa_bits: int
    emin: int
    max: float
    by_pattern: bool
    bottom: float


def grid_of(fmt: Format) -> Grid | None:
    """The grid of `fmt`, None where float32 arithmetic does not reach its values by `round_nearest`."""
    # The exact type: a subclass may round by a rule of its own.
    if type(fmt) is not FloatFormat or not fmt.has_negative_zero or not 1 <= fmt.mantissa_bits <= 22:
        return None
    t, emin = fmt.mantissa_bits, fmt.emin
    largest = torch.finfo(torch.float32).max
    if fmt.subnormals and emin == FLOAT32_EMIN and fmt.max <= largest:
        return Grid(t, emin, fmt.max, True, 0.0)
    # The constant C, and the powers of two of stochastic rounding, are normal float32 numbers.
    if emin - t < FLOAT32_EMIN or t - emin > 127 or fmt.emax + 24 - t > 127 or fmt.max > largest:
        return None
    return Grid(t, emin, fmt.max, False, fmt.smallest_normal if fmt.zero_at_bottom else 0.0)


def round_nearest(y: Tensor, grid: Grid, scratch: Tensor) -> None:
    """Rounds float32 y in place, |y| below 2^(emax + 2), without a limit at the largest value. NaN and infinities stay
    (by pattern, those NaN that torch's arithmetic makes). scratch: int32 of y's shape. Where the result is zero its
    sign is lost, but for `by_pattern`."""
    bits = y.view(torch.int32)
    dropped = 23 - grid.mantissa_bits
    if grid.by_pattern:
        odd = torch.bitwise_right_shift(bits, dropped, out=scratch).bitwise_and_(1)
        bits.add_(odd.add_((1 << (dropped - 1)) - 1)).bitwise_and_(-1 << dropped)
        return
    power = torch.bitwise_and(bits, EXPONENT, out=scratch).clamp_(min=(grid.emin + 127) << 23)
    constant = power.add_((dropped << 23) | HALF_OF_C).view(torch.float32)
    y.add_(constant).sub_(constant)
    if grid.bottom:
        # The half of `bottom` is a tie that went to 2^(emin - 1), so that what is beyond it still is.
        torch.ops.aten.hardshrink.out(y, 2.0 ** (grid.emin - 1), out=y)
        sign = torch.sign(y, out=scratch.view(torch.float32))
        y.abs_().clamp_(min=grid.bottom).mul_(sign)


def round_stochastic(y: Tensor, grid: Grid, random: Tensor) -> None:
    """Rounds float32 y in place by RANDOM_BITS random bits (int32), |y| at most 2^(emax + 1)."""
    bits = y.view(torch.int32)
    dropped = 23 - grid.mantissa_bits
    if grid.by_pattern:
        bits.add_(random >> (RANDOM_BITS - dropped)).bitwise_and_(-1 << dropped)
        return
    sign = bits & SIGN
    y.abs_()
    exponent = (bits & EXPONENT).clamp_(min=(grid.emin + 127) << 23)
    up = (254 + grid.mantissa_bits - (exponent >> 23)) << 23
    rounded = round_magnitude(y * up.view(torch.float32), random)
    unit = exponent.sub_(grid.mantissa_bits << 23).view(torch.float32)
    if grid.bottom:
        # Between zero and the smallest value, of which float32 holds no simple fractions.
        share = (y.double() / grid.bottom).clamp_(max=1.0).mul_(1 << RANDOM_BITS).to(torch.int32)
        lowest = ((share + random) >> RANDOM_BITS) * grid.bottom
        torch.where(y < grid.bottom, lowest, rounded * unit, out=y)
    else:
        torch.mul(rounded, unit, out=y)
    bits.bitwise_or_(sign)


def rounder(fmt: Format, flush: bool, device: torch.device, *, stochastic: bool) -> Rounder:
    """How `fmt` rounds on `device`, to nearest unless random bits are given. flush: subnormal results become zero of
    their sign. ValueError for formats that no table holds, and for stochastic rounding that tables do not know."""
    grid = grid_of(fmt)
    if type(fmt) is IntFormat and 0 <= fmt.fraction_bits <= 64 and fmt.width <= 16:
        return _integers(fmt)
    if grid is None:
        return _by_table(fmt, flush, device, stochastic)

    def rounds(y: Tensor, random: Tensor | None) -> None:
        y.clamp_(-grid.max, grid.max)
        if random is not None:
            round_stochastic(y, grid, random)
        elif fmt.name in NATIVE:
            y.copy_(y.to(NATIVE[fmt.name]))
        else:
            sign = None if grid.by_pattern else y.view(torch.int32) & SIGN
            round_nearest(y, grid, torch.empty_like(y, dtype=torch.int32))
            if sign is not None:
                y.view(torch.int32).bitwise_or_(sign)
        if flush:
            y.mul_(y.abs() >= 2.0**grid.emin)

    return rounds


def _integers(fmt: IntFormat) -> Rounder:
    def rounds(y: Tensor, random: Tensor | None) -> None:
        y.mul_(float(1 << fmt.fraction_bits)).clamp_(fmt.min_code, fmt.max_code)
        if random is None:
            y.round_().add_(0.0)  # no integer is -0
        else:
            negative = y < 0
            code = round_magnitude(y.abs(), random)
            y.copy_(torch.where(negative, -code, code))
        y.mul_(2.0**-fmt.fraction_bits)

    return rounds


class ValueTable(NamedTuple):
    """thresholds, values: `kernels/tables.py`, the values (float32) by rank. levels (float64), level_values: of
    stochastic rounding; mirrored: its rule, None where tables do not know it. negative_zero: the value of -0."""

    thresholds: Tensor
    values: Tensor
    levels: Tensor
    level_values: Tensor
    mirrored: bool | None
    negative_zero: float


@lru_cache(maxsize=32)
def _value_table(fmt: Format, flush: bool, device: torch.device) -> ValueTable:
    table, values = search_table(fmt, flush), float32_values(fmt)
    mask = 2**fmt.bits - 1
    return ValueTable(
        thresholds=torch.from_numpy(table.thresholds).to(device),
        values=torch.from_numpy(values[table.codes & mask]).to(device),
        levels=torch.from_numpy(table.levels).to(device).double(),
        level_values=torch.from_numpy(values[table.level_codes & mask]).to(device),
        mirrored=table.mirrored,
        negative_zero=float(values[table.negative_zero & mask]),
    )


def _by_table(fmt: Format, flush: bool, device: torch.device, stochastic: bool) -> Rounder:
    table = _value_table(fmt, flush, device)
    if stochastic and table.mirrored is None:
        raise ValueError(
            f"format: {fmt.name} has a stochastic rounding of its own or levels beyond float32, which kernels do not "
            "know; leave out '+sr'"
        )

    def rounds(y: Tensor, random: Tensor | None) -> None:
        if random is not None:
            y.copy_(_between_levels(y, table, random))
            return
        bits = y.contiguous().view(torch.int32)
        pattern = bits ^ ((bits >> 31) & 0x7FFFFFFF)
        rank = torch.searchsorted(table.thresholds, pattern, right=True, out_int32=True)
        y.copy_(table.values[rank])

    return rounds


def _between_levels(y: Tensor, table: ValueTable, random: Tensor) -> Tensor:
    """Stochastic values; see `kernels/tables.py`, whose float64 operations these are."""
    levels = table.levels
    x = y.double().clamp_(levels[0], levels[-1])
    low = (torch.searchsorted(levels, x.contiguous(), right=True) - 1).clamp_(min=0)
    high = (low + 1).clamp_(max=levels.numel() - 1)
    below, above = levels[low], levels[high]
    negative = torch.signbit(y) if table.mirrored else torch.zeros_like(y, dtype=torch.bool)
    step = torch.where(high > low, above - below, 1.0)
    frac = torch.where(negative, above - x, x - below) / step
    whole = (frac * (1 << RANDOM_BITS)).floor_().int()
    if not table.mirrored:
        # The quotient of a value just below its upper level may be rounded to 1.
        whole.clamp_(max=(1 << RANDOM_BITS) - 1)
    moves = (whole + random) >> RANDOM_BITS != 0
    rank = torch.where(moves != negative, high, low)
    if not table.mirrored:
        return table.level_values[rank]
    # No zero between the two: a magnitude below the smallest becomes the smallest.
    rank = torch.where((below < 0) & (above > 0), torch.where(negative, low, high), rank)
    return torch.where(negative & (levels[rank] == 0), table.negative_zero, table.level_values[rank])
