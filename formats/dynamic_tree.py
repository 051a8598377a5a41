"""The dynamic-tree maps of 8-bit optimizers (Dettmers et al., arXiv 2110.02861), built by rule.

Seven decades. Decade i = 0 … 6 cuts [0.1, 1] into F_i equal slices and holds the middle of each, times
10^(i - 6):

    signed    F_i = 2^i for either sign     256 values: 127 negative, 0, 127 positive and +1 (there is no -1)
    unsigned  F_i = 2^(i + 1)               256 values: 0, 254 positive and 1

So each decade down halves the number of values: fine steps at the top, seven orders of magnitude below. The
values are float32 numbers, rounded once from the rule's decimal fractions; codes ascend with the values.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.registry import register

DECADES = 7


def dynamic_tree(*, is_signed: bool) -> tuple[float, ...]:
    """The 256 values of the map in ascending order."""
    magnitudes = [Fraction(1)]
    for decade in range(DECADES):
        slices = 2**decade if is_signed else 2 ** (decade + 1)
        width = Fraction(9, 10 * slices)
        power = Fraction(10) ** (decade + 1 - DECADES)
        magnitudes += [(Fraction(1, 10) + (j + Fraction(1, 2)) * width) * power for j in range(slices)]
    negative = [-value for value in magnitudes[1:]] if is_signed else []
    return tuple(float(np.float32(float(value))) for value in sorted([*negative, Fraction(0), *magnitudes]))


register(CodebookFormat(name="dynamic8", table=dynamic_tree(is_signed=True)))
register(CodebookFormat(name="udynamic8", table=dynamic_tree(is_signed=False)))
