"""One bit and one trit: {-1, +1} and {-1, 0, +1}, to be used with a scale γ (mean |w|, amax, …).

`binary`: code 1 is +1 and code 0 is -1, as XNOR networks store them. Its own rule is the sign function with
sign(0) = +1, also of -0 (BinaryConnect, arXiv 1511.00363). Stochastic rounding takes +1 with probability
clip((x + 1) / 2, 0, 1), that paper's hard sigmoid.

`ternary`: code 0 is 0, code 1 is +1, code 2 is -1: value = bit 0 - bit 1, two planes of bits. (Code 3 is also worth 0
and `encode` never gives it, so that codes pack five to a byte; see `packing.pack_trits`.) Its own rule is nearest with
ties to zero: ±0.5 becomes 0, as in `round(w / γ)` of BitNet b1.58 (arXiv 2402.17764).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from narrowgauge.formats.codebook import CodebookFormat
from narrowgauge.formats.format import Codes
from narrowgauge.formats.registry import register
from narrowgauge.formats.rounding import CastMode, FloatArray, Rounding


@dataclass(frozen=True, kw_only=True)
class BinaryFormat(CodebookFormat):
    """{-1, +1}. `rounding=None` is the sign function, and so is `toward_zero`, as no magnitude is smaller than 1; the
    other modes of `Rounding` work on the two levels as on any table (nearest puts 0 to -1, the value of even rank)."""

    table: tuple[float, ...] = (-1.0, 1.0)

    @property
    def default_rounding(self) -> Rounding | None:
        return None

    def _encode(self, x: FloatArray, how: CastMode) -> Codes:
        if how.rounding is None or how.rounding is Rounding.TOWARD_ZERO:
            return np.asarray(x >= 0).astype(self.code_dtype)
        return super()._encode(x, how)


@dataclass(frozen=True, kw_only=True)
class TernaryFormat(CodebookFormat):
    """{-1, 0, +1}; nearest with ties to zero unless another mode is asked for."""

    table: tuple[float, ...] = (0.0, 1.0, -1.0, 0.0)

    @property
    def default_rounding(self) -> Rounding | None:
        return Rounding.NEAREST_ZERO


register(BinaryFormat(name="binary"))
register(TernaryFormat(name="ternary"))
