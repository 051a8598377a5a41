"""Four bits, no mantissa: the FP4 1-3-0 of LUQ (powers of two) and of IBM's 4-bit training (powers of four).

`luq_fp4` (Chmiel et al., arXiv 2112.10769): sign, three exponent bits; code 0 is zero and code i is α · 2^(i - 1), here
with α = 1: ±1, 2, 4 … 64. Under the rule `amax` the scale is α = amax / 64, so nothing is clipped. (The paper's
equation 11 prints amax / 16 and its released code has amax / 127; three exponent bits hold a zero and seven powers.)
Rounded stochastically it is the paper's quantizer: below α a value becomes α with probability |x| / α and else zero
(stochastic underflow), between two powers it goes up in proportion to its distance, and the expectation is x.

`radix4_fp4` and `radix4_fp4_odd` (Sun et al., NeurIPS 2020): zero and seven powers of four with a sign, ±4^j, and the
same grid moved up by two, ±2 · 4^j, j = 0 … 6. Two-phase rounding uses one grid for the gradient of the inputs and the
other for the gradient of the weights, so that their errors average out. Nearest rounding puts the boundary between
4^j and 4^(j+1) at 2.5 · 4^j, that is 4^(j+1) / 1.6. **Both phases of a tensor share one scale**, for instance that of
`radix4_fp4` under `amax`, handed to the other as `static`: a scale of its own would undo the factor of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.floats import FloatFormat
from narrowgauge.formats.format import Codes
from narrowgauge.formats.registry import register
from narrowgauge.formats.rounding import CastMode, FloatArray

LEVELS = 7
"""Magnitudes beside zero that three exponent bits name."""


@dataclass(frozen=True, kw_only=True)
class SignMagnitudeCodebook(CodebookFormat):
    """A symmetric codebook whose top bit is the sign: `table[2^(bits - 1) + c] == -table[c]`, the first half in
    ascending order from zero. Stochastic rounding acts on the magnitude, so that a value and its negative round alike
    under the same bits; a negative value that becomes zero gets the code of zero."""

    def __post_init__(self) -> None:
        super().__post_init__()
        half = len(self.table) // 2
        first = self.table[:half]
        if len(self.table) != 2**self.bits or first[0] != 0 or list(first) != sorted(first):
            raise ValueError(f"table: {self.name} needs 2^b values, the first half ascending from zero")
        if self.table[half:] != tuple(-value for value in first):
            raise ValueError(f"table: the second half of {self.name} must be the negative of the first")

    def _encode(self, x: FloatArray, how: CastMode) -> Codes:
        if not how.stochastic:
            return super()._encode(x, how)
        code = super()._encode(np.abs(x), how).astype(np.int64)
        return np.where((x < 0) & (code != 0), code + len(self.table) // 2, code).astype(self.code_dtype)


def radix4(factor: float) -> tuple[float, ...]:
    """The 16 values of the grid factor · 4^j: sign bit 8, then 0 and j = 0 … 6."""
    magnitudes = (0.0, *(factor * 4.0**j for j in range(LEVELS)))
    return magnitudes + tuple(-value for value in magnitudes)


register(FloatFormat(name="luq_fp4", exponent_bits=3, mantissa_bits=0, bias=1))
register(SignMagnitudeCodebook(name="radix4_fp4", table=radix4(1.0)))
register(SignMagnitudeCodebook(name="radix4_fp4_odd", table=radix4(2.0)))
