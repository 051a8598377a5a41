"""Encode in torch by integer arithmetic: the twin of `kernels/_cast.py`, bit for bit, written for inductor to fuse.

`encode` takes over its argument: `y` is scratch afterwards. Random bits, and stochastic codes, that nobody traces are
made on a CPU block by block, in fewer passes (`kernels/_philox_numpy.py`, `_stochastic_torch.py`, `_levels_torch.py`).
"""

from __future__ import annotations

import sys
from math import prod

import numpy as np
import torch
from torch import Tensor

from narrowgauge.formats.philox import MULTIPLIERS, ROUNDS, WEYL
from narrowgauge.formats.rf8 import rf8
from narrowgauge.formats.rounding import RANDOM_BITS
from narrowgauge.kernels._levels_torch import encode_between_levels
from narrowgauge.kernels._philox_numpy import fill_rounding_bits
from narrowgauge.kernels._stochastic_torch import encode_stochastic, serves_stochastic
from narrowgauge.kernels.layout import RF8_THRESHOLDS, Layout

_MASK32 = 0xFFFFFFFF


def rounding_bits(
    shape: torch.Size | tuple[int, ...],
    seed: int,
    offset: int,
    device: torch.device,
    start: int = 0,
    memory: Tensor | None = None,
) -> Tensor:
    """RANDOM_BITS random bits per element (int32) of a row-major tensor of this shape; see formats/philox.py. start:
    place of the first element in the stream. memory: int64 [n / 4 + 2, 2] for n elements, which a CPU may draw in."""
    count = prod(shape)
    first, skipped = divmod(start, 4)
    size = (skipped + count + 3) // 4
    if torch.compiler.is_compiling():
        # One loop over the elements, which fuses with what takes the bits: drawing every block four times costs less
        # than writing the words to memory.
        index = torch.arange(start, start + count, device=device).view(shape)
        c0, c1, c2, c3 = _words(index >> 2, seed, offset, first + size > _MASK32)
        odd = (index & 1) != 0
        return _upper(torch.where((index & 2) != 0, torch.where(odd, c3, c2), torch.where(odd, c1, c0)))
    if device.type == "cpu" and sys.byteorder == "little":
        memory = torch.empty((size, 2), dtype=torch.int64) if memory is None else memory[:size]
        if _is_eager(memory):
            fill_rounding_bits(memory.numpy().view(np.uint64), seed, offset, first, torch.get_num_threads())
            return memory.view(torch.int32).view(-1)[skipped : skipped + count].view(shape)
    words = _words(torch.arange(first, first + size, device=device), seed, offset, first + size > _MASK32)
    return _upper(torch.stack(words, dim=-1).reshape(-1)[skipped : skipped + count].reshape(shape))


def _is_eager(x: Tensor) -> bool:
    """Whether operations on `x` run now and on a CPU (not on fake tensors, which have no memory)."""
    return type(x) is Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()


