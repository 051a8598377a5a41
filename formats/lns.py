"""Logarithmic numbers (LNS-Madam, Zhao et al., arXiv 2106.13914): a sign and an exponent in steps of 1 / gamma.

    code = sign | e,  e of bits - 1 bits        value = ±2^((e - top) / gamma),  top = 2^(bits - 1) - 1

The largest magnitude is 1, so that an `amax` scale is amax itself and takes it to the top code; the paper's scale
belongs to the smallest magnitude instead, which is the same grid. The rule is nearest in the logarithm, e clipped to
its range whatever the overflow rule: the border between two neighbours is their geometric mean. It is irrational, so no
float64 is a tie, and it is decided by integer arithmetic. Multiplying a value by 2^(1/gamma) adds one to its code.

`lns8g8` gives up e = 0 for a zero (code 0) and a NaN (only the sign bit): the paper's formula multiplies with sign(x),
which is 0 at 0, and zeros of padding, dropout and ReLU have to stay zeros. Other values never round to zero by its own
rule. `lns8g8_full` uses every code for a power, has neither zero nor NaN, and takes ±0 to the smallest magnitude.

The values are irrational. The table holds them rounded to float32, once; the borders are those of the exact values.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import numpy as np
from numpy.typing import NDArray

from narrowgauge.formats.mirrored import MirroredFormat
from narrowgauge.formats.registry import register, register_family
from narrowgauge.formats.rounding import FloatArray

LARGEST_GAMMA = 2**15
"""Steps per octave that float32 values still hold apart by far."""
_FIXED_BITS = 160


def octave(steps: int) -> NDArray[np.int64]:
    """floor(2^(52 + i / steps)) for i = 0 … steps - 1, exactly; steps: a power of two."""
    powers, root = [1 << _FIXED_BITS], 2 << _FIXED_BITS
    for _ in range(steps.bit_length() - 1):
        root = isqrt(root << _FIXED_BITS)
        powers = [value for power in powers for value in (power, power * root >> _FIXED_BITS)]
    # Every operation rounds down, by less than one unit: the true number lies less than 64 units higher.
    shift = _FIXED_BITS - 52
    if any(power >> shift != (power + 64) >> shift for power in powers):
        raise ArithmeticError(f"steps: {_FIXED_BITS} bits do not decide the powers of 2^(1/{steps})")
    return np.array([power >> shift for power in powers], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class LNSFormat(MirroredFormat):
    """Powers of 2^(1/gamma) and their negatives in `width` bits. See `lns`."""

    width: int
    gamma: int
    zero: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 16:
            raise ValueError(f"width: logarithmic numbers take 2 to 16 bits, got {self.width}")
        if not 1 <= self.gamma <= LARGEST_GAMMA or self.gamma & (self.gamma - 1):
            raise ValueError(f"gamma: got {self.gamma}, accepted: powers of two from 1 to {LARGEST_GAMMA}")
        octaves = (self._top - int(self.zero)) / self.gamma
        if octaves > 126:
            raise ValueError(
                f"gamma: with {self.width} bits and gamma {self.gamma} the smallest magnitude is 2^-{octaves:g}, "
                "accepted: at least 2^-126; take a larger gamma"
            )
        super().__post_init__()

    @property
    def bits(self) -> int:
        return self.width

    @property
    def family(self) -> str:
        return "logarithmic"

    @property
    def layout(self) -> str:
        return f"1 sign, a logarithm of {self.width - 1} bits in steps of 1/{self.gamma} octave"

    def _parameter_name(self) -> str:
        return f"lns{self.width}g{self.gamma}" + ("" if self.zero else "_full")

    @property
    def _top(self) -> int:
        return 2 ** (self.width - 1) - 1

    def _table(self) -> FloatArray:
        whole, part = np.divmod(np.arange(-self._top, 1), self.gamma)
        # 53 bits to 24: the 25th decides, because an irrational number is no tie.
        mantissa = ((octave(self.gamma) >> 28) + 1) >> 1
        positive = np.ldexp(mantissa[part].astype(np.float64), whole - 23)
        negative = -positive
        if self.zero:
            positive[0], negative[0] = 0.0, np.nan
        return np.concatenate([positive, negative])

    @cached_property
    def thresholds(self) -> FloatArray:
        lowest = int(self.zero) - self._top
        whole, part = np.divmod(2 * np.arange(lowest, 0) + 1, 2 * self.gamma)
        borders = np.ldexp((octave(2 * self.gamma)[part] + 1).astype(np.float64), whole - 52)
        return np.concatenate([[np.nextafter(0.0, 1.0)], borders]) if self.zero else borders


def lns(width: int, gamma: int, *, zero: bool = True) -> LNSFormat:
    """The logarithmic format of `width` bits (2 to 16) with `gamma` steps per octave, a power of two; named
    `lns<width>g<gamma>`, or `…_full` without zero and NaN. ValueError for other parameters and for magnitudes below
    2^-126."""
    return LNSFormat(width=width, gamma=gamma, zero=zero)


register(lns(8, 8))
register_family(
    r"lns(\d+)g(\d+)(_full)?",
    lambda match: lns(int(match[1]), int(match[2]), zero=match[3] is None),
    "lns4g1",
    "sign and logarithm in so many bits, with so many steps per octave; `lns8g8_full` has no zero",
)
