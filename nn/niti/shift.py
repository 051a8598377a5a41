"""From int32 sums back to int8: a shift by what their bit length is too long, and NITI's pseudo-stochastic rounding.

    b = bits of max |acc|          shift = max(b - bits, 0)          acc ≈ code · 2^shift

Of the `shift` bits that go, of the magnitude, the upper ⌈shift/2⌉ are the value v and the lower ⌊shift/2⌋ the random
number r, doubled where shift is odd: code = (|acc| >> shift) + (v > r), with the sign of acc. Low bits of sums are as
good as random, and nothing has to be drawn. If all discarded bits are equally likely the rounding is off by
+2^(-shift - 1) codes on average for odd shifts, by -(2^(-shift/2) - 2^(-shift)) / 2 for even ones; cutting the bits off
by -(1 - 2^(-shift)) / 2.

Wang et al., arXiv 2009.13108, section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from narrowgauge.nn.niti.tensor import BITS, LARGEST


def bit_length(x: Tensor) -> int:
    """Bits of the largest magnitude in an integer tensor; 0 for zeros and for an empty one."""
    return int(x.abs().max()).bit_length() if x.numel() else 0


def pseudo_stochastic_shift(x: Tensor, shift: int) -> Tensor:
    """int32 (or int64) `x` / 2^shift, rounded by its own low bits; the dtype of x. ValueError for a negative shift."""
    if shift < 0:
        raise ValueError(f"shift: expected 0 or more, got {shift}")
    if shift == 0:
        return x
    magnitude = x.abs()
    lower = shift // 2
    discarded = magnitude & ((1 << shift) - 1)
    value = discarded >> lower
    random = (discarded & ((1 << lower) - 1)) << (shift % 2)
    return ((magnitude >> shift) + (value > random).to(x.dtype)) * torch.sign(x)


def requantize(acc: Tensor, bits: int = BITS) -> tuple[Tensor, int]:
    """(int8 codes of `bits` bits and a sign, shift) of int32 sums: acc ≈ codes · 2^shift. A rounding that would need
    one bit more is clipped to the largest code.

    ValueError unless 1 <= bits <= 7.
    """
    if not 1 <= bits <= BITS:
        raise ValueError(f"bits: expected 1 to {BITS}, got {bits}")
    shift = max(bit_length(acc) - bits, 0)
    largest = min((1 << bits) - 1, LARGEST)
    return pseudo_stochastic_shift(acc, shift).clamp(-largest, largest).to(torch.int8), shift
