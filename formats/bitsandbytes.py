"""The 4-bit codebooks of bitsandbytes and of 4-bit optimizers.

`bnb_fp4` is the FP4 of bitsandbytes (csrc/kernels.cu, `dDequantizeFP4Tree`): sign bit 0x8 and the magnitudes 0, 1/16,
8, 12, 4, 6, 2, 3 over 12, as the float32 constants of that file. It is neither OCP's E2M1 (smallest magnitude 1/2 of
6) nor what bitsandbytes' own map generator gives (1/8 of 6). Its encoder compares with decimal thresholds, two of
which (0.583333, 0.8333333) lie a few float32 steps below the midpoint, and keeps a tie at the smaller magnitude; here
encoding is to nearest, exactly.

`de4` is the signed 4-bit dynamic exponent map of 4-bit optimizers (Li et al., arXiv 2309.01507; lpmm's `nonlinear`
map), for the first moment, and `udynamic4` the unsigned one. They are the dynamic trees of `dynamic_tree` with three
decades. Values are float32 numbers, rounded once from the rule's decimal fractions; torch's float32 `linspace` leaves
some of them one unit in the last place beside.

`power1_4bit` is that paper's map for the second moment, i / 16 for i = 1 … 16: linear, and without a zero, because a
zero in the denominator of Adam's update would blow it up.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.registry import register

BNB_FP4_MAGNITUDES = tuple(
    float(np.float32(value)) for value in (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
)
"""Worth of the codes 0 … 7; 8 … 15 are their negatives, code 8 is -0."""


def dynamic_exponent(bits: int, *, is_signed: bool) -> tuple[float, ...]:
    """The 2^bits values of the dynamic exponent map in ascending order (bits 3 to 8, 2 to 8 unsigned).

    With D = bits - 1 decades, decade i = 0 … D - 1 cuts [0.1, 1] into 2^i (unsigned 2^(i + 1)) equal slices and holds
    the middle of each, times 10^(i + 1 - D); then zero, and one. The signed map has the negative of each of them but
    one. bits = 8 gives the maps `dynamic8` and `udynamic8`. ValueError for other widths.
    """
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


register(CodebookFormat(name="bnb_fp4", table=BNB_FP4_MAGNITUDES + tuple(-value for value in BNB_FP4_MAGNITUDES)))
register(CodebookFormat(name="de4", table=dynamic_exponent(4, is_signed=True)), "dynamic4")
register(CodebookFormat(name="udynamic4", table=dynamic_exponent(4, is_signed=False)), "ude4")
register(CodebookFormat(name="power1_4bit", table=tuple(i / 16 for i in range(1, 17))))
