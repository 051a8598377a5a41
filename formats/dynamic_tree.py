"""The dynamic maps of 8-bit and 4-bit optimizers, built by rule.

With D = bits - 1 decades, decade i = 0 … D - 1 cuts [0.1, 1] into F_i equal slices and holds the middle of each, times
10^(i + 1 - D):

    signed    F_i = 2^i for either sign     2^bits values with zero and +1; there is no -1
    unsigned  F_i = 2^(i + 1)               2^bits values with zero and 1

So each decade down halves the number of values: fine steps at the top, orders of magnitude below. The values are
float32 numbers, rounded once from the rule's decimal fractions (torch's float32 `linspace`, with which bitsandbytes
builds them, leaves some one unit in the last place beside); codes ascend with the values.

`dynamic8`, `udynamic8`: the maps of 8-bit optimizers (Dettmers et al., arXiv 2110.02861), seven decades.
`de4`, `udynamic4`: those of 4-bit optimizers (Li et al., arXiv 2309.01507; lpmm's `nonlinear` map), three decades.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.registry import register


def dynamic_tree(bits: int, *, is_signed: bool) -> tuple[float, ...]:
    """The 2^bits values of the map in ascending order. bits: 3 to 8, unsigned 2 to 8; ValueError for others."""
    lowest = 3 if is_signed else 2
    if not lowest <= bits <= 8:
        raise ValueError(f"bits: got {bits}, accepted: {lowest} to 8")
    decades = bits - 1
    magnitudes = [Fraction(1)]
    for decade in range(decades):
        slices = 2**decade if is_signed else 2 ** (decade + 1)
        width = Fraction(9, 10 * slices)
        power = Fraction(10) ** (decade + 1 - decades)
        magnitudes += [(Fraction(1, 10) + (j + Fraction(1, 2)) * width) * power for j in range(slices)]
    negative = [-value for value in magnitudes[1:]] if is_signed else []
    return tuple(float(np.float32(float(value))) for value in sorted([*negative, Fraction(0), *magnitudes]))


register(CodebookFormat(name="dynamic8", table=dynamic_tree(8, is_signed=True)))
register(CodebookFormat(name="udynamic8", table=dynamic_tree(8, is_signed=False)))
register(CodebookFormat(name="de4", table=dynamic_tree(4, is_signed=True)), "dynamic4")
register(CodebookFormat(name="udynamic4", table=dynamic_tree(4, is_signed=False)), "ude4")