def _words(blocks: Tensor, seed: int, offset: int, far: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four words of each of these blocks, in the lower halves of int64. far: whether blocks pass 2^32."""
    # 32 x 32 bit products wrap in int64, but their bits are right: the masks take the halves.
    key0, key1 = seed & _MASK32, (seed >> 32) & _MASK32
    low, high = (blocks & _MASK32, blocks >> 32) if far else (blocks, 0)
    # c0 and c2 are words; c1 and c3 have them in their lower halves.
    c0, c2 = low, blocks.new_full((), offset & _MASK32)
    c1: Tensor | int = high
    c3: Tensor | int = (offset >> 32) & _MASK32
    for _ in range(ROUNDS):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) ^ c1 ^ key0) & _MASK32, ((p0 >> 32) ^ c3 ^ key1) & _MASK32
        c1, c3 = p1, p0
        key0, key1 = (key0 + WEYL[0]) & _MASK32, (key1 + WEYL[1]) & _MASK32
    return c0, p1, c2, p0


def _upper(words: Tensor) -> Tensor:
    """The upper RANDOM_BITS of 32-bit words in the lower halves of int64."""
    return ((words >> (32 - RANDOM_BITS)) & ((1 << RANDOM_BITS) - 1)).to(torch.int32)


def round_magnitude(s: Tensor, random: Tensor | None) -> Tensor:
    """Non-negative float32 `s` < 2^22 (scratch) to int32: ties to even, or stochastic with `random`."""
    if random is None:
        return s.round_().to(torch.int32)
    low = torch.floor(s)
    up = s.sub_(low).mul_(1 << RANDOM_BITS).to(torch.int32).add_(random).bitwise_right_shift_(RANDOM_BITS)
    return low.to(torch.int32).add_(up)


def _encode_float(y: Tensor, layout: Layout, random: Tensor | None) -> Tensor:
    negative = y.view(torch.int32) < 0
    a = y.abs_().clamp_(max=layout.max)
    lowest = (layout.emin + 127) << 23
    exponent = (a.view(torch.int32) & 0x7F800000).clamp_(min=lowest)
    power = (254 + layout.mantissa_bits - (exponent >> 23)) << 23
    base = exponent.sub_(lowest) >> (23 - layout.mantissa_bits)
    s = a.mul_(power.view(torch.float32))
    if layout.mantissa_bits == 0 and random is None:
        # One bit of precision: "even" is the parity of the code, not of the significand, which is always 1.
        low = torch.floor(s)
        code = base.add_(low.to(torch.int32))
        frac = s.sub_(low)
        code = code + ((frac > 0.5) | ((frac == 0.5) & ((code & 1) == 1)))
    else:
        code = base.add_(round_magnitude(s, random))
    if layout.flush:
        code = torch.where(code < (1 << layout.mantissa_bits), 0, code)
    if layout.sign_bit == 0:
        return code.masked_fill_(negative, 0)
    if not layout.negative_zero:
        negative = negative & (code != 0)
    return code.add_(negative, alpha=layout.sign_bit)


def _encode_int(y: Tensor, layout: Layout, random: Tensor | None) -> Tensor:
    scaled = y.mul_(float(1 << layout.fraction_bits)).clamp_(layout.min_code, layout.max_code)
    if random is None:
        return scaled.round_().to(torch.int32)
    negative = scaled < 0
    code = round_magnitude(scaled.abs_(), random)
    return torch.where(negative, -code, code)


def _encode_rf8(y: Tensor, layout: Layout, random: Tensor | None) -> Tensor:
    negative = y < 0
    a = y.abs_().clamp_(max=layout.max)
    bits = a.view(torch.int32)
    field = bits & 0x7FFFFF
    row = (bits >> 23) - 127 + layout.bias
    if random is None:
        # The sign bit of field - bound is 1 below the bound: seven in-place integer passes, no comparisons.
        code = row.mul_(8).add_(11)
        for bound in RF8_THRESHOLDS:
            code.add_((field - bound) >> 31)
        code.add_(((field - RF8_THRESHOLDS[3]) >> 31).add_(1))
        code = torch.where(code < 1, (a >= 0.375 * 2.0**-layout.bias).to(torch.int32), code)
    else:
        code = _rf8_stochastic(a, field, row, layout, random)
    return code.add_(negative & (code != 0), alpha=0x80)


def _rf8_stochastic(a: Tensor, field: Tensor, row: Tensor, layout: Layout, random: Tensor) -> Tensor:
    # Levels of an octave in sixteenths: 16 17 18 20 24 28 30 32.
    sixteenths = field >> 19
    level = torch.zeros_like(field)
    for bound in (1, 2, 4, 8, 12, 14):
        level += sixteenths >= bound
    low = torch.where(level < 3, level, torch.where(level < 5, 4 * (level - 2), 2 * level + 2))
    log_step = (level >= 2).to(torch.int32) + ((level == 3) | (level == 4))
    frac = ((field - (low << 19)) << 5) >> log_step
    level = level + ((frac + random) >> RANDOM_BITS)
    code = row * 8 + 4 + level + (level >= 4)
    # Below the smallest value 3 · 2^(-2 - bias) the interval reaches to zero: thirds are taken on integers.
    smallest = 3.0 * 2.0 ** (-2 - layout.bias)
    thirds = (a.clamp(max=smallest) * 2.0 ** (26 + layout.bias)).to(torch.int32)
    below = (thirds.div(3, rounding_mode="floor") + random) >> RANDOM_BITS
    return torch.where(a < smallest, below, code)


_ENCODERS = {"float": _encode_float, "int": _encode_int, "rf8": _encode_rf8}


def encode(y: Tensor, layout: Layout, random: Tensor | None = None, *, may_have_nan: bool = True) -> Tensor:
    """Codes (`layout.code_dtype`) of float32 `y`, which is overwritten, by bit arithmetic (not of kind "table").
    random: `rounding_bits` for stochastic rounding. NaN gives the positive NaN code, or 0 in formats without one;
    `may_have_nan=False` skips the search."""
    isnan = y != y if may_have_nan else None  # inductor's loops take this several numbers at a time, isnan one by one
    if isnan is not None:
        y = torch.where(isnan, 0.0, y)
    if random is not None and _is_eager(y):
        code = _encode_in_blocks(y, layout, random)
    else:
        code = _ENCODERS[layout.kind](y, layout, random)
    if isnan is not None and layout.kind != "int":  # whose NaN has the code of 0
        code = code.masked_fill_(isnan, max(layout.nan_code, 0))
    return code.to(layout.code_dtype)


def _encode_in_blocks(y: Tensor, layout: Layout, random: Tensor) -> Tensor:
    """Stochastic codes by what is quickest on a CPU; the bits are those of the formulas above."""
    if layout.kind == "rf8":
        return encode_between_levels(y, rf8(layout.bias), False, random)
    if serves_stochastic(layout):
        return encode_stochastic(y, layout, random)
    return _ENCODERS[layout.kind](y, layout, random)
